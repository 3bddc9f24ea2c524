"""`/models`: versions, aliases, lineage, cards, what two operators decide, and where a model runs."""

from __future__ import annotations

import json
from itertools import groupby
from typing import Annotated, Any

from fastapi import APIRouter, Query, Request
from sqlalchemy import select
from sqlalchemy.orm import Session
from starlette.exceptions import HTTPException
from starlette.responses import HTMLResponse

from central.store.models import StudyRow
from central.store.published import newest
from central.web import runs, views
from central.web.pages.render import CentreOf, PageNumber, may, page, paged
from central.web.where import where
from protocol.study import CHAMPION

__all__ = ["router"]

router = APIRouter()
_MOST = 50
_PLAIN = (
    "study_id", "sites", "rounds", "rounds_run", "ended", "strategy", "features", "outcome", "metrics", "masked",
    "epsilon", "delta", "learner", "weights", "log", "serial", "promotion",
)  # fmt: skip


@router.get("/models")
def models(request: Request, centre: CentreOf, number: PageNumber = 1) -> HTMLResponse:
    """Versions by name."""
    with centre.store.read() as session:
        found = sorted(views.models(session), key=lambda one: one["name"])
    named = [{"name": name, "versions": list(held)} for name, held in groupby(found, key=lambda one: one["name"])]
    start = (number - 1) * _MOST
    return page(request, "models.html", listed=paged(named[start : start + _MOST + 1], number, _MOST))


def _curves(session: Session, digest: str) -> list[dict[str, Any]]:
    """How the metrics over all sites went in the run that made a version; none where the run is gone."""
    study = session.scalar(select(StudyRow.id).where(StudyRow.digest == digest))
    run = views.run(session, study) if study else None
    return runs.series(run) if run else []


@router.get("/models/{name}")
def model(
    request: Request,
    name: str,
    centre: CentreOf,
    version: Annotated[int | None, Query(ge=1, le=2**31 - 1)] = None,
) -> HTMLResponse:
    """One version: card, lineage, proposals, places."""
    with centre.store.read() as session:
        row = newest(session, name, version)
        if row is None:
            raise HTTPException(404)
        versions = [one for one in views.models(session) if one["name"] == name]
        asked = views.promotions(session, name)
        proposals = asked if may(request, "GET", f"/api/v1/models/{name}/promotions") else []
        places = where(session, name)
        trained = _curves(session, row.study_digest)
    shown = next(one for one in versions if one["version"] == row.version)
    manifest: dict[str, Any] = json.loads(centre.store.get_blob(row.manifest))["manifest"]
    held = next((one for one in versions if one["alias"] == CHAMPION), None)
    return page(
        request,
        "model.html",
        model=shown,
        versions=versions,
        card=[(key, manifest[key]) for key in _PLAIN if key in manifest],
        proposals=proposals,
        waiting=[one for one in proposals if one["state"] == "open"],
        places=places,
        curves=trained,
        champion=held,
        weights=manifest.get("weights", {}),
        signing=centre.web.sign_in_browser and may(request, "POST", f"/api/v1/models/{name}/promotions"),
    )
