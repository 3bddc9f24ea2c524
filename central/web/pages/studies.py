"""`/studies` and `/studies/{id}`: what is asked, by whom it is allowed, what came of it and what it cost."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Query, Request
from starlette.responses import HTMLResponse

from central.web import account, timeline, views
from central.web.pages.render import CentreOf, PageNumber, page, paged
from protocol.prose import prose
from protocol.study import Lane, parse_study
from protocol.words import words

__all__ = ["router"]

router = APIRouter()
_MOST = 50
_PARCELS = 200
_STATES = ("open", "done", "failed", "closed", "erased")


@router.get("/studies")
def studies(
    request: Request,
    centre: CentreOf,
    number: PageNumber = 1,
    lane: Annotated[str, Query(max_length=20)] = "",
    state: Annotated[str, Query(max_length=20)] = "",
    search: Annotated[str, Query(max_length=200)] = "",
) -> HTMLResponse:
    """The list, filtered and paged here."""
    asked = {"lane": lane, "state": state, "search": search.strip()}
    with centre.store.read() as session:
        found = views.studies(session, _MOST + 1, (number - 1) * _MOST, lane=lane, state=state, search=asked["search"])
    listed, lanes = paged(found, number, _MOST), [one.value for one in Lane]
    return page(request, "studies.html", listed=listed, asked=asked, lanes=lanes, states=_STATES)


@router.get("/studies/{study_id}")
def study(request: Request, study_id: str, centre: CentreOf) -> HTMLResponse:
    """One study."""
    with centre.store.read() as session:
        found = views.study(session, study_id)
        left = account.left(session, [found["digest"]]).get(found["digest"], {})
        burn = timeline.burn(session, study_id)
    document = parse_study(found["document"].encode())
    return page(
        request,
        "study.html",
        study=found,
        said={language: prose(document, words(language)) for language in ("en", "it")},
        approvals=found["assignments"],
        left=left,
        burn=burn,
        parcels=found["parcels"][-_PARCELS:],
        more_parcels=max(0, len(found["parcels"]) - _PARCELS),
    )
