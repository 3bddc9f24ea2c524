"""Tables: CSV or Parquet into a frame, and the study's row selectors over it.

Used by `DatasetSource` alone. All cells are read as text first; a column of role value or quasi becomes numeric only
when every cell of it converts, or the site's `format` says that it is. Errors name columns, lines and counts, never
values.
"""

from __future__ import annotations

import csv
import os
import re
import stat
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

import pandas as pd

from edge.sources.consent import parse_date
from edge.sources.format import Format
from edge.sources.numbers import missing_word, numbers
from protocol.errors import InputError, StorageError
from protocol.study import Condition

if TYPE_CHECKING:
    import pyarrow as pa

__all__ = ["framed", "header", "infer", "lines", "read", "select", "typed"]

MAX_FIELD_CHARS = 16 * 1024 * 1024
MAX_TABLE_BYTES = 4 << 30  # of what a small Parquet file may unpack to
_DELIMITERS = (",", ";", "\t", "|")
_PLAIN = Format()
_MISSING = frozenset({"", "na", "n/a", "nan", "null", "none"})
_INTEGER = re.compile(r"^-?(0|[1-9]\d{0,14})$")
_SEP = re.compile(r'"?sep=([,;\t|])"?[;,]*\s*\Z', re.IGNORECASE)  # Excel's first line: no header, the delimiter
_MIDNIGHT = re.compile(r" 00:00:00(\.0+)?Z?$")


def read(path: Path, columns: Sequence[str], text: Collection[str], form: Format = _PLAIN) -> pd.DataFrame:
    """The named columns of a table, index 0..n-1.

    Args:
        path: CSV (delimited by comma, semicolon, tab or stroke) or Parquet; told apart by content.
        columns: what to read, without repetition.
        text: those that stay text (ids, dates, free text); the others are typed by `infer`.
        form: how the site says that the file is written.

    Raises:
        InputError: `input.column-missing` naming the first missing column; `input.table` for anything else.
        StorageError: `storage.failed` when the file cannot be opened.
    """
    try:
        with open(os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC), "rb") as file:  # a pipe must not hang us
            if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
                raise InputError("input.table", "the dataset's table is not a regular file")
            parquet = file.read(4) == b"PAR1"
        return _read_parquet(path, columns, text, form) if parquet else _read_csv(path, columns, text, form)
    except FileNotFoundError:
        raise InputError("input.table", "the dataset's table does not exist") from None
    except OSError as error:
        raise StorageError("storage.failed", f"the table cannot be read: {error.strerror}") from None


def header(path: Path, form: Format = _PLAIN) -> list[str]:
    """The names of all columns; raises as `read`."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        with path.open("rb") as file:
            if file.read(4) == b"PAR1":
                return [str(name) for name in pq.read_schema(path).names]
        return [cell.strip() for cell in next(lines(path, (), form)[1], []) if cell.strip()]
    except pa.ArrowInvalid:
        raise InputError("input.table", "the table is not Parquet") from None
    except OSError as error:
        raise StorageError("storage.failed", f"the table cannot be read: {error.strerror}") from None


def _read_csv(path: Path, columns: Sequence[str], text: Collection[str], form: Format) -> pd.DataFrame:
    delimiter, rows = lines(path, columns, form)
    with _told(form):
        return framed(rows, columns, text, form, decimal_comma=delimiter == ";")


def framed(
    rows: Iterator[list[str]],
    columns: Sequence[str],
    text: Collection[str],
    form: Format = _PLAIN,
    *,
    decimal_comma: bool = False,
) -> pd.DataFrame:
    """The named columns of a header and rows, all of one width. See `read`."""
    places = _places(next(rows, []), columns)
    cells = [[row[place] for place in places] for row in rows]
    comma = decimal_comma or form.decimal == ","
    data: dict[str, pd.Series[Any]] = {}
    for at, name in enumerate(columns):
        series = pd.Series([row[at] for row in cells], dtype="str").mask(lambda s: s.str.strip() == "")
        data[name] = series if name in text else typed(series, name, form, decimal_comma=comma)
    return pd.DataFrame(data, columns=list(columns))


def lines(path: Path, columns: Sequence[str] = (), form: Format = _PLAIN) -> tuple[str, Iterator[list[str]]]:
    """The delimiter of a CSV, and its header and rows as they are read; all of one width.

    Args:
        columns: names that the header should hold, by which delimiters are told apart.

    Raises:
        InputError: `input.table`, from the iterator too.
    """
    csv.field_size_limit(MAX_FIELD_CHARS)
    with _told(form):
        delimiter = _delimiter(path, columns, form)
    return delimiter, _opened(path, delimiter, form)


def _opened(path: Path, delimiter: str, form: Format) -> Iterator[list[str]]:
    with _told(form), path.open(encoding=form.codec, newline="") as file:
        yield from _rows(file, delimiter, int(_said(file) is not None))


def _said(file: TextIO) -> str | None:
    """The delimiter that a first line `sep=;` names; the file is read on after it, else from its beginning."""
    found = _SEP.match(file.readline(16))
    if found is None:
        file.seek(0)
    return found[1] if found else None


@contextmanager
def _told(form: Format) -> Iterator[None]:
    """What reading a CSV raises, as errors of the tree."""
    try:
        yield
    except UnicodeError:
        said = "UTF-8" if form.encoding == "utf-8" else form.encoding
        raise InputError("input.table", f"the table is not {said}: save it as CSV UTF-8, or say `encoding`") from None
    except csv.Error:
        raise InputError("input.table", "the table is not CSV: check its quotes and line ends") from None


def typed(series: pd.Series[Any], name: str, form: Format, *, decimal_comma: bool = False) -> pd.Series[Any]:
    """A column of text, typed: `infer` after the words that the site calls missing are gone."""
    if form.missing:
        gone = {missing_word(word) for word in form.missing}
        series = series.mask(series.map(lambda cell: missing_word(str(cell)) in gone, na_action="ignore").eq(True))
    if name in form.numeric:
        words = [str(cell).strip() for cell in series.fillna("")]
        return pd.Series(numbers(words, decimal_comma=decimal_comma), index=series.index, dtype="float64")
    return infer(series, decimal_comma=decimal_comma)


def _rows(file: TextIO, delimiter: str, before: int = 0) -> Iterator[list[str]]:
    """Header and rows, all of one width; lines without content are passed over, and so are delimiters at a line's end.

    Args:
        before: lines read already.
    """
    width = 0
    reader = csv.reader(file, delimiter=delimiter, strict=True)
    for row in reader:
        if not any(cell.strip() for cell in row):
            continue
        width, line = width or len(row), reader.line_num + before
        if len(row) > width and not any(cell.strip() for cell in row[width:]):
            del row[width:]
        if len(row) != width:
            raise InputError("input.table", f"line {line} has {len(row)} fields, the header has {width}")
        if any("\0" in cell for cell in row):
            raise InputError("input.table", f"line {line} holds binary data")
        yield row


def _delimiter(path: Path, columns: Sequence[str], form: Format) -> str:
    """The delimiter under which the header holds most of the columns that are looked for, then most fields."""
    scores: list[tuple[int, int, int, str]] = []
    with path.open(encoding=form.codec, newline="") as file:
        if said := _said(file):
            return said
    for delimiter in _DELIMITERS:
        with path.open(encoding=form.codec, newline="") as file:
            try:
                header = [cell.strip() for cell in next(_rows(file, delimiter), [])]
            except csv.Error:
                continue
        scores.append((sum(name in header for name in columns), len(header), -len(scores), delimiter))
    if not scores:
        raise InputError("input.table", "the table's header is not CSV")
    return max(scores)[-1]


def _places(header: Sequence[str], columns: Sequence[str]) -> list[int]:
    names = [cell.strip() for cell in header]
    if not names:
        raise InputError("input.table", "the table is empty")
    twice = sorted({name for name in names if name and names.count(name) > 1})
    if twice:
        raise InputError("input.table", f"{len(twice)} column names occur more than once")
    for name in columns:
        if name not in names:
            raise InputError("input.column-missing", f"the table has no column {name!r}")
    return [names.index(name) for name in columns]


def _read_parquet(path: Path, columns: Sequence[str], text: Collection[str], form: Format) -> pd.DataFrame:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        with pq.ParquetFile(path) as file:
            _places(file.schema_arrow.names, columns)
            kinds = {name: file.schema_arrow.field(name).type for name in columns}
            _bounded(8 * len(columns) * file.metadata.num_rows)
        words = [n for n, kind in kinds.items() if pa.types.is_string(kind) or pa.types.is_binary(kind)]
        with pq.ParquetFile(path, read_dictionary=words) as file:  # each word once, however often it is repeated
            table = file.read(columns=list(columns))
        _bounded(sum(_length(chunk) for column in table.columns for chunk in column.chunks))
        data = {name: _column(table.column(name).combine_chunks(), name in text) for name in columns}
        data |= {n: typed(c, n, form) for n, c in data.items() if n not in text and c.dtype == "str" and form != _PLAIN}
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError, pa.ArrowTypeError, pa.ArrowKeyError, OSError):
        raise InputError("input.table", "the table is not Parquet, or has a column of nested type") from None
    return pd.DataFrame(data, columns=list(columns))


def _bounded(size: int) -> None:
    if size > MAX_TABLE_BYTES:
        raise InputError("input.table", "the Parquet file unpacks to too much")


def _length(chunk: pa.Array) -> int:
    """Bytes that a column's texts have once they are written out."""
    import pyarrow as pa
    import pyarrow.compute as pc

    if not pa.types.is_dictionary(chunk.type) or pa.types.is_primitive(chunk.type.value_type):
        return 0
    return int(pc.sum(pc.binary_length(chunk.dictionary).take(chunk.indices)).as_py() or 0)


def _column(values: pa.ChunkedArray, text: bool) -> pd.Series[Any]:
    import pyarrow as pa

    kind = values.type
    if text or not (pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_boolean(kind)):
        words = pd.Series(values.cast(pa.string()).to_pylist(), dtype="str")
        words = words.str.replace(_MIDNIGHT, "", regex=True) if pa.types.is_timestamp(kind) else words
        return words.mask(words.str.strip() == "")
    numbers: pd.Series[Any] = values.to_pandas()
    return numbers.convert_dtypes() if pa.types.is_boolean(kind) else numbers


def infer(series: pd.Series[Any], *, decimal_comma: bool = False) -> pd.Series[Any]:
    """Type a column of text: int64, else float64 (missing = NaN), else as it is.

    Words such as NA count as missing only in a column whose other cells are all numbers (`numbers`).
    """
    words = series.fillna("").astype(object).map(lambda cell: str(cell).strip())
    missing = words.str.lower().isin(_MISSING)
    present = words[~missing]
    made = numbers(present.tolist(), decimal_comma=decimal_comma)
    if not made or None in made:
        return series
    if len(present) == len(series) and present.map(lambda w: bool(_INTEGER.match(w))).all():
        return present.astype("int64")
    return pd.Series(made, index=present.index, dtype="float64").reindex(series.index)


def select(
    frame: pd.DataFrame, conditions: Sequence[Condition], roles: Mapping[str, str]
) -> tuple[pd.Series[bool], pd.Series[bool]]:
    """Which rows meet all conditions, and which could not be compared (a word where a number or date is asked).

    A missing value meets no condition, `!=` included.

    Raises:
        InputError: `input.study` for a condition whose value does not fit its operator.
    """
    selected = pd.Series(True, index=frame.index)
    unreadable = pd.Series(False, index=frame.index)
    for condition in conditions:
        column = frame[condition.column]
        values = _operands(condition)
        if values is not None:
            present = column.notna()
            column, values = _comparable(column, values, roles[condition.column], condition.column)
            unreadable |= present & column.isna()
        selected &= _meets(column, condition.op, values).fillna(False).astype(bool)
    return selected & ~unreadable, unreadable


def _operands(condition: Condition) -> list[Any] | None:
    value = condition.value
    if condition.op == "not-null":
        return None
    if (condition.op == "in") != isinstance(value, tuple) or value is None or value == ():
        raise InputError("input.study", f"the condition on {condition.column!r} has no fitting value")
    values = list(value) if isinstance(value, tuple) else [value]
    kinds = {bool if isinstance(v, bool) else str if isinstance(v, str) else float for v in values}
    if len(kinds) > 1 or (kinds == {bool} and condition.op not in ("==", "!=", "in")):
        raise InputError("input.study", f"the condition on {condition.column!r} has values of the wrong kind")
    return values


def _comparable(column: pd.Series[Any], values: list[Any], role: str, name: str) -> tuple[pd.Series[Any], list[Any]]:
    """Column and values as numbers, days, truth values or words; what does not convert becomes missing."""
    if isinstance(values[0], bool):
        truth = {"true": 1.0, "1": 1.0, "1.0": 1.0, "false": 0.0, "0": 0.0, "0.0": 0.0}
        return column.map(lambda c: truth.get(str(c).strip().lower()), na_action="ignore"), values
    if not isinstance(values[0], str):
        return pd.to_numeric(column, errors="coerce").astype("float64"), values
    if role in ("date", "birthdate"):
        days = [parse_date(value) for value in values]
        if None in days:
            raise InputError("input.study", f"the condition on {name!r} compares dates: give YYYY-MM-DD")
        ordinals = column.astype(object).map(lambda c: _ordinal(str(c)), na_action="ignore")
        return pd.to_numeric(ordinals).astype("float64"), [day.toordinal() for day in days if day]
    if pd.api.types.is_numeric_dtype(column.dtype):
        raise InputError("input.study", f"the condition on {name!r} compares numbers with a text")
    return column.astype(object).map(lambda c: str(c).strip(), na_action="ignore"), [v.strip() for v in values]


def _ordinal(text: str) -> float | None:
    day = parse_date(text)
    return None if day is None else float(day.toordinal())


def _meets(column: pd.Series[Any], op: str, values: list[Any] | None) -> pd.Series[Any]:
    if values is None:
        return column.notna()
    present = column.notna()
    tests = {
        "==": column.eq,
        "!=": column.ne,
        "<": column.lt,
        "<=": column.le,
        ">": column.gt,
        ">=": column.ge,
    }
    if op == "in":
        return present & column.isin(values)
    if column.dtype == object:  # words: a missing one compares with nothing
        column = column.fillna("")
        tests = {name: getattr(column, test.__name__) for name, test in tests.items()}
    return present & tests[op](values[0])
