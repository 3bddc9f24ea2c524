"""Every list comes in pages: `limit` rows, and in the `Link` header the address of the next page (RFC 8288).

A cursor is the place of the last row that was shown, by the list's own order; rows that come or go meanwhile neither
repeat a row nor hide one. It is opaque to who uses it, and holds nothing that the page did not show.
"""

from __future__ import annotations

import base64
import binascii
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, TypeVar

from fastapi import Depends, Query, Request, Response
from sqlalchemy import ColumnElement, and_, or_

from central.store.models import StudyRow
from protocol.errors import InputError

__all__ = ["Page", "PageOf", "older"]

_Row = TypeVar("_Row")
Place = tuple[float | str, ...]
MAX_CURSOR = 1024


@dataclass(frozen=True, slots=True)
class Page:
    """What part of a list is asked for.

    Attributes:
        limit: rows at most.
        after: the place of the last row of the page before, or None for the first page.
    """

    limit: int
    after: Place | None
    request: Request
    response: Response

    def of(self, rows: Sequence[_Row], place: Callable[[_Row], Place]) -> list[_Row]:
        """The page of a whole list that is in ascending order of `place`."""
        later = rows if self.after is None else [row for row in rows if self._is_later(place(row))]
        return self.cut(later[: self.limit + 1], place)

    def newest(self) -> tuple[float, str] | None:
        """After which row the page of a list that goes from the newest to the oldest begins: its time and its id."""
        if self.after is None:
            return None
        if len(self.after) != 2 or isinstance(self.after[0], str) or not isinstance(self.after[1], str):
            raise _bad()
        return -self.after[0], self.after[1]

    def below(self) -> int | None:
        """Below which number the page of a list that goes from the highest to the lowest begins."""
        if self.after is None:
            return None
        if len(self.after) != 1 or not isinstance(self.after[0], int):
            raise _bad()
        return -self.after[0]

    def numbered(self, rows: Sequence[_Row]) -> list[_Row]:
        """The page of a list that has no order but its own; rows that come before the cursor shift those after it."""
        return [row for _, row in self.of(list(enumerate(rows)), lambda pair: (pair[0],))]

    def cut(self, rows: Sequence[_Row], place: Callable[[_Row], Place]) -> list[_Row]:
        """The page of at most `limit` + 1 rows, read from after `after`; the one too many says that there is more."""
        shown = list(rows[: self.limit])
        if len(rows) > self.limit:
            url = self.request.url.include_query_params(cursor=_cursor(place(shown[-1])))
            self.response.headers["Link"] = f'<{url.path}?{url.query}>; rel="next"'
        return shown

    def _is_later(self, place: Place) -> bool:
        try:
            return place > (self.after or ())
        except TypeError:  # the cursor is another list's
            raise _bad() from None


def older(after: tuple[float, str]) -> ColumnElement[bool]:
    """Which studies come after the one of this time and id in a list from the newest to the oldest."""
    at, name = after
    return or_(StudyRow.created_at < at, and_(StudyRow.created_at == at, StudyRow.id > name))


def _page(
    request: Request,
    response: Response,
    limit: Annotated[int, Query(ge=1, le=1000, description="Rows at most.")] = 100,
    cursor: Annotated[
        str | None, Query(max_length=MAX_CURSOR, description="From the `Link` header of the page before.")
    ] = None,
) -> Page:
    return Page(limit, None if cursor is None else _place(cursor), request, response)


PageOf = Annotated[Page, Depends(_page)]


def _cursor(place: Place) -> str:
    return base64.urlsafe_b64encode(json.dumps(list(place)).encode()).rstrip(b"=").decode()


def _place(cursor: str) -> Place:
    try:
        raw: Any = json.loads(
            base64.b64decode(cursor.encode() + b"=" * (-len(cursor) % 4), altchars=b"-_", validate=True)
        )
    except (ValueError, binascii.Error, RecursionError):
        raise _bad() from None
    if not isinstance(raw, list) or not 0 < len(raw) <= 4 or not all(_is_part(part) for part in raw):
        raise _bad()
    return tuple(raw)


def _is_part(part: Any) -> bool:
    """A text that any database can compare, or a finite number."""
    if isinstance(part, str):
        return part.isprintable()
    return isinstance(part, int | float) and not isinstance(part, bool) and abs(part) < 1e18


def _bad() -> InputError:
    return InputError("input.usage", "cursor: not one that this list gave")
