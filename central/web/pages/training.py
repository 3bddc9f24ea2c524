"""`/training`: runs, one run's curves, rounds and budget as they come, and runs side by side."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Query, Request
from starlette.responses import HTMLResponse

from central.web import runs, timeline, views
from central.web.pages.render import CentreOf, PageNumber, page, paged
from protocol.errors import StudyRefused
from protocol.study import Study, parse_study

__all__ = ["router"]

router = APIRouter()
_MOST, _COMPARED, _EXCHANGES = 50, 6, 24


@router.get("/training")
def training(request: Request, centre: CentreOf, number: PageNumber = 1) -> HTMLResponse:
    """The list of runs."""
    with centre.store.read() as session:
        found = runs.listed(session, _MOST + 1, (number - 1) * _MOST)
    return page(request, "training.html", listed=paged(found, number, _MOST))


@router.get("/training/compare")
def compare(
    request: Request, centre: CentreOf, study: Annotated[list[str] | None, Query(max_length=_COMPARED)] = None
) -> HTMLResponse:
    """The same metric of several runs in one plot."""
    with centre.store.read() as session:
        found = [run for name in dict.fromkeys(study or []) if (run := views.run(session, name)) is not None]
    charts: dict[str, list[dict[str, Any]]] = {}
    for run in found:
        for curve in runs.series(run):
            charts.setdefault(curve["name"], []).append({"name": run["study"], "points": curve["points"]})
    return page(request, "compare.html", runs=found, charts=charts)


@router.get("/training/{study_id}")
def one(request: Request, study_id: str, centre: CentreOf) -> HTMLResponse:
    """One run, whether it has begun or not."""
    with centre.store.read() as session:
        found = views.study(session, study_id)
        if found["lane"] != "train":
            raise StudyRefused("study.unknown", "the study trains no model")
        exchanges = timeline.timeline(session, study_id, _EXCHANGES)
        burn = timeline.burn(session, study_id)
    run = found["run"]
    study = parse_study(found["document"].encode())
    return page(
        request,
        "run.html",
        study=found,
        run=run,
        asked=study.training,
        masks=_masks(study, exchanges),
        series=runs.series(run) if run else [],
        per_site=_per_site(study, run),
        exchanges=exchanges,
        longest=max((_length(x) for x in exchanges), default=1.0),
        burn=burn,
    )


def _length(exchange: dict[str, Any]) -> float:
    """Seconds that an exchange takes on the plot."""
    last: float = max((site["seconds"] for site in exchange["sites"]), default=0.0)
    whole: float = (exchange["ended"] or 0.0) - exchange["began"]
    return max(0.001, last, whole)


def _masks(study: Study, exchanges: list[dict[str, Any]]) -> dict[str, Any]:
    """Where secure aggregation stands: the step of the newest exchange, and who took part in it."""
    if not study.privacy.secure_aggregation:
        return {"on": False}
    newest = exchanges[-1] if exchanges else None
    step = newest["phase"].partition("/")[2] if newest else ""
    answered = sum(site["state"] == "answered" for site in newest["sites"]) if newest else 0
    return {"on": True, "step": step, "answered": answered, "asked": newest["asked"] if newest else 0}


def _per_site(study: Study, run: dict[str, Any] | None) -> list[dict[str, Any]]:
    """Each site's own curves where it lets them be seen; None where it withholds them, or the study asks for none."""
    told = timeline.site_metrics(run) if run else {}
    return [{"site": site, "series": told.get(site)} for site in study.sites]
