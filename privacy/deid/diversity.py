"""How the sensitive values lie in classes: l-diversity and t-closeness over integer codes. Pure numpy.

    counts = tally(classes, values, weights, width)
    distinct(counts, n), entropy(counts, n), recursive(counts, n, l), distance(counts, n, reference, ordered=True)

One entry a class in every result. Not here: what a class is (`disclosure`, `grouping`), what is done with one that
fails (`lattice`).

Source: Machanavajjhala et al. 2007 (l-diversity); Li, Li and Venkatasubramanian 2007 (t-closeness, EMD).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

__all__ = ["Counts", "Floats", "Ints", "distance", "distinct", "entropy", "recursive", "tally"]

Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]
DENSE_CELLS = 1 << 21


@dataclass(frozen=True, slots=True)
class Counts:
    """A sparse table of class x value, sorted by class then value; `width` is the number of values there are."""

    classes: Ints
    values: Ints
    counts: Floats
    width: int


def tally(classes: Ints, values: Ints, weights: Floats, width: int) -> Counts:
    """Add up weights of equal (class, value) pairs.

    Args:
        classes: class of each record, from 0.
        values: value of each record, 0 to width - 1.
        weights: how many rows each record stands for.
        width: number of values.
    """
    keys = classes * width + values
    space = int(keys.max()) + 1 if len(keys) else 0
    if space <= max(1 << 16, 4 * len(keys)):
        dense = np.bincount(keys, weights=weights, minlength=space)
        found = np.flatnonzero(dense)
        counts = dense[found].astype(np.float64)
    else:
        found, inverse = np.unique(keys, return_inverse=True)
        counts = np.bincount(inverse, weights=weights).astype(np.float64)
    return Counts(found // width, found % width, counts, width)


def distinct(table: Counts, n: int) -> Ints:
    """Number of values in each of n classes."""
    return np.bincount(table.classes, minlength=n).astype(np.int64)


def entropy(table: Counts, n: int) -> Floats:
    """exp of the entropy of each class: a class is entropy l-diverse when this is at least l."""
    sums = np.bincount(table.classes, weights=table.counts, minlength=n)
    shares = table.counts / sums[table.classes]
    disorder = np.bincount(table.classes, weights=shares * np.log(shares), minlength=n).astype(np.float64)
    return np.asarray(np.exp(-disorder), np.float64)


def recursive(table: Counts, n: int, l_value: int) -> Floats:
    """r1 / (rl + ... + rm) of each class, counts in falling order; infinite with fewer than l values.

    A class is recursively (c, l)-diverse when this is below c.
    """
    order = np.lexsort((-table.counts, table.classes))
    classes, counts = table.classes[order], table.counts[order]
    starts = np.searchsorted(classes, np.arange(n))
    rank = np.arange(len(classes)) - starts[classes]
    tail = np.bincount(classes, weights=np.where(rank >= l_value - 1, counts, 0.0), minlength=n)
    first = np.bincount(classes, weights=np.where(rank == 0, counts, 0.0), minlength=n)
    ratio = np.divide(first, tail, out=np.full(n, np.inf), where=tail > 0)
    return np.asarray(ratio, np.float64)


def distance(table: Counts, n: int, reference: Floats, *, ordered: bool) -> Floats:
    """Earth mover's distance of each class from the reference shares, 0 to 1.

    Args:
        table: counts.
        n: number of classes; one without rows has distance 0.
        reference: share of each value, length `table.width`; values that occur nowhere have share 0.
        ordered: values are steps of a line, codes in their order; else all are equally far apart.
    """
    sums = np.bincount(table.classes, weights=table.counts, minlength=n)
    shares = table.counts / sums[table.classes]
    if not ordered:
        # Values a class does not have differ by their whole reference share: 1 - the share of those it has.
        expected = reference[table.values]
        have = np.bincount(table.classes, weights=np.abs(shares - expected) - expected, minlength=n)
        return np.where(sums > 0, 0.5 * (have + 1.0), 0.0)
    present = np.flatnonzero(reference > 0)
    if len(present) < 2:
        return np.zeros(n)
    place = np.zeros(table.width, dtype=np.int64)
    place[present] = np.arange(len(present))
    result = np.zeros(n)
    step = max(1, DENSE_CELLS // len(present))
    line = np.cumsum(reference[present])
    for low in range(0, n, step):
        high = min(n, low + step)
        inside = slice(*np.searchsorted(table.classes, [low, high]))
        dense = np.zeros((high - low, len(present)))
        dense[table.classes[inside] - low, place[table.values[inside]]] = shares[inside]
        moved = np.abs(np.cumsum(dense, axis=1) - line).sum(axis=1) / (len(present) - 1)
        result[low:high] = np.where(sums[low:high] > 0, moved, 0.0)
    return result
