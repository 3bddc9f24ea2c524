"""Size and shape of a region: the morphological family.

The mask alone gives all but the last features; integrated intensity and the two indices of spatial association look
at the intensities as well.

Source: IBSI manual, section 3.1.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from pipelines.features.ibsi import mesh
from pipelines.features.ibsi.association import moran_and_geary
from pipelines.features.ibsi.roi import box

__all__ = ["TAGS", "morphology"]

Mask = NDArray[np.bool_]
Points = NDArray[np.float64]
_NAN = float("nan")
_SERIES = 20  # terms of the ellipsoid's area, as the manual says

TAGS = tuple(
    f"morph_{name}"
    for name in (
        "volume", "vol_approx", "area_mesh", "av", "comp_1", "comp_2", "sph_dispr", "sphericity", "asphericity", "com",
        "diam", "pca_maj_axis", "pca_min_axis", "pca_least_axis", "pca_elongation", "pca_flatness", "vol_dens_aabb",
        "area_dens_aabb", "vol_dens_aee", "area_dens_aee", "vol_dens_conv_hull", "area_dens_conv_hull", "integ_int",
        "moran_i", "geary_c",
    )
)  # fmt: skip


def morphology(
    voxels: NDArray[np.float64], mask: Mask, kept: Mask, spacing: tuple[float, float, float]
) -> dict[str, float]:
    """The 25 features, lengths in mm.

    Args:
        voxels: intensities [z, y, x], of the region's box.
        mask: the morphological mask, not empty.
        kept: the intensity mask, within it; not empty.
        spacing: mm.
    """
    found = _shape(mask, spacing)
    inside = voxels[kept]
    found["com"] = _shift(voxels, mask, kept, spacing)
    found["integ_int"] = found["volume"] * float(inside.mean())
    around = box(kept)
    found["moran_i"], found["geary_c"] = moran_and_geary(voxels[around], kept[around], spacing)
    return {tag: found[tag.removeprefix("morph_")] for tag in TAGS}


def _shape(mask: Mask, spacing: tuple[float, float, float]) -> dict[str, float]:
    padded = np.pad(mask, 1)
    area, volume = mesh.area_and_volume(padded, spacing)
    corners = mesh.vertices(padded, spacing)
    sides = np.ptp(corners, axis=0)
    block, sheath = float(sides.prod()), 2 * float(sides.prod() * (1 / sides).sum())
    hull, skin, diameter = _hull(corners)
    axes = _axes(mask, spacing)
    ellipsoid, shell = math.pi / 6 * float(axes.prod()), _ellipsoid_area(axes / 2)
    sphere = (36 * math.pi * volume**2) ** (1 / 3)
    return {
        "volume": volume,
        "vol_approx": float(mask.sum()) * math.prod(spacing),
        "area_mesh": area,
        "av": _ratio(area, volume),
        "comp_1": _ratio(volume, math.sqrt(math.pi) * area**1.5),
        "comp_2": _ratio(36 * math.pi * volume**2, area**3),
        "sph_dispr": _ratio(area, sphere),
        "sphericity": _ratio(sphere, area),
        "asphericity": _ratio(area, sphere) - 1,
        "diam": diameter,
        "pca_maj_axis": float(axes[0]),
        "pca_min_axis": float(axes[1]),
        "pca_least_axis": float(axes[2]),
        "pca_elongation": _ratio(float(axes[1]), float(axes[0])),
        "pca_flatness": _ratio(float(axes[2]), float(axes[0])),
        "vol_dens_aabb": _ratio(volume, block),
        "area_dens_aabb": _ratio(area, sheath),
        "vol_dens_aee": _ratio(volume, ellipsoid),
        "area_dens_aee": _ratio(area, shell),
        "vol_dens_conv_hull": _ratio(volume, hull),
        "area_dens_conv_hull": _ratio(area, skin),
    }


def _ratio(one: float, two: float) -> float:
    return one / two if two else _NAN


def _hull(corners: Points) -> tuple[float, float, float]:
    """Volume and area of the convex hull, and the greatest distance of two of its corners."""
    from scipy.spatial import ConvexHull

    hull = ConvexHull(corners)
    ends = corners[hull.vertices]
    return float(hull.volume), float(hull.area), _diameter(ends)


def _diameter(ends: Points) -> float:
    from scipy.spatial.distance import cdist

    return max(float(cdist(ends[at : at + 256], ends[at:]).max()) for at in range(0, len(ends), 256))


def _axes(mask: Mask, spacing: tuple[float, float, float]) -> Points:
    """Lengths of the axes of the ellipsoid with the region's covariance (n - 1), longest first; NaN for one voxel."""
    count = int(mask.sum())
    if count < 2:
        return np.full(3, _NAN)
    lines = [_counts(mask, axis) for axis in range(3)]
    places = [
        (np.arange(len(line)) - float(np.arange(len(line)) @ line) / count) * step
        for line, step in zip(lines, spacing, strict=True)
    ]
    spread = np.diag([float(place**2 @ line) for place, line in zip(places, lines, strict=True)])
    for one, two in ((0, 1), (0, 2), (1, 2)):
        spread[one, two] = spread[two, one] = places[one] @ mask.sum(axis=3 - one - two) @ places[two]
    values = np.linalg.eigvalsh(spread / (count - 1))[::-1]
    return 4 * np.sqrt(np.where(values > 1e-12 * values[0], values, 0.0))


def _counts(array: NDArray[np.generic], axis: int) -> Points:
    """Sums over the planes across one axis."""
    sums: Points = array.sum(axis=tuple(a for a in range(3) if a != axis), dtype=np.float64)
    return sums


def _ellipsoid_area(half: Points) -> float:
    """The manual's series in Legendre polynomials for the area of an ellipsoid, without its division by 0 for spheres.

    The series gives too small an area for all but spheres (up to a few percent); the reference values have it so.
    """
    a, b, c = (float(v) for v in half)
    if not a > 0:
        return _NAN
    one, two = 1 - (b / a) ** 2, 1 - (c / a) ** 2
    mean, product = (one + two) / 2, one * two
    before, term, total = 0.0, 1.0, 1.0
    for n in range(1, _SERIES + 1):
        before, term = term, ((2 * n - 1) * mean * term - (n - 1) * product * before) / n
        total += term / (1 - 4 * n * n)
    return 4 * math.pi * a * b * total


def _shift(voxels: NDArray[np.float64], mask: Mask, kept: Mask, spacing: tuple[float, float, float]) -> float:
    """Distance (mm) between the region's centre and its centre weighted by intensity."""
    weights = np.where(kept, voxels, 0.0)
    apart = 0.0
    for axis, step in enumerate(spacing):
        centres = []
        for line in (_counts(mask, axis), _counts(weights, axis)):
            if not line.sum():
                return _NAN
            centres.append(float(np.arange(len(line)) @ line) / float(line.sum()))
        apart += ((centres[0] - centres[1]) * step) ** 2
    return math.sqrt(apart)
