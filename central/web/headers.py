"""The headers of every answer: a strict content security policy and its companions."""

from __future__ import annotations

from starlette.datastructures import MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

__all__ = ["SecurityHeaders", "protect"]

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


def protect(headers: MutableHeaders, *, cached: bool = False) -> None:
    """Set them on an answer; only static files may be cached."""
    for name, value in _HEADERS.items():
        headers[name] = value
    headers["Cache-Control"] = "no-cache" if cached else "no-store"


class SecurityHeaders:
    """Sets them on what the application answers. What it fails to answer is answered outside of it (`problems`)."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass on, with headers."""
        cached = str(scope.get("path", "")).startswith("/static/")

        async def with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                protect(MutableHeaders(scope=message), cached=cached)
            await send(message)

        await self._app(scope, receive, with_headers)
