"""Follow-up time as intervals: cells that may be counted across sites, labels, and concordance.

Pure functions on NumPy arrays; nothing here knows a site, a message or torch.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

__all__ = ["CELLS", "cells", "concordance", "edges_at", "labels", "uppers"]

Array = np.ndarray[Any, Any]

_LOWEST, CELLS = -10, 64  # cell c holds times up to 2 ** ((c + 1) / 2 + _LOWEST); the last one all above
_PAIRS = 4_000_000  # pairs compared at a time


def uppers() -> Array:
    """Upper ends of the cells, float64 (CELLS,)."""
    return np.asarray(2.0 ** ((np.arange(CELLS) + 1) / 2 + _LOWEST))


def cells(time: Array) -> Array:
    """The cell of each time, int64, same shape."""
    return np.minimum(np.searchsorted(uppers(), time), CELLS - 1)


def edges_at(counts: Array, intervals: int) -> Array:
    """Right ends of intervals at equal shares of the events, linear within a cell; at least two, rising."""
    tops = uppers()
    lowers = np.concatenate([[0.0], tops[:-1]])
    total, below = counts.sum(), np.cumsum(counts) - counts
    ends = []
    for share in np.arange(1, intervals + 1) / intervals:
        cell = int(np.searchsorted(below + counts, share * total - 1e-9))
        within = (share * total - below[cell]) / counts[cell]
        ends.append(lowers[cell] + min(within, 1.0) * (tops[cell] - lowers[cell]))
    return np.unique(np.array(ends)) if len(set(ends)) > 1 else np.array([ends[0] / 2, ends[0]])


def labels(event: Array, time: Array, edges: Array) -> tuple[Array, Array]:
    """Labels and mask, both (rows, intervals): 1 where the event fell; 1 where the person was at risk.

    A censored person counts for an interval if followed for at least half of it (the paper's rule).
    """
    starts = np.concatenate([[0.0], edges[:-1]])
    happened = event[:, None] & (time[:, None] > starts) & (time[:, None] <= edges)
    at_risk = np.where(event[:, None], time[:, None] > starts, time[:, None] >= (starts + edges) / 2)
    return happened.astype(np.float64), at_risk.astype(np.float64)


def concordance(risk: Array, time: Array, event: Array) -> tuple[float, float]:
    """Concordant (ties in risk count half) and comparable pairs.

    Source: Harrell et al. 1982, JAMA 247:2543; of two equal times, the one with an event is the earlier.
    """
    right = comparable = 0.0
    cases = np.flatnonzero(event)
    for part in np.array_split(cases, max(1, math.ceil(len(cases) * len(time) / _PAIRS))):
        later = (time > time[part, None]) | ((time == time[part, None]) & ~event)
        lower = (risk < risk[part, None]) + 0.5 * (risk == risk[part, None])
        comparable += float(later.sum())
        right += float((later * lower).sum())
    return right, comparable
