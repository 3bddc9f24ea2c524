"""The life of a training study at the centre: wait for the sites, run the rounds, publish, close.

Everything durable is in the database, so a process that is killed anywhere goes on from there: the sites' reports,
the run's (round, phase, attempt), each round's checkpoint, the published model. The run key lies under
`federation/keys/`, readable by this process alone.
"""

from __future__ import annotations

import logging
import threading
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from sqlalchemy import select

from central.erasure import Eraser
from central.federation.checkpoint import Checkpoint, StoreCheckpoints
from central.federation.control import Orders, Stopped, StoreControl, end_of, orders_of
from central.federation.keys import RunKeys
from central.federation.leftovers import forget, forget_rounds
from central.federation.publish import Publisher
from central.federation.told import Told
from central.store import Store
from central.store.changes import Changes
from central.store.models import AssignmentRow, ParcelRow, RoundRow, RunRow, StudyRow
from privacy.envelope import PublicKey, SecretKey
from protocol import faults
from protocol.assignment import AssignmentKind, State
from protocol.errors import (
    ConflictError,
    CorsiaError,
    IntegrityError,
    StorageError,
    StudyRefused,
    UnavailableError,
)
from protocol.parcel import ContentType
from protocol.study import Lane, Study, parse_study, study_digest
from protocol.trust import Purpose

__all__ = ["Federation"]

log = logging.getLogger(__name__)
_LOOK_S = 0.25  # for the end of the process; a commit wakes us
_RETRY_S = 2.0
_GRACE = timedelta(days=1)  # beyond the study's expiry, for a run that has its model and waits for MLflow or the disk
_LATE = (  # made once: it is asked at every look
    select(ParcelRow.study_digest)
    .join(StudyRow, StudyRow.digest == ParcelRow.study_digest)
    .where(ParcelRow.state == "landed", ParcelRow.content_type == ContentType.UPDATE.value, StudyRow.state != "open")
    .distinct()
)
_OPEN = select(StudyRow.id).where(StudyRow.lane == Lane.TRAIN.value, StudyRow.state == "open")
_MAX_FAILURES = 5  # of a kind that has no name, one after the other


@dataclass(frozen=True, slots=True, kw_only=True)
class _Work:
    """A verified study and its run."""

    study: Study
    digest: str
    run: str
    key: SecretKey


class Federation:
    """Looks for open training studies and takes each to its end, one thread a study.

    Args:
        store: the central database.
        landing: the gateway's landing folder.
        keys: run keys.
        publisher: the way into the registry.
        study_key: gives the study-signing public key.
        stop: ends all waits.
    """

    def __init__(
        self, store: Store, landing: Path, keys: RunKeys, publisher: Publisher, study_key: Callable[[], PublicKey],
        stop: threading.Event,
    ) -> None:  # fmt: skip
        self._store, self._landing, self._keys, self._publisher = store, landing, keys, publisher
        self._study_key, self._stop = study_key, stop
        self._threads: dict[str, threading.Thread] = {}
        self._told = Told(store, landing, keys, study_key)
        self._eraser = Eraser.now(store, landing, (Lane.TRAIN,), keys.destroy, self._erase)

    def run(self) -> None:
        """Until `stop`; then waits for the threads."""
        cleaned, looked_at, changes = False, 0.0, Changes(self._store.engine, self._stop)
        while not self._stop.is_set():
            try:
                if not cleaned:
                    self._clean_all()
                    cleaned = True
                if changes.wait(_RETRY_S) or time.monotonic() - looked_at > _RETRY_S:
                    self.clean_late()
                    self._start_threads()
                    self._eraser.step()
                    self._told.step()
                    looked_at = time.monotonic()
                    self._stop.wait(_LOOK_S)  # a round under way commits all the time: that is no new study
            except Exception as error:  # a locked or full database is waited out
                log.error("federation.error", exc_info=error)
                self._stop.wait(_RETRY_S)
        for thread in self._threads.values():
            thread.join()

    def _start_threads(self) -> None:
        for study_id in self._open_studies():
            thread = self._threads.get(study_id)
            if thread is None or not thread.is_alive():
                thread = threading.Thread(target=self.attend, args=(study_id,), name=f"run-{study_id}")
                self._threads[study_id] = thread
                thread.start()

    def attend(self, study_id: str) -> None:
        """Take one study to its end; what is transient is tried again, what is not ends the study with its code.

        So does what is transient for longer than the study is valid, and a day more where only the model is to publish.
        """
        failures = 0
        while not self._stop.is_set():
            try:
                self._advance(study_id)
                return
            except (UnavailableError, StorageError) as error:
                if self._stop.is_set():
                    return
                if error.code == "unavailable.quorum" or self._overdue(study_id):
                    return self._fail(study_id, error.code)
                self._waits(study_id, error.code)
            except CorsiaError as error:
                return self._fail(study_id, error.code)
            except Exception as error:  # a locked database, a bug: never the end of the process
                log.error("run.error", extra={"fields": {"study": study_id}}, exc_info=error)
                failures += 1
                if failures >= _MAX_FAILURES:
                    return self._fail(study_id, "worker.failed")
            self._stop.wait(_RETRY_S)

    def status(self, study_id: str) -> dict[str, Any]:
        """Where a study's run stands.

        Raises:
            StudyRefused: `study.unknown`.
        """
        with self._store.read() as session:
            study = session.get(StudyRow, study_id)
            if study is None or study.lane != Lane.TRAIN.value:
                raise StudyRefused("study.unknown")
            run = session.scalar(select(RunRow).where(RunRow.study_digest == study.digest))
            if run is None:
                return {"study": study_id, "state": study.state, "rounds": []}
            rows = session.scalars(select(RoundRow).where(RoundRow.run == run.id).order_by(RoundRow.round)).all()
            rounds = [{"round": r.round, "metrics": r.metrics, "sites": r.sites} for r in rows]
            return {
                "study": study_id, "state": study.state, "run": run.id, "code": run.code, "round": run.round,
                "phase": run.phase, "attempt": run.attempt, "rounds": rounds,
            }  # fmt: skip

    # -- one study -------------------------------------------------------------------------------------------------

    def _open_studies(self) -> list[str]:
        return [study_id for (study_id,) in self._store.rows(_OPEN)]

    def _advance(self, study_id: str) -> None:
        from central.federation.grid import FleetGrid
        from central.federation.rounds import Rounds

        work = self._work(study_id)
        if self._closed(study_id):
            return self._clean(work.digest)
        if work.study.training is None:
            raise StudyRefused("study.signature", "a study of another lane")
        checkpoints = StoreCheckpoints(self._store, work.run, study_id)
        control = StoreControl(self._store, work.study, work.study.training, work.digest, work.run, self._stop)
        reached = checkpoints.latest()
        try:
            sites = self._joined(work, control) if reached is None else sorted(reached.examples)
            if self._stop.is_set():
                return
            grid = FleetGrid(
                self._store, self._landing, work.study, work.digest, work.run, work.key, sites, self._stop,
                control.stopped,
            )  # fmt: skip
            final = Rounds(work.study, grid, checkpoints, control).run()
        except (Stopped, ConflictError) as error:
            if isinstance(error, ConflictError) and error.code != "conflict.stopped":
                raise
            return self._close_stopped(work)
        faults.point("federation.ended")
        orders = self._begin_publishing(work, final)
        if orders is None:
            return self._advance(study_id)
        try:
            if orders.discard:
                raise Stopped
            self._publisher.publish(work.study, work.digest, work.run, final)
        except Stopped:
            self._publisher.withdraw(work.study, work.run)
            return self._close_stopped(work)
        self._clean(work.digest)

    def _work(self, study_id: str) -> _Work:
        """The study as its signature vouches for it, our key, and its run (made once)."""
        with self._store.read() as session:
            row = session.get_one(StudyRow, study_id)
        try:
            self._study_key().verify(Purpose.STUDY, row.document, row.signature)
        except IntegrityError:
            raise StudyRefused("study.signature") from None
        study, digest, key = parse_study(row.document), study_digest(row.document), self._keys.secret(study_id)
        if study.recipient("federation") != key.public.to_base64() or (study.id, digest) != (study_id, row.digest):
            raise StudyRefused("study.signature", "the study names another run key")
        with self._store.begin() as session:
            run = session.scalar(select(RunRow).where(RunRow.study_digest == digest))
            if run is None:
                run = RunRow(id=uuid.uuid4().hex, study_digest=digest, updated_at=time.time(), phase="joining")
                session.add(run)
                self._store.emit(session, "run.started", study=study_id, run=run.id)
            return _Work(study=study, digest=digest, run=run.id, key=key)

    def _joined(self, work: _Work, control: StoreControl) -> list[str]:
        """Sites that have approved and loaded; waits until all have answered, or the quorum and the deadline.

        Raises:
            UnavailableError: `unavailable.quorum` when too many refused.
            StudyRefused: `study.expired` while waiting.
            Stopped: the operator has stopped the run.
        """
        from central.federation.collect import quorum_of

        quorum, deadline_s = quorum_of(work.study), work.study.training.deadline_s if work.study.training else 0.0
        reached_at: float | None = None
        changes, looked_at = Changes(self._store.engine), 0.0
        while not self._stop.is_set():
            work.study.check_valid_at(datetime.now(UTC))
            if not changes.wait(_LOOK_S) and time.monotonic() - looked_at < 1.0:
                continue
            looked_at = time.monotonic()
            if control.stopped():
                raise Stopped
            with self._store.read() as session:
                rows = session.execute(
                    select(AssignmentRow.site, AssignmentRow.state).where(
                        AssignmentRow.study_digest == work.digest, AssignmentRow.kind == AssignmentKind.STUDY.value
                    )
                ).all()
            ready = sorted(site for site, state in rows if state == State.DONE.value)
            waiting = [site for site, state in rows if not State(state).final]
            if len(ready) + len(waiting) < quorum:
                raise UnavailableError("unavailable.quorum", "too many sites refused or failed")
            if len(ready) >= quorum:
                reached_at = reached_at or time.monotonic()
                if not waiting or time.monotonic() - reached_at > deadline_s:
                    return ready
        return []

    def _begin_publishing(self, work: _Work, final: Checkpoint) -> Orders | None:
        """Note that the rounds are over, after which only a discard is taken; None when a command says otherwise."""
        training = work.study.training
        with self._store.begin() as session:
            run = session.get_one(RunRow, work.run)
            if training is None:
                raise AssertionError("only a study of lane train is published")
            orders = orders_of(session, work.digest, training)
            more = final.ended == "rounds" and orders.rounds > final.rounds_run
            if run.phase != "publish" and (more or (orders.wish != "run" and final.ended != "stopped")):
                return None
            if not orders.discard:
                run.round, run.phase, run.attempt, run.updated_at = final.round, "publish", 0, time.time()
            end_of(session, work.digest, final.ended)
            return orders

    def _close_stopped(self, work: _Work) -> None:
        """A run that was stopped and leaves no model."""
        with self._store.begin() as session:
            run, study = session.get_one(RunRow, work.run), session.get_one(StudyRow, work.study.id)
            run.state, run.code, run.phase, run.updated_at = "stopped", "", "done", time.time()
            study.state = "closed"
            end_of(session, work.digest, "stopped")
            self._store.emit(session, "run.stopped", study=work.study.id, round=run.round)
            self._store.emit(session, "study.closed", study=work.study.id)
        log.info("run.stopped", extra={"fields": {"study": work.study.id}})
        self._clean(work.digest)

    def _overdue(self, study_id: str) -> bool:
        """Whether a run has waited for what is transient as long as it may."""
        with self._store.read() as session:
            study = session.get_one(StudyRow, study_id)
            phase = session.scalar(select(RunRow.phase).where(RunRow.study_digest == study.digest))
        bound = parse_study(study.document).expires + (_GRACE if phase == "publish" else timedelta())
        return datetime.now(UTC) >= bound

    def _waits(self, study_id: str, code: str) -> None:
        """Say for what a run waits; told once, not at each try."""
        with self._store.begin() as session:
            digest = session.get_one(StudyRow, study_id).digest
            run = session.scalar(select(RunRow).where(RunRow.study_digest == digest))
            if run is not None and run.code != code:
                run.code, run.updated_at = code, time.time()
                self._store.emit(session, "run.waiting", study=study_id, code=code)
        log.warning("run.waiting", extra={"fields": {"study": study_id, "code": code}})

    def _fail(self, study_id: str, code: str) -> None:
        with self._store.begin() as session:
            study = session.get_one(StudyRow, study_id)
            run = session.scalar(select(RunRow).where(RunRow.study_digest == study.digest))
            study.state = "failed"
            if run is not None:
                run.state, run.code, run.updated_at = "failed", code, time.time()
            self._store.emit(session, "run.failed", study=study_id, code=code)
            self._store.emit(session, "study.failed", study=study_id, code=code)
            self._expire(session, study.digest)
            digest = study.digest
        log.error("run.failed", extra={"fields": {"study": study_id, "code": code}})
        self._clean(digest)

    def _expire(self, session: Any, digest: str) -> None:
        """Close what nobody waits for, late sites' study too, and say of landed answers that they came too late."""
        for row in session.scalars(select(AssignmentRow).where(AssignmentRow.study_digest == digest)):
            if not State(row.state).final:
                row.state, row.updated_at = State.EXPIRED.value, time.time()
        study = session.scalar(select(StudyRow.id).where(StudyRow.digest == digest))
        for parcel in session.scalars(
            select(ParcelRow).where(
                ParcelRow.study_digest == digest,
                ParcelRow.content_type == ContentType.UPDATE.value,
                ParcelRow.state == "landed",
            )
        ):
            parcel.state, parcel.code = "rejected", "study.late"
            told = {"parcel": parcel.id, "code": parcel.code}
            self._store.emit(session, "parcel.rejected", site=parcel.site, study=study or "", **told)

    def _closed(self, study_id: str) -> bool:
        with self._store.read() as session:
            return session.get_one(StudyRow, study_id).state != "open"

    def _erase(self, _study_id: str, digest: str) -> None:
        """What is left of a run whose study is erased: its messages and each round's model, but none published."""
        forget(self._store, self._landing, digest)
        forget_rounds(self._store, digest)

    def _clean_all(self) -> None:
        """What a process that was killed between closing a study and cleaning left behind."""
        with self._store.read() as session:
            closed = session.scalars(
                select(StudyRow.digest).where(StudyRow.lane == Lane.TRAIN.value, StudyRow.state != "open")
            ).all()
        for digest in closed:
            self._clean(digest)

    def clean_late(self) -> None:
        """Remove updates that landed after their study was closed, of sites that were answering just then."""
        for (digest,) in self._store.rows(_LATE):
            self._clean(digest)

    def _clean(self, digest: str) -> None:
        """A finished run needs its messages and updates no more."""
        with self._store.begin() as session:
            self._expire(session, digest)
            updates = session.scalars(
                select(ParcelRow.id).where(
                    ParcelRow.study_digest == digest, ParcelRow.content_type == ContentType.UPDATE.value
                )
            ).all()
        for parcel in updates:
            (self._landing / f"{parcel}.parcel").unlink(missing_ok=True)
        forget(self._store, self._landing, digest)
