"""`/data`: curated tables, their columns, where each batch came from, and how values lie. No page shows a row."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, Request
from starlette.responses import HTMLResponse

from central import ipc
from central.web import curated, views
from central.web.owned import Owned
from central.web.pages.render import CentreOf, PageNumber, page, paged
from central.web.remotes import listed
from protocol.study import parse_study

__all__ = ["router"]

router = APIRouter()
_MOST = 50


@router.get("/data")
def tables(request: Request, centre: CentreOf, number: PageNumber = 1) -> HTMLResponse:
    """Studies that brought rows, files or documents; on the first page the remote tables too."""
    with centre.store.read() as session:
        found = curated.listed(session, _MOST + 1, (number - 1) * _MOST)
        remotes = listed(session) if number == 1 else []
    return page(request, "tables.html", listed=paged(found, number, _MOST), remotes=remotes)


@router.get("/data/{study_id}")
def table(request: Request, study_id: str, _: Owned, centre: CentreOf) -> HTMLResponse:
    """One table. The figures are made in the vault, which hides small groups."""
    with centre.store.read() as session:
        found = views.study(session, study_id)
    declared = {c.name: c.dtype for c in parse_study(found["document"].encode()).output.columns}
    summary: dict[str, Any] = ipc.call(centre.vault, "summary", timeout_s=120.0, study=study_id)
    shown: dict[str, Any] = ipc.call(centre.vault, "distributions", timeout_s=120.0, study=study_id)
    logged = {one["id"]: one["log_index"] for one in found["parcels"]}
    return page(
        request,
        "table.html",
        study=found,
        summary=summary,
        declared=declared,
        distributions=shown["columns"],
        logged=logged,
    )
