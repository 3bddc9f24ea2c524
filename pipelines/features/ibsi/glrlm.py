"""Grey level run lengths (IBSI 3.7), and the sixteen features that the size, distance and dependence families share."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipelines.features.ibsi.matrices import Counts, Floats, Index, Ints, Region, kernel, sums, tags, tally

__all__ = ["TAGS", "emphases", "features", "tabulate"]

TAGS = tags(
    "rlm",
    "sre lre lgre hgre srlge srhge lrlge lrhge glnu glnu_norm rlnu rlnu_norm r_perc gl_var rl_var rl_entr",
)


@kernel
def _runs(
    ranks: Any, direction: Any, levels: Any, longest: Any, sliced: Any, first: Any, last: Any, out: Any
) -> int:  # pragma: no cover - compiled
    dz, dy, dx = direction
    found = 0
    for z in range(first, last):
        base = (z - 1) * levels if sliced else 0
        for y in range(1, ranks.shape[1] - 1):
            for x in range(1, ranks.shape[2] - 1):
                here = ranks[z, y, x]
                if here == 0 or ranks[z - dz, y - dy, x - dx] == here:
                    continue
                length = 0
                c, b, a = z + dz, y + dy, x + dx
                while ranks[c, b, a] == here:
                    length += 1
                    c, b, a = c + dz, b + dy, a + dx
                out[found] = (base + here - 1) * longest + length
                found += 1
    return found


def tabulate(region: Region, direction: tuple[int, int, int], *, sliced: bool) -> Counts:
    """Runs along one direction, column = length - 1; one matrix a slice with `sliced`."""
    levels, longest = region.values.size, max(region.ranks.shape)
    groups = len(region.slices) if sliced else 1
    parts = []
    for first, last in region.slabs():
        out = np.empty(np.count_nonzero(region.ranks[first:last]), dtype=np.int64)
        found = _runs(region.ranks, direction, levels, longest, sliced, first, last, out)
        parts.append(Counts.unpack(*tally(out[:found], groups * levels * longest), levels, longest))
    return parts[0] if len(parts) == 1 else Counts.merged(parts, keep=True)


def features(counts: Counts, region: Region) -> dict[str, Floats]:
    """Every feature of every matrix that has runs: name -> float [matrices]."""
    return dict(zip(TAGS, emphases(counts, region.values), strict=True))


def emphases(counts: Counts, levels: Floats, voxels: Ints | None = None) -> list[Floats]:
    """What a matrix of grey level by size tells, for every matrix that has cells.

    Args:
        counts: column + 1 is the size (length, zone size, distance, dependence).
        levels: grey level of each row.
        voxels: int [matrices]; None where the sizes themselves add up to the voxels.

    Returns:
        float [matrices] each: emphasis of small and large sizes, low and high levels, small-low, small-high,
        large-low, large-high; non-uniformity of levels, normalised, of sizes, normalised; share of the voxels;
        variance of levels and of sizes; entropy.
    """
    starts = counts.starts
    which = np.repeat(np.arange(starts.size), np.diff(starts, append=counts.group.size))
    number = np.add.reduceat(counts.count, starts).astype(np.float64)
    weight = counts.count / number[which]
    size = counts.column + 1.0
    level = levels[counts.row]
    small, large, low, high = 1 / size**2, size**2, 1 / level**2, level**2

    def total(values: NDArray[Any]) -> Floats:
        return np.add.reduceat(values, starts, dtype=np.float64)

    def variance(values: NDArray[Any]) -> Floats:
        return total(weight * (values - total(weight * values)[which]) ** 2)

    def uniformity(index: Index) -> Floats:
        span = int(index.max()) + 1
        keys, share = sums(which * span + index, weight, starts.size * span)
        return np.bincount(keys // span, weights=share**2, minlength=starts.size).astype(np.float64, copy=False)

    of_levels, of_sizes = uniformity(counts.row), uniformity(counts.column)
    covered = total(weight * size) * number if voxels is None else voxels
    return [
        *(total(weight * part) for part in (small, large, low, high)),
        *(total(weight * part) for part in (small * low, small * high, large * low, large * high)),
        of_levels * number,
        of_levels,
        of_sizes * number,
        of_sizes,
        number / covered,
        variance(level),
        variance(size),
        0.0 - total(weight * np.log2(weight)),
    ]
