"""Delivery: Open, Upload, Commit. A parcel lands once, whole and verified, or not at all.

The gateway checks who sends, for which study and assignment, to whom it is sealed and by whom it is signed; it
cannot read what it carries. A repeated Commit gives the same receipt with a fresh proof.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Iterator
from datetime import UTC, datetime
from functools import lru_cache

from sqlalchemy import bindparam, select

from central.erasure import ERASED
from central.gateway import wire
from central.gateway.admission import Call
from central.gateway.landing import Announced, Landing, Writer
from central.gateway.receipts import Log
from central.store import Store
from central.store.models import AssignmentRow, ParcelRow, StudyRow
from privacy.envelope import ParcelInfo, PublicKey, verify
from protocol import faults
from protocol.assignment import AssignmentKind, State
from protocol.errors import (
    ConflictError,
    CorsiaError,
    InputError,
    IntegrityError,
    PermissionRefused,
    StudyRefused,
)
from protocol.parcel import ContentType
from protocol.study import Lane, Study, parse_study
from protocol.v1 import fleet_pb2 as pb

__all__ = ["Delivery"]

CONTENT_OF_LANE = {
    Lane.HARVEST: ContentType.RECORDS,
    Lane.ANONYMIZE: ContentType.DEIDENTIFIED,
    Lane.EXTRACT: ContentType.FEATURES,
    Lane.TRAIN: ContentType.UPDATE,
}
MAX_WITHDRAWAL_BYTES = 32 << 20
_COMMITTED = select(ParcelRow).where(ParcelRow.id == bindparam("id"))
_STUDY = select(StudyRow.document, StudyRow.state).where(StudyRow.digest == bindparam("digest"))
_ASSIGNED = select(AssignmentRow.site, AssignmentRow.study_digest, AssignmentRow.kind, AssignmentRow.state).where(
    AssignmentRow.id == bindparam("id")
)
_ANSWER = select(ParcelRow.id).where(ParcelRow.assignment_id == bindparam("id")).limit(1)
_log = logging.getLogger("central.gateway")
_parsed = lru_cache(maxsize=64)(parse_study)


class Delivery:
    """The Delivery service."""

    def __init__(self, store: Store, landing: Landing, log: Log, max_parcel_bytes: int) -> None:
        self._store = store
        self._landing = landing
        self._log = log
        self._max_parcel_bytes = max_parcel_bytes

    def Open(self, request: pb.OpenRequest, call: Call) -> pb.OpenReply:
        """Announce a parcel; answers from where to send, or that it has landed. One that comes along lands at once."""
        entry = Announced(site=call.site, what=wire.announcement(request))
        parcel_id = entry.what.parcel_id
        with self._landing.locked(parcel_id):
            row = self._committed(parcel_id, call)
            if row is not None:
                if row.digest != entry.what.digest:
                    raise IntegrityError("parcel.replay")
                return self._opened(row, bool(request.data))
            self._announced(parcel_id, call)
            if entry.what.size_bytes > self._max_parcel_bytes:
                raise InputError("input.message", "the parcel is larger than max_parcel_bytes")
            study = self._admitted(entry)
            offset = self._landing.announce(entry)
            if not request.data:
                return pb.OpenReply(offset=offset)
            if offset < entry.what.size_bytes:
                with self._landing.writer(entry) as writer:
                    writer.append(offset, request.data[offset:])
            return self._opened(self._land(entry, study), True)

    def _opened(self, row: ParcelRow, along: bool) -> pb.OpenReply:
        """The answer for a parcel that has landed."""
        receipt = wire.receipt_message(self._log.receipt(row)) if along else None
        return pb.OpenReply(offset=row.size_bytes, committed=True, receipt=receipt)

    def Upload(self, requests: Iterator[pb.Chunk], call: Call) -> pb.UploadReply:
        """Take chunks in order from the offset that Open gave; what was written stays when the stream breaks."""
        first = next(requests, None)
        if first is None:
            raise InputError("input.message", "an empty upload")
        parcel_id = wire.identifier(first.parcel_id)
        entry = self._announced(parcel_id, call)
        if entry is None:
            raise ConflictError("conflict.state", "open the parcel first")
        with self._landing.writer(entry) as writer:
            if first.data or first.offset != writer.position:
                _append(writer, first, call)
            for chunk in requests:
                _append(writer, chunk, call)
        return pb.UploadReply(offset=writer.position)

    def Commit(self, request: pb.CommitRequest, call: Call) -> pb.CommitReply:
        """Verify, land and log a parcel; the receipt is durable before it is sent."""
        parcel_id = wire.identifier(request.parcel_id)
        with self._landing.locked(parcel_id):
            row = self._committed(parcel_id, call)
            if row is None:
                entry = self._announced(parcel_id, call)
                if entry is None:
                    raise ConflictError("conflict.state", "open the parcel first")
                row = self._land(entry)
        return wire.receipt_message(self._log.receipt(row))

    def recover(self) -> int:
        """Finish what a crash left between landing zone and database; how many parcels landed so."""
        landed = 0
        for entry in self._landing.pending():
            parcel_id = entry.what.parcel_id
            with self._landing.locked(parcel_id):
                if self._row(parcel_id) is not None:
                    self._landing.forget(parcel_id)
                elif self._landing.path(parcel_id).exists():
                    try:
                        self._land(entry)
                        landed += 1
                    except CorsiaError as error:
                        _log.warning("parcel.refused", extra={"fields": {"parcel": parcel_id, "code": error.code}})
        return landed

    def _land(self, entry: Announced, study: Study | None = None) -> ParcelRow:
        """Under the assignment's lock too: of two answers to one instruction that come at once, one lands."""
        with self._landing.locked(f"answer to {entry.what.assignment_id}"):  # no parcel id
            known = None if entry.what.content_type is ContentType.UPDATE else study
            return self._landed(entry, known or self._admitted(entry))

    def _landed(self, entry: Announced, study: Study) -> ParcelRow:
        parcel_id = entry.what.parcel_id
        try:
            self._verify(entry, study)
        except (IntegrityError, InputError) as error:  # these bytes will never land: the site starts afresh
            self._landing.discard(parcel_id)
            with self._store.begin() as session:
                fields = {"parcel": parcel_id, "code": error.code}
                self._store.emit(session, "parcel.refused", site=entry.site, study=study.id, **fields)
            raise
        self._landing.settle(parcel_id)
        faults.point("gateway.commit")
        row = self._log.land(entry, study.id)
        faults.point("gateway.committed")
        self._landing.forget(parcel_id)
        seen = {"parcel": parcel_id, "site": entry.site, "study": study.id, "bytes": entry.what.size_bytes}
        _log.info("parcel.landed", extra={"fields": seen})
        return row

    def _verify(self, entry: Announced, study: Study) -> None:
        what = entry.what
        content = self._landing.content(what.parcel_id)
        site = self._store.site(entry.site)
        if site is None or not content.exists() or content.stat().st_size < what.size_bytes:
            raise ConflictError("conflict.state", "the parcel is not complete: open it again and send the rest")
        with content.open("rb") as file:
            if hashlib.file_digest(file, "sha256").hexdigest() != what.digest:
                raise IntegrityError("parcel.chunk", "the bytes are not those announced")
            file.seek(0)
            header = verify(
                file,
                sender=PublicKey.from_base64(site.identity),
                expect=ParcelInfo(
                    parcel_id=what.parcel_id,
                    study=what.study_digest,
                    site=entry.site,
                    content_type=what.content_type.value,
                ),
            )
        key = study.recipient("federation" if study.lane is Lane.TRAIN else "vault")
        if key is None or PublicKey.from_base64(key).fingerprint not in {f for f, _ in header.recipients}:
            raise IntegrityError("parcel.context", "the parcel is not sealed to the study's recipient")

    def _admitted(self, entry: Announced) -> Study:
        """The study of a parcel that may land; of one that never will, nothing stays on the disk."""
        try:
            return self._authorise(entry)
        except StudyRefused:
            self._landing.discard(entry.what.parcel_id)
            raise

    def _authorise(self, entry: Announced) -> Study:
        """Whether a parcel that has not landed may: its study is open, its assignment the site's and not over."""
        what = entry.what
        with self._store.read() as session:
            found = session.execute(_STUDY, {"digest": what.study_digest}).one_or_none()
            assignment = session.execute(_ASSIGNED, {"id": what.assignment_id}).one_or_none()
            answered = session.scalar(_ANSWER, {"id": what.assignment_id}) is not None
        if found is None:
            raise StudyRefused("study.unknown")
        study = _parsed(found.document)
        study.check_valid_at(datetime.now(UTC))
        if what.content_type is ContentType.WITHDRAWAL:
            _check_withdrawal(entry, study, found.state)
            return study
        if (
            entry.site not in study.sites
            or assignment is None
            or (assignment.site, assignment.study_digest) != (entry.site, what.study_digest)
        ):
            raise PermissionRefused("permission.site")
        kind = AssignmentKind.ROUND if what.content_type is ContentType.UPDATE else AssignmentKind.STUDY
        if CONTENT_OF_LANE.get(study.lane) is not what.content_type or assignment.kind != kind.value:
            raise IntegrityError("parcel.context", "this lane does not send parcels of this content type")
        if kind is AssignmentKind.ROUND and answered:
            raise StudyRefused("study.replay", "the instruction has its one answer")
        if found.state != "open" or _is_over(kind, State(assignment.state)):
            raise StudyRefused("study.late")
        return study

    def _announced(self, parcel_id: str, call: Call) -> Announced | None:
        entry = self._landing.announced(parcel_id)
        if entry is not None and entry.site != call.site:
            raise PermissionRefused("permission.site", "another site's parcel")
        return entry

    def _committed(self, parcel_id: str, call: Call) -> ParcelRow | None:
        row = self._row(parcel_id)
        if row is not None and row.site != call.site:
            raise PermissionRefused("permission.site", "another site's parcel")
        return row

    def _row(self, parcel_id: str) -> ParcelRow | None:
        with self._store.read() as session:
            return session.scalar(_COMMITTED, {"id": parcel_id})


def _check_withdrawal(entry: Announced, study: Study, state: str) -> None:
    """Word that a consent was withdrawn answers no assignment, and may come when all else of the study is over."""
    if state == ERASED:
        raise StudyRefused("study.erased")
    if entry.site not in study.sites:
        raise PermissionRefused("permission.site")
    if entry.what.size_bytes > MAX_WITHDRAWAL_BYTES:
        raise InputError("input.message", "a withdrawal is larger than it can be")


def _is_over(kind: AssignmentKind, state: State) -> bool:
    """Whether nothing may come any more. A study's parcel that a steward sends again may come after its failure."""
    return state.final if kind is AssignmentKind.ROUND else state is State.EXPIRED


def _append(writer: Writer, chunk: pb.Chunk, call: Call) -> None:
    call.check()
    if chunk.parcel_id not in ("", writer.entry.what.parcel_id):
        raise InputError("input.message", "another parcel's chunk")
    writer.append(chunk.offset, chunk.data)
