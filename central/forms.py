"""Whether bytes are the table that they should be: a remote server's error page is none."""

from __future__ import annotations

import csv
import io
import json

from protocol.errors import InputError

__all__ = ["rows_of"]

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


def _csv(data: bytes) -> tuple[int, list[str]]:
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError:
        raise InputError("input.source", "the table is not UTF-8") from None
    first = text.partition("\n")[0]
    if text.lstrip()[:1] == "<" or "\0" in text:
        raise InputError("input.source", "the answer is no CSV")
    delimiter = max(",;\t|", key=first.count)
    try:
        rows = [row for row in csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True) if any(row)]
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
