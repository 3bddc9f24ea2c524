"""`corsia bench features`: our feature extractors beside named peers, on data made in the run.

Radiomics: one image and one region of 267,761 voxels, every tool in turn, medians. pyradiomics runs where it is
installed; mirp in an environment of its own (`benchmarks/features-peers.sh`), and only when that is there. Genomics is
in `corsia/bench_genomics.py`. Nothing is fetched; figures are reported as they come.
"""

from __future__ import annotations

import json
import logging
import os
import subprocess
import sys
import warnings
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from numpy.typing import NDArray

from corsia.bench_genomics import bench_gwas, bench_vcf, medians

__all__ = ["PEERS", "bench_features"]

PEERS = {"mirp": "2.7.0"}
BIN_WIDTH = 25.0
SPACING = (1.0, 1.0, 1.0)
# Where pyradiomics means another number by the name: kurtosis with 3 added, covariance divided by n.
OTHERWISE = frozenset(
    {
        "original_firstorder_Kurtosis",
        "original_shape_MajorAxisLength",
        "original_shape_MinorAxisLength",
        "original_shape_LeastAxisLength",
    }
)
_WORKER = Path(__file__).with_name("bench_features_peer.py")
_PHANTOM = Path("ibsi1_digital_phantom", "ibsi1_digital_phantom.json")


def bench_features(
    tell: Callable[[str], object] = lambda _line: None,
    *,
    peers: Path | None = None,
    data: Path | None = None,
    repeats: int = 5,
    size: int = 128,
    timeout: float = 3600.0,
) -> dict[str, Any]:
    """Radiomics, variant files and association, each beside its peers.

    Args:
        tell: called with a line after each step.
        peers: folder with one virtual environment a peer.
        data: folder of reference data (`ibsi1_digital_phantom`, `regenie_example`); None leaves out what needs it.
        repeats: how often each tool runs (mirp once).
        size: voxels along an edge of the image.
        timeout: seconds for one peer.

    Returns:
        `radiomics`, `vcf`, `gwas`, and `missing`: what did not run, with the reason.
    """
    missing: dict[str, str] = {}
    out: dict[str, Any] = {"cores": os.cpu_count(), "repeats": repeats}
    out["radiomics"] = _in_turn(repeats, size, missing)
    out["radiomics"] |= _alone(out["radiomics"], peers, size, timeout, missing)
    out["radiomics"]["phantom"] = _phantom(data, missing)
    tell(f"radiomics: {json.dumps(out['radiomics'])}")
    out["vcf"] = out["gwas"] = None
    if find_spec("cyvcf2") is None:
        missing["vcf"] = "cyvcf2 is not installed"
    else:
        out["vcf"] = bench_vcf(repeats)
        tell(f"vcf: {json.dumps(out['vcf'])}")
    if data is None or not (data / "regenie_example").is_dir():
        missing["gwas"] = "no regenie_example in the folder of reference data"
    elif not (find_spec("torch") and find_spec("bed_reader")):
        missing["gwas"] = "torch or bed-reader is not installed"
    else:
        out["gwas"] = bench_gwas(data / "regenie_example", repeats)
        tell(f"gwas: {json.dumps(out['gwas'])}")
    return out | {"missing": missing}


def image(size: int = 128) -> tuple[NDArray[np.int16], NDArray[np.bool_]]:
    """A volume like soft tissue in CT, int16 [size, size, size], and a ball in it (267,761 voxels of 128^3)."""
    from scipy.ndimage import gaussian_filter

    random = np.random.default_rng(20261122)
    smooth = gaussian_filter(random.normal(size=(size,) * 3), 2.0)
    voxels = 40 + 80 * smooth / smooth.std() + random.normal(scale=20, size=(size,) * 3)
    away = np.arange(size) - size // 2
    ball = away[:, None, None] ** 2 + away[:, None] ** 2 + away**2 <= (size * 5 // 16) ** 2
    return np.round(voxels).astype(np.int16), ball


def _in_turn(repeats: int, size: int, missing: dict[str, str]) -> dict[str, Any]:
    """Ours and pyradiomics in this process, one after the other, and how far their numbers are apart."""
    voxels, region = image(size)
    tools: dict[str, Callable[[], dict[str, float]]] = {
        "ours_107": lambda: _ours(voxels, region, ("3D averaged", "3D")),
        "ours_full": lambda: _ours(voxels, region, None),
    }
    if find_spec("radiomics") and find_spec("SimpleITK"):
        tools["pyradiomics_107"] = _pyradiomics(voxels, region)
    else:
        missing["pyradiomics"] = "not installed"
    found = {name: tool() for name, tool in tools.items()}  # compiled and warm from here on
    out: dict[str, Any] = {"voxels": int(region.sum()), "bin_width": BIN_WIDTH}
    out |= {f"{name}_s": round(seconds, 3) for name, seconds in medians(tools, repeats).items()}
    if "pyradiomics_107" in found:
        out["ratio_to_pyradiomics"] = round(out["pyradiomics_107_s"] / out["ours_107_s"], 2)
        out |= _agreement(found["ours_full"], found["pyradiomics_107"])
    return out


def _alone(
    measured: dict[str, Any], peers: Path | None, size: int, timeout: float, missing: dict[str, str]
) -> dict[str, Any]:
    """What needs a process of its own: our memory, and mirp."""
    out: dict[str, Any] = {}
    with TemporaryDirectory() as folder:
        path = Path(folder, "image.npz")
        voxels, region = image(size)
        np.savez(path, voxels=voxels, region=region, bin_width=BIN_WIDTH)
        out["peak_rss_mb"] = _run(Path(sys.executable), "corsia", path, timeout).get("peak_rss_mb")
        python = peers / "mirp" / "bin" / "python" if peers else None
        if python is None or not python.exists():
            missing["mirp"] = f"{PEERS['mirp']} is not there: benchmarks/features-peers.sh makes its environment"
            return out
        result = _run(python, "mirp", path, timeout)
    out |= {f"mirp_{name}": value for name, value in result.items()}
    if "full_s" in result:
        out["ratio_to_mirp"] = round(result["full_s"] / measured["ours_full_s"], 1)
    return out


def _ours(
    voxels: NDArray[np.int16], region: NDArray[np.bool_], aggregation: tuple[str, ...] | None
) -> dict[str, float]:
    from pipelines.features.radiomics import Settings, extract

    settings = Settings(bin_width=BIN_WIDTH, bin_origin="zero", aggregation=aggregation)
    return extract(voxels, region, SPACING, settings)


def _pyradiomics(voxels: NDArray[np.int16], region: NDArray[np.bool_]) -> Callable[[], dict[str, float]]:
    import SimpleITK
    from radiomics import featureextractor, setVerbosity

    setVerbosity(logging.CRITICAL)
    extractor = featureextractor.RadiomicsFeatureExtractor(binWidth=BIN_WIDTH, additionalInfo=False)
    pictures = [SimpleITK.GetImageFromArray(part) for part in (voxels, region.astype(np.uint8))]
    for picture in pictures:
        picture.SetSpacing(SPACING[::-1])

    def execute() -> dict[str, float]:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return {str(name): float(value) for name, value in extractor.execute(*pictures).items()}

    return execute


def _agreement(ours: dict[str, float], theirs: dict[str, float]) -> dict[str, Any]:
    """The largest relative difference over the features whose definitions agree."""
    from pipelines.features.radiomics import ALIASES

    both = [name for name in theirs if ALIASES.get(name) in ours and name not in OTHERWISE]
    apart = {
        name: abs(ours[ALIASES[name]] - theirs[name]) / max(abs(theirs[name]), np.finfo(np.float64).tiny)
        for name in both
    }
    worst = max(apart, key=lambda name: apart[name])
    return {
        "compared": len(both),
        "other_definition": sorted(set(theirs) - set(both)),
        "max_rel_diff": float(f"{apart[worst]:.3g}"),
        "max_rel_diff_of": worst,
    }


def _run(python: Path, name: str, path: Path, timeout: float) -> dict[str, Any]:
    """One tool in a process of its own."""
    ours = name == "corsia"
    environment = {key: value for key, value in os.environ.items() if ours or not key.startswith("PYTHON")}
    command = [str(python), "-W", "ignore", str(_WORKER), name, str(path)]
    try:
        done = subprocess.run(command, env=environment, capture_output=True, timeout=timeout, check=True)
        value: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    except (subprocess.SubprocessError, ValueError, IndexError) as error:
        return {"error": type(error).__name__}
    return value


def _phantom(data: Path | None, missing: dict[str, str]) -> str | None:
    """How many of the IBSI reference values are met, by the rule of their file."""
    from pipelines.features.radiomics import Settings, extract

    if data is None or not (data / _PHANTOM).is_file():
        missing["phantom"] = "no ibsi1_digital_phantom in the folder of reference data"
        return None
    phantom = json.loads((data / _PHANTOM).read_text(encoding="utf-8"))
    z, y, x = (float(step) for step in reversed(phantom["spacing_mm"]))
    voxels, mask = np.array(phantom["image_zyx"], dtype=np.float32), np.array(phantom["mask_zyx"], dtype=bool)
    found = extract(voxels, mask, (z, y, x), Settings(bin_width=1.0))
    values = phantom["reference_values"]
    met = sum(
        abs(float(f"{found.get(value['tag'], np.nan):.3g}") - value["value"]) <= value["tolerance"] for value in values
    )
    return f"{met}/{len(values)}"
