"""What left each hospital and what it cost, as the centre knows it: for a study, across studies, and for a DPO's file.

As `views`: an open session in, plain values out. A site's own journal and ledger are the truth about that site
(`corsia edge journal --report`); this is the centre's side of the same releases.
"""

from __future__ import annotations

import csv
import io
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from central.store.models import AssignmentRow, CuratedRow, ParcelRow, StudyRow
from central.web.paging import older
from central.web.timeline import last_rounds, spent
from protocol.assignment import AssignmentKind
from protocol.parcel import ContentType
from protocol.sheet import cell
from protocol.study import parse_study

__all__ = ["COLUMNS", "account", "account_csv", "budgets", "left", "of_sites"]

COLUMNS = (
    "study", "title", "study_digest", "lane", "purpose", "legal_basis", "controller", "ethics_reference", "dataset",
    "expires", "study_state", "site", "site_state", "code", "parcels", "updates", "bytes", "rows", "files", "persons",
    "withheld", "first_utc", "last_utc", "log_first", "log_last", "dp", "epsilon", "delta",
)  # fmt: skip
_BATCH = 50
_BATCHES = select(
    CuratedRow.study_digest, CuratedRow.site, CuratedRow.rows, CuratedRow.files, CuratedRow.persons, CuratedRow.withheld
)


def left(session: Session, digests: Sequence[str]) -> dict[str, dict[str, dict[str, Any]]]:
    """Study digest -> site -> what landed of it and what became of that.

    `parcels` are those of records; `updates` those of a training run; both count in `bytes`.
    """
    found: dict[str, dict[str, dict[str, Any]]] = defaultdict(dict)
    landed = session.execute(
        select(
            ParcelRow.study_digest, ParcelRow.site, ParcelRow.content_type, func.count(),
            func.sum(ParcelRow.size_bytes), func.min(ParcelRow.landed_at), func.max(ParcelRow.landed_at),
            func.min(ParcelRow.log_index), func.max(ParcelRow.log_index),
        )
        .where(ParcelRow.study_digest.in_(digests))
        .group_by(ParcelRow.study_digest, ParcelRow.site, ParcelRow.content_type)
    )  # fmt: skip
    for digest, site, kind, count, size, first, last, low, high in landed:
        one = found[digest].setdefault(site, _nothing())
        one["updates" if kind == ContentType.UPDATE.value else "parcels"] += count
        one["bytes"] += size
        one["first"], one["last"] = _least(one["first"], first), max(one["last"] or 0.0, last)
        one["log_first"] = _least(one["log_first"], low)
        one["log_last"] = high if one["log_last"] is None else max(one["log_last"], high)
    for row in session.execute(_BATCHES.where(CuratedRow.study_digest.in_(digests))):
        one = found[row.study_digest].setdefault(row.site, _nothing())
        one["rows"] += row.rows
        one["files"] += row.files
        one["persons"] = max(one["persons"], row.persons)
        one["withheld"].update(row.withheld)
    return found


def _nothing() -> dict[str, Any]:
    counts: dict[str, Any] = dict.fromkeys(("parcels", "updates", "bytes", "rows", "files", "persons"), 0)
    return counts | {"withheld": Counter(), "first": None, "last": None, "log_first": None, "log_last": None}


def _least(known: Any, new: Any) -> Any:
    return new if known is None else min(known, new)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Terms:
    """What a study says of privacy and grounds; `trained`: its epsilon is spent round by round."""

    purpose: str
    legal_basis: str
    controller: str
    ethics_reference: str
    dataset: str
    expires: str
    sites: int
    k: int
    min_cohort: int
    dp: str
    masked: bool
    epsilon: float | None
    delta: float | None
    trained: bool


@lru_cache(maxsize=4096)  # by the signed bytes, which never change
def _terms(document: bytes) -> _Terms:
    study = parse_study(document)
    privacy, noised = study.privacy, study.privacy.dp != "none"
    return _Terms(
        purpose=study.purpose,
        legal_basis=study.legal_basis,
        controller=study.controller,
        ethics_reference=study.ethics_reference,
        dataset=study.dataset.name,
        expires=study.expires.isoformat(),
        sites=len(study.sites),
        k=privacy.k,
        min_cohort=privacy.min_cohort,
        dp=privacy.dp,
        masked=privacy.secure_aggregation,
        epsilon=privacy.epsilon if noised else None,
        delta=privacy.delta if noised else None,
        trained=study.training is not None,
    )


def budgets(
    session: Session, limit: int = 50, offset: int = 0, *, after: tuple[float, str] | None = None
) -> list[dict[str, Any]]:
    """What each study promised and has spent of privacy, newest first; without noise `epsilon` is None (no bound)."""
    query = select(StudyRow).order_by(StudyRow.created_at.desc(), StudyRow.id).limit(limit).offset(offset)
    rows = session.scalars(query if after is None else query.where(older(after))).all()
    costs = _spent(session, rows)
    named = ("dataset", "sites", "k", "min_cohort", "dp", "masked", "epsilon", "delta")
    return [
        {"study": row.id, "title": row.title, "lane": row.lane, "state": row.state, "created_at": row.created_at}
        | {"spent": costs[row.digest]}
        | {name: getattr(_terms(row.document), name) for name in named}
        for row in rows
    ]


def _spent(session: Session, rows: Sequence[StudyRow]) -> dict[str, float | None]:
    """What runs have spent; of statistics the whole promise once something has landed; None without noise."""
    digests = [row.digest for row in rows]
    rounds = last_rounds(session, digests)
    landed = set(session.scalars(select(ParcelRow.study_digest).where(ParcelRow.study_digest.in_(digests)).distinct()))
    made: dict[str, float | None] = {}
    for row in rows:
        terms = _terms(row.document)
        if terms.dp == "none":
            made[row.digest] = None
        elif terms.trained:
            made[row.digest] = spent(row.document, rounds.get(row.digest, 0))
        else:
            made[row.digest] = terms.epsilon if row.digest in landed else 0.0
    return made


def of_sites(session: Session) -> list[dict[str, Any]]:
    """Each site over all studies: how many took its data, how many without a bound by noise, parcels, bytes, epsilon.

    `epsilon` is the plain sum over studies, at most: the site's own ledger composes it more exactly.
    """
    made: dict[str, Counter[str]] = defaultdict(Counter)
    epsilon: dict[str, float] = defaultdict(float)
    rows = session.scalars(select(StudyRow)).all()
    costs = _spent(session, rows)
    landed = session.execute(
        select(ParcelRow.study_digest, ParcelRow.site, func.count(), func.sum(ParcelRow.size_bytes)).group_by(
            ParcelRow.study_digest, ParcelRow.site
        )
    )
    for digest, site, parcels, size in landed:
        if digest in costs:
            cost = costs[digest]
            made[site].update(studies=1, unbounded=int(cost is None), parcels=parcels, bytes=size)
            epsilon[site] += cost or 0.0
    names = ("studies", "unbounded", "parcels", "bytes")
    return [
        {"site": site, **{n: count[n] for n in names}, "epsilon": round(epsilon[site], 4)}
        for site, count in sorted(made.items())
    ]


def account(session: Session) -> Iterator[dict[str, Any]]:
    """One line a study and site, oldest study first; the keys are `COLUMNS`, times are Unix seconds or None."""
    ids = session.scalars(select(StudyRow.id).order_by(StudyRow.created_at, StudyRow.id)).all()
    for start in range(0, len(ids), _BATCH):
        rows = session.scalars(
            select(StudyRow).where(StudyRow.id.in_(ids[start : start + _BATCH])).order_by(StudyRow.created_at)
        ).all()
        digests = [row.digest for row in rows]
        landed = left(session, digests)
        states: dict[str, list[tuple[str, str, str]]] = defaultdict(list)
        for digest, site, state, code in session.execute(
            select(AssignmentRow.study_digest, AssignmentRow.site, AssignmentRow.state, AssignmentRow.code)
            .where(AssignmentRow.study_digest.in_(digests), AssignmentRow.kind == AssignmentKind.STUDY.value)
            .order_by(AssignmentRow.site)
        ):
            states[digest].append((site, state, code))
        costs = _spent(session, rows)
        for row in rows:
            about = _about(row, costs[row.digest])
            for site, state, code in states[row.digest]:
                yield (
                    about
                    | {"site": site, "site_state": state, "code": code}
                    | _line(landed.get(row.digest, {}).get(site) or _nothing())
                )


def _about(row: StudyRow, cost: float | None) -> dict[str, Any]:
    terms = _terms(row.document)
    named = ("purpose", "legal_basis", "controller", "ethics_reference", "dataset", "expires", "dp", "delta")
    return {
        "study": row.id,
        "title": row.title,
        "study_digest": row.digest,
        "lane": row.lane,
        "study_state": row.state,
        "epsilon": cost,
    } | {name: getattr(terms, name) for name in named}


def _line(one: dict[str, Any]) -> dict[str, Any]:
    counts = {name: one[name] for name in ("parcels", "updates", "bytes", "rows", "files", "persons")}
    return counts | {
        "withheld": sum(one["withheld"].values()),
        "first_utc": one["first"],
        "last_utc": one["last"],
        "log_first": one["log_first"],
        "log_last": one["log_last"],
    }


def account_csv(session: Session) -> str:
    """The account as CSV; a cell that a spreadsheet would take for a formula begins with `'`."""
    target = io.StringIO()
    writer = csv.writer(target)
    writer.writerow(COLUMNS)
    for line in account(session):
        writer.writerow([cell(line[name]) for name in COLUMNS])
    return target.getvalue()
