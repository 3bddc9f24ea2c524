"""What went wrong, for who asked: the door or a page in a browser, a problem document for a program.

A browser is told by `Accept: text/html`; under `/api/` everything is a document.
"""

from __future__ import annotations

from dataclasses import replace
from http import HTTPStatus

from starlette.requests import Request
from starlette.responses import HTMLResponse, Response

from central.identity.rights import Principal
from central.web.pages.render import page, spoken
from central.web.problems import Problem
from protocol.words import LANGUAGES

__all__ = ["door", "shown"]


def shown(request: Request, problem: Problem) -> Response:
    """The answer for a problem, with its status and headers."""
    if request.url.path.startswith("/api/") or "text/html" not in request.headers.get("accept", ""):
        return (_told(request, problem) if "x-corsia" in request.headers else problem).document()
    if problem.status == HTTPStatus.UNAUTHORIZED:
        first = request.method == "GET" and problem.code == "auth.token" and "token" not in request.query_params
        answer = door(request, problem, said=not first)
    else:
        who: Principal | None = getattr(request.state, "principal", None)
        roles = ", ".join(sorted(who.roles)) if who and problem.status == HTTPStatus.FORBIDDEN else ""
        told = {"code": problem.code, "detail": problem.detail, "hint": problem.hint, "roles": roles}
        answer = page(request, "error.html", status=problem.status, number=problem.status, **told)
    answer.headers.update(problem.headers)
    return answer


def _told(request: Request, problem: Problem) -> Problem:
    """A problem for a page's own script, which shows it beside a button: the code's words in the reader's language.

    What was said of the one case stays English, behind them.
    """
    say = spoken(request)
    summary, _, language = say.error(problem.code)
    if not summary or language == LANGUAGES[0]:
        return problem
    detail, told = say.told(problem.detail)
    detail = detail if told == language else f"{summary} ({problem.detail})"
    return replace(problem, detail=detail, hint=say.told(problem.hint)[0])


def door(request: Request, problem: Problem, *, said: bool = True) -> HTMLResponse:
    """The page where people come in.

    Args:
        said: whether the problem is told; who comes for the first time has done nothing wrong.
    """
    oidc = request.app.state.provider is not None
    return page(request, "login.html", status=problem.status, oidc=oidc, problem=problem if said else None)
