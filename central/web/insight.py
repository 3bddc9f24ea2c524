"""REST for what the pages show beyond `api.py`: flow, alarms, timelines, budgets, a draft's check, the log as a list.

Each route is one function of a module that reads the database; the pages call the same functions.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from fastapi import APIRouter, Depends, Query, Response
from starlette.responses import JSONResponse, PlainTextResponse

from central import ipc
from central.web import account, flow, leaves, runs, timeline, views
from central.web.api import CentreOf, draft_of
from central.web.draft import check
from central.web.owned import Owned
from central.web.where import where

__all__ = ["router"]

router = APIRouter(prefix="/api/v1")
Limit = Annotated[int, Query(ge=1, le=1000)]
Offset = Annotated[int, Query(ge=0, le=10**9)]
Language = Annotated[Literal["en", "it"], Query()]


@router.get("/flow")
def get_flow(centre: CentreOf) -> list[dict[str, Any]]:
    """What moved in each lane within the last minute, and bytes of the last half hour by minute."""
    with centre.store.read() as session:
        return flow.flow(session)


@router.get("/alarms")
def get_alarms(centre: CentreOf) -> list[dict[str, Any]]:
    """What somebody should look at, the worst first."""
    with centre.store.read() as session:
        return flow.alarms(session)


@router.get("/runs")
def get_runs(centre: CentreOf, limit: Limit = 100, offset: Offset = 0) -> list[dict[str, Any]]:
    """Federated runs, newest first."""
    with centre.store.read() as session:
        return runs.listed(session, limit, offset)


@router.get("/runs/{study_id}/timeline")
def get_timeline(study_id: str, centre: CentreOf) -> list[dict[str, Any]]:
    """A run's newest exchanges with its sites: who answered when, who was late, dropped or slow."""
    with centre.store.read() as session:
        return timeline.timeline(session, study_id)


@router.get("/runs/{study_id}/budget")
def get_burn(study_id: str, centre: CentreOf) -> dict[str, Any]:
    """What a run has spent of its epsilon, round by round."""
    with centre.store.read() as session:
        return timeline.burn(session, study_id)


@router.post("/studies/check")
def post_check(draft: Annotated[bytes, Depends(draft_of)], centre: CentreOf, lang: Language = "en") -> dict[str, Any]:
    """A draft judged without submitting it: its first fault, or the words in which a site will read it."""
    with centre.store.read() as session:
        return check(draft, lang, {site["name"] for site in views.sites(session) if not site["revoked"]})


@router.get("/studies/{study_id}/distributions")
def get_distributions(study_id: str, _: Owned, centre: CentreOf) -> dict[str, Any]:
    """Histograms of a study's curated columns; small cells are null."""
    return ipc.call(centre.vault, "distributions", timeout_s=120.0, study=study_id)


@router.get("/models/{name}/where")
def get_where(name: str, centre: CentreOf) -> list[dict[str, Any]]:
    """At which sites a model was asked to run, by which study, and how that stands."""
    with centre.store.read() as session:
        return where(session, name)


@router.get("/budgets")
def get_budgets(centre: CentreOf, limit: Limit = 50, offset: Offset = 0) -> dict[str, Any]:
    """What studies promised and spent of privacy, and what came from each site over all studies."""
    with centre.store.read() as session:
        return {"studies": account.budgets(session, limit, offset), "sites": account.of_sites(session)}


@router.get("/account", response_model=list[dict[str, Any]])
def get_account(centre: CentreOf, form: Annotated[Literal["json", "csv"], Query()] = "json") -> Response:
    """One line a study and site for a data protection officer: grounds, what left, what it cost, where it is logged."""
    with centre.store.read() as session:
        if form == "json":
            return JSONResponse(list(account.account(session)))
        text = account.account_csv(session)
    headers = {"Content-Disposition": 'attachment; filename="corsia-account.csv"'}
    return PlainTextResponse(text, media_type="text/csv; charset=utf-8", headers=headers)


@router.get("/log/entries")
def get_entries(
    centre: CentreOf, limit: Limit = 50, before: Annotated[int | None, Query(ge=0, le=2**62)] = None
) -> list[dict[str, Any]]:
    """The log's leaves as a list, newest first, below index `before`."""
    with centre.store.read() as session:
        return leaves.leaves(session, limit, before)
