"""Radiomics: a volume and a mask into the features of IBSI-1, by numpy, scipy and numba.

crop and resample -> intensity mask -> shape, intensities, grey levels -> textures. Opens no file and knows neither
study nor gate. Features bear the tags of the IBSI reference values; `ALIASES` are pyradiomics' names for them.

Source: Zwanenburg et al., arXiv 1612.07003; Radiology 295(2), 2020.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from importlib import import_module, metadata

import numpy as np
from numpy.typing import NDArray

from pipelines.features.ibsi import catalogue, intensity, roi, texture
from pipelines.features.ibsi.aliases import ALIASES as _TEXTURES
from pipelines.features.ibsi.morphology import morphology
from pipelines.features.ibsi.settings import RULES, Settings
from pipelines.features.schema import Feature
from pipelines.features.series import Mask
from protocol.errors import ConfigurationError, InputError

__all__ = ["ALIASES", "Radiomics", "Settings", "extract", "versions"]

_LIBRARIES = ("numpy", "numba", "scipy", "scikit-image")

# The pyradiomics name of a feature -> the tag of the same number.
ALIASES: dict[str, str] = {
    "original_shape_Elongation": "morph_pca_elongation",
    "original_shape_Flatness": "morph_pca_flatness",
    "original_shape_LeastAxisLength": "morph_pca_least_axis",
    "original_shape_MajorAxisLength": "morph_pca_maj_axis",
    "original_shape_Maximum3DDiameter": "morph_diam",
    "original_shape_MeshVolume": "morph_volume",
    "original_shape_MinorAxisLength": "morph_pca_min_axis",
    "original_shape_Sphericity": "morph_sphericity",
    "original_shape_SurfaceArea": "morph_area_mesh",
    "original_shape_SurfaceVolumeRatio": "morph_av",
    "original_shape_VoxelVolume": "morph_vol_approx",
    "original_firstorder_10Percentile": "stat_p10",
    "original_firstorder_90Percentile": "stat_p90",
    "original_firstorder_Energy": "stat_energy",
    "original_firstorder_Entropy": "ih_entropy",
    "original_firstorder_InterquartileRange": "stat_iqr",
    "original_firstorder_Kurtosis": "stat_kurt",
    "original_firstorder_Maximum": "stat_max",
    "original_firstorder_MeanAbsoluteDeviation": "stat_mad",
    "original_firstorder_Mean": "stat_mean",
    "original_firstorder_Median": "stat_median",
    "original_firstorder_Minimum": "stat_min",
    "original_firstorder_Range": "stat_range",
    "original_firstorder_RobustMeanAbsoluteDeviation": "stat_rmad",
    "original_firstorder_RootMeanSquared": "stat_rms",
    "original_firstorder_Skewness": "stat_skew",
    "original_firstorder_Uniformity": "ih_uniformity",
    "original_firstorder_Variance": "stat_var",
    **_TEXTURES,
}


def extract(
    voxels: NDArray[np.float32] | NDArray[np.float64] | NDArray[np.integer],
    mask: Mask,
    spacing: tuple[float, float, float],
    settings: Settings | None = None,
    *,
    aliases: bool = True,
) -> dict[str, float]:
    """The features of one region, sorted by name.

    Args:
        voxels: [slices, rows, columns].
        mask: bool, the same shape.
        spacing: mm between slices, rows, columns.
        settings: default when None.
        aliases: also the same numbers by pyradiomics' names (`ALIASES`).

    Returns:
        482 floats by IBSI tag, fewer when `settings.aggregation` leaves some out, and those of the aliases; NaN where
        a feature is not defined for this region.

    Raises:
        InputError: `input.image` for an empty region, intensities or a spacing that are no numbers, a region that is
            empty after resampling or re-segmentation, or bins that are too narrow.
        ConfigurationError: `config.extra-missing` without the extra `imaging`.
    """
    chosen = settings or Settings()
    _load()
    if voxels.shape != mask.shape or voxels.ndim != 3 or not mask.any():
        raise InputError("input.image", "image and region do not agree, or the region is empty")
    if len(spacing) != 3 or not all(math.isfinite(step) and step > 0 for step in spacing):
        raise InputError("input.image", "the spacing is not three lengths above 0")
    region = roi.prepare(
        voxels,
        np.asarray(mask, dtype=np.bool_),
        (float(spacing[0]), float(spacing[1]), float(spacing[2])),
        resample_mm=chosen.spacing,
        interpolator=chosen.interpolator,
        rounding=chosen.intensity_rounding,
        margin_mm=intensity.PEAK_MM,
    )
    with np.errstate(all="ignore"):
        found = _features(region, chosen)
    if aliases:
        found |= {name: found[tag] for name, tag in ALIASES.items() if tag in found}
    return {name: value if math.isfinite(value) else math.nan for name, value in sorted(found.items())}


def _load() -> None:
    for name in ("numba", "scipy.fft", "scipy.spatial", "skimage.measure"):
        try:
            import_module(name)
        except ImportError as error:
            raise ConfigurationError("config.extra-missing", "radiomics needs corsia[imaging]") from error


def _features(region: roi.Region, settings: Settings) -> dict[str, float]:
    kept = roi.resegment(
        region.voxels,
        region.mask,
        intensity_range=settings.intensity_range,
        outlier_sigma=settings.outlier_sigma,
    )
    if not kept.any():
        raise InputError("input.image", "no voxel of the region lies within the intensity range")
    with ThreadPoolExecutor(max_workers=1) as second:  # transforms and kernels run without the interpreter's lock
        shape = second.submit(_shape, region, kept)
        found = _intensities(region, kept, settings)
        return found | shape.result()


def _shape(region: roi.Region, kept: Mask) -> dict[str, float]:
    box = roi.box(region.mask)
    with np.errstate(all="ignore"):
        found = morphology(region.voxels[box], region.mask[box], kept[box], region.spacing)
        return found | intensity.local(region.voxels, kept, region.spacing)


def _intensities(region: roi.Region, kept: Mask, settings: Settings) -> dict[str, float]:
    box = roi.box(region.mask)
    voxels, mask, kept = region.voxels[box], region.mask[box], kept[box]
    inside = voxels[kept]
    found = intensity.statistics(inside)
    found |= intensity.volume_histogram(
        inside,
        bin_width=settings.ivh_bin_width,
        bin_count=settings.ivh_bin_count,
        bounds=settings.intensity_range,
    )
    levels, count = roi.discretise(
        voxels, kept, bin_width=settings.bin_width, bin_count=settings.bin_count, origin=settings.origin
    )
    found |= intensity.histogram(levels[kept], count)
    return found | texture.textures(levels, count, mask, settings.aggregations)


class Radiomics:
    """The plug-in: parameters are those of `Settings`, one column a tag."""

    name = "radiomics"
    version = RULES

    def schema(self, parameters: Mapping[str, object]) -> tuple[Feature, ...]:
        """One float column a tag that the settings select, in the order of the IBSI reference file's families.

        Raises:
            InputError: `input.usage` for settings that are none.
        """
        chosen = Settings.of(dict(parameters)).aggregations
        kept = [tag for tag in texture.TAGS if chosen is None or tag.endswith(tuple(f"_{end}" for end in chosen))]
        return tuple(catalogue.feature(tag) for tag in (*catalogue.PLAIN, *kept))


def versions() -> dict[str, str]:
    """The extractor's rules and the libraries that the numbers depend on."""
    known = {"corsia-ibsi": str(RULES)}
    for name in _LIBRARIES:
        try:
            known[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            known[name] = "absent"
    return known
