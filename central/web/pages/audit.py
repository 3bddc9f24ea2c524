"""`/audit`: the log with proofs that the reader's own browser recomputes, budgets over all studies, the DPO's file."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Query, Request
from starlette.responses import HTMLResponse

from central.web import account, leaves, views
from central.web.pages.render import CentreOf, PageNumber, page, paged

__all__ = ["router"]

router = APIRouter()
_ENTRIES, _STUDIES = 25, 25


@router.get("/audit")
def audit(
    request: Request,
    centre: CentreOf,
    number: PageNumber = 1,
    before: Annotated[int | None, Query(ge=0, le=2**62)] = None,
) -> HTMLResponse:
    """Log, budgets, export."""
    with centre.store.read() as session:
        entries = leaves.leaves(session, _ENTRIES + 1, before)
        budgets = account.budgets(session, _STUDIES + 1, (number - 1) * _STUDIES)
        sites = account.of_sites(session)
        log = views.log_head(session)
    return page(
        request,
        "audit.html",
        entries=entries[:_ENTRIES],
        older=entries[_ENTRIES - 1]["index"] if len(entries) > _ENTRIES else None,
        newest=before is None,
        listed=paged(budgets, number, _STUDIES),
        sites=sites,
        log=log,
    )
