"""Intensities of a region: local peaks, statistics, histogram of grey levels, intensity-volume histogram.

Source: IBSI manual, sections 3.2 (local intensity), 3.3 (statistics), 3.4 (histogram), 3.5 (intensity-volume).
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

__all__ = ["PEAK_MM", "histogram", "local", "statistics", "volume_histogram"]

Mask = NDArray[np.bool_]
Values = NDArray[np.float64]

PEAK_MM = (3 / (4 * math.pi)) ** (1 / 3) * 10  # radius of a sphere of 1 cm3
_NAN = float("nan")
_SLAB = 4_000_000  # voxels convolved at a time


def statistics(inside: Values) -> dict[str, float]:
    """The 18 statistics of the intensities inside the intensity mask."""
    found = _moments(inside)
    found["energy"] = float(inside @ inside)
    found["rms"] = math.sqrt(found["energy"] / len(inside))
    return {f"stat_{name}": value for name, value in found.items()}


def _moments(inside: Values) -> dict[str, float]:
    """What statistics and histogram share."""
    mean = float(inside.mean())
    centred = inside - mean
    squared = centred * centred
    variance = float(squared.mean())
    flat = inside.min() == inside.max()
    p10, p25, median, p75, p90 = (float(v) for v in np.percentile(inside, (10, 25, 50, 75, 90)))
    robust = inside[(inside >= p10) & (inside <= p90)]
    low, high = float(inside.min()), float(inside.max())
    return {
        "mean": mean,
        "var": 0.0 if flat else variance,
        "skew": 0.0 if flat else float((squared * centred).mean()) / variance**1.5,
        "kurt": 0.0 if flat else float((squared * squared).mean()) / variance**2 - 3,
        "median": median,
        "min": low,
        "p10": p10,
        "p90": p90,
        "max": high,
        "iqr": p75 - p25,
        "range": high - low,
        "mad": float(np.abs(centred).mean()),
        "rmad": float(np.abs(robust - robust.mean()).mean()) if len(robust) else _NAN,
        "medad": float(np.abs(inside - median).mean()),
        "cov": math.sqrt(variance) / mean if mean else _NAN,
        "qcod": (p75 - p25) / (p75 + p25) if p75 + p25 else _NAN,
    }


def histogram(levels: NDArray[np.int32], n_levels: int) -> dict[str, float]:
    """The 23 features of the grey levels (a flat array of those inside)."""
    found = _moments(levels.astype(np.float64))
    counts = np.bincount(levels, minlength=n_levels + 1)[1:].astype(np.float64)
    bins = np.arange(1, n_levels + 1)
    most = bins[counts == counts.max()]
    found["mode"] = float(most[np.argmin(np.abs(most - found["mean"]))])
    shares = counts[counts > 0] / len(levels)
    found["entropy"] = abs(float((shares * np.log2(shares)).sum()))
    found["uniformity"] = float((shares**2).sum())
    if n_levels > 1:
        slope = np.gradient(counts)
        steepest, deepest = int(slope.argmax()), int(slope.argmin())
        found |= {"max_grad": float(slope[steepest]), "max_grad_g": float(bins[steepest])}
        found |= {"min_grad": float(slope[deepest]), "min_grad_g": float(bins[deepest])}
    else:
        found |= dict.fromkeys(("max_grad", "max_grad_g", "min_grad", "min_grad_g"), _NAN)
    return {f"ih_{name}": value for name, value in found.items()}


def volume_histogram(
    inside: Values,
    *,
    bin_width: float | None = None,
    bin_count: int | None = None,
    bounds: tuple[float, float] | None = None,
) -> dict[str, float]:
    """The 6 features of the intensity-volume histogram.

    Args:
        inside: intensities inside the intensity mask.
        bin_width: of fixed bins from the lower bound, told by their centres; without it and `bin_count` intensities
            are taken as they are: all integers between the bounds when they are integers, else those that occur.
        bin_count: of bins between the region's minimum and maximum, told by their number.
        bounds: the range of re-segmentation; an infinite bound, or None, means the region's own.
    """
    low, high = float(inside.min()), float(inside.max())
    if bin_count is None and bounds is not None:
        low, high = ((bound if math.isfinite(bound) else own) for bound, own in zip(bounds, (low, high), strict=True))
    grid, counts, beyond = _grid(inside, bin_width, bin_count, low, high)
    volume = 1 - (np.cumsum(counts) - counts) / len(inside)
    fraction = (grid - grid[0]) / (grid[-1] - grid[0]) if len(grid) > 1 else np.full(1, _NAN)
    found: dict[str, float] = {}
    for percent in (10, 90):
        reached = volume[fraction >= percent / 100 - 1e-12]
        found[f"v{percent}"] = float(reached[0]) if len(reached) else _NAN
    for percent in (10, 90):
        below = grid[volume <= percent / 100 + 1e-12]
        found[f"i{percent}"] = float(below[0]) if len(below) else beyond
    found["diff_v10_v90"] = found["v10"] - found["v90"]
    found["diff_i10_i90"] = found["i10"] - found["i90"]
    return {f"ivh_{name}": value for name, value in found.items()}


_GRID = 1 << 24


def _grid(
    inside: Values, width: float | None, count: int | None, low: float, high: float
) -> tuple[Values, Values, float]:
    """Intensities of the histogram, how many voxels have each, and what comes after the last."""
    if count is not None:
        scale = high - low
        bins = np.floor(count * ((inside - low) / scale)) if scale else np.zeros_like(inside)
        counts = np.bincount(np.minimum(bins, count - 1).astype(np.int64), minlength=count)
        return np.arange(1.0, count + 1), counts.astype(np.float64), count + 1.0
    whole = width is None and low.is_integer() and high.is_integer() and bool((inside == np.rint(inside)).all())
    step = width if width is not None else 1.0
    size = (high - low) // step + 1
    if (width is not None or whole) and size < _GRID:
        bins = np.maximum(np.floor((inside - low) / step), 0).astype(np.int64)
        counts = np.bincount(bins, minlength=int(size))
        grid: Values = low + (np.arange(len(counts), dtype=np.float64) + (0.0 if whole else 0.5)) * step
        return grid, counts.astype(np.float64), float(grid[-1] + step)
    values, occurring = np.unique(inside, return_counts=True)
    return values, occurring.astype(np.float64), float(values[-1])


def local(voxels: Values, mask: Mask, spacing: tuple[float, float, float]) -> dict[str, float]:
    """The 2 peaks: mean intensity in a sphere of 1 cm3, around the highest voxel and the highest anywhere inside.

    Args:
        voxels: [z, y, x] with a margin of `PEAK_MM` around the region where the image has one; the sphere takes in
            what is outside the region, and at the image's border only what is inside the image.
        mask: the intensity mask, the same shape, not empty.
        spacing: mm.
    """
    reach = [int(PEAK_MM / step) for step in spacing]
    offsets = [np.arange(-n, n + 1) * float(step) for n, step in zip(reach, spacing, strict=True)]
    squared = offsets[0][:, None, None] ** 2 + offsets[1][None, :, None] ** 2 + offsets[2][None, None, :] ** 2
    ball = (squared <= PEAK_MM**2).astype(np.float64)
    known = np.isfinite(voxels)
    inner = tuple(slice(n, length - n) for n, length in zip(reach, voxels.shape, strict=True))
    whole = bool(known.all()) and np.count_nonzero(mask[inner]) == np.count_nonzero(mask)
    highest = voxels[mask].max()
    peak, anywhere = -np.inf, -np.inf
    filled = np.flatnonzero(mask.any(axis=(1, 2)))
    deep = max(_SLAB // voxels[0].size - 2 * reach[0], 1)
    for start in range(int(filled[0]), int(filled[-1]) + 1, deep):
        stop = min(start + deep, int(filled[-1]) + 1)
        around = slice(max(start - reach[0], 0), stop + reach[0])
        means = _means(voxels[around], None if whole else known[around], ball)
        means = means[start - around.start :][: stop - start]
        part = mask[start:stop]
        if part.any():
            anywhere = max(anywhere, float(means[part].max()))
            if (top := part & (voxels[start:stop] == highest)).any():
                peak = max(peak, float(means[top].max()))
    return {"loc_peak_loc": peak, "loc_peak_glob": anywhere}


def _means(voxels: Values, known: Mask | None, ball: Values) -> Values:
    """Mean over the ball around each voxel, over those that are known; None = no ball reaches beyond them."""
    from scipy.fft import irfftn, next_fast_len, rfftn

    reach = np.array(ball.shape) // 2
    shape = [next_fast_len(int(n), real=True) for n in np.array(voxels.shape) + reach]
    around = np.zeros(shape)
    places = (np.argwhere(ball) - reach) % shape  # the ball's centre lies at the first voxel, the rest wraps around
    np.add.at(around, tuple(places.T), 1.0)
    weights = rfftn(around)

    def summed(array: Values) -> Values:
        found: Values = irfftn(rfftn(array, shape) * weights, shape)
        return found[tuple(slice(n) for n in voxels.shape)]

    if known is None:
        return summed(voxels) / float(ball.sum())
    return summed(np.where(known, voxels, 0.0)) / np.maximum(np.rint(summed(known.astype(np.float64))), 1)
