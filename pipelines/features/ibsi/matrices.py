"""What the texture families share: compiled kernels, the region as ranks, and sparse counts.

A texture matrix is kept as a list of its filled cells, so that thousands of grey levels cost what the region's voxels
cost. Grey levels that do not occur are left out by ranking; formulas get the true levels back from `Region.values`.

Source: IBSI reference manual, arXiv 1612.07003, chapter 3.6 onwards.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import update_wrapper
from importlib import import_module
from typing import Any

import numpy as np
from numpy.typing import NDArray

from protocol.errors import ConfigurationError

__all__ = ["DIRECTIONS", "IN_PLANE", "Counts", "Floats", "Index", "Ints", "Region", "kernel", "sums", "tags", "tally"]

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Index = NDArray[np.int32]

# One of each opposite pair at Chebyshev distance 1, as (z, y, x); the first four stay within a slice.
IN_PLANE = ((0, 0, 1), (0, 1, -1), (0, 1, 0), (0, 1, 1))
DIRECTIONS = (*IN_PLANE, *((1, y, x) for y in (-1, 0, 1) for x in (-1, 0, 1)))
_SLAB = 1 << 21  # voxels looked at a time
_DENSE = 1 << 16  # cells that are always worth an array


class _Kernel:
    """A function compiled at its first call, and kept on disk where numba finds a folder it may write to."""

    def __init__(self, function: Callable[..., Any]) -> None:
        self._function = function
        self._compiled: Callable[..., Any] | None = None
        update_wrapper(self, function)

    def __call__(self, *args: Any) -> Any:
        if self._compiled is None:
            self._compiled = self._compile(cache=True)
        try:
            return self._compiled(*args)
        except OSError:  # kernels open no file: the cache folder is full or gone
            self._compiled = self._compile(cache=False)
            return self._compiled(*args)

    def _compile(self, *, cache: bool) -> Callable[..., Any]:
        try:
            numba = import_module("numba")
        except ImportError as error:
            raise ConfigurationError("config.extra-missing", "radiomics needs corsia[imaging]") from error
        try:
            return numba.njit(cache=cache, nogil=True)(self._function)  # type: ignore[no-any-return]
        except RuntimeError:  # numba has no place to keep it
            return numba.njit(nogil=True)(self._function)  # type: ignore[no-any-return]


def kernel(function: Callable[..., Any]) -> _Kernel:
    """Compile `function` with numba at its first call (about a second, once a machine where a cache can be written).

    numba keeps the result in `NUMBA_CACHE_DIR`, beside the module, or in the user's cache folder, whichever it may
    write to first; where it may write to none, every process compiles anew.
    """
    return _Kernel(function)


@dataclass(frozen=True, slots=True, kw_only=True)
class Region:
    """A region of interest with an empty border of one voxel.

    Attributes:
        ranks: int32 [z + 2, y + 2, x + 2]; 0 outside, otherwise 1 + the index into `values`.
        values: the grey levels that occur, ascending.
        n_levels: Ng, with those that do not occur.
    """

    ranks: NDArray[np.int32]
    values: Floats
    n_levels: int

    @classmethod
    def of(cls, levels: NDArray[np.int32], n_levels: int) -> Region:
        """Rank the levels of a box [z, y, x] (0 outside, 1..n_levels inside)."""
        present = np.bincount(levels.ravel(), minlength=n_levels + 1) > 0
        present[0] = False
        rank = np.cumsum(present, dtype=np.int32)
        rank[0] = 0
        values = np.flatnonzero(present).astype(np.float64)
        return cls(ranks=np.pad(rank[levels], 1), values=values, n_levels=n_levels)

    @property
    def slices(self) -> range:
        """Indices of the slices within the border."""
        return range(1, self.ranks.shape[0] - 1)

    def slabs(self) -> Iterator[tuple[int, int]]:
        """Ranges of slices with at most some two million voxels each."""
        step = max(1, _SLAB // (self.ranks.shape[1] * self.ranks.shape[2]))
        for first in range(1, self.ranks.shape[0] - 1, step):
            yield first, min(first + step, self.ranks.shape[0] - 1)


@dataclass(frozen=True, slots=True, kw_only=True)
class Counts:
    """Filled cells of one or more matrices, sorted by matrix, row and column; no cell twice.

    Attributes:
        group: which matrix (slice, direction).
        row, column: indices from 0.
        count: what the cell holds.
    """

    group: Index
    row: Index
    column: Index
    count: Ints

    @classmethod
    def unpack(cls, keys: Ints, count: Ints | Floats, rows: int, columns: int) -> Counts:
        """From sorted keys (group * rows + row) * columns + column."""
        upper = keys // columns
        column = (keys - upper * columns).astype(np.int32)
        group = upper // rows
        row = (upper - group * rows).astype(np.int32)
        return cls(group=group.astype(np.int32), row=row, column=column, count=count.astype(np.int64, copy=False))

    @classmethod
    def merged(cls, parts: Sequence[Counts], *, keep: bool = False) -> Counts:
        """All matrices of all parts added up to one; with `keep` those of equal group only."""
        groups = max(_above(part.group) for part in parts) if keep else 1
        rows = max(_above(part.row) for part in parts)
        columns = max(_above(part.column) for part in parts)
        return cls.unpack(
            *sums(
                np.concatenate([part._keys(rows, columns, keep) for part in parts]),
                np.concatenate([part.count for part in parts]),
                groups * rows * columns,
            ),
            rows,
            columns,
        )

    def _keys(self, rows: int, columns: int, keep: bool) -> Ints:
        keys = self.group.astype(np.int64) if keep else np.zeros(self.row.size, dtype=np.int64)
        for width, index in ((rows, self.row), (columns, self.column)):
            keys *= width
            keys += index
        return keys

    @property
    def starts(self) -> Ints:
        """Where each matrix that has cells begins."""
        return _first(self.group)


def tags(family: str, names: str) -> tuple[str, ...]:
    """`family` before each of the names."""
    return tuple(f"{family}_{name}" for name in names.split())


def tally(keys: Ints, cells: int) -> tuple[Ints, Ints]:
    """Distinct keys, ascending, and how often each occurs; `keys` may be sorted in place."""
    if cells <= max(_DENSE, 2 * keys.size):
        counts = np.bincount(keys, minlength=1)
        found = np.flatnonzero(counts)
        return found, counts[found]
    keys.sort()
    first = _first(keys)
    return keys[first], np.diff(first, append=keys.size)


def sums(keys: Ints, weights: NDArray[Any], cells: int) -> tuple[Ints, Floats]:
    """Distinct keys, ascending, and the sum of their weights (all above 0)."""
    if cells <= max(_DENSE, 4 * keys.size):
        totals = np.bincount(keys, weights=weights, minlength=1).astype(np.float64, copy=False)
        found = np.flatnonzero(totals)
        return found, totals[found]
    order = np.argsort(keys, kind="stable")
    keys = keys[order]
    first = _first(keys)
    return keys[first], np.add.reduceat(weights[order], first, dtype=np.float64)


def _first(ordered: Index | Ints) -> Ints:
    """Where each distinct key begins."""
    new = np.ones(ordered.size, dtype=bool)
    np.not_equal(ordered[1:], ordered[:-1], out=new[1:])
    return np.flatnonzero(new)


def _above(index: Index | Ints) -> int:
    return int(index.max()) + 1 if index.size else 1
