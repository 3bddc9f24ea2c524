"""Pause, resume, stop, extend: what the operator wants of a run, and the run's heed of it.

    web, CLI -> `ask` -> ControlRow (durable)          whether the federation process lives or not
    rounds   -> `heed`, between exchanges -> goes on, waits while paused, or learns that it is to stop
    grid     -> `stopped`, while it waits for answers -> an exchange whose outcome nobody wants is not waited for

A pause waits for the exchange under way, which its deadline bounds, since sites that share masks must not be left half
way. A paused run holds nothing at the sites: their workers go idle by themselves. The study's expiry bounds a pause.
A run whose rounds are over can still be discarded, until the row that makes its model one.
"""

from __future__ import annotations

import logging
import threading
import time
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from enum import StrEnum
from typing import Any, Protocol

from sqlalchemy import bindparam, select
from sqlalchemy.orm import Session

from central.store import Store
from central.store.changes import Changes
from central.store.models import ControlRow, RunRow, StudyRow
from protocol import faults
from protocol.errors import ConflictError, InputError, StudyRefused, UnavailableError
from protocol.study import Lane, Study, Training, parse_study

__all__ = ["Command", "Control", "Orders", "Stopped", "StoreControl", "Unattended", "ask", "end_of", "orders_of"]

log = logging.getLogger(__name__)
_WISH = select(ControlRow.wish).where(ControlRow.study_digest == bindparam("digest"))  # made once
_POLL_S = 0.1
_LOOK_S = 2.0


class Command(StrEnum):
    """What an operator may ask of a run."""

    PAUSE = "pause"
    RESUME = "resume"
    STOP = "stop"
    EXTEND = "extend"


class Stopped(Exception):
    """The exchange under way is given up: the operator has stopped the run."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Orders:
    """Where the operator's wishes stand.

    Attributes:
        wish: `run`, `pause` or `stop`.
        rounds: how many rounds in all.
        discard: a stopped run publishes nothing.
        revision: grows with every change.
    """

    rounds: int
    wish: str = "run"
    discard: bool = False
    revision: int = 0


class Control(Protocol):
    """What the round loop asks between two exchanges."""

    def heed(self) -> Orders:
        """The orders, once the run may go on or is to stop; waits while it is paused.

        Raises:
            StudyRefused: `study.expired`.
            UnavailableError: `unavailable.process` when this process is asked to end.
        """
        ...


class Unattended:
    """No operator: the study's own rounds (in-process grids, simulation)."""

    def __init__(self, training: Training) -> None:
        self._orders = Orders(rounds=training.rounds)

    def heed(self) -> Orders:
        """Go on."""
        return self._orders


def ask(
    store: Store,
    study_id: str,
    command: Command,
    *,
    rounds: int | None = None,
    discard: bool = False,
    operator: str = "",
) -> dict[str, Any]:
    """Note durably what the operator wants; the same wish again changes nothing.

    Args:
        rounds: of `extend`: the rounds in all.
        discard: of `stop`: publish nothing. A run that is to be discarded stays so.
        operator: who asks, for the event.

    Returns:
        The orders now, as the API shows them.

    Raises:
        StudyRefused: `study.unknown`, `study.rounds` beyond what the sites approved.
        InputError: `input.usage`.
        ConflictError: `conflict.state` when the run has ended, is being published (it can still be discarded) or is to
            stop.
    """
    with store.begin() as session:
        study, training = _study(session, study_id)
        _check_open(session, study, discard=discard)
        known = session.get(ControlRow, study.digest)
        before = _orders(known, training)
        after = _wanted(before, command, training, rounds, discard)
        if after != before:
            row = known or ControlRow(study_digest=study.digest)
            row.wish, row.discard, row.rounds = after.wish, after.discard, after.rounds
            row.revision, row.asked_at = before.revision + 1, time.time()
            session.add(row)
            told: dict[str, Any] = {"command": command.value, "rounds": after.rounds, "discard": after.discard}
            told |= {"operator": operator} if operator else {}
            store.emit(session, "run.asked", study=study_id, **told)
    log.info("run.asked", extra={"fields": {"study": study_id, "kind": command.value}})
    return {"study": study_id, "wish": after.wish, "rounds": after.rounds, "discard": after.discard}


def orders_of(session: Session, digest: str, training: Training) -> Orders:
    """The orders of a run, those of the study itself where nobody asked for anything."""
    return _orders(session.get(ControlRow, digest), training)


def end_of(session: Session, digest: str, why: str) -> None:
    """Note why a run has ended."""
    row = session.get(ControlRow, digest) or ControlRow(study_digest=digest)
    row.ended = why
    session.add(row)


class StoreControl:
    """The orders in the central database, and the run's state beside them.

    Args:
        study: the verified study.
        digest: its digest.
        run: the run's id.
        stop: set when the process is asked to end.
    """

    def __init__(
        self, store: Store, study: Study, training: Training, digest: str, run: str, stop: threading.Event
    ) -> None:
        self._store, self._study, self._training = store, study, training
        self._digest, self._run, self._stop = digest, run, stop
        self._heeded = 0

    def orders(self) -> Orders:
        """The orders now."""
        with self._store.read() as session:
            return orders_of(session, self._digest, self._training)

    def stopped(self) -> bool:
        """Whether the run is to stop."""
        return any(wish == "stop" for (wish,) in self._store.rows(_WISH, digest=self._digest))

    def heed(self) -> Orders:
        """See `Control.heed`. The run's state says that it is paused."""
        found = self._look()
        if found.wish != "pause":
            return found
        changes, looked_at = Changes(self._store.engine), time.monotonic()
        try:
            while found.wish == "pause":
                if self._stop.wait(_POLL_S):
                    raise UnavailableError("unavailable.process", "the federation is asked to end")
                if changes.seen() or time.monotonic() - looked_at > _LOOK_S:
                    found, looked_at = self._look(), time.monotonic()
            return found
        finally:
            changes.close()

    def _look(self) -> Orders:
        with self._store.read() as session:
            found = orders_of(session, self._digest, self._training)
            run = session.get_one(RunRow, self._run)
        if run.phase != "publish":
            self._study.check_valid_at(datetime.now(UTC))
        if found.revision != self._heeded:
            self._heeded = found.revision
            faults.point("federation.heeded")
        wanted = "paused" if found.wish == "pause" else "running"
        if run.state != wanted and found.wish != "stop":
            self._tell(wanted)
        return found

    def _tell(self, state: str) -> None:
        with self._store.begin() as session:
            run = session.get_one(RunRow, self._run)
            run.state, run.updated_at = state, time.time()
            kind = "run.paused" if state == "paused" else "run.resumed"
            self._store.emit(session, kind, study=self._study.id, round=run.round)
        log.info(kind, extra={"fields": {"study": self._study.id}})
        faults.point("federation.paused")


def _study(session: Session, study_id: str) -> tuple[StudyRow, Training]:
    row = session.get(StudyRow, study_id)
    if row is None or row.lane != Lane.TRAIN.value:
        raise StudyRefused("study.unknown")
    training = parse_study(row.document).training
    if training is None:
        raise StudyRefused("study.unknown")
    return row, training


def _check_open(session: Session, study: StudyRow, *, discard: bool) -> None:
    if study.state != "open":
        raise ConflictError("conflict.state", f"the run has ended: {study.state}")
    run = session.scalar(select(RunRow).where(RunRow.study_digest == study.digest))
    if run is not None and run.phase == "publish" and not discard:
        raise ConflictError("conflict.state", "the run's model is being published; it can only be discarded")


def _wanted(before: Orders, command: Command, training: Training, rounds: int | None, discard: bool) -> Orders:
    if (command is Command.EXTEND) is (rounds is None) or (discard and command is not Command.STOP):
        raise InputError("input.usage", "extend takes rounds, stop takes discard, and nothing else does")
    if command is Command.STOP:
        return replace(before, wish="stop", discard=before.discard or discard)
    if before.wish == "stop":
        raise ConflictError("conflict.state", "the run is to stop")
    if rounds is None:
        return replace(before, wish="pause" if command is Command.PAUSE else "run")
    if rounds > training.max_rounds:
        raise StudyRefused("study.rounds", f"the sites approved {training.max_rounds} rounds")
    if rounds < before.rounds:
        raise InputError("input.usage", f"the run has {before.rounds} rounds already; extend only adds")
    return replace(before, rounds=rounds)


def _orders(row: ControlRow | None, training: Training) -> Orders:
    if row is None:
        return Orders(rounds=training.rounds)
    rounds = min(row.rounds or training.rounds, training.max_rounds)
    return Orders(wish=row.wish, rounds=rounds, discard=row.discard, revision=row.revision)
