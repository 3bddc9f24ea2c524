"""What one column of text cells is: number, category, date, identifier, free text, or empty."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from functools import cache
from typing import TYPE_CHECKING

from corsia.roles import role_of
from edge.sources.numbers import numbers
from pipelines.learners.vocabulary import level
from privacy.deid.columns import heading_kind
from privacy.deid.deny import fold
from protocol.errors import ConfigurationError

if TYPE_CHECKING:
    from privacy.deid.text import TextEngine

__all__ = ["Column", "Kind", "describe", "is_marker"]

_MARKERS = frozenset(
    "? ?? na n/a nan null #n/a #na n.a. nd n.d. n/d nc n.c. #div/0! #valore! #value! #num! inf -inf +inf infinity "
    "-infinity 1.#inf 1.#qnan".split()
)
_DATES = (
    re.compile(r"(18|19|20)\d\d[-/.](0?[1-9]|1[0-2])[-/.](0?[1-9]|[12]\d|3[01])([T ].*)?\Z"),
    re.compile(r"(0?[1-9]|[12]\d|3[01])[-/.](0?[1-9]|[12]\d|3[01])[-/.]((18|19|20)\d\d|\d\d)([T ].*)?\Z"),
    re.compile(r"(19|20)\d\d(0[1-9]|1[0-2])(0[1-9]|[12]\d|3[01])\Z"),
)
_ID = re.compile(r"(^|[\W_])(id|ids|cod|codice|code|num|numero|number|nr|nosografico|nosologico|mrn|uid|key)([\W_]|$)")
_DIRECT = ("name", "fiscal", "record", "phone", "address", "place")
_SPANS = ("fiscal", "email", "phone", "document", "account", "address", "name", "url")
_SAMPLE = 40


class Kind(StrEnum):
    """What a column is for a model; the first two can be features."""

    NUMBER = "number"
    CATEGORY = "category"
    DATE = "date"
    IDENTIFIER = "identifier"
    TEXT = "text"
    EMPTY = "empty"


@dataclass(frozen=True, slots=True, kw_only=True)
class Column:
    """One column of one file.

    Attributes:
        role: what the site's edge.toml calls it.
        present: cells that are not missing.
        stray: cells of a number column that are none.
        values: of a number column: value -> count; levels: of a category: text -> count.
    """

    name: str
    kind: Kind
    role: str
    present: int
    stray: int = 0
    values: Mapping[float, int] = field(default_factory=dict)
    levels: Mapping[str, int] = field(default_factory=dict)

    @property
    def distinct(self) -> int:
        """How many different values."""
        return len(self.values) or len(self.levels)


def is_marker(cell: str) -> bool:
    """Whether a cell is a word for a missing value."""
    return cell.casefold() in _MARKERS


def describe(name: str, cells: Sequence[str], *, decimal_comma: bool = False, code: bool = False) -> Column:
    """What a column is.

    Args:
        cells: trimmed text; missing ones empty.
        decimal_comma: whether a comma parts whole and decimals.
        code: its numbers are codes, not quantities.
    """
    present = [cell for cell in cells if cell]
    role = role_of(name)
    if not present:
        return Column(name=name, kind=Kind.EMPTY, role=role, present=0)
    if _mostly(present, _is_date) and not (role == "value" and _few_whole(present)):
        kind_role = "birthdate" if role == "birthdate" else "date"
        return Column(name=name, kind=Kind.DATE, role=kind_role, present=len(present))
    read = numbers(present, decimal_comma=decimal_comma)  # as the site's agent will
    known = [value for value in read if value is not None]
    if _names_person(name, role, present, known):
        return Column(name=name, kind=Kind.IDENTIFIER, role=_identifier_role(role), present=len(present))
    if len(known) >= 0.9 * len(present) and not code:
        return Column(
            name=name, kind=Kind.NUMBER, role=role if role == "quasi" else "value", present=len(known),
            stray=len(present) - len(known), values=Counter(known),
        )  # fmt: skip
    if _is_prose(present):
        return Column(name=name, kind=Kind.TEXT, role="text", present=len(present))
    role = role if role == "quasi" else "value"
    levels = Counter(map(level, known if len(known) == len(present) else present))
    return Column(name=name, kind=Kind.CATEGORY, role=role, present=len(present), levels=levels)


def _mostly(cells: Sequence[str], test: Callable[[str], bool]) -> bool:
    return sum(map(test, cells)) >= 0.9 * len(cells)


def _is_date(cell: str) -> bool:
    return any(pattern.match(cell) for pattern in _DATES)


def _few_whole(present: Sequence[str]) -> bool:
    """Eight digits in few cells may be a number that looks like a day."""
    return len(present) < 3 and all(cell.isdigit() for cell in present)


def _identifier_role(role: str) -> str:
    return role if role in ("patient", "identifier") else "identifier"


def _names_person(name: str, role: str, present: Sequence[str], numbers: Sequence[float]) -> bool:
    if role in ("patient", "identifier") or heading_kind(name) in _DIRECT:
        return True
    distinct = len(set(present))
    if len(numbers) == len(present):
        whole = all(value.is_integer() for value in numbers)
        alone = distinct == len(present) and len(present) >= 5 and whole
        run = alone and max(numbers) - min(numbers) + 1 == len(numbers) and len(numbers) >= 10
        return run or (alone and bool(_ID.search(fold(name))))
    if len(numbers) > 0.5 * len(present):
        return False
    if distinct == len(present) and len(present) >= 10:
        return True
    return _holds_identities(present)


def _holds_identities(present: Sequence[str]) -> bool:
    """Whether most values are names, e-mail addresses, fiscal codes or telephone numbers, by the text engine's word."""
    values = sorted(set(present))[:_SAMPLE]
    many = len(set(present)) > 0.3 * len(present)
    engine = _engine()
    if engine is None:
        return False
    found = 0
    for value in values:
        labels = {span.label for span in engine.redact(value[:200])[1]}
        found += bool(labels & set(_SPANS if many else _SPANS[:5]))
    return found > 0.5 * len(values)


@cache
def _engine() -> TextEngine | None:
    """Without the extra, headings and distinct values must do."""
    from privacy.deid.text import TextEngine

    engine = TextEngine("it")
    try:
        engine.redact("x")
    except ConfigurationError:
        return None
    return engine


def _is_prose(present: Sequence[str]) -> bool:
    """Long cells, or nearly as many different words as rows."""
    distinct = len(set(present))
    length = sum(map(len, present)) / len(present)
    return length > 40 or (distinct > 20 and distinct > 0.5 * len(present))
