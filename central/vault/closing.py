"""The end of a study at the vault: `done` or `failed` when nothing more will come, and later the end of its data."""

from __future__ import annotations

import logging
import shutil
import time
from datetime import UTC, datetime
from functools import lru_cache
from pathlib import Path

from sqlalchemy import select
from sqlalchemy.orm import Session

from central.erasure import Eraser
from central.store import Store
from central.store.models import AssignmentRow, CuratedRow, ParcelRow, StudyRow
from central.vault.keys import StudyKeys
from central.vault.lake import Lake
from protocol.assignment import AssignmentKind, State
from protocol.parcel import ContentType
from protocol.study import Lane, parse_study

__all__ = ["Closing"]

LANES = (Lane.HARVEST, Lane.ANONYMIZE, Lane.EXTRACT, Lane.INFER)  # a training run is the federation's to finish
_OPEN = (  # made once: it is asked at every look
    select(StudyRow).where(StudyRow.state == "open", StudyRow.lane.in_([lane.value for lane in LANES]))
)
_parsed = lru_cache(maxsize=256)(parse_study)
log = logging.getLogger("central.vault.opening")


class Closing:
    """Closes studies, and erases those that were to be erased or whose time is over.

    Args:
        landing: the gateway's landing folder.
        keys: to which parcels are sealed.
        exports: folder of the sealed exports, one folder a study.
    """

    def __init__(self, store: Store, landing: Path, keys: StudyKeys, lake: Lake, exports: Path) -> None:
        self._store = store

        def destroy(study_id: str) -> None:
            keys.destroy(study_id)
            lake.destroy_key(study_id)

        def remove(study_id: str, digest: str) -> None:
            lake.drop(study_id)
            if (exports / digest).exists():
                shutil.rmtree(exports / digest)

        self._eraser = Eraser.now(store, landing, LANES, destroy, remove)

    def step(self) -> None:
        """Look once."""
        self._settle()
        self._eraser.step()

    def _settle(self) -> None:
        """Close studies of which nothing more will come: `done`, or `failed` when a site's results are not whole."""
        with self._store.read() as session:
            rows = session.scalars(_OPEN).all()
        if not rows:
            return
        over = {row.id for row in rows if _parsed(row.document).expires <= datetime.now(UTC)}
        for row in rows:
            if row.id in over:
                self._expire(row)
        with self._store.read() as session:
            verdicts = {row.id: _verdict(session, row) for row in rows}
        for study_id, verdict in verdicts.items():
            state = verdict or ("failed" if study_id in over else None)
            if state is None:
                continue
            with self._store.begin() as session:
                row = session.get_one(StudyRow, study_id)
                if row.state != "open":
                    continue
                row.state = state
                self._store.emit(session, f"study.{state}", study=study_id)
            log.info(f"study.{state}", extra={"fields": {"study": study_id}})

    def _expire(self, study: StudyRow) -> None:
        """End the assignments of sites that have not answered before the study's end, so that it can close."""
        with self._store.begin() as session:
            waiting = select(AssignmentRow).where(
                AssignmentRow.study_digest == study.digest,
                AssignmentRow.kind == AssignmentKind.STUDY.value,
                AssignmentRow.state.not_in([state.value for state in State if state.final]),
            )
            for row in session.scalars(waiting):
                row.state, row.code, row.updated_at = State.EXPIRED.value, "study.expired", time.time()
                fields = {"assignment": row.id, "state": row.state, "code": row.code, "assignment_kind": row.kind}
                self._store.emit(session, "assignment.state", site=row.site, study=study.id, **fields)


def _verdict(session: Session, study: StudyRow) -> str | None:
    """`done`, `failed`, or None while something may still come."""
    assignments = session.scalars(
        select(AssignmentRow).where(
            AssignmentRow.study_digest == study.digest, AssignmentRow.kind == AssignmentKind.STUDY.value
        )
    ).all()
    if not assignments or not all(State(row.state).final for row in assignments):
        return None
    done = {row.site for row in assignments if row.state == State.DONE.value}
    if study.lane == Lane.INFER.value:
        return "done" if done else "failed"  # results stay at the sites
    states = session.execute(
        select(ParcelRow.site, ParcelRow.state).where(
            ParcelRow.study_digest == study.digest, ParcelRow.content_type != ContentType.WITHDRAWAL.value
        )
    ).all()
    if any(state == "landed" for _, state in states):
        return None
    curated = session.execute(
        select(CuratedRow.site, CuratedRow.part, CuratedRow.last).where(CuratedRow.study_digest == study.digest)
    ).all()
    sites = done | {site for site, _, _ in curated}
    whole = {site for site in sites if _whole([(part, last) for s, part, last in curated if s == site])}
    if not done | whole:
        return "failed"
    missing = done - whole  # a site that fell silent after its last part has delivered all the same
    if not missing:
        return "done"
    rejected = {site for site, state in states if state == "rejected"}
    return "failed" if missing <= rejected else None


def _whole(parts: list[tuple[int, bool]]) -> bool:
    """Whether the last part is here and every part before it."""
    numbers = {part for part, _ in parts}
    last = [part for part, is_last in parts if is_last]
    return bool(last) and numbers >= set(range(max(last) + 1))
