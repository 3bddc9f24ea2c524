"""Persons who are alone with their values: sample uniques of sets of quasi-identifiers, and special uniques.

A sample unique is alone with its values of a set of columns. A special unique is alone already with few of them: the
fewer, the more likely it is alone in the population too. Only counts come out. Not here: population estimates
(`privacy/deid/risk.py`).

Source: Elliot, Manning and Ford, Int J Uncertainty Fuzziness 2002;10:493-509 (SUDA); Templ, sdcMicro (2017), 5.3.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from math import factorial
from typing import TYPE_CHECKING

from privacy.disclosure.classes import class_sizes
from protocol.errors import InputError

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt
    import pandas as pd

__all__ = ["Uniqueness", "report", "suda"]

MAX_SETS = 4_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Uniqueness:
    """Counts, no person.

    Attributes:
        persons: rows looked at.
        uniques: set of columns -> rows that are alone with it, for all sets up to `size`.
        unique: rows alone with all columns together.
        special: rows alone with a proper subset of at most `size` columns.
        smallest: number of columns -> rows whose smallest telling set has so many.
        highest: the highest SUDA score as a share of the greatest possible.
    """

    persons: int
    uniques: dict[tuple[str, ...], int]
    unique: int
    special: int
    smallest: dict[int, int]
    highest: float


def suda(frame: pd.DataFrame, quasi: Sequence[str], size: int = 3) -> npt.NDArray[np.float64]:
    """The SUDA score of each row: the sum over its minimal unique sets of s columns of (m - s)!, m columns in all.

    Args:
        frame: one row a person.
        quasi: m columns.
        size: sets of more columns than this are not looked at.

    Returns:
        float64 [rows], 0 for rows without a minimal unique set.
    """
    return _search(frame, tuple(quasi), size)[0]


def report(frame: pd.DataFrame, quasi: Sequence[str], size: int = 3) -> Uniqueness:
    """How many are alone with what.

    Raises:
        InputError: `input.usage` for more than `MAX_SETS` sets of columns.
    """
    import numpy as np

    names = tuple(quasi)
    scores, smallest, uniques = _search(frame, names, size)
    whole = (class_sizes(frame, names) == 1).to_numpy() if names else np.zeros(len(frame), dtype=bool)
    special = (smallest > 0) & (smallest < len(names))
    most = sum(factorial(len(names) - 1) for _ in names) if names else 1
    found = {s: int((smallest == s).sum()) for s in range(1, min(size, len(names)) + 1)}
    return Uniqueness(
        persons=len(frame),
        uniques=uniques,
        unique=int(whole.sum()),
        special=int(special.sum()),
        smallest=found,
        highest=float(scores.max() / most) if len(frame) else 0.0,
    )


def _search(
    frame: pd.DataFrame, names: tuple[str, ...], size: int
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.int64], dict[tuple[str, ...], int]]:
    import numpy as np

    scores, smallest = np.zeros(len(frame)), np.zeros(len(frame), dtype=np.int64)
    alone: dict[tuple[str, ...], npt.NDArray[np.bool_]] = {}
    counts: dict[tuple[str, ...], int] = {}
    sets = [s for width in range(1, min(size, len(names)) + 1) for s in combinations(names, width)]
    if len(sets) > MAX_SETS:
        raise InputError("input.usage", f"more than {MAX_SETS} sets of columns: take fewer columns or smaller sets")
    for chosen in sets:
        unique = (class_sizes(frame, chosen) == 1).to_numpy()
        counts[chosen] = int(unique.sum())
        minimal = unique.copy()
        below = unique.copy()
        below[:] = False
        for part in combinations(chosen, len(chosen) - 1):
            if part:
                below |= alone[part]
        minimal &= ~below
        alone[chosen] = unique | below
        scores[minimal] += factorial(len(names) - len(chosen))
        smallest[minimal & (smallest == 0)] = len(chosen)
    return scores, smallest, counts
