"""Early stopping: whether the rounds so far say that further ones are not worth it, and which was the best.

A pure function of the rounds' metrics over all sites, which the checkpoints keep: a process that starts again decides
as the one before it did.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from protocol.errors import InputError
from protocol.study import Stopping

__all__ = ["Verdict", "judge"]

_COUNTS = ("rows", "sites")  # what a round's metrics hold besides scores


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """What early stopping says: `best` is a round (0: none has been measured), `stop` whether the run is to end."""

    best: int = 0
    stop: bool = False


def judge(stopping: Stopping, history: Sequence[tuple[int, Mapping[str, Any]]]) -> Verdict:
    """Look at the finished rounds, in order.

    A round without the metric (no answer under masks, nothing to compare) counts neither way.

    Args:
        history: (round, metrics over all sites), rounds from 1.

    Raises:
        InputError: `input.study` when the rounds have scores and the one to watch is not among them.
    """
    best, reference, worse, scores = 0, math.nan, 0, set[str]()
    sign = 1.0 if stopping.mode == "max" else -1.0
    for round_, metrics in history:
        scores |= set(metrics) - set(_COUNTS)
        value = metrics.get(stopping.monitor)
        if not isinstance(value, int | float) or not math.isfinite(value):
            continue
        if best == 0 or sign * (value - reference) > stopping.min_delta:
            best, reference, worse = round_, float(value), 0
        else:
            worse += 1
    if scores and best == 0:
        told = ", ".join(sorted(scores))
        raise InputError("input.study", f"training.stopping.monitor: the rounds measure {told}")
    return Verdict(best=best, stop=worse >= stopping.patience)
