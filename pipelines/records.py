"""Records: columns of the source as the declared types, and as Parquet bytes.

What lanes 1 and 3 use to build the tables that they put. The declaration in the study decides the type; a cell that
does not convert refuses the table, by column and count, never by value.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from datetime import date, datetime
from io import BytesIO
from typing import TYPE_CHECKING, Any

from protocol.errors import InputError
from protocol.study import Column

if TYPE_CHECKING:
    import pandas as pd
    import pyarrow as pa

__all__ = ["parquet", "typed"]

_INTEGER = re.compile(r"^[+-]?\d{1,19}$")
_DAY = re.compile(r"^(\d{4}-\d{2}-\d{2})([T ]00:00(:00(\.0+)?)?Z?)?$|^(\d{8})$")
_TRUTH = {"true": True, "1": True, "1.0": True, "false": False, "0": False, "0.0": False}


def typed(values: pd.Series[Any], declared: Column) -> pa.Array:
    """A column as int64, float64, string, bool or date32; missing cells are null.

    Raises:
        InputError: `input.table` naming the column and how many cells do not convert.
    """
    import pyarrow as pa

    convert, kind = _conversion(declared.dtype)
    cells: list[Any] = []
    bad = 0
    for value, missing in zip(values.tolist(), values.isna().tolist(), strict=True):
        if missing or (isinstance(value, str) and not value.strip()):
            cells.append(None)
            continue
        try:
            cells.append(convert(value))
        except (ValueError, TypeError, OverflowError, KeyError):
            bad += 1
    if bad:
        raise InputError("input.table", f"column {values.name!r}: {bad} values are not of type {declared.dtype!r}")
    return pa.array(cells, type=kind)


def parquet(columns: Mapping[str, pa.Array]) -> bytes:
    """One Parquet file of the columns, in their order; equal columns give equal bytes."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    buffer = BytesIO()
    pq.write_table(pa.table(dict(columns)), buffer)
    return buffer.getvalue()


def _conversion(dtype: str) -> tuple[Callable[[Any], Any], pa.DataType]:
    import pyarrow as pa

    return {
        "int": (_integer, pa.int64()),
        "float": (_number, pa.float64()),
        "string": (_text, pa.string()),
        "bool": (lambda value: _TRUTH[str(value).strip().lower()], pa.bool_()),
        "date": (_day, pa.date32()),
    }[dtype]


def _integer(value: Any) -> int:
    if isinstance(value, str):
        if not _INTEGER.match(value.strip()):
            raise ValueError
        number = int(value)
    else:
        if isinstance(value, float) and not value.is_integer():
            raise ValueError
        number = int(value)
    if not -(1 << 63) <= number < 1 << 63:
        raise ValueError
    return number


def _number(value: Any) -> float:
    if isinstance(value, str) and "_" in value:
        raise ValueError
    number = float(value)
    if not math.isfinite(number):
        raise ValueError
    return number


def _text(value: Any) -> str:
    """As written; a float that was a whole number in a column with missing cells is written without its `.0`."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, float):
        return str(int(value)) if value.is_integer() and abs(value) < 1e15 else repr(value)
    return str(value)


def _day(value: Any) -> date:
    if isinstance(value, datetime):
        if (value.hour, value.minute, value.second, value.microsecond) != (0, 0, 0, 0):
            raise ValueError
        return value.date()
    if isinstance(value, date):
        return value
    match = _DAY.match(str(value).strip())
    if match is None:
        raise ValueError
    return date.fromisoformat(match[1] or match[5])
