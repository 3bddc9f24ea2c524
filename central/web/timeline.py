"""A run's rounds as they went: who was asked, who answered when, who was late or dropped; and what they cost.

As `views`: an open session in, plain values out. Made from the events that the federation tells (`EventRow`).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import lru_cache
from statistics import median_low
from typing import Any

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from central.store.models import EventRow, RoundRow, RunRow, StudyRow
from protocol.errors import CorsiaError, StudyRefused
from protocol.study import Study, parse_study

__all__ = ["burn", "last_rounds", "site_metrics", "spent", "timeline"]

_KINDS = (
    "round.begun", "round.answered", "round.dropped", "round.late", "round.retried", "round.skipped", "round.finished",
)  # fmt: skip
_EVENTS = 5000
_SLOW = 2.0  # times the median: a straggler
_SLOW_S = 0.5
_POINTS = 24


def timeline(session: Session, study_id: str, most: int = 40) -> list[dict[str, Any]]:
    """The newest exchanges of a run, oldest first.

    Returns:
        `{"round", "phase", "attempt", "began", "ended", "asked", "skipped", "sites": [{"site", "state", "at",
        "seconds", "slow", "code"}]}`; state is answered | late | dropped, `phase` has the step of masking after a
        slash, `slow` marks a straggler: later than twice the (lower) median of those that answered.

    Raises:
        StudyRefused: `study.unknown`.
    """
    if session.get(StudyRow, study_id) is None:
        raise StudyRefused("study.unknown")
    events = session.scalars(
        select(EventRow)
        .where(EventRow.study == study_id, EventRow.kind.in_(_KINDS))
        .order_by(EventRow.seq.desc())
        .limit(_EVENTS)
    ).all()
    exchanges = _exchanges(reversed(events))[-most:]
    for one in exchanges:
        _mark_slow(one)
    return exchanges


def _exchanges(events: Iterable[EventRow]) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = []
    for event in events:
        fields = event.fields
        if event.kind == "round.begun":
            if found and found[-1]["ended"] is None:
                found[-1]["ended"] = event.at
            found.append(
                {
                    "round": int(fields.get("round", 0)),
                    "phase": str(fields.get("phase", "")),
                    "attempt": int(fields.get("attempt", 0)),
                    "began": event.at,
                    "ended": None,
                    "asked": int(fields.get("asked", 0)),
                    "skipped": "",
                    "sites": {},
                }
            )
        elif found:
            _heard(found[-1], event)
    return [{**one, "sites": [one["sites"][name] for name in sorted(one["sites"])]} for one in found]


def _heard(one: dict[str, Any], event: EventRow) -> None:
    if event.kind == "round.finished":
        one["ended"] = event.at
    elif event.kind == "round.skipped":
        one["ended"], one["skipped"] = event.at, str(event.fields.get("code", ""))
    elif event.site:
        state = event.kind.partition(".")[2]
        told = {"site": event.site, "state": state, "at": event.at, "seconds": round(event.at - one["began"], 3)}
        one["sites"][event.site] = told | {"slow": False, "code": str(event.fields.get("code", ""))}


def _mark_slow(one: dict[str, Any]) -> None:
    took = [site["seconds"] for site in one["sites"] if site["state"] == "answered"]
    if len(took) < 2:
        return
    middle = median_low(took)
    for site in one["sites"]:
        site["slow"] = site["state"] == "answered" and site["seconds"] > max(_SLOW * middle, middle + _SLOW_S)


def site_metrics(run: dict[str, Any]) -> dict[str, list[dict[str, Any]] | None]:
    """Each site's own metrics over the rounds as curves; None for a site that keeps them ("withheld").

    Args:
        run: as `views.run` tells it.

    Returns:
        Site -> `[{"name", "points": [[round, value]]}]`; empty where the study asks for none.
    """
    found: dict[str, dict[str, list[list[float]]] | None] = {}
    for done in run["rounds"]:
        for site, told in (done["metrics"].get("sites") or {}).items():
            if not isinstance(told, dict):
                found.setdefault(site, None)
                continue
            curves = found.get(site) or {}
            for name, value in sorted(told.items()):
                curves.setdefault(name, []).append([done["round"], float(value)])
            found[site] = curves
    return {
        site: None if curves is None else [{"name": name, "points": points} for name, points in curves.items()]
        for site, curves in sorted(found.items())
    }


def burn(session: Session, study_id: str) -> dict[str, Any]:
    """What a run has spent of its study's epsilon, round by round, and what it may spend.

    Returns:
        `{"kind", "epsilon", "delta", "spent", "points": [[round, epsilon]]}`; `kind` none and no points without noise.

    Raises:
        StudyRefused: `study.unknown`.
    """
    row = session.get(StudyRow, study_id)
    if row is None:
        raise StudyRefused("study.unknown")
    study = parse_study(row.document)
    privacy = study.privacy
    told: dict[str, Any] = {"kind": privacy.dp, "epsilon": privacy.epsilon, "delta": privacy.delta}
    if privacy.dp == "none" or study.training is None:
        return told | {"epsilon": None, "delta": None, "spent": None, "points": []}
    last = last_rounds(session, [row.digest]).get(row.digest, 0)
    shown = sorted({*range(1, last + 1, max(1, -(-last // _POINTS))), *((last,) if last else ())})
    points = [[0, 0.0], *([at, cost] for at in shown if (cost := spent(row.document, at)) is not None)]
    return told | {"spent": points[-1][1], "points": points}


def last_rounds(session: Session, digests: Sequence[str]) -> dict[str, int]:
    """Study digest -> the last finished round of its run."""
    query = select(RunRow.study_digest, func.max(RoundRow.round)).join(RoundRow, RoundRow.run == RunRow.id)
    rows = session.execute(query.where(RunRow.study_digest.in_(digests)).group_by(RunRow.study_digest))
    return dict(rows.tuples().all())


@lru_cache(maxsize=4096)  # by the signed bytes, which never change
def spent(document: bytes, rounds: int) -> float | None:
    """Epsilon of so many rounds; 0 before the first, None where the learner is not installed here."""
    from pipelines.guarantee import cost

    if rounds == 0:
        return 0.0
    study: Study = parse_study(document)
    delta = study.privacy.delta
    try:
        return None if delta is None else round(cost(study, rounds=rounds).epsilon(delta), 4)
    except CorsiaError:
        return None
