"""A study's row selectors as a WHERE of bound parameters: fewer rows come, the same ones are chosen.

What is compiled lets through every row that `edge.sources.table.select` would choose, and maybe others: databases
compare texts, time zones and blanks in their own ways, and the last word is `select`'s, the same for a database as for
a file. A condition that cannot be put so is left to `select` alone. Names are quoted by SQLAlchemy, values are bound.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from edge.sources.consent import parse_date
from protocol.study import Condition

if TYPE_CHECKING:
    from sqlalchemy import ColumnElement, Select, Table

__all__ = ["statement"]

_OPERATORS = {"==": "__eq__", "!=": "__ne__", "<": "__lt__", "<=": "__le__", ">": "__gt__", ">=": "__ge__"}


def statement(
    table: Table, columns: Sequence[str], where: Sequence[Condition], roles: Mapping[str, str], *, dialect: str
) -> tuple[Select[Any], bool]:
    """A SELECT of some columns, and whether it has a WHERE.

    Args:
        table: as the database describes it; it has all columns that are named.
        roles: the site's word for each column.
        dialect: SQLAlchemy's name of the database's kind.
    """
    from sqlalchemy import and_, select, type_coerce
    from sqlalchemy.types import NullType

    made = [found for one in where if (found := _compiled(table, one, roles, dialect)) is not None]
    asked: list[Any] = [table.c[name] for name in columns]
    if dialect == "sqlite":  # a column holds what it holds there, whatever its type says
        asked = [type_coerce(column, NullType()) for column in asked]
    query: Any = select(*asked)
    return (query.where(and_(*made)), True) if made else (query, False)


def _compiled(table: Table, one: Condition, roles: Mapping[str, str], dialect: str) -> ColumnElement[bool] | None:
    from sqlalchemy import types

    column: Any = table.c[one.column]
    if one.op == "not-null":
        return column.is_not(None)  # type: ignore[no-any-return]
    values = list(one.value) if isinstance(one.value, tuple) else [one.value]
    if not values or one.value is None or any(isinstance(value, bool) for value in values):
        return None
    texts = [isinstance(value, str) for value in values]
    words = all(texts) and not any("\0" in str(value) for value in values)
    if isinstance(column.type, types.Numeric | types.Integer) and not any(texts):
        return _numeric(column, one.op, values, dialect)
    if (
        isinstance(column.type, types.Date | types.DateTime)
        and words
        and roles.get(one.column) in ("date", "birthdate")
    ):
        return None if dialect == "sqlite" else _days(column, one.op, [str(value) for value in values])
    spoken = isinstance(column.type, types.String) and not isinstance(column.type, types.Enum)  # no text, to a database
    if spoken and words and roles.get(one.column) not in ("date", "birthdate"):
        return _texts(column, one.op, [str(value).strip() for value in values])
    return None


def _numeric(column: Any, op: str, values: list[Any], dialect: str) -> ColumnElement[bool] | None:
    from sqlalchemy import func, or_, types

    kind = column.type
    bits = 15 if isinstance(kind, types.SmallInteger) else 31 if type(kind) is types.INTEGER else 63
    if (op != "in" and len(values) != 1) or any(isinstance(value, int) and abs(value) >> bits for value in values):
        return None
    made = column.in_(values) if op == "in" else getattr(column, _OPERATORS[op])(values[0])
    if dialect == "sqlite":  # a column of numbers may hold a text there: it is counted as unreadable
        made = or_(made, func.typeof(column) == "text")
    return made  # type: ignore[no-any-return]


def _days(column: Any, op: str, values: list[str]) -> ColumnElement[bool] | None:
    """A day more on each side: what day a moment falls on depends on the time zone."""
    from sqlalchemy import and_

    days = [day for value in values if (day := parse_date(value)) is not None]
    if len(days) != len(values) or op == "!=":
        return None
    try:
        low, high = min(days) - timedelta(days=1), max(days) + timedelta(days=2)
    except OverflowError:  # "until the end of time"
        return None
    bounds = {"<": [column < high], "<=": [column < high], ">": [column >= low], ">=": [column >= low]}
    return and_(*bounds.get(op, [column >= low, column < high]))


def _texts(column: Any, op: str, values: list[str]) -> ColumnElement[bool] | None:
    """Blanks around a text do not count, and databases strip others than we do: the word is somewhere in it."""
    from sqlalchemy import or_

    if op not in ("==", "in"):
        return None
    return or_(*(column.contains(value, autoescape=True) for value in values))
