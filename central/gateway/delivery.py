"""Delivery: Open, Upload, Commit, Carry. A parcel lands once, whole and verified, or not at all.

The gateway checks who sends, for which study and assignment (`permits.py`), to whom it is sealed and by whom it is
signed; it cannot read what it carries. What has been verified lands in groups (`commits.py`). A repeated Commit gives
the same receipt with a fresh proof.
"""

from __future__ import annotations

import hashlib
import io
import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from typing import BinaryIO, cast

from central.config import LimitsConfig
from central.gateway import wire
from central.gateway.admission import Call, Caller
from central.gateway.commits import Commits, Ready
from central.gateway.landed import Landed
from central.gateway.landing import Announced, Landing, Writer
from central.gateway.permits import Permits
from central.gateway.receipts import Log
from central.store import Store
from central.store.models import ParcelRow
from privacy.envelope import ParcelInfo, PublicKey, verify
from protocol.chunk import Chunk
from protocol.errors import (
    ConflictError,
    CorsiaError,
    InputError,
    IntegrityError,
    PermissionRefused,
    StorageError,
    StudyRefused,
    UnavailableError,
)
from protocol.parcel import ContentType
from protocol.study import Lane, Study
from protocol.v1 import fleet_pb2 as pb

__all__ = ["Delivery"]

_PAGE = 500
_log = logging.getLogger("central.gateway")
_PASSING = (StorageError, UnavailableError, ConflictError)
_Parcel = tuple[Announced, bytes]
_Outcome = ParcelRow | CorsiaError


class Delivery:
    """The Delivery service."""

    def __init__(
        self, store: Store, landing: Landing, log: Log, limits: LimitsConfig, landed: Landed | None = None
    ) -> None:
        self._landed = landed or Landed(store, log, lambda: None)
        self._store = store
        self._landing = landing
        self._log = log
        self._limits = limits
        self._permits = Permits(store, limits)
        self.commits = Commits(landing, log)

    def Open(self, request: pb.OpenRequest, call: Caller) -> pb.OpenReply:
        """Announce a parcel; answers from where to send, or that it has landed. One that comes along lands at once."""
        entry = Announced(site=call.site, what=wire.announcement(request))
        if request.data:
            (landed,) = self._take([(entry, request.data)])
            row = _raised(landed)
            return wire.opened(row.size_bytes, committed=True, receipt=self._log.receipt(row))
        parcel_id = entry.what.parcel_id
        with self._landing.locked(parcel_id):
            committed = self._committed(entry)
            if committed is not None:
                return wire.opened(committed.size_bytes, committed=True)
            self._announced(parcel_id, call.site)
            self._admitted(entry)
            return wire.opened(self._landing.announce(entry, self._limits.of(call.site).open_uploads))

    def Carry(self, request: pb.CarryRequest, call: Caller) -> pb.CarryReply:
        """Land several small parcels that come along whole; each has its own outcome, and all one checkpoint."""
        parcels = [(Announced(site=call.site, what=what), data) for what, data in wire.announcements(request)]
        outcomes = self._take(parcels)
        rows = [outcome for outcome in outcomes if isinstance(outcome, ParcelRow)]
        receipts = {receipt.parcel_id: receipt for receipt in self._log.receipts(rows)}
        return wire.carried(outcomes_of(parcels, outcomes), receipts)

    def Upload(self, requests: Iterator[Chunk], call: Caller) -> pb.UploadReply:
        """Take chunks in order from the offset that Open gave; what was written stays when the stream breaks."""
        first = next(requests, None)
        if first is None:
            raise InputError("input.message", "an empty upload")
        entry = self._announced(wire.identifier(first.parcel_id), call.site)
        if entry is None:
            raise ConflictError("conflict.state", "open the parcel first")
        with self._landing.writer(entry) as writer:
            if first.offset != writer.position:  # another stream, or a medium, has brought more since it was opened
                raise ConflictError("conflict.state", "the parcel has grown meanwhile: open it again")
            if first.data:
                _append(writer, first, call)
            for chunk in requests:
                _append(writer, chunk, call)
        return wire.uploaded(writer.position)

    def Commit(self, request: pb.CommitRequest, call: Caller) -> pb.CommitReply:
        """Verify, land and log a parcel; the receipt is durable before it is sent."""
        parcel_id = wire.identifier(request.parcel_id)
        with self._landing.locked(parcel_id):
            row = _own(self._permits.committed([parcel_id]).get(parcel_id), call.site)
            if row is None:
                entry = self._announced(parcel_id, call.site)
                if entry is None:
                    raise ConflictError("conflict.state", "open the parcel first")
                row = self._land(entry)
        return wire.receipt_message(self._log.receipt(row))

    def Landed(self, request: pb.LandedRequest, call: Call) -> pb.LandedReply:
        """What of the caller's has landed, a page at a time."""
        return wire.landed_message(self._landed.page(call.site, wire.landed(request)))

    def recover(self) -> int:
        """Finish what a crash left between landing zone and database; how many parcels landed so."""
        landed = 0
        for entry in self._landing.pending():
            parcel_id = entry.what.parcel_id
            with self._landing.locked(parcel_id):
                if parcel_id in self._permits.committed([parcel_id]):
                    self._landing.forget(parcel_id)
                elif self._landing.path(parcel_id).exists():
                    try:
                        self._land(entry)
                        landed += 1
                    except CorsiaError as error:
                        _log.warning("parcel.refused", extra={"fields": {"parcel": parcel_id, "code": error.code}})
        ids = self._landing.unannounced()  # what came along whole and was not logged: the site sends it again
        for at in range(0, len(ids), _PAGE):
            page = ids[at : at + _PAGE]
            for parcel_id in set(page) - set(self._permits.committed(page)):
                self._landing.discard(parcel_id)
        return landed

    # --- parcels in parts

    def _land(self, entry: Announced) -> ParcelRow:
        """Under the assignment's lock too: of two answers to one instruction that come at once, one lands."""
        parcel_id = entry.what.parcel_id
        with self._landing.locked(_answer_to(entry)):
            study = self._admitted(entry)
            content = self._landing.content(parcel_id)
            if not content.exists() or content.stat().st_size < entry.what.size_bytes:
                raise ConflictError("conflict.state", "the parcel is not complete: open it again and send the rest")
            with content.open("rb") as file:
                self._verified(entry, study, self._sender(entry.site), file)
            (row,) = self.commits.land([Ready(entry=entry, study=study.id)])
        self._landing.forget(parcel_id)
        self._told(entry, study.id)
        return row

    def _admitted(self, entry: Announced) -> Study:
        """The study of a parcel that may land; of one that never will, nothing stays on the disk."""
        (study,) = self._permits.of([entry])
        if isinstance(study, StudyRefused):
            self._landing.discard(entry.what.parcel_id)
        if isinstance(study, CorsiaError):
            raise study
        return study

    # --- whole parcels

    def _take(self, parcels: Sequence[_Parcel]) -> list[_Outcome]:
        """Land parcels that came along whole, in their order; for each its row, or why it has not landed."""
        with ExitStack() as held:
            for name in sorted({entry.what.parcel_id for entry, _ in parcels}):
                held.enter_context(self._landing.locked(name))
            for name in sorted({_answer_to(entry) for entry, _ in parcels}):  # after all ids, as in `_land`
                held.enter_context(self._landing.locked(name))
            known = self._permits.committed([entry.what.parcel_id for entry, _ in parcels])
            sender = self._sender(parcels[0][0].site)  # one call, one site
            permits = self._permits.of([entry for entry, _ in parcels])
            outcomes: list[_Outcome | Ready] = []
            answered: set[str] = set()
            halted: CorsiaError | None = None
            for (entry, data), study in zip(parcels, permits, strict=True):
                outcome = halted or self._judged(entry, data, study, sender, known, answered)
                if isinstance(outcome, _PASSING):
                    halted = outcome  # nothing overtakes what is to come again
                if isinstance(outcome, Ready) and entry.what.content_type is ContentType.UPDATE:
                    answered.add(entry.what.assignment_id)
                outcomes.append(outcome)
            ready = [outcome for outcome in outcomes if isinstance(outcome, Ready)]
            rows = iter(self.commits.land(ready))
            for parcel in ready:
                self._told(parcel.entry, parcel.study)
            return [next(rows) if isinstance(outcome, Ready) else outcome for outcome in outcomes]

    def _judged(
        self,
        entry: Announced,
        data: bytes,
        study: Study | CorsiaError,
        sender: PublicKey,
        known: Mapping[str, ParcelRow],
        answered: set[str],
    ) -> _Outcome | Ready:
        """What becomes of a whole parcel: its row, why not, or its bytes verified and in the landing zone."""
        parcel_id = entry.what.parcel_id
        try:
            row = _same(entry, known.get(parcel_id))
            if row is not None:
                return row
            if self._announced(parcel_id, entry.site) is not None:
                self._landing.forget(parcel_id)  # begun in parts: what is here now is the whole
            if isinstance(study, StudyRefused):
                self._landing.discard(parcel_id)
            if isinstance(study, CorsiaError):
                return study
            if entry.what.assignment_id in answered:
                raise StudyRefused("study.replay", "the instruction has its one answer")
            self._verified(entry, study, sender, io.BytesIO(data))
            self._landing.place(parcel_id, data)
        except CorsiaError as error:
            return error
        return Ready(entry=entry, study=study.id)

    # --- both

    def _sender(self, site: str) -> PublicKey:
        """The key that a site's parcels are signed by."""
        row = self._store.site(site)
        if row is None:
            raise ConflictError("conflict.state", "the site is not known")
        return PublicKey.from_base64(row.identity)

    def _verified(self, entry: Announced, study: Study, sender: PublicKey, content: BinaryIO) -> None:
        """Check bytes in one pass; those that will never land are dropped, and the site starts afresh."""
        try:
            _verify(entry, study, sender, content)
        except (IntegrityError, InputError) as error:
            self._landing.discard(entry.what.parcel_id)
            with self._store.begin() as session:
                fields = {"parcel": entry.what.parcel_id, "code": error.code}
                self._store.emit(session, "parcel.refused", site=entry.site, study=study.id, **fields)
            raise

    def _told(self, entry: Announced, study: str) -> None:
        self._permits.landed(entry)
        seen = {"parcel": entry.what.parcel_id, "site": entry.site, "study": study, "bytes": entry.what.size_bytes}
        _log.info("parcel.landed", extra={"fields": seen})

    def _announced(self, parcel_id: str, site: str) -> Announced | None:
        entry = self._landing.announced(parcel_id)
        if entry is not None and entry.site != site:
            raise PermissionRefused("permission.site", "another site's parcel")
        return entry

    def _committed(self, entry: Announced) -> ParcelRow | None:
        parcel_id = entry.what.parcel_id
        return _same(entry, self._permits.committed([parcel_id]).get(parcel_id))


def _verify(entry: Announced, study: Study, sender: PublicKey, content: BinaryIO) -> None:
    what = entry.what
    info = ParcelInfo(
        parcel_id=what.parcel_id, study=what.study_digest, site=entry.site, content_type=what.content_type.value
    )
    try:
        parcel = verify(content, sender=sender, expect=info)
    except IntegrityError:
        content.seek(0)
        digest = hashlib.file_digest(cast(io.BytesIO, content), "sha256").hexdigest()
        _check_digest(entry, digest)  # the plainer word, where it fits
        raise
    _check_digest(entry, parcel.sha256)
    key = study.recipient("federation" if study.lane is Lane.TRAIN else "vault")
    if key is None or PublicKey.from_base64(key).fingerprint not in {f for f, _ in parcel.header.recipients}:
        raise IntegrityError("parcel.context", "the parcel is not sealed to the study's recipient")


def outcomes_of(parcels: Sequence[_Parcel], outcomes: Sequence[_Outcome]) -> list[tuple[str, str]]:
    """Each parcel's id with the code of why it has not landed, empty when it has."""
    return [
        (entry.what.parcel_id, outcome.code if isinstance(outcome, CorsiaError) else "")
        for (entry, _), outcome in zip(parcels, outcomes, strict=True)
    ]


def _raised(outcome: _Outcome) -> ParcelRow:
    if isinstance(outcome, CorsiaError):
        raise outcome
    return outcome


def _own(row: ParcelRow | None, site: str) -> ParcelRow | None:
    if row is not None and row.site != site:
        raise PermissionRefused("permission.site", "another site's parcel")
    return row


def _same(entry: Announced, row: ParcelRow | None) -> ParcelRow | None:
    """The row of a parcel that has landed, when it is the same parcel."""
    row = _own(row, entry.site)
    if row is not None and row.digest != entry.what.digest:
        raise IntegrityError("parcel.replay")
    return row


def _answer_to(entry: Announced) -> str:
    return f"answer to {entry.what.assignment_id}"  # no parcel id


def _check_digest(entry: Announced, digest: str) -> None:
    if digest != entry.what.digest:
        raise IntegrityError("parcel.chunk", "the bytes are not those announced")


def _append(writer: Writer, chunk: Chunk, call: Caller) -> None:
    call.check()
    if chunk.parcel_id not in ("", writer.entry.what.parcel_id):
        raise InputError("input.message", "another parcel's chunk")
    writer.append(chunk.offset, chunk.data)
