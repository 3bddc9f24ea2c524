"""What went wrong, for who asked: the door or a page in a browser, a problem document for a program.

A browser is told by `Accept: text/html`; under `/api/` everything is a document.
"""

from __future__ import annotations

from http import HTTPStatus

from starlette.requests import Request
from starlette.responses import HTMLResponse, Response

from central.identity.rights import Principal
from central.web.pages.render import page
from central.web.problems import Problem

__all__ = ["door", "shown"]


def shown(request: Request, problem: Problem) -> Response:
    """The answer for a problem, with its status and headers."""
    if request.url.path.startswith("/api/") or "text/html" not in request.headers.get("accept", ""):
        return problem.document()
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


def door(request: Request, problem: Problem, *, said: bool = True) -> HTMLResponse:
    """The page where people come in.

    Args:
        said: whether the problem is told; who comes for the first time has done nothing wrong.
    """
    oidc = request.app.state.provider is not None
    return page(request, "login.html", status=problem.status, oidc=oidc, problem=problem if said else None)
