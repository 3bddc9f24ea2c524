"""Who may ask: tokens and sessions, the right that each request takes, rates.

A plain ASGI layer around the whole application, so that no route can be forgotten. What answers without a token is
listed in `permits.OPEN`. Nothing here knows what the routes do, nor how a refusal is shown.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING
from urllib.parse import parse_qs, urlsplit

from starlette.concurrency import run_in_threadpool
from starlette.datastructures import Headers
from starlette.requests import Request, cookie_parser
from starlette.responses import RedirectResponse, Response
from starlette.types import ASGIApp, Receive, Scope, Send

from central.config import WebConfig
from central.gateway.quota import Rate
from central.identity.principals import Principals
from central.identity.rights import Principal
from central.operators import bearer, is_jwt
from central.web.permits import is_open, right
from central.web.problems import Shown, of
from protocol.errors import AuthenticationError, CorsiaError, PermissionRefused, UnavailableError

if TYPE_CHECKING:
    from central.identity.provider import Provider

__all__ = ["COOKIE", "TokenAuth", "address", "entered", "is_own", "session_cookie"]

COOKIE = "corsia_token"  # an operator's
_SAFE_METHODS = ("GET", "HEAD", "OPTIONS")
_BURST_S = 20.0


class TokenAuth:
    """Lets a request pass whose sender is known and has the right that it takes.

    A sender is known by `Authorization: Bearer` (an operator's token, an API token, or an access token of the
    provider), by the cookie of a session, or by an operator's cookie. `GET /?token=...` with an operator's token (the
    link that commands print) sets the latter and redirects to `/`, so that the token leaves the address bar; the form
    of the door brings it by POST (`login.py`). A request that changes something and
    comes by cookie must carry an `X-Corsia` header, which another site's form cannot send, and no foreign `Origin`.
    The token that came is kept in `request.state.token` for the signer, which checks it again, and who sent it in
    `request.state.principal`. Of a named operator's token only the part for us is kept.

    Args:
        principals: who is known; no token is held.
        provider: verifies access tokens that are new here.
        web: rates.
        shown: how a refusal is shown.
        secure: whether browsers come by https.
        https_alone: whether an operator's cookie, set in answer to a request by this address, is for https alone.
    """

    def __init__(
        self,
        app: ASGIApp,
        principals: Principals,
        provider: Provider | None,
        web: WebConfig,
        shown: Shown,
        https_alone: Callable[[str], bool],
        secure: bool = False,
    ) -> None:
        self._app, self._shown, self._https_alone = app, shown, https_alone
        self._principals, self._provider = principals, provider
        self._session = session_cookie(secure)
        self._calls = Rate(burst=_BURST_S * web.calls_per_s, per_s=web.calls_per_s)
        self._failures = Rate(burst=web.failures_per_min, per_s=web.failures_per_min / 60.0)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass on, or answer 401, 403 or 429."""
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
            return
        if scope["type"] != "http":
            return  # no websockets here
        answer = self._open(scope) if is_open(scope["method"], scope["path"]) else await self._judge(scope)
        if answer is None:
            await self._app(scope, receive, send)
        else:
            await answer(scope, receive, send)

    def _open(self, scope: Scope) -> Response | None:
        """What brings somebody in costs as much as a failure: it is how one guesses."""
        if not scope["path"].startswith("/auth/"):
            return None
        try:
            self._failures.take(address(scope))
        except UnavailableError as error:
            return self._refused(scope, error)
        return None

    async def _judge(self, scope: Scope) -> Response | None:
        headers = Headers(scope=scope)
        try:
            by_cookie = await self._known(scope, headers)
            if by_cookie is None:
                return await self._enter(scope, headers)
            who: Principal = scope["state"]["principal"]
            self._calls.take(who.key)
            if by_cookie and scope["method"] not in _SAFE_METHODS:
                _own(headers)
            if needed := right(scope["method"], scope["path"]):
                who.check(needed)
        except CorsiaError as error:
            return self._refused(scope, error)
        return await self._enter(scope, headers) if by_cookie and _query_token(scope) else None

    async def _known(self, scope: Scope, headers: Headers) -> bool | None:
        """Whether the sender is known by a cookie (True) or a header (False); None: not at all."""
        scheme, _, given = headers.get("authorization", "").partition(" ")
        if scheme.lower() == "bearer" and await self._bearer(given.strip(), scope):
            return False
        cookies = cookie_parser(headers.get("cookie", ""))  # another's odd cookie on this host hides none of ours
        for name in (self._session, COOKIE):
            if await self._right(cookies.get(name, ""), scope):
                return True
        return None

    async def _bearer(self, token: str, scope: Scope) -> bool:
        if await self._right(token, scope):
            return True
        if self._provider is None or self._principals.access is None or not is_jwt(token):
            return False
        self._failures.take(address(scope))  # to verify it may take a question to the provider
        try:
            told = await run_in_threadpool(self._provider.access, token)
        except AuthenticationError:
            return False
        keep = partial(self._principals.access.accept, issued=told.issued, until=told.until, reading=told.anybody)
        await run_in_threadpool(keep, told.person, token)
        return await self._right(token, scope)

    async def _enter(self, scope: Scope, headers: Headers) -> Response:
        token = _query_token(scope)
        if scope["path"] == "/" and scope["method"] == "GET" and await self._right(token, scope, kind="operator"):
            return entered(token, secure=self._https_alone(str(Request(scope).url)))
        try:
            self._failures.take(address(scope))
        except UnavailableError as error:
            return self._refused(scope, error)
        return self._refused(scope, AuthenticationError("auth.token"))

    def _refused(self, scope: Scope, error: CorsiaError) -> Response:
        return self._shown(Request(scope), of(error))

    async def _right(self, token: str, scope: Scope, kind: str = "") -> bool:
        """Whether somebody is known by a token; then the request carries both on."""
        if not token:
            return False
        try:
            if self._principals.access is None:
                who = self._principals.identify(token)
            else:
                who = await run_in_threadpool(self._principals.identify, token)
        except CorsiaError:
            return False
        if kind and who.kind != kind:
            return False
        scope.setdefault("state", {}).update(token=bearer(token), operator=who.told, principal=who)
        return True


def entered(token: str, *, secure: bool) -> Response:
    """The way on for an operator whose token has been verified: of it a cookie keeps the part that is for us."""
    answer = RedirectResponse("/", status_code=303)
    answer.set_cookie(COOKIE, bearer(token), httponly=True, samesite="strict", secure=secure, path="/")
    return answer


def session_cookie(secure: bool) -> str:
    """The name of a session's cookie; the prefix makes browsers refuse one that another host has set (RFC 6265bis)."""
    return "__Host-corsia" if secure else "corsia_session"


def address(scope: Scope) -> str:
    """Where a request comes from; behind a proxy, the proxy."""
    client = scope.get("client")
    return str(client[0]) if client else ""


def _own(headers: Headers) -> None:
    """Refuse what another site may have made a browser send.

    Raises:
        PermissionRefused: `permission.role`.
    """
    if "x-corsia" not in headers:
        raise PermissionRefused("permission.role", "a request by cookie needs the X-Corsia header")
    if headers.get("sec-fetch-site", "same-origin") not in ("same-origin", "none"):
        raise PermissionRefused("permission.role", "a request by cookie must come from this centre's own pages")
    if "origin" in headers and not _from_here(headers):
        raise PermissionRefused("permission.role", "a request by cookie must come from this centre's own pages")


def is_own(headers: Headers) -> bool:
    """Whether a form was sent by a page of this centre; a browser that tells neither way is not believed."""
    if "sec-fetch-site" in headers:
        return headers["sec-fetch-site"] in ("same-origin", "none")
    return _from_here(headers)


def _from_here(headers: Headers) -> bool:
    try:
        return urlsplit(headers.get("origin", "")).netloc == headers.get("host")
    except ValueError:
        return False


def _query_token(scope: Scope) -> str:
    if scope["path"] != "/":
        return ""
    query: bytes = scope["query_string"]
    try:
        fields = parse_qs(query.decode("latin-1"), max_num_fields=20)
    except ValueError:
        return ""
    return fields.get("token", [""])[0].strip()
