"""Who may ask: an operator's token, and the headers that every answer carries.

Two plain ASGI layers around the whole application, so that no route can be forgotten. Only `/healthz` and `/static/`
answer without a token. Nothing here knows what the routes do.
"""

from __future__ import annotations

from http.cookies import CookieError, SimpleCookie
from urllib.parse import parse_qs

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import HTMLResponse, RedirectResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from central.operators import Operators, bearer
from central.web.problems import problem
from protocol.errors import AuthenticationError, CorsiaError, PermissionRefused

__all__ = ["COOKIE", "SecurityHeaders", "TokenAuth"]

COOKIE = "corsia_token"
_OPEN = ("/healthz",)
_SAFE_METHODS = ("GET", "HEAD", "OPTIONS")
_HEADERS = {
    "Content-Security-Policy": (
        "default-src 'self'; base-uri 'none'; form-action 'self'; frame-ancestors 'none'; object-src 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "X-Frame-Options": "DENY",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
}


class SecurityHeaders:
    """Adds a strict content security policy and its companions to every answer; only static files may be cached."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass on, with headers."""
        cached = str(scope.get("path", "")).startswith("/static/")

        async def with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in _HEADERS.items():
                    headers[name] = value
                headers["Cache-Control"] = "no-cache" if cached else "no-store"
            await send(message)

        await self._app(scope, receive, with_headers)


class TokenAuth:
    """Lets a request pass that carries an operator's token, by Bearer header or by cookie.

    `GET /?token=...` with the right token sets the cookie and redirects to `/`, so that the token leaves the address
    bar. A request that changes something and comes by cookie must carry an `X-Corsia` header, which another site's
    form cannot send. The token that came is kept in `request.state.token` for the signer, which checks it again, and
    its owner's name in `request.state.operator`. Of a named operator's token only the part for us is kept.

    Args:
        operators: the register; no token is held.
        login: the page shown to a browser without a token.
    """

    def __init__(self, app: ASGIApp, operators: Operators, login: str) -> None:
        self._app = app
        self._operators = operators
        self._login = login

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass on, or answer 401 or 403."""
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
            return
        if scope["type"] != "http":
            return  # no websockets here
        if scope["path"] in _OPEN or scope["path"].startswith("/static/"):
            await self._app(scope, receive, send)
            return
        answer = self._judge(scope)
        if answer is None:
            await self._app(scope, receive, send)
        else:
            await answer(scope, receive, send)

    def _judge(self, scope: Scope) -> Response | None:
        headers = Headers(scope=scope)
        scheme, _, given = headers.get("authorization", "").partition(" ")
        if scheme.lower() == "bearer" and self._right(given.strip(), scope):
            return None
        if self._right(_cookie(headers.get("cookie", "")), scope):
            if scope["method"] not in _SAFE_METHODS and "x-corsia" not in headers:
                return problem(PermissionRefused("permission.role", "a request by cookie needs the X-Corsia header"))
            if not _query_token(scope):
                return None
        return self._enter(scope, headers)

    def _enter(self, scope: Scope, headers: Headers) -> Response:
        token = _query_token(scope)
        if scope["path"] == "/" and scope["method"] == "GET" and self._right(token, scope):
            answer = RedirectResponse("/", status_code=303)
            answer.set_cookie(
                COOKIE, bearer(token), httponly=True, samesite="strict", secure=scope["scheme"] == "https", path="/"
            )
            return answer
        if "text/html" in headers.get("accept", "") and not scope["path"].startswith("/api/"):
            return HTMLResponse(self._login, status_code=401)
        return problem(AuthenticationError("auth.token"))

    def _right(self, token: str, scope: Scope) -> bool:
        """Whether an operator is known by a token; then the request carries both on."""
        if not token:
            return False
        try:
            operator = self._operators.identify(token)
        except CorsiaError:
            return False
        scope.setdefault("state", {}).update(token=bearer(token), operator=operator.name)
        return True


def _cookie(header: str) -> str:
    try:
        morsel = SimpleCookie(header).get(COOKIE)
    except CookieError:
        return ""
    return morsel.value if morsel else ""


def _query_token(scope: Scope) -> str:
    if scope["path"] != "/":
        return ""
    query: bytes = scope["query_string"]
    try:
        fields = parse_qs(query.decode("latin-1"), max_num_fields=20)
    except ValueError:
        return ""
    return fields.get("token", [""])[0].strip()
