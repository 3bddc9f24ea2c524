"""The surface of a region: marching cubes at half a voxel, its area, volume and vertices.

On a binary mask every vertex is the middle of a grid edge, so a cube of eight voxels has one of 256 known pieces of
surface: area and volume are sums over a table, and no mesh is built. Cubes that can be cut in two ways are cut as
pyradiomics does, whose values are the common reference.

Source: Lorensen and Cline, Computer Graphics 21(4), 1987; IBSI manual, section 3.1.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

__all__ = ["area_and_volume", "vertices"]

Mask = NDArray[np.bool_]
Points = NDArray[np.float64]

_PIVOT = 6  # the corner (1, 1, 0): cubes that contain it are cut as their complement


def area_and_volume(mask: Mask, spacing: tuple[float, float, float]) -> tuple[float, float]:
    """Area (mm2) and volume (mm3) of the surface.

    Args:
        mask: [z, y, x] with a border of one empty voxel.
        spacing: mm.
    """
    bits = mask.view(np.uint8)
    code = bits[:, :, :-1] | (bits[:, :, 1:] << 1)
    code = code[:, :-1] | (code[:, 1:] << 2)
    code = code[:-1] | (code[1:] << 4)
    triangles, owner, sign = _table()
    corners = triangles * np.array(spacing)
    normals = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0]) / 2
    areas = np.bincount(owner, np.linalg.norm(normals, axis=1), minlength=256)
    outward = normals * sign[:, None]
    local = np.bincount(owner, (corners[:, 0] * outward).sum(axis=1) / 3, minlength=256)
    places = np.flatnonzero((code != 0) & (code != 255))
    kinds = code.ravel()[places]
    counts = np.bincount(kinds, minlength=256)
    volume = float(counts @ local)
    for axis, index in enumerate(np.unravel_index(places, code.shape)):
        directed = np.bincount(owner, outward[:, axis] / 3, minlength=256)
        volume += float(np.bincount(kinds, index, minlength=256) @ directed) * spacing[axis]
    return float(counts @ areas), abs(volume)


def vertices(mask: Mask, spacing: tuple[float, float, float]) -> Points:
    """Vertices of the surface that can lie on its convex hull, mm [n, 3].

    Between two others on one line a vertex cannot be a corner of the hull: only the ends of each line are kept.
    """
    found = []
    for axis in range(3):
        later = mask[tuple(slice(1, None) if a == axis else slice(None) for a in range(3))]
        before = mask[tuple(slice(None, -1) if a == axis else slice(None) for a in range(3))]
        doubled = 2 * np.argwhere(later != before)
        doubled[:, axis] += 1
        found.append(doubled)
    points = np.concatenate(found)
    shape = 2 * np.array(mask.shape)
    for axis in range(3):
        points = _ends(points, axis, shape)
    scaled: Points = points / 2 * np.array(spacing)
    return scaled


def _ends(points: NDArray[np.int64], axis: int, shape: NDArray[np.int64]) -> NDArray[np.int64]:
    one, two = (a for a in range(3) if a != axis)
    line = points[:, one] * shape[two] + points[:, two]
    along = points[:, axis]
    lowest = np.full(shape[one] * shape[two], shape[axis])
    highest = np.full(shape[one] * shape[two], -1)
    np.minimum.at(lowest, line, along)
    np.maximum.at(highest, line, along)
    kept: NDArray[np.int64] = points[(along == lowest[line]) | (along == highest[line])]
    return kept


@lru_cache(maxsize=1)
def _table() -> tuple[Points, NDArray[np.int64], Points]:
    """All triangles [n, 3 corners, z y x] in voxels, the cube that each belongs to, and which side is outside."""
    from skimage.measure import marching_cubes

    pieces: dict[int, Points] = {}
    for code in range(1, 255):
        if not code >> _PIVOT & 1:
            cube = np.array([code >> corner & 1 for corner in range(8)], dtype=np.float32).reshape(2, 2, 2)
            corners, faces, _, _ = marching_cubes(cube, 0.5, method="lorensen")
            pieces[code] = corners[faces].astype(np.float64)
    found, owner, sign = [], [], []
    for code in range(1, 255):
        turned = bool(code >> _PIVOT & 1)
        triangles = pieces[255 - code if turned else code]
        found.append(triangles)
        owner += [code] * len(triangles)
        sign += [-1.0 if turned else 1.0] * len(triangles)
    return np.concatenate(found).round(1), np.array(owner), np.array(sign)
