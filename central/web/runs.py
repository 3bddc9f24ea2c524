"""Federated runs as lists and curves: what the pages and `GET /runs` show besides one run (`views.run`)."""

from __future__ import annotations

from typing import Any

from sqlalchemy import select
from sqlalchemy.orm import Session

from central.store.models import RunRow, StudyRow
from central.web import views
from central.web.paging import older

__all__ = ["listed", "newest", "series"]

_NO_CURVE = ("rows", "answers", "num-examples", "sites")


def listed(
    session: Session, limit: int = 100, offset: int = 0, *, after: tuple[float, str] | None = None
) -> list[dict[str, Any]]:
    """Runs, newest study first: study, title, state, round, phase, code; those after the study of a time and id."""
    query = (
        select(RunRow, StudyRow)
        .join(StudyRow, StudyRow.digest == RunRow.study_digest)
        .order_by(StudyRow.created_at.desc(), StudyRow.id)
    )
    rows = session.execute((query if after is None else query.where(older(after))).limit(limit).offset(offset))
    return [
        {
            "study": study.id,
            "title": study.title,
            "state": run.state,
            "round": run.round,
            "phase": run.phase,
            "code": run.code,
            "created_at": study.created_at,
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
