"""The end of a study's data: its keys are destroyed, then everything that they opened is removed.

    asked, or expired -> begun: nothing of it is opened or analysed any more -> keys -> parcels -> lake, or the run's
    blobs -> a log leaf and the decision about each model, in one transaction -> done

The process that holds the keys carries it out: the vault for lanes 1 to 3, the federation for training. Each step may
be cut off and is done again; from the second on no copy of the ciphertext can be read, wherever it lies.
"""

from __future__ import annotations

import logging
import math
import secrets
import time
from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from sqlalchemy import bindparam, select
from sqlalchemy.orm import Session

from central.store import Store
from central.store.models import AssignmentRow, ErasureRow, ModelDecisionRow, ParcelRow, StudyRow
from central.store.published import of_study
from protocol import faults
from protocol.assignment import State
from protocol.errors import ConflictError, StudyRefused
from protocol.study import Lane, parse_study

__all__ = ["ERASED", "Eraser", "ask", "summary", "told"]

ERASED = "erased"  # a study's state, for good
_LOOK_S = 1.0
_STEP_S = 120.0  # by how much the clock may leave the steady one before no expiry is believed
# Made once: they are asked at every look.
_LANES = StudyRow.lane.in_(bindparam("lanes", expanding=True))
_DUE = (
    select(StudyRow.id, StudyRow.digest)
    .join(ErasureRow, ErasureRow.study_digest == StudyRow.digest)
    .where(ErasureRow.state != "done", _LANES)
    .order_by(ErasureRow.asked_at)
)
_CLOSED = (
    select(StudyRow.id, StudyRow.digest)
    .outerjoin(ErasureRow, ErasureRow.study_digest == StudyRow.digest)
    .where(ErasureRow.study_digest.is_(None), _LANES, StudyRow.state != "open")
)
log = logging.getLogger(__name__)


def ask(store: Store, study_id: str, *, operator: str, withdraw_models: bool = False) -> dict[str, Any]:
    """Note durably that a study is to be erased; the same again changes nothing. It cannot be taken back.

    Args:
        operator: who asks.
        withdraw_models: models trained with its data shall not predict any more; else they are kept. The first word
            holds.

    Raises:
        StudyRefused: `study.unknown`.
        ConflictError: `conflict.state` for a training run that has not ended: stop it first.
    """
    with store.begin() as session:
        study = session.get(StudyRow, study_id)
        if study is None:
            raise StudyRefused("study.unknown")
        if study.lane == Lane.TRAIN.value and study.state == "open":
            raise ConflictError("conflict.state", f"the run goes on: corsia study stop {study_id} --discard")
        if session.get(ErasureRow, study.digest) is None:
            _note(store, session, study, "asked", operator=operator, withdraw_models=withdraw_models)
    return told(store, study_id)


def told(store: Store, study_id: str) -> dict[str, Any]:
    """Where a study's erasure stands.

    Raises:
        StudyRefused: `study.unknown`, also when nobody asked for it.
    """
    with store.read() as session:
        study = session.get(StudyRow, study_id)
        found = summary(session, study.digest) if study is not None else None
    if found is None:
        raise StudyRefused("study.unknown", "no erasure of such a study")
    return {"study": study_id} | found


def summary(session: Session, digest: str) -> dict[str, Any] | None:
    """The erasure of a study as API and command line show it; None while nobody asked for one."""
    row = session.get(ErasureRow, digest)
    names = ("state", "reason", "operator", "models", "log_index", "asked_at", "finished_at")
    return None if row is None else {name: getattr(row, name) for name in names}


@dataclass(slots=True, kw_only=True)
class Eraser:
    """One process's part.

    Attributes:
        landing: the gateway's landing folder.
        lanes: of which studies this process holds the keys.
        destroy_keys: by study id; repeatable.
        remove: what this process keeps of a study, by id and digest; repeatable.
        clock: the time in Unix seconds, and the steady clock that must agree with it since `began`.
        looked: steady seconds when it last looked for studies whose time is over.
        ends: when studies' time is over, by their digest; their documents are read once.
    """

    store: Store
    landing: Path
    lanes: Collection[Lane]
    destroy_keys: Callable[[str], None]
    remove: Callable[[str, str], None]
    clock: Callable[[], tuple[float, float]] = lambda: (time.time(), time.monotonic())
    began: tuple[float, float] = (0.0, 0.0)
    looked: float = -math.inf
    ends: dict[str, datetime] = field(default_factory=dict)

    @classmethod
    def now(cls, store: Store, landing: Path, lanes: Collection[Lane], destroy: Callable[[str], None],
            remove: Callable[[str, str], None]) -> Eraser:  # fmt: skip
        """One that believes the clock as it goes on from this moment."""
        return cls(store=store, landing=landing, lanes=lanes, destroy_keys=destroy, remove=remove,
                   began=(time.time(), time.monotonic()))  # fmt: skip

    def step(self) -> int:
        """Erase what is due; returns how many studies were finished."""
        self._expired()
        due = self.store.rows(_DUE, lanes=[lane.value for lane in self.lanes])
        for study_id, digest in due:
            self._erase(study_id, digest)
        return len(due)

    def _expired(self) -> None:
        """Note studies whose time is over. A training run ends first, by itself."""
        at, steady = self.clock()
        if steady - self.looked < _LOOK_S:
            return
        self.looked = steady
        closed = self.store.rows(_CLOSED, lanes=[lane.value for lane in self.lanes])
        if abs((at - self.began[0]) - (steady - self.began[1])) > _STEP_S:
            return  # somebody set the clock: what cannot be undone waits for the next start of this process
        today = datetime.fromtimestamp(at, UTC)
        over = [study_id for study_id, digest in closed if self._end(study_id, digest) <= today]
        for study_id in over:
            with self.store.begin() as session:
                row = session.get_one(StudyRow, study_id)
                if session.get(ErasureRow, row.digest) is None:
                    _note(self.store, session, row, "expired")

    def _end(self, study_id: str, digest: str) -> datetime:
        """When a study's time is over, by its document."""
        if digest not in self.ends:
            with self.store.read() as session:
                self.ends[digest] = parse_study(session.get_one(StudyRow, study_id).document).expires
        return self.ends[digest]

    def _erase(self, study_id: str, digest: str) -> None:
        parcels = self._begin(study_id, digest)
        faults.point("erasure.begun")
        self.destroy_keys(study_id)
        faults.point("erasure.keys")
        for parcel in parcels:
            (self.landing / f"{parcel}.parcel").unlink(missing_ok=True)
        faults.point("erasure.parcels")
        self.remove(study_id, digest)
        faults.point("erasure.files")
        self._finish(study_id, digest)
        log.info("study.erased", extra={"fields": {"study": study_id}})

    def _begin(self, study_id: str, digest: str) -> list[str]:
        """Close the study for good; returns its parcels."""
        with self.store.begin() as session:
            session.get_one(StudyRow, study_id).state = ERASED
            session.get_one(ErasureRow, digest).state = "begun"
            open_ones = select(AssignmentRow).where(
                AssignmentRow.study_digest == digest,
                AssignmentRow.state.not_in([state.value for state in State if state.final]),
            )
            for row in session.scalars(open_ones):
                row.state, row.code, row.updated_at = State.EXPIRED.value, "study.erased", time.time()
            landed = select(ParcelRow).where(ParcelRow.study_digest == digest)
            found = session.scalars(landed).all()
            for parcel in found:
                if parcel.state == "landed":
                    parcel.state, parcel.code = "rejected", "study.erased"
            return [parcel.id for parcel in found]

    def _finish(self, study_id: str, digest: str) -> None:
        with self.store.begin() as session:
            row, now = session.get_one(ErasureRow, digest), time.time()
            if row.state == "done":
                return
            decision = "withdrawn" if row.withdraw_models else "kept"
            row.models = [model | {"decision": decision} for model in of_study(session, digest)]
            for model in row.models if row.withdraw_models else ():
                session.merge(
                    ModelDecisionRow(
                        name=model["name"], version=model["version"], decision=decision, study_digest=digest,
                        decided_at=now,
                    )
                )  # fmt: skip
            leaf = {"kind": "erasure", "id": secrets.token_hex(16), "sha256": digest}
            row.log_index = self.store.append_leaf(session, leaf)
            row.state, row.finished_at = "done", now
            self.store.emit(session, "study.erased", study=study_id, reason=row.reason, models=len(row.models))


def _note(
    store: Store, session: Session, study: StudyRow, reason: str, *, operator: str = "", withdraw_models: bool = False
) -> None:
    session.add(
        ErasureRow(
            study_digest=study.digest,
            reason=reason,
            operator=operator,
            withdraw_models=withdraw_models,
            asked_at=time.time(),
        )
    )
    fields = {"reason": reason} | ({"operator": operator} if operator else {})
    store.emit(session, "study.erasing", study=study.id, **fields)
