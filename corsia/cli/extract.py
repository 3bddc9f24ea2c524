"""`corsia extract`: the extractors of lane 3 at this machine, for a look or for comparison. Nothing is sent.

The same code as the lane runs; no study, policy or gate is involved, so what it prints is for local eyes.
"""

from __future__ import annotations

import json
import math
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from protocol.errors import InputError
from protocol.validation import unread

if TYPE_CHECKING:
    from pydicom.dataset import Dataset

    from pipelines.features.radiomics import Settings
    from pipelines.features.series import Mask, Series

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
    mask: Annotated[Path, typer.Argument(help="RTSTRUCT, SEG, or a mask volume on the image's grid.")],
    roi: Annotated[str | None, typer.Option(help="Region by name or glob; of a mask volume the label.")] = None,
    settings: Annotated[Path | None, typer.Option(help="TOML, see docs/radiomics.md.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Radiomic features of one region.

    Example: corsia extract radiomics CT/ plan.dcm --roi GTV --json
    """
    from pipelines.features import radiomics as extractor

    chosen = _settings(settings)
    volume, region = _read(image, mask, roi, chosen.mask_threshold)
    features = extractor.extract(volume.voxels, region, volume.spacing, chosen, aliases=False)
    result = {
        "features": {name: None if math.isnan(value) else value for name, value in features.items()},
        "aliases": {name: tag for name, tag in extractor.ALIASES.items() if tag in features},
        "voxels": int(region.sum()),
        "spacing": list(volume.spacing),
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
        text = path.read_text(encoding="utf-8")
    except (OSError, ValueError) as error:
        raise InputError("input.usage", f"{path}: cannot be read: {unread(error)}") from None
    return Settings.from_toml(text)


def _read(image: Path, mask: Path, roi: str | None, threshold: float | None) -> tuple[Series, Mask]:
    """The image, and the region on its grid."""
    from pipelines.features import masks, series, volumes

    contours = _is_dicom(mask)
    if image.is_dir() or _is_dicom(image):
        groups = _images(image)
        if contours:
            return series.region(_parse(mask), groups, roi, threshold=threshold)
        if len(groups) != 1:
            raise InputError("input.image", f"{image}: {len(groups)} series; a mask volume needs exactly one")
        volume = series.build(next(iter(groups.values())))
    elif contours:
        raise InputError("input.image", f"{mask}: a DICOM mask needs the DICOM series that it refers to")
    else:
        volume = volumes.read(image)
    return volume, masks.labels(volumes.read(mask), volume, roi)


def _is_dicom(path: Path) -> bool:
    """By its prefix; without one (old structure sets have none) by the first tag and by the name."""
    try:
        with path.open("rb") as file:
            head = file.read(132)
    except OSError as error:
        raise InputError("input.image", f"{path}: {error.strerror}") from None
    return head[128:] == b"DICM" or head[:2] == b"\x08\x00" or path.suffix.lower() == ".dcm"


def _images(image: Path) -> dict[str, list[Dataset]]:
    """The CT, MR and PET images by series."""
    from pipelines.features import series

    paths = sorted(p for p in image.rglob("*") if p.is_file()) if image.is_dir() else [image]
    parsed = [_parse(path) for path in paths]
    found = series.group([item for item in parsed if str(item.get("Modality")) in series.MODALITIES])
    if not found:
        raise InputError("input.image", f"{image}: no CT, MR or PET image")
    return found


def _parse(path: Path) -> Dataset:
    import pydicom

    try:
        return pydicom.dcmread(BytesIO(path.read_bytes()), force=True)
    except Exception as error:  # whatever the parser raises on a foreign file
        raise InputError("input.dicom", f"{path}: {type(error).__name__}") from None
