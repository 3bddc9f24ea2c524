"""What moves through the lanes now, and what needs somebody: for the overview and `GET /flow`, `GET /alarms`.

As `views`: an open session in, plain values out.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from central.store.models import (
    AssignmentRow,
    CuratedRow,
    EventRow,
    ParcelRow,
    RunRow,
    StudyRow,
)
from central.web import views
from protocol.assignment import AssignmentKind, State
from protocol.study import Lane

__all__ = ["MINUTES", "alarms", "flow"]

MINUTES = 30  # of flow, a figure each
_DAY_S = 86_400.0
_CERTIFICATE_S = _DAY_S  # of life left: a site renews at two thirds, so this little says that it does not
_SPOOL_BYTES = 1 << 30
_RECENT_EVENTS = 2000
_MOST = 100
_FAILED = ("parcel.rejected", "parcel.refused", "run.waiting")


def flow(session: Session, now: float | None = None) -> list[dict[str, Any]]:
    """Each lane's parcels, sealed bytes and curated records of the last minute, and bytes of each of `MINUTES` minutes.

    The last figure of `minutes` is the minute that ends now.
    """
    at = time.time() if now is None else now
    since = at - MINUTES * 60
    lanes: dict[str, dict[str, Any]] = {
        lane.value: {"lane": lane.value, "parcels": 0, "bytes": 0, "records": 0, "minutes": [0] * MINUTES}
        for lane in Lane
    }
    landed = (
        select(StudyRow.lane, ParcelRow.landed_at, ParcelRow.size_bytes)
        .join(StudyRow, StudyRow.digest == ParcelRow.study_digest)
        .where(ParcelRow.landed_at > since)
    )
    for lane, landed_at, size in session.execute(landed):
        one = lanes[lane]
        one["minutes"][min(MINUTES - 1, max(0, int((landed_at - since) // 60)))] += size
        if landed_at > at - 60:
            one["parcels"] += 1
            one["bytes"] += size
    curated = (
        select(StudyRow.lane, func.sum(CuratedRow.rows + CuratedRow.files))
        .join(StudyRow, StudyRow.digest == CuratedRow.study_digest)
        .where(CuratedRow.created_at > at - 60)
        .group_by(StudyRow.lane)
    )
    for lane, records in session.execute(curated):
        lanes[lane]["records"] = int(records or 0)
    return list(lanes.values())


def alarms(session: Session, now: float | None = None) -> list[dict[str, Any]]:
    """What somebody should look at: `{"level": "bad"|"warn", "kind", "site", "study", "code", "at"}`, the worst first.

    Failures are of the last day; what is wrong now (a silent site, a certificate that ends) stays until it is right.
    """
    at = time.time() if now is None else now
    found = [*_of_sites(session, at), *_of_studies(session, at), *_of_events(session, at)]
    return sorted(found, key=lambda one: (one["level"] != "bad", -one["at"]))[:_MOST]


def _of_sites(session: Session, at: float) -> Iterator[dict[str, Any]]:
    for site in views.sites(session):
        if site["revoked"]:
            continue
        until, name = site["certificate_until"], site["name"]
        if until is not None and until <= at:
            yield _alarm("bad", "certificate-expired", until, site=name)
        elif until is not None and until - at < _CERTIFICATE_S:
            yield _alarm("warn", "certificate-ends", until, site=name)
        if not site["alive"]:
            yield _alarm("bad", "silent", site["last_seen"] or site["enrolled_at"], site=name)
        if site["paused"]:
            yield _alarm("warn", "paused", site["last_seen"] or at, site=name)
        if site["spool_bytes"] > _SPOOL_BYTES:
            yield _alarm("warn", "spool", site["last_seen"] or at, site=name)


def _of_studies(session: Session, at: float) -> Iterator[dict[str, Any]]:
    recent = at - _DAY_S
    rows = session.execute(
        select(AssignmentRow.site, StudyRow.id, AssignmentRow.code, AssignmentRow.updated_at)
        .join(StudyRow, StudyRow.digest == AssignmentRow.study_digest)
        .where(AssignmentRow.state == State.FAILED.value, AssignmentRow.kind == AssignmentKind.STUDY.value)
        .where(AssignmentRow.updated_at > recent)
        .order_by(AssignmentRow.updated_at.desc())
        .limit(_MOST)
    )
    for site, study, code, when in rows:
        yield _alarm("bad", "study-failed", when, site=site, study=study, code=code)
    runs = session.execute(
        select(StudyRow.id, RunRow.code, RunRow.updated_at)
        .join(StudyRow, StudyRow.digest == RunRow.study_digest)
        .where(RunRow.state == "failed", RunRow.updated_at > recent)
        .limit(_MOST)
    )
    for study, code, when in runs:
        yield _alarm("bad", "run-failed", when, study=study, code=code)


def _of_events(session: Session, at: float) -> Iterator[dict[str, Any]]:
    newest = session.scalar(select(func.max(EventRow.seq))) or 0
    rows = session.scalars(
        select(EventRow)
        .where(EventRow.seq > newest - _RECENT_EVENTS, EventRow.kind.in_(_FAILED), EventRow.at > at - _DAY_S)
        .order_by(EventRow.seq.desc())
        .limit(_MOST)
    )
    seen: set[tuple[str, ...]] = set()
    for row in rows:
        code = str(row.fields.get("code", ""))
        key = (row.kind, row.site, row.study, code)
        if key not in seen:  # the newest of its kind
            seen.add(key)
            yield _alarm("warn", row.kind.replace(".", "-"), row.at, site=row.site, study=row.study, code=code)


def _alarm(level: str, kind: str, at: float, *, site: str = "", study: str = "", code: str = "") -> dict[str, Any]:
    return {"level": level, "kind": kind, "site": site, "study": study, "code": code, "at": at}
