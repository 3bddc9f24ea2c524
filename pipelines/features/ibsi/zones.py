"""Zones of equal grey level: their sizes (IBSI 3.8) and distances to the region's edge (IBSI 3.9).

Both families come from one labelling: neighbours are 26 in 3D and 8 in a slice; distance counts steps over 6 or 4.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipelines.features.ibsi.glrlm import emphases
from pipelines.features.ibsi.matrices import DIRECTIONS, IN_PLANE, Counts, Floats, Ints, Region, kernel, tags, tally

__all__ = ["DISTANCE_TAGS", "SIZE_TAGS", "Zones", "depth", "distance_features", "find", "size_features"]

SIZE_TAGS = tags(
    "szm",
    "sze lze lgze hgze szlge szhge lzlge lzhge glnu glnu_norm zsnu zsnu_norm z_perc gl_var zs_var zs_entr",
)
DISTANCE_TAGS = tags(
    "dzm",
    "sde lde lgze hgze sdlge sdhge ldlge ldhge glnu glnu_norm zdnu zdnu_norm z_perc gl_var zd_var zd_entr",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Zones:
    """Connected voxels of equal level, one entry a zone.

    Attributes:
        slice: index from 0 of its first voxel's slice.
        rank: index from 0 of its level.
        size: voxels.
        distance: least depth among its voxels.
    """

    slice: Ints
    rank: Ints
    size: Ints
    distance: Ints


@kernel
def _label(ranks: Any, offsets: Any, parents: Any) -> None:  # pragma: no cover - compiled
    for i in range(ranks.size):
        if ranks[i] == 0:
            continue
        parents[i] = i
        root = i
        for offset in offsets:
            if ranks[i - offset] != ranks[i]:
                continue
            other = i - offset
            while parents[other] != other:
                parents[other] = parents[parents[other]]
                other = parents[other]
            if other < root:
                parents[root] = other
                root = other
            elif root < other:
                parents[other] = root


@kernel
def _measure(
    ranks: Any, parents: Any, depths: Any, roots: Any, sizes: Any, distances: Any
) -> int:  # pragma: no cover - compiled
    found = 0
    for i in range(ranks.size):
        if ranks[i] == 0:
            continue
        if parents[i] == i:  # from here on `parents` holds ~index of the zone
            zone = found
            found += 1
            roots[zone] = i
            sizes[zone] = 0
            distances[zone] = depths[i]
        else:  # a parent comes before its child
            zone = ~parents[parents[i]]
        parents[i] = ~zone
        sizes[zone] += 1
        distances[zone] = min(distances[zone], depths[i])
    return found


@kernel
def _steps(depths: Any, flat: Any) -> None:  # pragma: no cover - compiled
    far = depths.shape[0] + depths.shape[1] + depths.shape[2]
    for z in range(1, depths.shape[0] - 1):
        for y in range(1, depths.shape[1] - 1):
            for x in range(1, depths.shape[2] - 1):
                if depths[z, y, x] > 0:
                    near = min(depths[z, y - 1, x], depths[z, y, x - 1])
                    depths[z, y, x] = 1 + min(near, far if flat else depths[z - 1, y, x])
    for z in range(depths.shape[0] - 2, 0, -1):
        for y in range(depths.shape[1] - 2, 0, -1):
            for x in range(depths.shape[2] - 2, 0, -1):
                if depths[z, y, x] > 0:
                    near = min(depths[z, y + 1, x], depths[z, y, x + 1])
                    near = min(near, far if flat else depths[z + 1, y, x])
                    depths[z, y, x] = min(depths[z, y, x], 1 + near)


def depth(mask: NDArray[np.bool_], *, flat: bool) -> NDArray[np.int32]:
    """Steps over faces from each voxel of a mask [z, y, x] to the outside, 1 at the edge; padded by one voxel.

    Beyond the box is outside. With `flat` steps stay within the slice.
    """
    depths = np.pad(mask.astype(np.int32), 1)
    _steps(depths, flat)
    return depths


def find(region: Region, depths: NDArray[np.int32], *, flat: bool) -> Zones:
    """The zones of a region; `depths` is padded like its ranks. With `flat` zones stay within a slice."""
    ranks = region.ranks.ravel()
    _, rows, columns = region.ranks.shape
    directions = IN_PLANE if flat else DIRECTIONS
    offsets = np.array([(dz * rows + dy) * columns + dx for dz, dy, dx in directions], dtype=np.int64)
    parents = np.zeros(ranks.size, dtype=np.int64 if ranks.size > np.iinfo(np.int32).max else np.int32)
    _label(ranks, offsets, parents)
    roots, sizes, distances = (np.empty(np.count_nonzero(ranks), dtype=np.int64) for _ in range(3))
    found = _measure(ranks, parents, depths.ravel(), roots, sizes, distances)
    root = roots[:found].copy()
    return Zones(
        slice=root // (rows * columns) - 1,
        rank=ranks[root].astype(np.int64) - 1,
        size=sizes[:found].copy(),
        distance=distances[:found].copy(),
    )


def size_features(zones: Zones, region: Region, *, sliced: bool) -> dict[str, Floats]:
    """Features of sizes, of each slice's matrix with `sliced`, otherwise of all in one."""
    values = emphases(_counts(zones, zones.size, sliced), region.values)
    return dict(zip(SIZE_TAGS, values, strict=True))


def distance_features(zones: Zones, region: Region, *, sliced: bool) -> dict[str, Floats]:
    """Features of distances, of each slice's matrix with `sliced`, otherwise of all in one."""
    group = zones.slice if sliced else np.zeros_like(zones.slice)
    voxels = np.bincount(group, weights=zones.size)
    values = emphases(_counts(zones, zones.distance, sliced), region.values, voxels[voxels > 0])
    return dict(zip(DISTANCE_TAGS, values, strict=True))


def _counts(zones: Zones, measure: Ints, sliced: bool) -> Counts:
    group = zones.slice if sliced else np.zeros_like(zones.slice)
    columns = int(measure.max())
    levels = int(zones.rank.max()) + 1
    keys = (group * levels + zones.rank) * columns + measure - 1
    return Counts.unpack(*tally(keys, (int(group.max()) + 1) * levels * columns), levels, columns)
