"""Live events to browsers and notebooks: `text/event-stream` (WHATWG HTML, server-sent events) from the event table.

A reader that comes back with `Last-Event-ID` misses nothing. Events are ids, codes and counts. Who logs out, or whose
token is revoked or ends, reads on for no longer than a few seconds.
"""

from __future__ import annotations

import asyncio
import json
import threading
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Sequence

from sqlalchemy import func, select
from starlette.concurrency import run_in_threadpool
from starlette.responses import StreamingResponse
from starlette.types import Receive, Scope, Send

from central.store import Store
from central.store.models import EventRow
from protocol.errors import UnavailableError

__all__ = ["MAX_OF_ONE", "EventFeed"]

_PAGE = 500
_POLL_S = 0.25
_HEARTBEAT_S = 15.0
_KNOWN_S = 5.0
_MAX_STREAMS = 64
MAX_OF_ONE = 8  # streams of one person, over all his sessions and tokens
_LATER_S = 5.0


class EventFeed:
    """Hands out event streams; each polls the table from its own place."""

    def __init__(self, store: Store, stop: threading.Event) -> None:
        self._store = store
        self._stop = stop
        self._lock = threading.Lock()
        self._open: Counter[str] = Counter()

    def response(
        self, last_id: int | None, study: str | None, *, person: str, known: Callable[[], bool]
    ) -> StreamingResponse:
        """A stream from after `last_id`, or from now; of one study, or of everything.

        Args:
            person: who reads, told from every other.
            known: whether the reader may still read; the stream ends when not.

        Raises:
            UnavailableError: `unavailable.rate` when he reads too many, `unavailable.process` when all together do.
        """
        with self._lock:
            if self._open[person] >= MAX_OF_ONE:
                told = f"one person reads at most {MAX_OF_ONE} event streams at once: close one"
                raise UnavailableError("unavailable.rate", told, retry_s=_LATER_S)
            if self._open.total() >= _MAX_STREAMS:
                raise UnavailableError("unavailable.process", "too many event streams are open")
            self._open[person] += 1
        return _Counted(self._stream(last_id, study, known), lambda: self._closed(person))

    def _closed(self, person: str) -> None:
        with self._lock:
            self._open[person] -= 1
            self._open += Counter()  # forgets who reads none

    async def _stream(self, last_id: int | None, study: str | None, known: Callable[[], bool]) -> AsyncIterator[str]:
        seq = await run_in_threadpool(self._newest) if last_id is None else last_id
        yield f"retry: 1000\n: from {seq}\n\n"
        beat = asked = time.monotonic()
        while not self._stop.is_set():
            if time.monotonic() - asked > _KNOWN_S:
                asked = time.monotonic()
                if not await run_in_threadpool(known):
                    return
            rows = await run_in_threadpool(self._after, seq, study)
            for row in rows:
                seq = row.seq
                yield _format(row)
            if time.monotonic() - beat > _HEARTBEAT_S:
                beat = time.monotonic()
                yield ": beat\n\n"
            if len(rows) < _PAGE:
                await asyncio.sleep(_POLL_S)

    def _newest(self) -> int:
        with self._store.read() as session:
            return session.scalar(select(func.max(EventRow.seq))) or 0

    def _after(self, seq: int, study: str | None) -> Sequence[EventRow]:
        query = select(EventRow).where(EventRow.seq > seq).order_by(EventRow.seq).limit(_PAGE)
        with self._store.read() as session:
            return session.scalars(query if study is None else query.where(EventRow.study == study)).all()


class _Counted(StreamingResponse):
    """A stream that says when it has ended, also one whose reader was gone before its first line."""

    def __init__(self, lines: AsyncIterator[str], closed: Callable[[], None]) -> None:
        super().__init__(lines, media_type="text/event-stream", headers={"X-Accel-Buffering": "no"})
        self._closed = closed

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await super().__call__(scope, receive, send)
        finally:
            self._closed()


def _format(row: EventRow) -> str:
    data = {"seq": row.seq, "at": row.at, "kind": row.kind, "site": row.site, "study": row.study, "fields": row.fields}
    return f"id: {row.seq}\ndata: {json.dumps(data, separators=(',', ':'))}\n\n"
