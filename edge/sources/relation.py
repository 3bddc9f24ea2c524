"""A table in a database as a frame, like one from a file: streamed, typed by what the database says.

Who consents is judged over all rows, whatever a study selects: a withdrawal in one row speaks for all rows of the
person. So where a WHERE narrows the rows, the columns of consent are read whole besides, in the same snapshot.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Collection, Mapping, Sequence
from datetime import date, datetime, time
from decimal import Decimal
from typing import TYPE_CHECKING, Any

import pandas as pd

from edge.sources import database, selectors
from edge.sources.format import Format
from edge.sources.places import Database
from edge.sources.table import typed
from protocol.errors import InputError
from protocol.study import Condition

if TYPE_CHECKING:
    from sqlalchemy import Table

__all__ = ["columns_of", "narrowed", "read", "text_of"]

_MIDNIGHT = re.compile(r"[ T]00:00:00(\.0+)?([+-]\d\d:\d\d|Z)?$")


def columns_of(place: Database) -> list[str]:
    """The columns of the relation; raises as `database.opened`."""
    with database.opened(place) as reader:
        return [str(column.name) for column in reader.table(place.relation).columns]


def read(place: Database, columns: Sequence[str], text: Collection[str], form: Format) -> pd.DataFrame:
    """The named columns of all rows. See `table.read`; raises as `database.opened` besides."""
    with database.opened(place) as reader:
        return _frame(reader, place, _known(reader, place, columns), columns, text, form)


def narrowed(
    place: Database,
    columns: Sequence[str],
    text: Collection[str],
    form: Format,
    *,
    where: Sequence[Condition],
    roles: Mapping[str, str],
    legal: Sequence[str],
) -> tuple[pd.DataFrame, pd.DataFrame | None]:
    """The named columns of the rows that may meet `where`; and the columns `legal` of all rows, None if these are all.

    Both are of one snapshot. See `read`.
    """
    with database.opened(place) as reader:
        known = _known(reader, place, columns)
        query, fewer = selectors.statement(known, columns, where, roles, dialect=reader.dialect)
        everyone = None
        if fewer and legal:
            everyone = _frame(reader, place, known, legal, set(legal), form)
        return _frame(reader, place, known, columns, text, form, query), everyone


def _known(reader: database.Reader, place: Database, columns: Sequence[str]) -> Table:
    known = reader.table(place.relation)
    for name in columns:
        if name not in known.c:
            raise InputError("input.column-missing", f"the table has no column {name!r}")
    return known


def _frame(
    reader: database.Reader,
    place: Database,
    known: Table,
    columns: Sequence[str],
    text: Collection[str],
    form: Format,
    query: Any = None,
) -> pd.DataFrame:
    if query is None:
        query, _ = selectors.statement(known, columns, (), {}, dialect=reader.dialect)
    cells: list[list[Any]] = [[] for _ in columns]
    words: list[dict[str, str]] = [{} for _ in columns]  # each word once, however often it is repeated
    count = 0
    for rows in reader.rows(query):
        count += len(rows)
        if count > place.max_rows:
            raise InputError("input.table", "the relation has more rows than max_rows")
        for at, column in enumerate(zip(*rows, strict=True)):
            mine, seen, plain = cells[at], words[at], columns[at] in text
            for value in column:
                made = text_of(value) if plain else _plain(value)
                mine.append(seen.setdefault(made, made) if isinstance(made, str) else made)
    data = {name: _typed(cells[at], name, name in text, form) for at, name in enumerate(columns)}
    return pd.DataFrame(data, columns=list(columns))


def _typed(cells: list[Any], name: str, text: bool, form: Format) -> pd.Series[Any]:
    kinds = {type(value) for value in cells if value is not None}
    if text or kinds - {int, float, bool} or not kinds or (bool in kinds and len(kinds) > 1):
        series = pd.Series([text_of(value) for value in cells], dtype="str")
        series = series.mask(series.str.strip() == "")
        return series if text or form == Format() else typed(series, name, form)
    if kinds == {bool}:
        return pd.Series(cells, dtype="boolean")
    whole = kinds == {int} and None not in cells and all(abs(value) < 2**63 for value in cells)
    return pd.Series(cells, dtype="int64" if whole else "float64")


def _plain(value: Any) -> Any:
    """A number or truth value as it is, anything else as text."""
    if value is None or isinstance(value, bool | int):
        return value
    if isinstance(value, Decimal | float):
        number = float(value)
        return number if math.isfinite(number) else None
    return text_of(value)


def text_of(value: Any) -> str | None:
    """A cell as text, as a file would hold it; None for none.

    Raises:
        InputError: `input.table` for bytes that are no text.
    """
    if value is None or isinstance(value, str):
        return value
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, float):
        return str(int(value)) if value.is_integer() and abs(value) < 2**53 else repr(value)
    if isinstance(value, datetime):
        return _MIDNIGHT.sub("", value.isoformat(sep=" "))
    if isinstance(value, date | time):
        return value.isoformat()
    if isinstance(value, bytes | bytearray | memoryview):
        return _decoded(bytes(value))
    return json.dumps(value, default=str) if isinstance(value, dict | list) else str(value)


def _decoded(value: bytes) -> str:
    try:
        return value.decode()
    except UnicodeDecodeError:
        raise InputError("input.table", "a column holds bytes that are no text") from None
