"""`corsia extract`: the extractors of lane 3 at this machine, for a look or for comparison. Nothing is sent.

The same code as the lane runs; no study, policy or gate is involved, so what it prints is for local eyes.
"""

from __future__ import annotations

import json
import math
import tomllib
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from protocol.errors import InputError

if TYPE_CHECKING:
    from pipelines.features.radiomics import Settings
    from pipelines.features.series import Series

__all__ = ["app"]

app = typer.Typer(
    no_args_is_help=True,
    rich_markup_mode=None,
    help="Extract features at this machine.\n\nExample: corsia extract radiomics CT/ plan.dcm --roi GTV --json",
)


@app.callback()
def _group() -> None:
    """Extract features at this machine."""


@app.command()
def radiomics(
    image: Annotated[Path, typer.Argument(help="Folder of one DICOM series, or a NIfTI, NRRD or MHA volume.")],
    mask: Annotated[Path, typer.Argument(help="RTSTRUCT or binary SEG; for a volume a mask volume.")],
    roi: Annotated[str | None, typer.Option(help="Region by name or glob (DICOM).")] = None,
    settings: Annotated[Path | None, typer.Option(help="TOML with bin_width.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Radiomic features of one region.

    Example: corsia extract radiomics CT/ plan.dcm --roi GTV --json
    """
    from pipelines.features import radiomics as extractor

    chosen = _settings(settings)
    if image.is_dir() or _is_dicom(image):
        volume, region = _dicom(image, mask, roi)
        voxels, spacing = volume.voxels, volume.spacing
    else:
        voxels, region, spacing = _volumes(image, mask)
    features = extractor.extract(voxels, region, spacing, chosen)
    result = {
        "features": {name: None if math.isnan(value) else value for name, value in features.items()},
        "voxels": int(region.sum()),
        "spacing": list(spacing),
        "settings_digest": chosen.digest,
        "versions": extractor.versions(),
    }
    if as_json:
        typer.echo(json.dumps(result, sort_keys=True))
        return
    for name, value in features.items():
        typer.echo(f"{name}\t{value:.6g}")


def _settings(path: Path | None) -> Settings:
    from pipelines.features.radiomics import Settings

    if path is None:
        return Settings()
    try:
        value = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError("input.usage", f"{path}: not a TOML file ({type(error).__name__})") from None
    width = value.pop("bin_width", 25.0)
    if value or isinstance(width, bool) or not isinstance(width, int | float):
        raise InputError("input.usage", f"{path}: the only setting is bin_width, a number")
    return Settings(bin_width=float(width))


def _is_dicom(path: Path) -> bool:
    try:
        with path.open("rb") as file:
            return file.read(132)[128:] == b"DICM"
    except OSError as error:
        raise InputError("input.image", f"{path}: {error.strerror}") from None


def _dicom(image: Path, mask: Path, roi: str | None) -> tuple[Series, Any]:
    import pydicom

    from pipelines.features import series

    paths = sorted(p for p in image.rglob("*") if p.is_file()) if image.is_dir() else [image]
    parsed = []
    for path in paths:
        try:
            dataset = pydicom.dcmread(BytesIO(path.read_bytes()), force=True)
        except Exception as error:  # whatever the parser raises on a foreign file
            raise InputError("input.dicom", f"{path}: {type(error).__name__}") from None
        if "SOPInstanceUID" in dataset and str(dataset.get("Modality")) in series.MODALITIES:
            parsed.append(dataset)
    try:
        regions = pydicom.dcmread(BytesIO(mask.read_bytes()), force=True)
    except Exception as error:
        raise InputError("input.image", f"{mask}: {type(error).__name__}") from None
    return series.region(regions, series.group(parsed), roi)


def _volumes(image: Path, mask: Path) -> tuple[Any, Any, tuple[float, float, float]]:
    import numpy as np
    import SimpleITK

    try:
        volume, region = SimpleITK.ReadImage(str(image)), SimpleITK.ReadImage(str(mask))
    except RuntimeError:
        raise InputError("input.image", f"{image} or {mask} cannot be read as a volume") from None
    if volume.GetDimension() != 3 or volume.GetNumberOfComponentsPerPixel() != 1:
        raise InputError("input.image", f"{image}: not one three-dimensional scalar volume")
    same = volume.GetSize() == region.GetSize() and np.allclose(volume.GetSpacing(), region.GetSpacing())
    if not same or not np.allclose(volume.GetOrigin(), region.GetOrigin(), atol=1e-3):
        raise InputError("input.image", "image and mask are not on one grid")
    voxels = SimpleITK.GetArrayFromImage(volume).astype(np.float32)
    x, y, z = volume.GetSpacing()
    return voxels, SimpleITK.GetArrayFromImage(region) != 0, (z, y, x)
