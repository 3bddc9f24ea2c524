"""Templates to answers: language, formats of numbers and times, and what every page has.

Everything that a template shows is escaped; no markup is made in Python.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Annotated, Any

from fastapi import Depends, Query, Request
from jinja2 import Environment, FileSystemLoader, StrictUndefined, select_autoescape
from starlette.responses import HTMLResponse

from central.identity.rights import Principal
from central.web.centre import Centre
from central.web.permits import ANYBODY, right
from protocol.words import LANGUAGES, Words, chosen, words

__all__ = ["COOKIE", "CentreOf", "PageNumber", "environment", "may", "page", "paged", "spoken"]

COOKIE = "corsia_language"
_TEMPLATES = Path(__file__).parents[1] / "templates"
_YEAR_S = 365 * 86_400


def _centre(request: Request) -> Centre:
    centre: Centre = request.app.state.centre
    return centre


CentreOf = Annotated[Centre, Depends(_centre)]
PageNumber = Annotated[int, Query(alias="page", ge=1, le=10**6)]


@lru_cache(maxsize=1)
def environment() -> Environment:
    """The templates; a name that a page lacks is an error, never an empty place."""
    made = Environment(
        loader=FileSystemLoader(_TEMPLATES),
        autoescape=select_autoescape(default=True, default_for_string=True),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    made.filters["size"] = size
    made.filters["when"] = when
    made.filters["number"] = number
    made.filters["figure"] = figure
    made.filters["places"] = places
    made.filters["at"] = value_at
    return made


def page(request: Request, template: str, *, status: int = 200, **values: Any) -> HTMLResponse:
    """A template in the reader's language.

    Args:
        values: what the template shows, besides `t`, `named`, `told`, `ago`, `lang`, `languages`, `path`,
            `centre_name`, `mlflow_uri`, `operator` (his name, if a token file let him in), `reader` (his name) and
            `may` (a method and a path), which every page has. Who is not known has no name and may nothing.
    """
    say = spoken(request)
    centre = _centre(request)
    common: dict[str, Any] = {
        "t": say,
        "named": say.named,
        "told": say.told,
        "ago": lambda at: ago(at, say),
        "lang": say.language,
        "languages": LANGUAGES,
        "path": request.url.path,
        "centre_name": centre.name,
        "mlflow_uri": mlflow_uri(centre),
        "operator": who.name if (who := _who(request)) and not who.account else "",
        "reader": who.name if who else "",
        "may": lambda method, path: may(request, method, path),
        "now": time.time(),
    }
    answer = HTMLResponse(environment().get_template(template).render(common | values), status_code=status)
    if request.query_params.get("lang") in LANGUAGES:
        secure = centre.https_alone(str(request.url))
        answer.set_cookie(COOKIE, say.language, max_age=_YEAR_S, samesite="strict", secure=secure, httponly=True)
    return answer


def spoken(request: Request) -> Words:
    """The texts in the reader's language."""
    wished = request.query_params.get("lang", "") or request.cookies.get(COOKIE, "")
    return words(chosen(wished, request.headers.get("accept-language", "")))


def may(request: Request, method: str, path: str) -> bool:
    """Whether who asks has the right that another request would take."""
    who = _who(request)
    return who is not None and right(method, path) in (ANYBODY, *who.scopes)


def _who(request: Request) -> Principal | None:
    found: Principal | None = getattr(request.state, "principal", None)
    return found


def mlflow_uri(centre: Centre) -> str:
    """Where a browser finds MLflow; empty for a store that is no web address."""
    return centre.mlflow_uri if centre.mlflow_uri.startswith(("http://", "https://")) else ""


def size(size_bytes: float) -> str:
    """Bytes for people."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if size_bytes < 1024:
            return f"{size_bytes:.0f} {unit}" if unit == "B" else f"{size_bytes:.1f} {unit}"
        size_bytes /= 1024
    return f"{size_bytes:.1f} TiB"


def number(value: float | None) -> str:
    """A whole number with thin spaces; a dash for none."""
    return "–" if value is None else f"{value:,}".replace(",", "\u202f")


def figure(value: Any) -> str:
    """A measured number to four digits; a dash for none."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return "–" if value is None else str(value)
    return f"{value:.4g}"


def places(series: list[dict[str, Any]]) -> list[Any]:
    """All places on the first axis of some curves, in order."""
    return sorted({x for one in series for x, _ in one["points"]})


def value_at(points: list[list[Any]], x: Any) -> Any:
    """A curve's value at a place, or None."""
    return next((value for place, value in points if place == x), None)


def ago(at: float | None, say: Any) -> str:
    """How long ago, in a reader's words."""
    if not at:
        return str(say("time.never"))
    seconds = max(0, int(time.time() - at))
    for length, unit in ((86_400, "days"), (3600, "hours"), (60, "minutes")):
        if seconds >= length:
            return str(say(f"time.{unit}", n=seconds // length))
    return str(say("time.now") if seconds < 15 else say("time.seconds", n=seconds // 15 * 15))


def when(at: float | None) -> str:
    """A time to the minute, UTC; a dash for none."""
    return time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime(at)) if at else "–"


def paged(rows: list[Any], number_: int, most: int) -> Mapping[str, Any]:
    """A page of a list that was asked for one row beyond its end: the rows, and the numbers before and after."""
    more = len(rows) > most
    return {
        "rows": rows[:most],
        "page": number_,
        "previous": number_ - 1 if number_ > 1 else None,
        "next": number_ + 1 if more else None,
    }
