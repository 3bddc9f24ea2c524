"""REST for what the pages show beyond `api.py`: flow, alarms, timelines, budgets, a draft's check, the log as a list.

Each route is one function of a module that reads the database; the pages call the same functions.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from fastapi import APIRouter, Depends, Query
from starlette.responses import PlainTextResponse

from central import ipc
from central.web import account, flow, leaves, runs, timeline, views
from central.web.api import CentreOf, draft_of
from central.web.draft import check
from central.web.owned import Owned
from central.web.paging import PageOf
from central.web.where import where

__all__ = ["router"]

router = APIRouter(prefix="/api/v1")
Language = Annotated[Literal["en", "it"], Query()]


@router.get("/flow")
def get_flow(centre: CentreOf, page: PageOf) -> list[dict[str, Any]]:
    """What moved in each lane within the last minute, and bytes of the last half hour by minute."""
    with centre.store.read() as session:
        return page.numbered(flow.flow(session))


@router.get("/alarms")
def get_alarms(centre: CentreOf, page: PageOf) -> list[dict[str, Any]]:
    """What somebody should look at, the worst first."""
    with centre.store.read() as session:
        return page.numbered(flow.alarms(session))


@router.get("/runs")
def get_runs(centre: CentreOf, page: PageOf) -> list[dict[str, Any]]:
    """Federated runs, of the newest study first."""
    with centre.store.read() as session:
        found = runs.listed(session, page.limit + 1, after=page.newest())
    return page.cut(found, lambda row: (-row["created_at"], row["study"]))


@router.get("/runs/{study_id}/timeline")
def get_timeline(study_id: str, centre: CentreOf, page: PageOf) -> list[dict[str, Any]]:
    """A run's newest exchanges with its sites: who answered when, who was late, dropped or slow."""
    with centre.store.read() as session:
        return page.numbered(timeline.timeline(session, study_id))


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
def get_where(name: str, centre: CentreOf, page: PageOf) -> list[dict[str, Any]]:
    """At which sites a model was asked to run, by which study, and how that stands."""
    with centre.store.read() as session:
        return page.numbered(where(session, name))


@router.get("/budgets")
def get_budgets(centre: CentreOf, page: PageOf) -> list[dict[str, Any]]:
    """What each study promised and has spent of privacy, newest first."""
    with centre.store.read() as session:
        found = account.budgets(session, page.limit + 1, after=page.newest())
    return page.cut(found, lambda row: (-row["created_at"], row["study"]))


@router.get("/budgets/sites")
def get_budgets_of_sites(centre: CentreOf, page: PageOf) -> list[dict[str, Any]]:
    """What came from each site over all studies, and what that cost of privacy at most, by name."""
    with centre.store.read() as session:
        return page.of(account.of_sites(session), lambda row: (row["site"],))


@router.get("/account")
def get_account(centre: CentreOf, page: PageOf) -> list[dict[str, Any]]:
    """One line a study and site for a data protection officer: grounds, what left, what it cost, where it is logged."""
    with centre.store.read() as session:
        return page.numbered(list(account.account(session)))


@router.get("/account/export")
def get_account_export(centre: CentreOf) -> PlainTextResponse:
    """All lines of the account as one CSV file."""
    with centre.store.read() as session:
        text = account.account_csv(session)
    headers = {"Content-Disposition": 'attachment; filename="corsia-account.csv"'}
    return PlainTextResponse(text, media_type="text/csv; charset=utf-8", headers=headers)


@router.get("/log/entries")
def get_entries(centre: CentreOf, page: PageOf) -> list[dict[str, Any]]:
    """The log's leaves as a list, newest first."""
    with centre.store.read() as session:
        return page.cut(leaves.leaves(session, page.limit + 1, page.below()), lambda row: (-row["index"],))
