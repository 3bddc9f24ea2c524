"""Each voxel against its neighbours: grey tone difference (IBSI 3.10) and grey level dependence (IBSI 3.11).

Neighbours are the 26 (8 in a slice) at Chebyshev distance 1 within the region; dependence at coarseness 0.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from pipelines.features.ibsi.glrlm import emphases
from pipelines.features.ibsi.matrices import DIRECTIONS, IN_PLANE, Counts, Floats, Ints, Region, kernel, tags

__all__ = ["DEPENDENCE_TAGS", "TONE_TAGS", "Tones", "dependence_features", "look", "tone_features"]

DEPENDENCE_TAGS = tags(
    "ngl",
    "lde hde lgce hgce ldlge ldhge hdlge hdhge glnu glnu_norm dcnu dcnu_norm dc_perc gl_var dc_var dc_entr dc_energy",
)
TONE_TAGS = tags("ngt", "coarseness contrast busyness complexity strength")
_MOST = 1e6


@dataclass(frozen=True, slots=True, kw_only=True)
class Tones:
    """Levels of the voxels that have a neighbour, by matrix.

    Attributes:
        group: which matrix, ascending.
        row: index from 0 of the level, ascending within a matrix.
        number: how many such voxels.
        difference: sum of their absolute differences from the mean of their neighbours.
    """

    group: Ints
    row: Ints
    number: Ints
    difference: Floats

    def merged(self, levels: int) -> Tones:
        """All matrices in one; `levels` is how many occur."""
        number = np.bincount(self.row, weights=self.number, minlength=levels).astype(np.int64)
        difference = np.bincount(self.row, weights=self.difference, minlength=levels).astype(np.float64, copy=False)
        row = np.flatnonzero(number)
        return Tones(group=np.zeros_like(row), row=row, number=number[row], difference=difference[row])


@kernel
def _look(
    ranks: Any, values: Any, offsets: Any, start: Any, stop: Any, number: Any, difference: Any, dependence: Any
) -> None:  # pragma: no cover - compiled
    for i in range(start, stop):
        here = ranks[i]
        if here == 0:
            continue
        near, equal, total = 0, 0, 0.0
        for offset in offsets:
            there = ranks[i + offset]
            if there > 0:
                near += 1
                total += values[there - 1]
                equal += there == here
        dependence[here - 1, equal] += 1
        if near > 0:
            number[here - 1] += 1
            difference[here - 1] += abs(values[here - 1] - total / near)


@kernel
def _tones(starts: Any, level: Any, number: Any, difference: Any, out: Any) -> None:  # pragma: no cover - compiled
    for group in range(starts.size - 1):
        first, last = starts[group], starts[group + 1]
        voxels, differences, coarse = 0.0, 0.0, 0.0
        for i in range(first, last):
            voxels += number[i]
            differences += difference[i]
            coarse += number[i] * difference[i]
        coarse /= voxels
        contrast, busy, complex_, strong = 0.0, 0.0, 0.0, 0.0
        for i in range(first, last):
            for j in range(first, i):  # each pair stands for itself and its mirror image
                gap = level[i] - level[j]
                contrast += number[i] * number[j] * gap * gap
                busy += abs(level[i] * number[i] - level[j] * number[j])
                complex_ += gap * (number[i] * difference[i] + number[j] * difference[j]) / (number[i] + number[j])
                strong += (number[i] + number[j]) * gap * gap
        size = last - first
        out[0, group] = 1 / coarse if coarse > 1 / _MOST else _MOST
        if size > 1:
            out[1, group] = 2 * contrast / voxels**2 / (size * (size - 1)) * differences / voxels
        if busy > 0:
            out[2, group] = coarse / (2 * busy / voxels)
        out[3, group] = 2 * complex_ / voxels
        if differences > 0:
            out[4, group] = 2 * strong / voxels / differences


def look(region: Region, *, flat: bool) -> tuple[Tones, Counts]:
    """Differences and dependences; one matrix a slice with `flat`, otherwise one in 3D."""
    _, rows, columns = region.ranks.shape
    half = [(dz * rows + dy) * columns + dx for dz, dy, dx in (IN_PLANE if flat else DIRECTIONS)]
    offsets = np.array([*half, *(-offset for offset in half)], dtype=np.int64)
    plane, levels = rows * columns, region.values.size
    ranks = region.ranks.ravel()
    bounds = [(z, z + 1) for z in region.slices] if flat else [(1, region.ranks.shape[0] - 1)]
    tones, cells = [], []
    for group, (first, last) in enumerate(bounds):
        number, difference = np.zeros(levels, dtype=np.int64), np.zeros(levels)
        dependence = np.zeros((levels, offsets.size + 1), dtype=np.int64)
        _look(ranks, region.values, offsets, first * plane, last * plane, number, difference, dependence)
        row = np.flatnonzero(number)
        tones.append((np.full(row.size, group), row, number[row], difference[row]))
        row, column = np.nonzero(dependence)
        cells.append((np.full(row.size, group), row, column, dependence[row, column]))
    one, two, three, four = (np.concatenate(part) for part in zip(*tones, strict=True))
    a, b, c, d = (np.concatenate(part) for part in zip(*cells, strict=True))
    return (
        Tones(group=one, row=two, number=three, difference=four),
        Counts(group=a, row=b, column=c, count=d),
    )


def tone_features(tones: Tones, region: Region) -> dict[str, Floats]:
    """Features of every matrix in `tones`: name -> float [matrices]; coarseness is at most a million."""
    starts = np.flatnonzero(np.diff(tones.group, prepend=-1))
    out = np.zeros((len(TONE_TAGS), starts.size))
    ends = np.append(starts, tones.group.size)
    _tones(ends, region.values[tones.row], tones.number.astype(np.float64), tones.difference, out)
    return dict(zip(TONE_TAGS, out, strict=True))


def dependence_features(counts: Counts, region: Region) -> dict[str, Floats]:
    """Features of every matrix in `counts`: name -> float [matrices]."""
    starts = counts.starts
    voxels = np.add.reduceat(counts.count, starts)
    values = emphases(counts, region.values, voxels)
    which = np.repeat(np.arange(starts.size), np.diff(starts, append=counts.group.size))
    energy = np.add.reduceat((counts.count / voxels[which]) ** 2, starts)
    return dict(zip(DEPENDENCE_TAGS, [*values, energy], strict=True))
