"""Whether bytes are the table that they should be: a remote server's error page is none."""

from __future__ import annotations

import csv
import io
import json
from typing import TYPE_CHECKING

from protocol.errors import InputError

__all__ = ["framed", "rows_of"]

if TYPE_CHECKING:
    import pyarrow as pa

_MAX_COLUMNS = 100_000


def rows_of(data: bytes, form: str) -> tuple[int, list[str]]:
    """How many rows a table has, and its columns.

    Args:
        form: `csv`, `parquet`, or `json` (a list of objects, or an object: one row).

    Raises:
        InputError: `input.source` for anything else, and for a table without rows.
    """
    reader = {"csv": _csv, "parquet": _parquet, "json": _json}[form]
    rows, columns = reader(data)
    if rows < 1 or not columns or len(columns) > _MAX_COLUMNS:
        raise InputError("input.source", "the table has no rows, or no columns")
    return rows, columns


def framed(data: bytes, form: str) -> pa.Table:
    """The rows of bytes that `rows_of` has passed, typed by what the cells are.

    Raises:
        InputError: `input.source`: two columns of one name, or cells that make no column.
    """
    import pyarrow as pa
    import pyarrow.csv
    import pyarrow.parquet as pq

    try:
        if form == "parquet":
            table = pq.read_table(pa.BufferReader(data))
        elif form == "json":
            value = json.loads(data)
            table = pa.Table.from_pylist(value if isinstance(value, list) else [value])
        else:
            parsing = pa.csv.ParseOptions(delimiter=_delimiter(data.decode("utf-8-sig")), newlines_in_values=True)
            table = pa.csv.read_csv(pa.BufferReader(data), parse_options=parsing)
    except (pa.ArrowException, OSError, ValueError, TypeError):
        raise InputError("input.source", "the table's cells make no columns") from None
    table = table.rename_columns([str(name).strip() for name in table.column_names])
    if len({name.casefold() for name in table.column_names}) != table.num_columns:
        raise InputError("input.source", "two columns have one name")
    return table


def _delimiter(text: str) -> str:
    return max(",;\t|", key=text.partition("\n")[0].count)


def _csv(data: bytes) -> tuple[int, list[str]]:
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError:
        raise InputError("input.source", "the table is not UTF-8") from None
    if text.lstrip()[:1] == "<" or "\0" in text:
        raise InputError("input.source", "the answer is no CSV")
    try:
        reader = csv.reader(io.StringIO(text, newline=""), delimiter=_delimiter(text), strict=True)
        rows = [row for row in reader if any(row)]
    except csv.Error:
        raise InputError("input.source", "the answer is no CSV") from None
    if not rows or any(len(row) != len(rows[0]) for row in rows):
        raise InputError("input.source", "the table's rows are not all of one width: it may be cut")
    return len(rows) - 1, [name.strip() for name in rows[0]]


def _parquet(data: bytes) -> tuple[int, list[str]]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        with pq.ParquetFile(pa.BufferReader(data)) as file:
            return int(file.metadata.num_rows), [str(name) for name in file.schema_arrow.names]
    except (pa.ArrowException, OSError):
        raise InputError("input.source", "the answer is no Parquet") from None


def _json(data: bytes) -> tuple[int, list[str]]:
    try:
        value = json.loads(data)
    except (ValueError, RecursionError):
        raise InputError("input.source", "the answer is no JSON") from None
    rows = value if isinstance(value, list) else [value]
    if not all(isinstance(row, dict) for row in rows):
        raise InputError("input.source", "the answer is no list of objects")
    return len(rows), list(dict.fromkeys(str(name) for row in rows for name in row))
