"""Radiomics: a volume and a mask into 107 numbers, by pyradiomics for now.

The library is loaded at first use and kept silent: its log lines could quote settings of the site. No resampling,
no re-segmentation, bins of fixed width from the region's minimum.

Source: van Griethuysen et al., Cancer Research 77(21), 2017; feature definitions of IBSI, arXiv 1612.07003.
"""

from __future__ import annotations

import hashlib
import logging
import warnings
from dataclasses import asdict, dataclass
from functools import lru_cache
from importlib import metadata
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipelines.features.series import Mask
from protocol.errors import ConfigurationError, InputError
from protocol.parcel import canonical_json

__all__ = ["Settings", "extract", "versions"]

_LIBRARIES = ("pyradiomics-bhklab", "SimpleITK", "numpy", "PyWavelets")


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """How features are computed. `bin_width` is in the image's unit (HU for CT)."""

    bin_width: float = 25.0

    def __post_init__(self) -> None:
        if not 0 < self.bin_width <= 1e6:
            raise InputError("input.usage", "bin_width must be above 0")

    @property
    def digest(self) -> str:
        """SHA-256 (hex) over the settings and the rules that are fixed."""
        fixed = {"extractor": "pyradiomics", "resampling": "none", "resegmentation": "none", "classes": "default"}
        return hashlib.sha256(canonical_json(fixed | asdict(self))).hexdigest()


def extract(
    voxels: NDArray[np.float32], mask: Mask, spacing: tuple[float, float, float], settings: Settings | None = None
) -> dict[str, float]:
    """The features of one region, `original_<class>_<feature>` sorted by name.

    Args:
        voxels: float [slices, rows, columns].
        mask: bool, the same shape.
        spacing: mm between slices, rows, columns.
        settings: default when None.

    Returns:
        107 floats; NaN where a feature is not defined for this region.

    Raises:
        InputError: `input.image` when the region is empty or less than two voxels wide in more than one direction.
        ConfigurationError: `config.extra-missing` without the extra `imaging`.
    """
    if voxels.shape != mask.shape or voxels.ndim != 3 or not mask.any():
        raise InputError("input.image", "image and region do not agree, or the region is empty")
    extractor = _extractor((settings or Settings()).bin_width)
    image, region = _images(voxels, mask, spacing)
    try:
        with warnings.catch_warnings(), np.errstate(all="ignore"):
            warnings.simplefilter("ignore")
            result = extractor.execute(image, region)
    except (ValueError, RuntimeError, IndexError) as error:
        raise InputError("input.image", f"the features cannot be computed ({type(error).__name__})") from None
    values = {str(name): float(value) for name, value in result.items()}
    return {name: value if np.isfinite(value) else float("nan") for name, value in sorted(values.items())}


def versions() -> dict[str, str]:
    """Versions of the libraries that the numbers depend on."""
    known = {}
    for name in _LIBRARIES:
        try:
            known[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            known[name] = "absent"
    return known


def _images(voxels: NDArray[np.float32], mask: Mask, spacing: tuple[float, float, float]) -> tuple[Any, Any]:
    """SimpleITK images of the region's box and one voxel around it."""
    import SimpleITK

    places = np.argwhere(mask)
    low, high = np.maximum(places.min(axis=0) - 1, 0), places.max(axis=0) + 2
    box = tuple(slice(int(a), int(b)) for a, b in zip(low, high, strict=True))
    image = SimpleITK.GetImageFromArray(np.ascontiguousarray(voxels[box], dtype=np.float32))
    region = SimpleITK.GetImageFromArray(np.ascontiguousarray(mask[box], dtype=np.uint8))
    for part in (image, region):
        part.SetSpacing([float(v) for v in reversed(spacing)])
    return image, region


@lru_cache(maxsize=4)
def _extractor(bin_width: float) -> Any:
    logger = logging.getLogger("radiomics")
    logger.setLevel(logging.CRITICAL + 1)
    logger.propagate = False
    try:
        from radiomics import featureextractor
    except ImportError as error:
        raise ConfigurationError("config.extra-missing", "radiomics needs corsia[imaging]") from error
    logger.setLevel(logging.CRITICAL + 1)
    logger.handlers[:] = [logging.NullHandler()]
    return featureextractor.RadiomicsFeatureExtractor(binWidth=bin_width, additionalInfo=False)
