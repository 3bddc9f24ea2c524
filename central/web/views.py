"""What the API and the dashboard show, read from the central database: one truth for both.

Every function takes an open session and returns plain values (JSON types); nothing here writes.
"""

from __future__ import annotations

import base64
import time
from collections import Counter, defaultdict
from collections.abc import Sequence
from typing import Any

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from central import erasure, withdrawals
from central.store.models import (
    AssignmentRow,
    CertificateRow,
    CheckpointRow,
    ControlRow,
    CuratedRow,
    LogRow,
    ModelRow,
    ParcelRow,
    PredictionRow,
    PromotionRow,
    RoundRow,
    RunRow,
    SiteRow,
    StudyRow,
)
from central.web.paging import older
from privacy.envelope import PublicKey
from protocol.assignment import AssignmentKind, State
from protocol.errors import StudyRefused
from protocol.study import Lane, parse_study

__all__ = ["ALIVE_S", "lanes", "log_head", "models", "promotions", "run", "sites", "studies", "study"]

_BATCHES = select(
    CuratedRow.study_digest, CuratedRow.site, CuratedRow.part, CuratedRow.last, CuratedRow.rows, CuratedRow.files,
    CuratedRow.persons, CuratedRow.withheld, CuratedRow.report,
)  # fmt: skip
ALIVE_S = 30.0  # a site that was silent for longer counts as away


def sites(session: Session) -> list[dict[str, Any]]:
    """Sites with their last heartbeat, by network and name."""
    now = time.time()
    until = dict(
        session.execute(
            select(CertificateRow.site, func.max(CertificateRow.not_after))
            .where(CertificateRow.revoked.is_(False))
            .group_by(CertificateRow.site)
        )
        .tuples()
        .all()
    )
    rows = session.scalars(select(SiteRow).order_by(SiteRow.network, SiteRow.name)).all()
    return [
        {
            "name": row.name,
            "fingerprint": PublicKey.from_base64(row.identity).fingerprint,
            "network": row.network,
            "alive": not row.revoked and now - row.last_seen < ALIVE_S,
            "last_seen": row.last_seen or None,
            "version": row.version,
            "paused": row.paused,
            "revoked": row.revoked,
            "spool_parcels": row.spool_parcels,
            "spool_bytes": row.spool_bytes,
            "enrolled_at": row.enrolled_at,
            "certificate_until": until.get(row.name),
        }
        for row in rows
    ]


def studies(
    session: Session, limit: int = 100, offset: int = 0, *, after: tuple[float, str] | None = None,
    lane: str = "", state: str = "", search: str = "",
) -> list[dict[str, Any]]:  # fmt: skip
    """Studies, newest first, with what has come of each; of a lane, in a state, with a text in title or id.

    Args:
        after: those after the one of this time and id.
    """
    query = select(StudyRow).order_by(StudyRow.created_at.desc(), StudyRow.id).limit(limit).offset(offset)
    if after is not None:
        query = query.where(older(after))
    query = query.where(StudyRow.lane == lane) if lane else query
    query = query.where(StudyRow.state == state) if state else query
    if search:
        query = query.where(
            StudyRow.title.icontains(search, autoescape=True) | StudyRow.id.contains(search, autoescape=True)
        )
    rows = session.scalars(query).all()
    digests = [row.digest for row in rows]
    states: dict[str, dict[str, str]] = defaultdict(dict)
    for digest, site, word in session.execute(
        select(AssignmentRow.study_digest, AssignmentRow.site, AssignmentRow.state)
        .where(AssignmentRow.study_digest.in_(digests), AssignmentRow.kind == AssignmentKind.STUDY.value)
        .order_by(AssignmentRow.site)
    ):
        states[digest][site] = word
    curated = _curated(session, digests)
    parcels = _parcels(session, digests)
    return [_brief(row, states[row.digest], curated[row.digest], parcels[row.digest]) for row in rows]


def study(session: Session, study_id: str) -> dict[str, Any]:
    """One study: its words, every site's state, parcels, curated totals, rounds, predictions.

    Raises:
        StudyRefused: `study.unknown`.
    """
    row = _study(session, study_id)
    document = parse_study(row.document)
    assignments = _assignments(session, [row.digest])[row.digest]
    curated = _curated(session, [row.digest])[row.digest]
    parcels = session.scalars(
        select(ParcelRow).where(ParcelRow.study_digest == row.digest).order_by(ParcelRow.log_index)
    ).all()
    predictions = session.scalars(
        select(PredictionRow).where(PredictionRow.study_digest == row.digest).order_by(PredictionRow.created_at)
    ).all()
    totals = _parcels(session, [row.digest])[row.digest]
    found = run(session, study_id)
    return _brief(row, {a.site: a.state for a in assignments}, curated, totals) | {
        "purpose": document.purpose,
        "description": document.description,
        "legal_basis": document.legal_basis,
        "controller": document.controller,
        "ethics_reference": document.ethics_reference,
        "expires": document.expires.isoformat(),
        "document": row.document.decode(),
        "assignments": [_assignment(a) for a in assignments],
        "curated": _by_site(curated),
        "reports": [{"site": c.site, "part": c.part, **c.report} for c in curated if c.report],
        "parcels": [
            {
                "id": p.id,
                "site": p.site,
                "state": p.state,
                "code": p.code,
                "content_type": p.content_type,
                "size_bytes": p.size_bytes,
                "log_index": p.log_index,
                "landed_at": p.landed_at,
            }
            for p in parcels
            if p.content_type != "update"
        ],
        "withdrawals": withdrawals.summary(session, row.digest),
        "erasure": erasure.summary(session, row.digest),
        "run": found,
        "rounds": found["rounds"] if found else [],
        "predictions": [
            {"id": p.id, "model": p.model, "version": p.version, "rows": p.rows, "created_at": p.created_at}
            for p in predictions
        ],
    }


def run(session: Session, study_id: str) -> dict[str, Any] | None:
    """A study's federated run with its rounds and metrics, or None when it has none.

    Raises:
        StudyRefused: `study.unknown`.
    """
    row = _study(session, study_id)
    found = session.scalar(select(RunRow).where(RunRow.study_digest == row.digest))
    if found is None:
        return None
    training = parse_study(row.document).training
    control = session.get(ControlRow, row.digest)
    rounds = session.scalars(select(RoundRow).where(RoundRow.run == found.id).order_by(RoundRow.round)).all()
    return {
        "id": found.id,
        "wish": control.wish if control else "run",
        "discard": control.discard if control else False,
        "ended": control.ended if control else "",
        "max_rounds": training.max_rounds if training else 0,
        "study": study_id,
        "state": found.state,
        "code": found.code,
        "round": found.round,
        "phase": found.phase,
        "attempt": found.attempt,
        "of": (control.rounds if control else 0) or (training.rounds if training else 0),
        "rounds": [
            {
                "round": r.round,
                "metrics": r.metrics,
                "sites": r.sites,
                "started_at": r.started_at,
                "finished_at": r.finished_at,
            }
            for r in rounds
        ],
    }


def lanes(session: Session) -> list[dict[str, Any]]:
    """Totals of each lane: studies, records, files, parcels, bytes, withheld."""
    lane_of = dict(session.execute(select(StudyRow.digest, StudyRow.lane)).tuples().all())
    total: dict[str, Counter[str]] = {lane.value: Counter() for lane in Lane}
    total_of = {digest: total.setdefault(lane, Counter()) for digest, lane in lane_of.items()}
    for count in total_of.values():
        count["studies"] += 1
    for digest, parcels in _parcels(session, list(lane_of)).items():
        total_of[digest].update(parcels)
    sums = select(CuratedRow.study_digest, func.sum(CuratedRow.rows), func.sum(CuratedRow.files))
    for digest, records, files in session.execute(sums.group_by(CuratedRow.study_digest)):
        total_of[digest].update({"records": records, "files": files})
    for digest, withheld in session.execute(select(CuratedRow.study_digest, CuratedRow.withheld)):
        total_of[digest]["withheld"] += sum(withheld.values())
    names = ("studies", "records", "files", "parcels", "bytes", "withheld")
    return [{"lane": lane, **{name: count[name] for name in names}} for lane, count in total.items()]


def models(session: Session) -> list[dict[str, Any]]:
    """Published models, newest first."""
    names = dict(session.execute(select(StudyRow.digest, StudyRow.id)).tuples().all())
    rows = session.scalars(select(ModelRow).order_by(ModelRow.created_at.desc(), ModelRow.version.desc())).all()
    moves = {(p.name, p.version): p for p in session.scalars(select(PromotionRow).order_by(PromotionRow.proposed_at))}
    return [
        {
            "name": row.name,
            "version": row.version,
            "alias": row.alias,
            "serial": row.serial,
            "study": names.get(row.study_digest, ""),
            "study_digest": row.study_digest,
            "uri": row.uri,
            "weights_sha256": row.weights,
            "weights_bytes": row.weights_size,
            "created_at": row.created_at,
            "promotion": _standing(row, moves.get((row.name, row.version))),
        }
        for row in rows
    ]


def promotions(session: Session, name: str) -> list[dict[str, Any]]:
    """Proposals for a model, newest first."""
    rows = session.scalars(
        select(PromotionRow).where(PromotionRow.name == name).order_by(PromotionRow.proposed_at.desc())
    ).all()
    return [
        {
            "id": row.id,
            "name": row.name,
            "version": row.version,
            "alias": row.alias,
            "rollback": row.rollback,
            "state": row.state,
            "proposed_by": row.proposed_by,
            "proposed_at": row.proposed_at,
            "approved_by": row.approved_by,
            "serial": row.serial,
            "statement": base64.b64encode(row.statement).decode(),
        }
        for row in rows
    ]


def _standing(row: ModelRow, last: PromotionRow | None) -> str:
    """One word on where a version stands between two persons: its newest proposal, or nothing."""
    if last is None or last.state == "replaced":
        return ""
    if last.state == "open":
        return f"{last.alias} proposed by {last.proposed_by}"
    return f"{last.proposed_by}, {last.approved_by}" if row.serial == last.serial else ""


def log_head(session: Session) -> dict[str, Any]:
    """Size of the log and its newest signed checkpoint."""
    newest = session.scalar(select(CheckpointRow).order_by(CheckpointRow.size.desc()).limit(1))
    return {
        "size": session.scalar(select(func.count()).select_from(LogRow)) or 0,
        "checkpoint": newest.text if newest else None,
        "checkpoint_size": newest.size if newest else 0,
    }


def _study(session: Session, study_id: str) -> StudyRow:
    row = session.get(StudyRow, study_id)
    if row is None:
        raise StudyRefused("study.unknown")
    return row


def _assignments(session: Session, digests: Sequence[str]) -> dict[str, list[AssignmentRow]]:
    found: dict[str, list[AssignmentRow]] = defaultdict(list)
    for row in session.scalars(
        select(AssignmentRow)
        .where(AssignmentRow.study_digest.in_(digests), AssignmentRow.kind == AssignmentKind.STUDY.value)
        .order_by(AssignmentRow.site)
    ):
        found[row.study_digest].append(row)
    return found


def _curated(session: Session, digests: Sequence[str]) -> dict[str, list[Any]]:
    """Batches by study, as rows of the columns that are shown: a whole object each costs ten times as much."""
    found: dict[str, list[Any]] = defaultdict(list)
    for row in session.execute(_BATCHES.where(CuratedRow.study_digest.in_(digests))):
        found[row.study_digest].append(row)
    return found


def _parcels(session: Session, digests: Sequence[str]) -> dict[str, dict[str, int]]:
    found: dict[str, dict[str, int]] = defaultdict(lambda: {"parcels": 0, "bytes": 0, "rejected": 0})
    for digest, state, number, size in session.execute(
        select(ParcelRow.study_digest, ParcelRow.state, func.count(), func.sum(ParcelRow.size_bytes))
        .where(ParcelRow.study_digest.in_(digests))
        .group_by(ParcelRow.study_digest, ParcelRow.state)
    ):
        total = found[digest]
        total["parcels"] += number
        total["bytes"] += size
        total["rejected"] += number if state == "rejected" else 0
    return found


def _brief(row: StudyRow, states: dict[str, str], curated: list[Any], parcels: dict[str, int]) -> dict[str, Any]:
    rows = sum(c.rows for c in curated)
    return {
        "id": row.id,
        "digest": row.digest,
        "lane": row.lane,
        "title": row.title,
        "state": row.state,
        "created_at": row.created_at,
        "sites": states,
        "final": sum(State(word).final for word in states.values()),
        "totals": {
            "records": rows,
            "rows": rows,
            "columns": max((int(c.report.get("curated_columns", 0)) for c in curated), default=0),
            "files": sum(c.files for c in curated),
            "documents": sum(int(c.report.get("curated_documents", 0)) for c in curated),
            "withheld": sum(sum(c.withheld.values()) for c in curated),
            **parcels,
        },
    }


def _assignment(row: AssignmentRow) -> dict[str, Any]:
    return {
        "id": row.id,
        "kind": row.kind,
        "site": row.site,
        "state": row.state,
        "code": row.code,
        "error_id": row.error_id,
        "counts": row.counts,
        "updated_at": row.updated_at,
    }


def _by_site(rows: list[Any]) -> dict[str, Any]:
    """Curated totals per site; `withheld` by reason."""
    found: dict[str, dict[str, Any]] = {}
    for row in sorted(rows, key=lambda r: (r.site, r.part)):
        site = found.setdefault(
            row.site, {"batches": 0, "rows": 0, "files": 0, "persons": 0, "complete": False, "withheld": Counter()}
        )
        site["batches"] += 1
        site["rows"] += row.rows
        site["files"] += row.files
        site["persons"] = max(site["persons"], row.persons)
        site["complete"] = site["complete"] or row.last
        site["withheld"].update(row.withheld)
    return found
