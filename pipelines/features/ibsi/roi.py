"""From a volume and a mask to what features are computed on: crop, resampling, re-segmentation, discretisation.

Second step of radiomics, after the mask lies on the image's grid. Arrays are [slices, rows, columns]; nothing outside
the region's box and a margin is touched.

Source: IBSI manual (arXiv 1612.07003), sections 2.4 (interpolation), 2.5 (re-segmentation), 2.7 (discretisation).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from protocol.errors import InputError

__all__ = ["Interpolator", "Region", "box", "discretise", "prepare", "resegment"]

Mask = NDArray[np.bool_]
Volume = NDArray[np.float64]
Interpolator = Literal["nearest", "linear", "spline"]

MAX_VOXELS = 1 << 28
MAX_LEVELS = 65_535
_SUPPORT = {"nearest": 1, "linear": 1, "spline": 24}  # voxels whose weight is not below 1e-13
_SLACK = 1e-9  # of a voxel or a weight: what rounding may not decide


@dataclass(frozen=True, slots=True, kw_only=True)
class Region:
    """The region and its surroundings.

    Attributes:
        voxels: intensities [z, y, x] of the region's box with a margin around it, where the image has one.
        mask: the same shape: the morphological mask.
        spacing: mm between slices, rows, columns.
    """

    voxels: Volume
    mask: Mask
    spacing: tuple[float, float, float]


def prepare(
    voxels: NDArray[np.floating] | NDArray[np.integer],
    mask: Mask,
    spacing: tuple[float, float, float],
    *,
    resample_mm: tuple[float, float, float] = (0.0, 0.0, 0.0),
    interpolator: Interpolator = "linear",
    rounding: bool = False,
    margin_mm: float = 0.0,
) -> Region:
    """Crop to the region and lay it on the new grid.

    Image and mask are interpolated onto a grid with the image's centre; a new voxel belongs to the region when at
    least half of it does (partial volume by trilinear interpolation, or by the nearest voxel).

    Args:
        voxels: the whole image [z, y, x].
        mask: the same shape, not empty.
        spacing: mm.
        resample_mm: new spacing for each axis, 0 = keep.
        interpolator: of the image.
        rounding: round interpolated intensities to integers (CT).
        margin_mm: of surroundings to keep.

    Raises:
        InputError: `input.image` when the new grid is too large, or no voxel of it belongs to the region.
    """
    image: NDArray[Any] = voxels
    inside: NDArray[Any] = mask
    news = list(spacing)
    for axis, new in enumerate(resample_mm):
        if not inside.any():
            break
        lengths = image.shape[axis]
        low, high = _extent(inside, axis)
        if not new or new == spacing[axis]:
            margin = int(np.ceil(margin_mm / spacing[axis]))
            kept = slice(max(low - margin, 0), min(high + margin + 1, lengths))
            image, inside = _cut(image, axis, kept), _cut(inside, axis, kept)
            continue
        news[axis] = new
        places = _places(lengths, spacing[axis], new, (low - 1, high + 1), margin_mm)
        if len(places) * (image.size // lengths) > MAX_VOXELS:
            raise InputError("input.image", "the resampled region is too large")
        image = _along(np.asarray(image, dtype=np.float64), axis, places, interpolator)
        inside = _along(inside.astype(np.float64), axis, places, "nearest" if interpolator == "nearest" else "linear")
    moved = inside.dtype != np.bool_
    region = inside >= 0.5 - _SLACK if moved else inside
    if not region.any():
        raise InputError("input.image", "no voxel is left of the region after resampling")
    if not np.isfinite(image[region]).all() or (moved and not np.isfinite(image).all()):
        raise InputError("input.image", "the intensities are not finite")
    values = np.ascontiguousarray(image, dtype=np.float64)
    spread = (news[0], news[1], news[2])
    return Region(voxels=np.rint(values) if moved and rounding else values, mask=region, spacing=spread)


def box(mask: Mask) -> tuple[slice, slice, slice]:
    """The smallest box that holds the mask, which is not empty."""
    (z, depth), (y, height), (x, width) = (_extent(mask, axis) for axis in range(3))
    return slice(z, depth + 1), slice(y, height + 1), slice(x, width + 1)


def _extent(inside: NDArray[np.generic], axis: int) -> tuple[int, int]:
    others = tuple(a for a in range(3) if a != axis)
    filled = np.flatnonzero(inside.any(axis=others))
    return int(filled[0]), int(filled[-1])


def _cut(array: NDArray[Any], axis: int, kept: slice) -> NDArray[Any]:
    part: NDArray[Any] = array[tuple(kept if a == axis else slice(None) for a in range(3))]
    return part


def _places(length: int, old: float, new: float, around: tuple[int, int], margin_mm: float) -> NDArray[np.float64]:
    """Old indices of the new grid's points near the region; both grids have one centre."""
    count = int(np.ceil(length * old / new - _SLACK))
    places = (np.arange(count) - (count - 1) / 2) * (new / old) + (length - 1) / 2
    reach = margin_mm / old + _SLACK
    near = places[(places >= around[0] - reach) & (places <= around[1] + reach)]
    return np.clip(near.round(9), 0, length - 1)


def _along(array: Volume, axis: int, places: NDArray[np.float64], how: Interpolator) -> Volume:
    """Interpolate along one axis: separable, so three passes are the whole interpolation."""
    support = _SUPPORT[how]
    low = max(int(places[0]) - support, 0) if len(places) else 0
    high = min(int(np.ceil(places[-1])) + support, array.shape[axis] - 1) if len(places) else 0
    lines = np.moveaxis(_cut(array, axis, slice(low, high + 1)), axis, 0)
    at = places - low
    if how == "nearest":
        return np.moveaxis(lines[np.floor(at + 0.5).astype(int).clip(0, len(lines) - 1)], 0, axis)
    if how == "spline" and len(lines) > 1:
        from scipy.ndimage import spline_filter1d

        lines = spline_filter1d(lines, order=3, axis=0, mode="mirror")
    base = np.floor(at).astype(int)
    t = at - base
    weights = _cubic(t) if how == "spline" else {0: 1 - t, 1: t}
    found = np.zeros((len(places), *lines.shape[1:]))
    for step, weight in weights.items():
        found += weight[:, None, None] * lines[_mirrored(base + step, len(lines))]
    return np.moveaxis(found, 0, axis)


def _cubic(t: NDArray[np.float64]) -> dict[int, NDArray[np.float64]]:
    rest = 1 - t
    near, far = 2 / 3 - t**2 * (2 - t) / 2, 2 / 3 - rest**2 * (2 - rest) / 2
    return {-1: rest**3 / 6, 0: near, 1: far, 2: t**3 / 6}


def _mirrored(index: NDArray[np.intp], length: int) -> NDArray[np.intp]:
    if length == 1:
        return np.zeros_like(index)
    period = 2 * (length - 1)
    index = np.abs(index) % period
    return np.minimum(index, period - index)


def resegment(
    intensities: Volume,
    mask: Mask,
    *,
    intensity_range: tuple[float, float] | None = None,
    outlier_sigma: float | None = None,
) -> Mask:
    """The intensity mask: voxels within the range and within mean +- sigma, bounds included; may be empty.

    Mean and deviation are those of the whole mask: the two conditions do not depend on each other.
    """
    kept = mask
    if intensity_range is not None:
        low, high = intensity_range
        kept = kept & (intensities >= low) & (intensities <= high)
    if outlier_sigma is not None:
        inside = intensities[mask]
        reach = outlier_sigma * inside.std()
        kept = kept & (np.abs(intensities - inside.mean()) <= reach * (1 + _SLACK))
    return kept


def discretise(
    intensities: Volume,
    mask: Mask,
    *,
    bin_width: float | None = None,
    bin_count: int | None = None,
    origin: float | Literal["roi_min", "zero"] = "roi_min",
) -> tuple[NDArray[np.int32], int]:
    """Grey levels of a region: 1 to n inside, 0 outside.

    Args:
        intensities: [z, y, x].
        mask: the intensity mask, the same shape, not empty.
        bin_width: fixed bin size, in the image's unit; either this or `bin_count`.
        bin_count: fixed bin number, from the region's minimum to its maximum.
        origin: where bins of fixed size begin: the region's minimum; `zero` = edges at multiples of the width, level
            1 the lowest bin that is not empty; or a number, below which everything is level 1.

    Returns:
        Levels, int32 [z, y, x], and the number of levels.

    Raises:
        InputError: `input.image` when the bins are so narrow that there are more than 65,535 of them.
    """
    inside = intensities[mask]
    low, high = float(inside.min()), float(inside.max())
    found: Volume | NDArray[np.intp]
    if bin_count is not None:
        scaled = np.zeros_like(inside) if high == low else bin_count * ((inside - low) / (high - low))
        found = np.minimum(np.floor(scaled) + 1, bin_count)
    elif bin_width is None:
        raise ValueError("bin_width or bin_count")
    elif (high - low) / bin_width >= MAX_LEVELS:
        raise InputError("input.image", f"more than {MAX_LEVELS} grey levels: the bins are too narrow")
    elif origin == "zero":  # with the edges' own rounding, so that fractional widths agree with pyradiomics
        found = np.digitize(inside, np.arange(low - low % bin_width, high + 2 * bin_width, bin_width))
    else:
        found = np.floor((inside - (low if origin == "roi_min" else origin)) / bin_width) + 1
    found = np.maximum(found, 1)
    count = bin_count or int(found.max())
    if count > MAX_LEVELS:
        raise InputError("input.image", f"more than {MAX_LEVELS} grey levels: the bins are too narrow")
    levels = np.zeros(mask.shape, dtype=np.int32)
    levels[mask] = found
    return levels, count
