"""`/studies/new`: a form judged as it is filled in, which shows what a site will read. Submitting is the API's."""

from __future__ import annotations

from typing import Any
from urllib.parse import parse_qs

import tomli_w
from fastapi import APIRouter, Request
from starlette.concurrency import run_in_threadpool
from starlette.responses import HTMLResponse, JSONResponse, Response

from central.web import views
from central.web.centre import Centre
from central.web.draft import check, from_form
from central.web.pages.render import CentreOf, page
from protocol.errors import InputError
from protocol.study import MAX_STUDY_BYTES, Lane
from protocol.words import chosen

__all__ = ["router"]

router = APIRouter()
_MAX_FIELDS = 2000
_BASES = ("scientific-research", "public-interest", "consent", "legal-obligation")
_STRATEGIES = ("fedavg", "fedavgm", "fedprox", "fedadam", "fedadagrad", "fedyogi", "fedmedian", "krum", "newton")
_LEARNERS = ("tabular", "survival", "imaging", "gwas")


@router.get("/studies/new")
def new(request: Request, centre: CentreOf) -> HTMLResponse:
    """The form."""
    lists: dict[str, Any] = {"bases": _BASES, "strategies": _STRATEGIES, "learners": _LEARNERS}
    lists["lanes"] = [one.value for one in Lane]
    return page(request, "draft.html", sites=_sites(centre), judged=None, toml="", **lists)


@router.post("/studies/new/check")
async def judged(request: Request, centre: CentreOf) -> HTMLResponse:
    """The part beside the form: the first fault, the words for a site, the file."""
    given = await _form(request)
    return await run_in_threadpool(_judged, request, centre, given)


@router.post("/studies/new/draft")
async def drafted(request: Request) -> Response:
    """The form as the JSON that `POST /api/v1/studies` takes."""
    return JSONResponse(from_form(await _form(request)))


def _judged(request: Request, centre: Centre, given: dict[str, list[str]]) -> HTMLResponse:
    wished = request.query_params.get("lang", "") or request.cookies.get("corsia_language", "")
    language = chosen(wished, request.headers.get("accept-language", ""))
    try:
        text = tomli_w.dumps(from_form(given))
    except InputError as error:
        fault = {"ok": False, "code": error.code, "detail": error.message, "hint": error.hint, "field": "", "words": []}
        return page(request, "draft-judged.html", judged=fault, toml="")
    found: dict[str, Any] = check(text.encode(), language, {site["name"] for site in _sites(centre)})
    return page(request, "draft-judged.html", judged=found, toml=text)


def _sites(centre: Centre) -> list[dict[str, Any]]:
    with centre.store.read() as session:
        return [site for site in views.sites(session) if not site["revoked"]]


async def _form(request: Request) -> dict[str, list[str]]:
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > 2 * MAX_STUDY_BYTES:
            raise InputError("input.study", "the form is too large")
    try:
        return parse_qs(body.decode("utf-8"), max_num_fields=_MAX_FIELDS)
    except ValueError:
        raise InputError("input.study", "not a form") from None
