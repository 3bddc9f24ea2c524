"""Which right each request takes: one table for the whole application, looked at before a route is.

What is not in it is for operators alone, so that a route that somebody forgets here is closed, not open. Whether a
study is one's own is asked by the routes that read rows or command runs (`owned.py`).
"""

from __future__ import annotations

import re

__all__ = ["ANYBODY", "OPEN", "is_open", "right"]

ANYBODY = ""  # of those who are known at all
OTHERWISE = "centre:operate"
OPEN = frozenset(
    {
        ("GET", "/healthz"),
        ("GET", "/auth/login"),
        ("GET", "/auth/callback"),
        ("GET", "/auth/provider"),
        ("POST", "/auth/device"),
        ("POST", "/auth/enter"),
    }
)
_ONE = "[^/]+"
_API: tuple[tuple[str, str, str], ...] = (
    ("GET", "me|openapi.json", ANYBODY),
    (
        "GET",
        f"sites|lanes|datasets|remotes|events|studies|studies/{_ONE}|runs/{_ONE}|models|models/{_ONE}",
        "studies:read",
    ),
    (
        "GET",
        f"flow|alarms|budgets(/sites)?|runs|runs/{_ONE}/(timeline|budget)|models/{_ONE}/where",
        "studies:read",
    ),
    ("POST", f"studies|studies/check|runs/{_ONE}/(pause|resume|stop|extend)", "studies:write"),
    ("GET", f"studies/{_ONE}/readers", "studies:read"),
    ("PUT|DELETE", f"studies/{_ONE}/readers/{_ONE}", "studies:write"),
    ("GET", f"studies/{_ONE}/(table|summary|distributions)|remotes/{_ONE}/table", "data:read"),
    ("POST", f"studies/{_ONE}/(sql|analyses)|models/{_ONE}/predict", "data:read"),
    ("POST", f"studies/{_ONE}/erasure", OTHERWISE),
    ("GET", f"models/{_ONE}/table", "models:use"),
    ("POST", f"models/{_ONE}/invocations", "models:use"),
    ("GET", f"log|log/head|log/entries|log/proof/{_ONE}", "log:read"),
    ("POST", "log/verify", "log:read"),
    ("GET", f"decisions|account|account/export|models/{_ONE}/promotions", "audit:read"),
    ("POST", f"decisions|decisions/{_ONE}/approval", "decisions:write"),
    ("POST", f"models/{_ONE}/promotions|models/{_ONE}/promotions/{_ONE}/approval", "decisions:write"),
    ("GET", f"decisions/{_ONE}/parcel", "decisions:write"),
    ("GET|POST", "tokens", "tokens:write"),
    ("DELETE", f"tokens/{_ONE}", "tokens:write"),
)
_PAGES: tuple[tuple[str, str, str], ...] = (
    ("GET", "/studies/new", "studies:write"),
    ("GET", f"/|/studies|/studies/{_ONE}|/training|/training/{_ONE}|/models|/models/{_ONE}", "studies:read"),
    ("POST", "/studies/new/(check|draft)", "studies:write"),
    ("GET", f"/data|/data/{_ONE}", "data:read"),
    ("GET", "/audit", "audit:read"),
    ("POST", "/auth/logout", ANYBODY),
)
_TABLE = tuple(
    (re.compile(methods), re.compile(path), needed)
    for methods, path, needed in (*((m, f"/api/v1/(?:{p})", n) for m, p, n in _API), *_PAGES)
)


def is_open(method: str, path: str) -> bool:
    """Whether anybody at all may ask this: what brings a person in, and the sign of life."""
    return path.startswith("/static/") or (_plain(method), path) in OPEN


def right(method: str, path: str) -> str:
    """The right that a request takes, `ANYBODY` for whoever is known."""
    for methods, paths, needed in _TABLE:
        if methods.fullmatch(_plain(method)) and paths.fullmatch(path):
            return needed
    return OTHERWISE


def _plain(method: str) -> str:
    return "GET" if method == "HEAD" else method
