"""Federated runs as lists and curves: what the pages and `GET /runs` show besides one run (`views.run`)."""

from __future__ import annotations

from typing import Any

from sqlalchemy import select
from sqlalchemy.orm import Session

from central.store.models import RunRow, StudyRow
from central.web import views

__all__ = ["listed", "newest", "series"]

_NO_CURVE = ("rows", "answers", "num-examples", "sites")


def listed(session: Session, limit: int = 100, offset: int = 0) -> list[dict[str, Any]]:
    """Runs, newest study first: study, title, state, round, phase, code."""
    rows = session.execute(
        select(RunRow, StudyRow)
        .join(StudyRow, StudyRow.digest == RunRow.study_digest)
        .order_by(StudyRow.created_at.desc(), StudyRow.id)
        .limit(limit)
        .offset(offset)
    )
    return [
        {
            "study": study.id,
            "title": study.title,
            "state": run.state,
            "round": run.round,
            "phase": run.phase,
            "code": run.code,
            "updated_at": run.updated_at,
        }
        for run, study in rows
    ]


def newest(session: Session, limit: int) -> list[dict[str, Any]]:
    """The newest runs whole, as `views.run` tells them."""
    found = (views.run(session, one["study"]) for one in listed(session, limit))
    return [run for run in found if run is not None]


def series(run: dict[str, Any]) -> list[dict[str, Any]]:
    """A run's metrics over all sites as curves: name and (round, value) points; only finite numbers."""
    curves: dict[str, list[list[float]]] = {}
    for done in run["rounds"]:
        for name, value in sorted(done["metrics"].items()):
            number = isinstance(value, int | float) and not isinstance(value, bool)
            if name not in _NO_CURVE and number and abs(value) < float("inf"):
                curves.setdefault(name, []).append([done["round"], float(value)])
    return [{"name": name, "points": points} for name, points in curves.items()]
