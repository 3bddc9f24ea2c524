"""`/`: sites by network, lanes with their flow, alarms, what is under way."""

from __future__ import annotations

from itertools import groupby
from typing import Any

from fastapi import APIRouter, Request
from starlette.responses import HTMLResponse

from central.web import flow, runs, views
from central.web.pages.render import CentreOf, page

__all__ = ["router"]

router = APIRouter()
_STUDIES, _RUNS = 8, 4


@router.get("/")
def overview(request: Request, centre: CentreOf) -> HTMLResponse:
    """The first page."""
    with centre.store.read() as session:
        moving = {one["lane"]: one for one in flow.flow(session)}
        return page(
            request,
            "overview.html",
            networks=_networks(views.sites(session)),
            lanes=[lane | {"flow": moving[lane["lane"]]} for lane in views.lanes(session)],
            alarms=flow.alarms(session),
            studies=views.studies(session, _STUDIES),
            runs=[run | {"series": runs.series(run)} for run in runs.newest(session, _RUNS)],
            log=views.log_head(session),
        )


def _networks(sites: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Sites by network, which is how `views.sites` orders them."""
    found = []
    for network, members in groupby(sites, key=lambda site: site["network"]):
        held = list(members)
        found.append({"name": network, "sites": held, "alive": sum(site["alive"] for site in held)})
    return found
