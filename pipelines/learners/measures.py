"""Sums over a site's rows from which the metrics of a prediction follow, and the metrics.

Pure functions on NumPy arrays. A count below the smallest allowed never leaves by itself: it joins its neighbours.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from pipelines.learners.network import sigmoid

__all__ = ["BINARY", "CONTINUOUS", "binary_metrics", "binary_sums", "continuous_metrics", "continuous_sums", "crowded"]

Array = np.ndarray[Any, Any]
Arrays = dict[str, Array]
Shapes = dict[str, tuple[str, tuple[int, ...]]]

_BINS = 64  # of equal width in probability
BINARY: Shapes = {
    **{name: ("float64", (1,)) for name in ("rows", "correct", "loss", "brier")},
    "ranks": ("float64", (2, _BINS)),
}
CONTINUOUS: Shapes = {name: ("float64", (1,)) for name in ("rows", "error", "sum", "square")}


def binary_sums(logit: Array, y: Array, least: int) -> Arrays:
    """Rows, correct at 0.5, summed log loss and Brier score; counts of probabilities by class, in bins."""
    probability = sigmoid(logit)
    bins = np.minimum((probability * _BINS).astype(np.int64), _BINS - 1)
    ranks = [crowded(np.bincount(bins[y == c], minlength=_BINS).astype(np.float64), least) for c in (0, 1)]
    loss = np.logaddexp(0.0, logit) - y * logit
    return {
        "rows": np.array([float(len(y))]),
        "correct": np.array([float(((probability > 0.5) == (y > 0.5)).sum())]),
        "loss": np.array([float(loss.sum())]),
        "brier": np.array([float(np.square(probability - y).sum())]),
        "ranks": np.stack(ranks),
    }


def binary_metrics(sums: Arrays) -> dict[str, float]:
    """`accuracy` at 0.5, `loss`, `brier` a row; `auc` from binned counts (ties count half) where both classes are."""
    rows = float(sums["rows"][0])
    if rows <= 0:
        return {}
    values = {name: float(sums[key][0]) / rows for name, key in (("loss", "loss"), ("brier", "brier"))}
    values["accuracy"] = float(sums["correct"][0]) / rows
    negative, positive = sums["ranks"]
    pairs = negative.sum() * positive.sum()
    if pairs > 0:
        below = np.cumsum(negative) - negative
        values["auc"] = float((positive * (below + 0.5 * negative)).sum() / pairs)
    return values


def continuous_sums(value: Array, y: Array) -> Arrays:
    """Rows, summed squared error, sum and squares of the outcome."""
    error = np.square(value - y).sum()
    parts = {"rows": len(y), "error": error, "sum": y.sum(), "square": np.square(y).sum()}
    return {name: np.array([float(part)]) for name, part in parts.items()}


def continuous_metrics(sums: Arrays) -> dict[str, float]:
    """`rmse`, `loss` (mean squared error), and `r2` where the outcome varies."""
    rows, error = float(sums["rows"][0]), float(sums["error"][0])
    if rows <= 0:
        return {}
    values = {"rmse": math.sqrt(max(error, 0.0) / rows), "loss": error / rows}
    spread = float(sums["square"][0]) - float(sums["sum"][0]) ** 2 / rows
    if spread > 1e-12 * max(float(sums["square"][0]), 1e-300):
        values["r2"] = 1 - error / spread
    return values


def crowded(counts: Array, least: int) -> Array:
    """Counts moved up to a bin where `least` have come together; what is left over joins the bin before; else none."""
    made, waiting, last = np.zeros_like(counts), 0.0, -1
    for i, count in enumerate(counts):
        waiting += float(count)
        if count and waiting >= least:
            made[i], waiting, last = waiting, 0.0, i
    if last >= 0:
        made[last] += waiting
    return made
