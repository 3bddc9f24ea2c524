"""Flower's Grid over our own wire: messages become signed round instructions, replies come from the landing zone.

    push:  message -> blob + AssignmentRow (kind round, signed by the run key), all sites in one transaction
    pull:  ParcelRow (content type update) -> verify, unseal, check the batch -> message

An instruction's id follows from (run, round, phase, attempt, site), so after a crash the same ones are found and the
answers that landed meanwhile are read; nothing is sent twice. A site that reports refusal or failure has answered.
This module opens no socket: the gateway carries what lies in the database and the landing folder.
"""

from __future__ import annotations

import hashlib
import io
import logging
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from sqlalchemy import bindparam, select, update

from central.federation.collect import place_of
from central.federation.control import Stopped
from central.federation.flower import NodeGrid, empty_run, identify
from central.federation.leftovers import forget
from central.store import Store
from central.store.changes import Changes
from central.store.models import AssignmentRow, Base, ParcelRow, SiteRow
from pipelines.flower import CONFIG, Message, error_reply, message_from_bytes, message_head, message_parts, record_of
from privacy.envelope import ParcelInfo, PublicKey, SecretKey, unseal_into
from protocol import faults
from protocol.assignment import AssignmentKind, MaskStep, RoundInstruction, RoundPhase, State
from protocol.errors import CorsiaError, IntegrityError, StorageError, UnavailableError
from protocol.parcel import ContentType, unpack_update
from protocol.study import Study
from protocol.trust import Purpose

__all__ = ["FleetGrid", "instruction_id"]

log = logging.getLogger(__name__)
_LOOK_S = 0.25  # for the end of the process or of the deadline; an answer wakes us
_SWARM_S = 0.025
_FINAL = [state.value for state in State if state.final]
_FINAL_WITHOUT_ANSWER = (State.REFUSED.value, State.FAILED.value, State.EXPIRED.value)
# Made once, and without the mapper: they run at every change while answers are waited for.
_PARCELS, _ASSIGNMENTS = (Base.metadata.tables[row.__tablename__] for row in (ParcelRow, AssignmentRow))
_COLUMNS = tuple(_PARCELS.c[name] for name in ("id", "site", "assignment_id", "state", "landed_at"))
_ANSWERS = (
    select(*_COLUMNS)
    .where(
        _PARCELS.c.assignment_id.in_(bindparam("ids", expanding=True)), _PARCELS.c.study_digest == bindparam("study")
    )
    .where(_PARCELS.c.content_type == ContentType.UPDATE.value)
    .order_by(_PARCELS.c.log_index)
)
_KNOWN = select(AssignmentRow).where(AssignmentRow.id.in_(bindparam("ids", expanding=True)))
_REPORTS = select(_ASSIGNMENTS.c.id, _ASSIGNMENTS.c.code).where(
    _ASSIGNMENTS.c.id.in_(bindparam("ids", expanding=True)), _ASSIGNMENTS.c.state.in_(_FINAL_WITHOUT_ANSWER)
)
_LATE = (
    select(*_COLUMNS)
    .join(_ASSIGNMENTS, _ASSIGNMENTS.c.id == _PARCELS.c.assignment_id)
    .where(_PARCELS.c.state == "landed", _PARCELS.c.content_type == ContentType.UPDATE.value)
    .where(_PARCELS.c.study_digest == bindparam("study"), _ASSIGNMENTS.c.state == State.EXPIRED.value)
    .where(_PARCELS.c.landed_at > _ASSIGNMENTS.c.updated_at)
)
_MARK = (
    update(_PARCELS).where(_PARCELS.c.id == bindparam("parcel")).values(state=bindparam("now"), code=bindparam("why"))
)
_DONE = (
    update(_ASSIGNMENTS)
    .where(_ASSIGNMENTS.c.id == bindparam("assignment"), *(_ASSIGNMENTS.c.state != state for state in _FINAL))
    .values(state=State.DONE.value, updated_at=bindparam("at"))
)


def instruction_id(run: str, round_: int, phase: str, attempt: int, site: str) -> str:
    """The assignment id of one instruction: 32 hex digits, the same whenever it is asked for.

    Args:
        phase: and step, as `RoundInstruction.place`.
    """
    return hashlib.sha256(f"{run}|{round_}|{phase}|{attempt}|{site}".encode()).hexdigest()[:32]


@dataclass(slots=True)
class _Sent:
    """An instruction under way: its message without arrays, and until when an answer counts (Unix seconds)."""

    site: str
    message: Message
    deadline: float
    punctual: bool  # whether an answer that landed later must not count: masks need one word on who took part


@dataclass(frozen=True, slots=True)
class _Parcel:
    """What is needed of a parcel's row, in the order of `_COLUMNS`."""

    id: str
    site: str
    assignment_id: str
    state: str
    landed_at: float


@dataclass(frozen=True, slots=True)
class _Answer:
    """What a site has answered: a parcel that has not been opened yet, or a code."""

    sent: _Sent
    parcel: _Parcel | None = None
    code: str = ""


class FleetGrid(NodeGrid):
    """One run's way to its sites.

    Args:
        store: the central database.
        landing: the gateway's landing folder.
        study: the signed study; its roster pins each site's identity key.
        digest: the study's digest.
        run: the run's id.
        key: the run key: signs instructions, opens updates.
        sites: who takes part.
        stop: set when the process is asked to end; waits end with it.
        stopped: whether the operator has stopped the run; asked while an exchange is waited for.
    """

    def __init__(
        self, store: Store, landing: Path, study: Study, digest: str, run: str, key: SecretKey, sites: Iterable[str],
        stop: threading.Event, stopped: Callable[[], bool] = lambda: False,
    ) -> None:  # fmt: skip
        self._stopped, self._asked = stopped, 0
        self._store, self._landing, self._study, self._digest = store, landing, study, digest
        self._run_id, self._key, self._stop = run, key, stop
        self.digest, self.run_name = digest, run
        self._number = int(run[:15], 16)
        identify(self._number)
        self._run = empty_run(self._number)
        order = {site: node for node, site in enumerate(sorted(study.sites), start=1)}
        self.sites = {order[site]: site for site in sorted(sites)}
        self._sent: dict[str, _Sent] = {}
        self._at: tuple[int, RoundPhase] | None = None  # what is under way
        self._unmarked: list[_Parcel] = []  # answers of which the database does not say yet that they count
        self._unmarked_since = 0.0
        self._identities: dict[str, PublicKey] = {}
        self._changes = Changes(store.engine)

    # -- Flower's Grid ---------------------------------------------------------------------------------------------

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        """Instruct sites, durably, all in one transaction; an instruction that is there stays as it is.

        Raises:
            StorageError: the disk refused; nobody is instructed.
        """
        deadline = time.time() + (self._study.training.deadline_s if self._study.training else 0.0)
        ids, new = [], 0
        wanted = []
        ordered = sorted(messages, key=lambda m: m.metadata.dst_node_id)
        self._begin(ordered)
        for message in ordered:
            site = self.sites[message.metadata.dst_node_id]
            config = record_of(message, CONFIG)
            round_, attempt = int(config["server-round"]), int(config["attempt"])
            phase, step = place_of(message)
            place = phase.value if step is None else f"{phase.value}/{step.value}"
            wanted.append((instruction_id(self._run_id, round_, place, attempt, site), site, message))
        with self._store.begin() as session:
            known = {row.id: row for row in session.scalars(_KNOWN, {"ids": [made for made, *_ in wanted]})}
            for made, site, message in wanted:
                row = known.get(made)
                if row is None:
                    row = self._instruct(made, site, message, (round_, phase, step, attempt), deadline)
                    session.add(row)
                    new += 1
                until, closed = RoundInstruction.from_bytes(row.document).deadline, row.state == State.EXPIRED.value
                if closed:
                    until = min(until, row.updated_at)
                self._sent[made] = _Sent(site, self._message(row), until, closed or step is not None)
                ids.append(made)
            self._asked = len(ids)
            if new:
                told: dict[str, Any] = {
                    "round": round_, "phase": place, "attempt": attempt, "asked": self._asked,
                }  # fmt: skip
                self._store.emit(session, "round.begun", study=self._study.id, **told)
        faults.point("federation.instructed")
        return ids

    def _begin(self, messages: list[Message]) -> None:
        """A phase begins only when the one before is durable in its checkpoint, so what that left can go."""
        for message in messages[:1]:
            at = int(record_of(message, CONFIG)["server-round"]), place_of(message)[0]
            if at != self._at:
                forget(self._store, self._landing, self._digest, at)
                self._at = at

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        """Replies that are there now, errors among them, by the names of their sites; each is given once."""
        answers = self._arrived(message_ids)
        self._mark_answers()
        return self._read(answers)

    def _arrived(self, message_ids: Iterable[str]) -> list[_Answer]:
        """Who has answered meanwhile. What is in the parcels is not looked at, so that no model waits in memory."""
        wanted = [i for i in message_ids if i in self._sent]
        reports = self._store.rows(_REPORTS, ids=wanted)  # first, since a parcel that has landed counts for more
        answers = []
        for parcel in (_Parcel(*row) for row in self._store.rows(_ANSWERS, ids=wanted, study=self._digest)):
            sent = self._sent.get(parcel.assignment_id)
            if sent is not None and _counts(parcel, sent):
                answers.append(_Answer(self._sent.pop(parcel.assignment_id), parcel))
                if parcel.state == "landed":
                    self._unmarked_since = self._unmarked_since if self._unmarked else time.monotonic()
                    self._unmarked.append(parcel)
        for made, code in reports:
            if made in self._sent:
                answers.append(_Answer(self._sent.pop(made), code=code or "worker.failed"))
        return answers

    def _mark_answers(self) -> None:
        """Note answers that came together in one transaction: a landed parcel is durable by itself."""
        parcels, self._unmarked = self._unmarked, []
        self._mark(parcels, "opened")

    def _read(self, answers: list[_Answer]) -> Iterator[Message]:
        """Open one answer after the other, when it is asked for; the caller lets go of each before the next."""
        for answer in sorted(answers, key=lambda answer: answer.sent.site):
            yield self._reply(answer)

    def send_and_receive(self, messages: Iterable[Message], *, timeout: float | None = None) -> Iterable[Message]:
        """Instruct, and wait until all have answered or the instructions' own deadline has passed.

        Returns:
            The replies in the order of the sites' names, to be read once; each is opened when it is its turn.

        Raises:
            UnavailableError: `unavailable.process` when this process is asked to end.
            Stopped: the operator has stopped the run; the instructions are closed.
        """
        ids = list(self.push_messages(messages))
        left = min([self._sent[i].deadline - time.time() for i in ids] + ([timeout] if timeout is not None else []))
        until = time.monotonic() + left  # a clock that is set meanwhile changes nothing
        answers: list[_Answer] = []
        looked = False
        while True:
            changed = self._changes.wait(max(0.0, min(_LOOK_S, until - time.monotonic()))) or not looked
            looked = True
            late = time.monotonic() >= until
            if changed and not late:  # answers come in swarms: the more are awaited, the longer for the next ones
                self._stop.wait(min(_SWARM_S, _SWARM_S / 50 * len(self._sent)))
            if changed or late:
                answers += self._arrived(ids)
            missing = [i for i in ids if i in self._sent]
            if late or not missing or time.monotonic() - self._unmarked_since > _LOOK_S:
                self._mark_answers()
            if (changed or late) and self._stopped():
                self._mark_answers()
                self._expire(missing)
                raise Stopped
            if late:
                self._expire(missing)
            if late or not missing:
                break
            if self._stop.is_set():
                raise UnavailableError("unavailable.process", "the federation is asked to end")
        self._discard_late()
        faults.point("federation.collected")
        return self._read(answers)

    # -- one instruction, one answer -------------------------------------------------------------------------------

    def _instruct(
        self, made: str, site: str, message: Message, at: tuple[int, RoundPhase, MaskStep | None, int], deadline: float
    ) -> AssignmentRow:
        blob = self._store.put_blob("message.bin", message_parts(message, run_id=self._number, message_id=made))
        round_, phase, step, attempt = at
        document = RoundInstruction(
            run=self._run_id,
            study_digest=self._digest,
            site=site,
            round=round_,
            phase=phase,
            attempt=attempt,
            message=blob.digest,
            message_size=blob.size_bytes,
            deadline=deadline,
            step=step,
        ).to_bytes()
        log.info("round.instructed", extra={"fields": {"site": site, "round": round_, "phase": phase.value}})
        now = time.time()
        return AssignmentRow(
            id=made,
            site=site,
            kind=AssignmentKind.ROUND.value,
            study_digest=self._digest,
            document=document,
            signature=self._key.sign(Purpose.ROUND, document),
            blobs=[asdict(blob)],
            state=State.RECEIVED.value,
            created_at=now,
            updated_at=now,
        )

    def _message(self, row: AssignmentRow) -> Message:
        with self._store.blob_path(str(row.blobs[0]["digest"])).open("rb") as source:
            return message_head(source)

    def _reply(self, answer: _Answer) -> Message:
        """What an answer says; what is no valid message is an error of its site."""
        sent, parcel = answer.sent, answer.parcel
        if parcel is None:
            return error_reply(sent.message, answer.code)
        try:
            return self._opened(parcel, sent)
        except (CorsiaError, OSError) as error:
            code = error.code if isinstance(error, CorsiaError) else "parcel.format"
            if isinstance(error, OSError) and not isinstance(error, FileNotFoundError):
                raise StorageError("storage.failed") from error
            self._mark([parcel], "rejected", code)
            return error_reply(sent.message, code)

    def _opened(self, parcel: _Parcel, sent: _Sent) -> Message:
        expect = ParcelInfo(
            parcel_id=parcel.id, study=self._digest, site=sent.site, content_type=ContentType.UPDATE.value
        )
        payload = io.BytesIO()  # gives its bytes without a copy
        with (self._landing / f"{parcel.id}.parcel").open("rb") as source:
            unseal_into(source, payload, key=self._key, sender=self._identity(sent.site), expect=expect)
        batch, message = unpack_update(payload.getvalue())
        if (batch.study_digest, batch.site) != (self._digest, sent.site):
            raise IntegrityError("parcel.context")
        reply = message_from_bytes(message)
        asked = sent.message.metadata
        answered = (reply.metadata.reply_to_message_id, reply.metadata.src_node_id, reply.metadata.message_type)
        if answered != (asked.message_id, asked.dst_node_id, asked.message_type):
            raise IntegrityError("parcel.context", "the answer belongs to another instruction")
        return reply

    def _identity(self, site: str) -> PublicKey:
        """The site's key, which must be the one that the signed study names."""
        if site in self._identities:  # the roster pins it for the whole run
            return self._identities[site]
        row: SiteRow | None = self._store.site(site)
        if row is None:
            raise IntegrityError("parcel.signature", "an unknown site")
        key = PublicKey.from_base64(row.identity)
        if key.fingerprint != self._study.roster.get(site):
            raise IntegrityError("parcel.signature", "another identity than the study's roster names")
        self._identities[site] = key
        return key

    def _mark(self, parcels: list[_Parcel], state: str, code: str = "") -> None:
        """Note what became of parcels; their instructions are answered then, whatever the answer is worth."""
        if not parcels:
            return
        with self._store.begin() as session:
            at = time.time()
            session.execute(_MARK, [{"parcel": p.id, "now": state, "why": code} for p in parcels])
            session.execute(_DONE, [{"assignment": p.assignment_id, "at": at} for p in parcels])
            before = self._asked - len(self._sent) - len(parcels)
            for number, parcel in enumerate(parcels, start=1):
                told: dict[str, Any] = {"parcel": parcel.id, "code": code}
                if not code:
                    told = {"answered": before + number, "asked": self._asked}
                kind = "parcel.rejected" if code else "round.answered"
                self._store.emit(session, kind, site=parcel.site, study=self._study.id, **told)
        for parcel in parcels if code else ():
            log.warning("parcel.rejected", extra={"fields": {"parcel": parcel.id, "site": parcel.site, "code": code}})

    def _discard_late(self) -> None:
        """Reject answers that landed after their instruction was closed, and tell."""
        late = [_Parcel(*row) for row in self._store.rows(_LATE, study=self._digest)]
        self._mark(late, "rejected", "study.late")

    def _expire(self, ids: list[str]) -> None:
        """Close instructions whose deadline has passed; an answer that comes later is not used."""
        with self._store.begin() as session:
            for row in session.scalars(select(AssignmentRow).where(AssignmentRow.id.in_(ids))):
                if not State(row.state).final:
                    row.state, row.updated_at = State.EXPIRED.value, time.time()
                    asked = RoundInstruction.from_bytes(row.document)
                    told = {"round": asked.round, "phase": asked.place}
                    self._store.emit(session, "round.late", site=row.site, study=self._study.id, **told)
        for made in ids:
            self._sent.pop(made, None)


def _counts(parcel: _Parcel, sent: _Sent) -> bool:
    """Whether a parcel is its site's answer, and in time."""
    late = sent.punctual and parcel.landed_at > sent.deadline
    return parcel.state != "rejected" and parcel.site == sent.site and not late
