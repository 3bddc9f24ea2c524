"""`Idempotency-Key`: a write that is sent again gets the first one's answer, and is not done twice.

By the draft of the IETF (draft-ietf-httpapi-idempotency-key-header): the same key with another body is refused, and so
is a second request while the first is under way. Answers are kept for a day, of writes that succeed; one that fails has
changed nothing, and its key can be used again. Answers that hold rows or secrets are not kept: such routes take no key.
"""

from __future__ import annotations

import hashlib
import re
import time

from sqlalchemy import delete
from sqlalchemy.exc import IntegrityError as Twice
from starlette.concurrency import run_in_threadpool
from starlette.datastructures import Headers
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from central.identity.rights import Principal
from central.store import Store
from central.store.models import RepeatedRow
from central.web.problems import problem
from protocol.errors import ConflictError, CorsiaError, InputError
from protocol.study import MAX_STUDY_BYTES

__all__ = ["HEADER", "Repeats", "takes_key"]

HEADER = "idempotency-key"
KEPT_S = 86_400.0
UNDER_WAY_S = 900.0  # a request that never ended: its process was killed
_MAX_BODY = _MAX_ANSWER = MAX_STUDY_BYTES
_KEY = re.compile(r"[\x21-\x7e]{1,255}")
_ONE = "[^/]+"
_WRITES = re.compile(
    f"/api/v1/(studies|studies/{_ONE}/erasure|runs/{_ONE}/(pause|resume|stop|extend)|decisions|decisions/{_ONE}/approval"
    f"|models/{_ONE}/promotions|models/{_ONE}/promotions/{_ONE}/approval|models/{_ONE}/predict)"
)


def takes_key(method: str, path: str) -> bool:
    """Whether a request may carry an Idempotency-Key."""
    return method == "POST" and _WRITES.fullmatch(path) is not None


class Repeats:
    """An ASGI layer inside `TokenAuth`: keys are each person's own."""

    def __init__(self, app: ASGIApp, store: Store) -> None:
        self._app, self._store = app, store

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass on, or answer as before."""
        key = Headers(scope=scope).get(HEADER) if scope["type"] == "http" else None
        if key is None or not takes_key(scope["method"], scope["path"]):
            await self._app(scope, receive, send)
            return
        try:
            if not _KEY.fullmatch(key):
                raise InputError("input.usage", "Idempotency-Key: 1 to 255 visible ASCII characters")
            body = await _body(receive)
            who: Principal = scope["state"]["principal"]
            name = _digest("\n".join((who.key, scope["method"], scope["path"], key)).encode())
            known = await run_in_threadpool(self._begin, name, _digest(body))
        except CorsiaError as error:
            await problem(error)(scope, receive, send)
            return
        if known is not None:
            await known(scope, receive, send)
            return
        await self._carry_out(name, body, scope, receive, send)

    async def _carry_out(self, name: str, body: bytes, scope: Scope, receive: Receive, send: Send) -> None:
        answer, done = _Answer(send), False
        given = False

        async def again() -> Message:
            nonlocal given
            if given:
                return await receive()
            given = True
            return {"type": "http.request", "body": body, "more_body": False}

        try:
            await self._app(scope, again, answer.take)
            done = answer.complete and 200 <= answer.status < 300
        finally:
            await run_in_threadpool(self._end, name, answer if done else None)
        await answer.pass_on()

    def _begin(self, name: str, request: str) -> Response | None:
        """The answer of before, or None when this is the first request of its key.

        Raises:
            ConflictError: `conflict.repeated`.
        """
        now = time.time()
        try:
            with self._store.begin() as session:
                session.execute(delete(RepeatedRow).where(RepeatedRow.at < now - KEPT_S))
                session.execute(delete(RepeatedRow).where(RepeatedRow.status == 0, RepeatedRow.at < now - UNDER_WAY_S))
                row = session.get(RepeatedRow, name)
                if row is None:
                    session.add(RepeatedRow(key=name, request=request, at=now))
                    return None
        except Twice:  # another database than SQLite lets two begin at once
            raise ConflictError("conflict.repeated") from None
        if row.request != request or row.status == 0:
            raise ConflictError("conflict.repeated")
        return Response(row.body, row.status, dict(row.headers) | {"Idempotency-Replayed": "true"})

    def _end(self, name: str, answer: _Answer | None) -> None:
        with self._store.begin() as session:
            row = session.get(RepeatedRow, name)
            if row is None:
                return
            if answer is None:
                session.delete(row)
            else:
                row.status, row.headers, row.body = answer.status, answer.headers, bytes(answer.body)


class _Answer:
    """An answer, held back until it is written down; one that is too long is passed on at once and not kept."""

    def __init__(self, send: Send) -> None:
        self._send = send
        self._held: list[Message] = []
        self._open = False
        self.status = 0
        self.headers: dict[str, str] = {}
        self.body = bytearray()
        self.complete = False

    async def take(self, message: Message) -> None:
        self._held.append(message)
        if message["type"] == "http.response.start":
            self.status = int(message["status"])
            told = Headers(raw=message["headers"])
            self.headers = {name: told[name] for name in ("content-type", "location") if name in told}
        else:
            self.body += message.get("body", b"")
            self.complete = not message.get("more_body", False) and len(self.body) <= _MAX_ANSWER
        if self._open or len(self.body) > _MAX_ANSWER:
            self._open = True
            await self.pass_on()

    async def pass_on(self) -> None:
        held, self._held = self._held, []
        for message in held:
            await self._send(message)


async def _body(receive: Receive) -> bytes:
    body = bytearray()
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise InputError("input.usage", "the request ended early")
        body += message.get("body", b"")
        if len(body) > _MAX_BODY:
            raise InputError("input.usage", f"a request with an Idempotency-Key has at most {_MAX_BODY} bytes")
        if not message.get("more_body", False):
            return bytes(body)


def _digest(raw: bytes) -> str:
    return hashlib.sha256(raw).hexdigest()
