"""Rows to be scored, as they come in a request: MLflow's JSON forms or CSV, bounded, into one data frame.

Nothing of a row is quoted in an error. Cells are numbers, texts, true, false or null; anything else is refused.
"""

from __future__ import annotations

import io
import json
from typing import TYPE_CHECKING, Any

from protocol.errors import InputError

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["MAX_BODY_BYTES", "MAX_COLUMNS", "MAX_ROWS", "read_rows"]

MAX_BODY_BYTES = 64 << 20
MAX_ROWS = 100_000
MAX_COLUMNS = 10_000
_FORMS = ("dataframe_split", "dataframe_records", "inputs", "instances")
_CELLS = (bool, int, float, str, type(None))


def read_rows(body: bytes, content_type: str, features: tuple[str, ...]) -> pd.DataFrame:
    """A frame of a request's body.

    Args:
        content_type: JSON (`application/json`) or CSV (`text/csv`; comma, semicolon or tab).
        features: the model's columns, for rows that come as lists without names.

    Raises:
        InputError: `input.usage` for another content type, `input.table` for what is not such a table, `input.rows`
            for no row or too many.
    """
    kind = content_type.partition(";")[0].strip().lower()
    if kind == "text/csv":
        frame = _csv(body)
    elif kind == "application/json":
        frame = _json(body, features)
    else:
        raise InputError("input.usage", "send application/json or text/csv")
    if not 0 < len(frame) <= MAX_ROWS:
        raise InputError("input.rows", f"1 to {MAX_ROWS} rows a request")
    if len(frame.columns) > MAX_COLUMNS or len(set(frame.columns)) != len(frame.columns):
        raise InputError("input.table", "too many columns, or two of one name")
    return frame


def _csv(body: bytes) -> pd.DataFrame:
    import pandas as pd

    head = body[:65_536].partition(b"\n")[0]
    delimiter = max(",;\t", key=lambda mark: head.count(mark.encode()))
    widest = max((line.count(delimiter.encode()) for line in io.BytesIO(body)), default=0)
    if widest >= MAX_COLUMNS:  # of which each would cost kilobytes
        raise InputError("input.table", "too many columns")
    try:
        frame = pd.read_csv(io.BytesIO(body), sep=delimiter, encoding="utf-8-sig", nrows=MAX_ROWS + 1)
    except (ValueError, OverflowError, pd.errors.ParserError, pd.errors.EmptyDataError):
        raise InputError("input.table", "not CSV in UTF-8") from None
    return frame.rename(columns=str)


def _json(body: bytes, features: tuple[str, ...]) -> pd.DataFrame:
    try:
        value = json.loads(body, parse_constant=lambda _: None)  # NaN and Infinity are missing
    except (ValueError, RecursionError):
        raise InputError("input.table", "not JSON in UTF-8") from None
    form = next((name for name in _FORMS if isinstance(value, dict) and name in value), None)
    if form is None or set(value) - {form, "params"}:
        raise InputError("input.table", f"send an object with one of {', '.join(_FORMS)}")
    rows = value[form]
    if form == "dataframe_split":
        return _split(rows)
    if isinstance(rows, dict) and form == "inputs":
        return _columns(rows)
    if not isinstance(rows, list) or len(rows) > MAX_ROWS:
        raise InputError("input.rows", f"{form}: a list of 1 to {MAX_ROWS} rows")
    if rows and isinstance(rows[0], list):
        return _split({"columns": list(features), "data": rows})
    return _records(rows)


def _split(value: Any) -> pd.DataFrame:
    if not isinstance(value, dict) or set(value) - {"columns", "data", "index"}:
        raise InputError("input.table", "dataframe_split: an object of columns and data")
    names, rows = value.get("columns"), value.get("data")
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names) or not isinstance(rows, list):
        raise InputError("input.table", "dataframe_split: columns are texts, data are rows")
    if len(rows) > MAX_ROWS:
        raise InputError("input.rows", f"1 to {MAX_ROWS} rows a request")
    if not all(isinstance(row, list) and len(row) == len(names) for row in rows):
        raise InputError("input.table", f"each row is a list of {len(names)} cells")
    if len(set(names)) != len(names):
        raise InputError("input.table", "two columns of one name")
    return _columns({name: [row[at] for row in rows] for at, name in enumerate(names)})


def _records(rows: list[Any]) -> pd.DataFrame:
    if not all(isinstance(row, dict) for row in rows):
        raise InputError("input.table", "each record is an object of column and cell")
    names = list(dict.fromkeys(name for row in rows for name in row))
    if len(names) > MAX_COLUMNS:
        raise InputError("input.table", "too many columns")
    return _columns({name: [row.get(name) for row in rows] for name in names})


def _columns(value: dict[str, Any]) -> pd.DataFrame:
    import pandas as pd

    lists = [column if isinstance(column, list) else [column] for column in value.values()]
    if len({len(column) for column in lists}) > 1:
        raise InputError("input.table", "columns of different lengths")
    if not all(isinstance(cell, _CELLS) for column in lists for cell in column):
        raise InputError("input.table", "cells are numbers, texts, true, false or null")
    if any("\ud800" <= mark <= "\udfff" for name in value for mark in name):
        raise InputError("input.table", "a column's name is not Unicode")
    made = {}
    for name, column in zip(value, lists, strict=True):
        texts = any(isinstance(cell, str | bool) for cell in column)
        try:
            made[name] = pd.Series(column, dtype=object if texts else "float64")
        except OverflowError:
            raise InputError("input.table", f"column {name[:64]!r}: a number beyond the range") from None
    return pd.DataFrame(made)
