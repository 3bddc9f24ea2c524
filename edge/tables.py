"""Figures of a table that is about to leave, reckoned on its cells: types, classes, diversity, closeness.

Used by the egress gate. Nothing here decides, keeps a value or raises.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Literal

from edge.residual import MIN_CHARACTERS
from privacy import disclosure
from protocol.study import Column

if TYPE_CHECKING:
    import pandas as pd
    import pyarrow as pa

__all__ = ["closeness", "diversity", "is_dtype", "is_text", "known_outside", "smallest_class", "texts"]

# Features that others may know of a person, whatever role the site gave their columns.
_OUTSIDE = re.compile(r"^(context_.*|age|age_.*|.*_age)\Z", re.IGNORECASE)
_COARSE = 40  # so many distinct values, or whole numbers: what is shared by several
_DAY = re.compile(r"^\d{4}-\d{2}-\d{2}\Z")


def smallest_class(table: pa.Table, quasi: Sequence[str], person: str) -> int:
    """Persons (rows, where persons are not named) that share the rarest combination of quasi-identifying cells."""
    keys = list(zip(*(table[name].to_pylist() for name in quasi), strict=True))
    if person in table.column_names:
        pairs = set(zip(keys, table[person].to_pylist(), strict=True))
        return min(Counter(key for key, _person in pairs).values())
    return min(Counter(keys).values())


def known_outside(table: pa.Table, roles: Mapping[str, str]) -> list[str]:
    """Columns of a feature table that somebody may know of a person: by the site's role, or ages and context by name.

    Those by name count where they are coarse (whole numbers, or few values): a finer one is a measurement, alone
    with itself in everybody.
    """
    import pyarrow as pa

    found = []
    for name in table.column_names:
        if roles.get(name) in ("quasi", "birthdate"):
            found.append(name)
        elif _OUTSIDE.match(name):
            kind = table[name].type
            values = {value for value in table[name].to_pylist() if value is not None and value == value}
            number = pa.types.is_floating(kind) or pa.types.is_integer(kind)
            if not number or len(values) <= _COARSE or all(float(value).is_integer() for value in values):
                found.append(name)
    return found


def diversity(
    table: pa.Table, quasi: Sequence[str], sensitive: Sequence[str], kind: Literal["distinct", "entropy"]
) -> float:
    """The l of the least diverse class and column."""
    return disclosure.l_diversity(table.to_pandas(), quasi, sensitive, kind)


def closeness(table: pa.Table, quasi: Sequence[str], sensitive: Sequence[str], ordered: Sequence[str]) -> float:
    """The largest distance of a class from all rows, 0 to 1."""
    return disclosure.t_closeness(table.to_pandas(), quasi, sensitive, ordered)


def is_text(kind: pa.DataType) -> bool:
    """Whether a column type is one of text."""
    import pyarrow as pa

    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind))


def is_dtype(column: pa.ChunkedArray, declared: Column) -> bool:
    """Whether a column is of the declared type; whole numbers may stand for floats, ISO days for dates."""
    import pyarrow as pa

    kind = column.type.value_type if pa.types.is_dictionary(column.type) else column.type
    if pa.types.is_null(kind):
        return True
    text = is_text(kind)
    if declared.dtype == "date":
        days = text and all(_DAY.match(value) for value in column.to_pylist() if value is not None)
        return bool(pa.types.is_date(kind) or pa.types.is_timestamp(kind) or days)
    kinds: dict[str, bool] = {
        "int": pa.types.is_integer(kind),
        "float": pa.types.is_floating(kind) or pa.types.is_integer(kind),
        "bool": pa.types.is_boolean(kind),
        "string": text,
    }
    return kinds[declared.dtype]


def texts(table: pd.DataFrame) -> frozenset[str]:
    """Every text cell of four or more characters: none of them may be a word of a report."""
    found: set[str] = set()
    for name in table.columns:
        if table[name].dtype.kind not in "iufbM":
            found |= {str(v).strip().casefold() for v in table[name].dropna().unique().tolist()}
    return frozenset(text for text in found if len(text) >= MIN_CHARACTERS)
