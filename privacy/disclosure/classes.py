"""Disclosure control of tables: k-anonymity, l-diversity, t-closeness, small classes, cohort counts.

A class is the set of rows that agree on every quasi-identifier; its size is counted in *persons* where a column of
persons is named, since several rows of one person hide nobody; l and t count rows. A missing value is a value of its
own. Not here: generalisation (`privacy/deid/lattice.py`), the decision to release (the egress gate).

Source: Samarati and Sweeney 1998 (k-anonymity); Machanavajjhala et al. 2007 (l); Li et al. 2007 (t).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    import pandas as pd

    from privacy.deid.diversity import Counts, Ints

__all__ = [
    "LKind",
    "class_ids",
    "class_sizes",
    "cohort",
    "k_anonymity",
    "l_diversity",
    "recursive_c",
    "small_counts",
    "suppress_small_classes",
    "t_closeness",
]

LKind = Literal["distinct", "entropy"]


def class_ids(frame: pd.DataFrame, quasi: Sequence[str]) -> Ints:
    """The class of each row, numbered from 0 by first row."""
    import numpy as np
    import pandas as pd

    ids = np.zeros(len(frame), dtype=np.int64)
    for name in quasi:
        codes, width = _codes(frame[name])
        ids = pd.factorize(ids * width + codes)[0].astype(np.int64)
    return ids


def class_sizes(frame: pd.DataFrame, quasi: Sequence[str], person: str | None = None) -> pd.Series:
    """Size of each row's class.

    Args:
        frame: any rows.
        quasi: quasi-identifier columns; none means one class of all rows.
        person: column of persons; without it each row counts as a person.

    Returns:
        int64, one entry a row, on the frame's index.
    """
    import numpy as np
    import pandas as pd

    if not len(frame):
        return pd.Series([], index=frame.index, dtype="int64")
    ids = class_ids(frame, quasi)
    counted = ids
    if person:
        who, width = _codes(frame[person])
        counted = np.unique(ids * width + who) // width
    return pd.Series(np.bincount(counted)[ids], index=frame.index, dtype="int64")


def k_anonymity(frame: pd.DataFrame, quasi: Sequence[str], person: str | None = None) -> int:
    """The size of the smallest class; 0 for an empty frame."""
    return int(class_sizes(frame, quasi, person).min()) if len(frame) else 0


def l_diversity(frame: pd.DataFrame, quasi: Sequence[str], sensitive: Sequence[str], kind: LKind = "distinct") -> float:
    """The l of the least diverse class and column: its number of values, or exp of their entropy; 0 when empty.

    Example: a class with values a, a, b is distinct 2-diverse and entropy 1.89-diverse.
    """
    from privacy.deid import diversity

    measure = diversity.distinct if kind == "distinct" else diversity.entropy
    found = [float(measure(table, n).min()) for table, n in _tallies(frame, quasi, sensitive)]
    return min(found, default=0.0)


def recursive_c(frame: pd.DataFrame, quasi: Sequence[str], sensitive: Sequence[str], l_value: int) -> float:
    """The frame is recursively (c, l)-diverse for every c above this; infinite when a class has fewer than l values."""
    from privacy.deid import diversity

    found = [float(diversity.recursive(table, n, l_value).max()) for table, n in _tallies(frame, quasi, sensitive)]
    return max(found, default=0.0)


def t_closeness(
    frame: pd.DataFrame, quasi: Sequence[str], sensitive: Sequence[str], ordered: Sequence[str] | None = None
) -> float:
    """The largest distance of a class from the whole frame, 0 to 1.

    Args:
        frame: any rows.
        quasi: quasi-identifier columns.
        sensitive: columns to compare.
        ordered: those whose values lie on a line (earth mover's distance by rank); None for those that are numbers.
    """
    import numpy as np

    from privacy.deid import diversity

    found = [0.0]
    tallies = _tallies(frame, quasi, sensitive)
    for name, (table, n) in zip(sensitive, tallies, strict=False):
        line = is_number(frame[name]) if ordered is None else name in ordered
        shares = np.bincount(table.values, weights=table.counts, minlength=table.width) / len(frame)
        found.append(float(diversity.distance(table, n, shares, ordered=line).max()))
    return max(found)


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


def is_number(values: pd.Series) -> bool:
    """Whether a column holds numbers (truth values are not)."""
    import pandas as pd

    return bool(pd.api.types.is_numeric_dtype(values) and not pd.api.types.is_bool_dtype(values))


def ranked(values: pd.Series) -> tuple[Ints, int]:
    """Codes of a column in the order of its numbers, or of its texts; a missing value is last; and how many."""
    import numpy as np
    import pandas as pd

    keyed: Any = values
    if values.dtype == object:
        keyed = values.map(_key).where(values.notna(), None)
    ranks, found = pd.factorize(keyed, sort=True)
    ranks = ranks.astype(np.int64)
    return np.where(ranks < 0, len(found), ranks), len(found) + 1


def _codes(values: pd.Series) -> tuple[Ints, int]:
    """Codes that tell 1 from "1" and True, group values that print the same, and missing ones; and how many."""
    import numpy as np
    import pandas as pd

    keyed: Any = values
    if values.dtype == object:
        keyed = values.where(values.notna(), None).map(_key)
    codes, found = pd.factorize(keyed, use_na_sentinel=False)
    return codes.astype(np.int64), max(1, len(found))


def _key(value: object) -> str:
    return f"{type(value).__name__}:{value!r}"


def _tallies(frame: pd.DataFrame, quasi: Sequence[str], sensitive: Sequence[str]) -> list[tuple[Counts, int]]:
    import numpy as np

    from privacy.deid.diversity import tally

    if not len(frame):
        return []
    ids = class_ids(frame, quasi)
    ones = np.ones(len(frame))
    return [(tally(ids, *_weighed(frame[name], ones)), int(ids.max()) + 1) for name in sensitive]


def _weighed(values: pd.Series, ones: Any) -> tuple[Ints, Any, int]:
    codes, width = ranked(values)
    return codes, ones, width
