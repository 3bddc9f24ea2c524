"""Grey level co-occurrence (IBSI 3.6): pairs of neighbours at Chebyshev distance 1, symmetric.

A symmetric matrix is kept as its upper half: cell (a, b), a <= b, holds the neighbours with levels a and b.
"""

from __future__ import annotations

import math
from itertools import pairwise
from typing import Any

import numpy as np

from pipelines.features.ibsi.matrices import Counts, Floats, Region, kernel, tags, tally

__all__ = ["CORRELATION_TAG", "TAGS", "features", "maximal_correlation", "tabulate"]

TAGS = tags(
    "cm",
    "joint_max joint_avg joint_var joint_entr diff_avg diff_var diff_entr sum_avg sum_var sum_entr "
    "energy contrast dissimilarity inv_diff inv_diff_norm inv_diff_mom inv_diff_mom_norm inv_var "
    "corr auto_corr clust_tend clust_shade clust_prom info_corr1 info_corr2",
)
CORRELATION_TAG = "cm_mcc"
_DENSE_LEVELS = 400


@kernel
def _pairs(
    ranks: Any, direction: Any, levels: Any, sliced: Any, first: Any, last: Any, out: Any
) -> int:  # pragma: no cover - compiled
    dz, dy, dx = direction
    found = 0
    for z in range(first, last):
        base = (z - 1) * levels * levels if sliced else 0
        for y in range(1, ranks.shape[1] - 1):
            for x in range(1, ranks.shape[2] - 1):
                here = ranks[z, y, x]
                there = ranks[z + dz, y + dy, x + dx]
                if here > 0 and there > 0:
                    low = min(here, there) - 1
                    high = max(here, there) - 1
                    out[found] = base + low * levels + high
                    found += 1
    return found


def tabulate(region: Region, direction: tuple[int, int, int], *, sliced: bool) -> Counts:
    """Pairs along one direction; one matrix a slice with `sliced`."""
    levels = region.values.size
    groups = len(region.slices) if sliced else 1
    parts = []
    for first, last in region.slabs():
        out = np.empty(np.count_nonzero(region.ranks[first:last]), dtype=np.int64)
        found = _pairs(region.ranks, direction, levels, sliced, first, last, out)
        parts.append(Counts.unpack(*tally(out[:found], groups * levels * levels), levels, levels))
    return parts[0] if len(parts) == 1 else Counts.merged(parts, keep=True)


@kernel
def _distributions(
    row: Any, column: Any, count: Any, values: Any, marginal: Any, gaps: Any, totals: Any
) -> tuple[float, float, float, float]:  # pragma: no cover - compiled
    pairs = count.sum()
    most, entropy, energy, product = 0.0, 0.0, 0.0, 0.0
    for i in range(row.size):
        low, high = values[row[i]], values[column[i]]
        weight = count[i] / pairs  # of both halves
        cell = weight if low == high else weight / 2
        most = max(most, cell)
        entropy -= weight * np.log2(cell)
        energy += weight * cell
        product += weight * low * high
        marginal[row[i]] += weight / 2
        marginal[column[i]] += weight / 2
        gaps[int(high - low)] += weight
        totals[int(high + low)] += weight
    return most, entropy, energy, product


def features(counts: Counts, region: Region) -> dict[str, Floats]:
    """Every feature of every matrix in `counts` (one pair at least): name -> float [matrices].

    Where all pairs are of one level, correlation is 1 and the first measure of information correlation 0.
    """
    bounds = [*counts.starts, counts.group.size]
    values = [_one(counts, slice(a, b), region) for a, b in pairwise(bounds)]
    return dict(zip(TAGS, np.array(values).T, strict=True))


def _one(counts: Counts, part: slice, region: Region) -> tuple[float, ...]:
    """The features of one matrix, in the order of `TAGS`."""
    marginal, gaps, totals = (np.zeros(n) for n in (region.values.size, region.n_levels, 2 * region.n_levels + 1))
    most, entropy, energy, product = _distributions(
        counts.row[part], counts.column[part], counts.count[part], region.values, marginal, gaps, totals
    )
    gap, of_gap = _filled(gaps)
    both, of_both = _filled(totals)
    mean = float(marginal @ region.values)
    variance = float(marginal @ (region.values - mean) ** 2)
    difference = float(of_gap @ gap)
    off = both - 2 * mean
    off2 = off * off
    tendency = float(of_both @ off2)
    gap2 = gap * gap
    single = _entropy(marginal[marginal > 0])
    apart = slice(1, None) if gap[0] == 0 else slice(None)
    return (
        most,
        mean,
        variance,
        entropy,
        difference,
        float(of_gap @ (gap - difference) ** 2),
        _entropy(of_gap),
        2 * mean,
        tendency,
        _entropy(of_both),
        energy,
        float(of_gap @ gap2),
        difference,
        float(of_gap @ (1 / (1 + gap))),
        float(of_gap @ (1 / (1 + gap / region.n_levels))),
        float(of_gap @ (1 / (1 + gap2))),
        float(of_gap @ (1 / (1 + gap2 / region.n_levels**2))),
        float(of_gap[apart] @ (1 / gap2[apart])),
        (tendency / 2 - variance) / variance if variance > 0 else 1.0,
        product,
        tendency,
        float(of_both @ (off2 * off)),
        float(of_both @ (off2 * off2)),
        (entropy - 2 * single) / single if single > 0 else 0.0,
        math.sqrt(-math.expm1(-2 * max(2 * single - entropy, 0.0))),
    )


def _filled(distribution: Floats) -> tuple[Floats, Floats]:
    at = np.flatnonzero(distribution)
    return at.astype(np.float64), distribution[at]


def _entropy(shares: Floats) -> float:
    """In bits."""
    return 0.0 - float(shares @ np.log2(shares))


def maximal_correlation(counts: Counts, region: Region) -> Floats:
    """Haralick's maximal correlation coefficient of every matrix in `counts`: float [matrices].

    Not in IBSI; 1 where the region has one level, 0 where only the pairs have. The square root of the second
    eigenvalue of Q equals the second largest absolute eigenvalue of D^-1/2 P D^-1/2, whose first eigenvector is the
    root of the marginal.
    """
    starts = [*counts.starts, counts.row.size]
    if region.values.size < 2:
        return np.ones(len(starts) - 1)
    return np.array([_second(counts, slice(a, b)) for a, b in pairwise(starts)])


def _second(counts: Counts, part: slice) -> float:
    from scipy.sparse import coo_array
    from scipy.sparse.linalg import ArpackNoConvergence, LinearOperator, eigsh

    present, at = np.unique(np.concatenate([counts.row[part], counts.column[part]]), return_inverse=True)
    if present.size < 2:
        return 0.0
    low, high = np.split(at, 2)
    weight = counts.count[part] / counts.count[part].sum()
    matrix = coo_array((np.tile(weight / 2, 2), (at, np.concatenate([high, low]))), shape=(present.size,) * 2).tocsr()
    root = np.sqrt(matrix.sum(axis=0))
    scaled = (matrix / root[:, None] / root[None, :]).tocsr()
    if present.size <= _DENSE_LEVELS:
        values = np.linalg.eigvalsh(scaled.toarray() - np.outer(root, root))
        return float(np.abs(values).max())
    rest = LinearOperator(scaled.shape, matvec=lambda v: scaled @ v - root * (root @ v), dtype=np.float64)
    start = np.cos(np.arange(present.size))
    try:
        return float(np.abs(eigsh(rest, k=1, which="LM", v0=start, return_eigenvectors=False))[0])
    except ArpackNoConvergence:
        return math.nan
