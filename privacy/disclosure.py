"""Disclosure control of tables: k-anonymity, small classes, cohort counts. Pure functions over pandas.

A class is the set of rows that agree on every quasi-identifier; its size is counted in *persons* where a column of
persons is named, since several rows of one person hide nobody. A missing value is a value of its own. Not here:
generalisation (`privacy/deid/table.py`), the decision to release (the egress gate).

Source: Samarati and Sweeney 1998 (k-anonymity).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["class_sizes", "cohort", "k_anonymity", "small_counts", "suppress_small_classes"]


def class_sizes(frame: pd.DataFrame, quasi: Sequence[str], person: str | None = None) -> pd.Series:
    """Size of each row's class.

    Args:
        frame: any rows.
        quasi: quasi-identifier columns; none means one class of all rows.
        person: column of persons; without it each row counts as a person.

    Returns:
        int64, one entry a row, on the frame's index.
    """
    import pandas as pd

    if not len(frame):
        return pd.Series([], index=frame.index, dtype="int64")
    keys = [frame[name].astype("object").where(frame[name].notna(), _MISSING) for name in quasi]
    who = frame[person] if person else pd.Series(range(len(frame)), index=frame.index)
    if not keys:
        return pd.Series(int(who.nunique(dropna=False)), index=frame.index, dtype="int64")
    groups = who.groupby([key.map(_key) for key in keys], sort=False, dropna=False)
    return groups.transform(lambda rows: rows.nunique(dropna=False)).astype("int64")


def k_anonymity(frame: pd.DataFrame, quasi: Sequence[str], person: str | None = None) -> int:
    """The size of the smallest class; 0 for an empty frame."""
    return int(class_sizes(frame, quasi, person).min()) if len(frame) else 0


def suppress_small_classes(
    frame: pd.DataFrame, quasi: Sequence[str], k: int, person: str | None = None
) -> tuple[pd.DataFrame, int]:
    """Take out rows in classes of fewer than k persons.

    Returns:
        The rows left (classes are whole, so what is left is k-anonymous), and how many went.
    """
    kept = frame[class_sizes(frame, quasi, person) >= k]
    return kept, len(frame) - len(kept)


def cohort(frame: pd.DataFrame, person: str | None = None) -> int:
    """How many persons the rows are about."""
    return int(frame[person].nunique(dropna=True)) if person else len(frame)


def small_counts(counts: dict[str, int], minimum: int) -> dict[str, int | None]:
    """Counts with those between 1 and `minimum` - 1 hidden as None; zero is shown."""
    return {name: count if count == 0 or count >= minimum else None for name, count in counts.items()}


_MISSING = "\0missing"


def _key(value: object) -> str:
    """A class key that tells 1 from "1" and groups values that print the same."""
    return f"{type(value).__name__}:{value!r}"
