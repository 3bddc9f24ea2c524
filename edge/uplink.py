"""The wire as the hospital sees it: outward calls over mutual TLS, values in and values out.

Place in the flow: the watch thread takes assignments from here, the delivery thread hands sealed parcels over, the
worker's models are fetched here. With `channel` and `callerrors` it is all of the edge that imports grpc; whatever a
peer sends is checked (`edge/messages.py`) and becomes a frozen value or one error. It may not verify what the centre
signed (the agent does), open a parcel, or write a file.
"""

from __future__ import annotations

import io
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from importlib.metadata import version as installed_version
from typing import TYPE_CHECKING, Any, BinaryIO, TypeVar, cast

import grpc

from edge.callerrors import NotOffered, named_errors
from edge.channel import channel
from edge.chunks import Chunks
from edge.flight import IN_FLIGHT, SMALL_BYTES
from edge.handshake import check_answers
from edge.messages import (
    MAX_BLOB_BYTES,
    Along,
    Heard,
    assignment_of,
    catalogue_message,
    heard_of,
    landed_of,
    outcome_of,
    receipt_of,
    whole,
)
from edge.pace import Pace
from edge.route import DIRECT, Route
from privacy.inclusion import LogProof
from protocol.assignment import Assignment, Blob, SiteReport
from protocol.chunk import Chunk, encode
from protocol.errors import (
    AuthenticationError,
    ConflictError,
    CorsiaError,
    InputError,
    IntegrityError,
    Paused,
    UnavailableError,
)
from protocol.faults import point
from protocol.landed import LandedPage
from protocol.parcel import Receipt
from protocol.v1 import fleet_pb2 as pb
from protocol.v1 import fleet_pb2_grpc as rpc

if TYPE_CHECKING:
    from edge.identity import Identity
    from edge.spool import SpoolEntry

__all__ = ["MAX_BLOB_BYTES", "Uplink"]

_SLOWEST_BYTES_PER_S = 64 << 10  # a transfer slower than this is given up and resumed
_FETCH_ATTEMPTS = 5
_STOP_POLL_S = 0.05
_UPLOAD = "/corsia.v1.Delivery/Upload"
_Reply = TypeVar("_Reply")


class Uplink:
    """One channel to the centre. Thread-safe; the channel connects again by itself.

    Args:
        identity: certificates, keys and the pinned CA.
        fleet: `host:port` of the mutual-TLS port; the identity's own when None.
        timeout_s: deadline of each short call.
        pace: how fast parcels may go.
        route: by what way.

    Raises (every call):
        UnavailableError: `unavailable.centre`: no answer now; the only one to retry.
        AuthenticationError: `auth.fingerprint` when the server does not prove itself under the pinned CA,
            `auth.intercepted` when another answers in its name, and what the centre says of this site
            (`auth.revoked`, `auth.certificate`, ...).
        InputError: `input.message` for anything malformed, oversized or unknown from the centre.
    """

    def __init__(
        self,
        identity: Identity,
        fleet: str | None = None,
        *,
        timeout_s: float = 30.0,
        pace: Pace | None = None,
        route: Route = DIRECT,
    ) -> None:
        credentials = grpc.ssl_channel_credentials(
            root_certificates=identity.ca_pem,
            private_key=identity.tls_key,
            certificate_chain=identity.certificate_pem,
        )
        self._timeout_s = timeout_s
        self._closed = threading.Event()
        self._along = Along()
        self._pace = pace or Pace()
        self._address, self._ca_pem, self._route = fleet or identity.fleet, identity.ca_pem, route
        self._channel = channel(self._address, credentials, route)
        self._assignments = rpc.AssignmentsStub(self._channel)  # type: ignore[no-untyped-call]
        self._delivery = rpc.DeliveryStub(self._channel)  # type: ignore[no-untyped-call]
        self._send: Any = self._channel.stream_unary(
            _UPLOAD, request_serializer=None, response_deserializer=pb.UploadReply.FromString
        )
        self._models = rpc.ModelsStub(self._channel)  # type: ignore[no-untyped-call]

    def close(self) -> None:
        """End every call and the channel; a running `watch` ends quietly."""
        self._closed.set()
        self._channel.close()

    def watch(self) -> Iterator[Assignment]:
        """All open assignments, then each new one, until the stream ends.

        Raises:
            InputError: `input.message` for an unknown kind or a malformed assignment; the stream is given up.
        """
        with self._named():
            call = self._assignments.Watch(pb.WatchRequest(version=installed_version("corsia")))
            try:
                for message in call:
                    assignment = assignment_of(message)
                    self._along.keep(message)
                    yield assignment
            except grpc.RpcError:
                if not self._closed.is_set():
                    raise
            finally:
                call.cancel()

    def report(self, report: SiteReport) -> Heard:
        """Send a heartbeat, with an assignment's state if it names one; what of the log comes back is not verified."""
        message = pb.SiteReport(
            version=report.version,
            paused=report.paused,
            spool_parcels=report.spool_parcels,
            spool_bytes=report.spool_bytes,
            ledger_head=report.ledger_head,
            journal_head=report.journal_head,
            assignment_id=report.assignment_id,
            state=getattr(pb, f"STATE_{report.state.name if report.state else 'UNSPECIFIED'}"),
            code=report.code,
            error_id=report.error_id,
            counts=report.counts,
            log_sizes=report.log_sizes,
            witnessed=report.witnessed,
            catalogue=catalogue_message(report.catalogue),
        )
        return heard_of(self._ask(self._assignments.Report, message))

    def renew(self, csr_der: bytes, signature: bytes) -> bytes:
        """Ask for a new certificate over the old one; returns the PEM chain, unchecked."""
        reply = self._ask(self._assignments.Renew, pb.RenewRequest(csr_der=csr_der, signature=signature))
        return bytes(reply.certificate_pem)

    def deliver(
        self,
        entry: SpoolEntry,
        read: BinaryIO,
        should_stop: Callable[[], bool],
        turn: Callable[[], None] = lambda: None,
    ) -> Receipt:
        """Send a parcel from where the centre has it, and commit. Idempotent: again gives the same receipt.

        Args:
            entry: the parcel.
            read: its file, seekable.
            should_stop: asked before each chunk and while the network is slow; True stops at once.
            turn: called before the commit; returns when the parcel may land, or raises.

        Returns:
            The receipt for exactly this parcel; its proof is not verified here.

        Raises:
            Paused: `paused.site` when stopped; what was sent stays at the centre and is resumed from.
            IntegrityError: `parcel.truncated` when the file is shorter than its entry, `log.proof` when the receipt
                is malformed or for another parcel, and what the centre says of the parcel.
            StorageError: `storage.failed` when the file cannot be read.
        """
        _stop(should_stop)
        try:
            reply = self._sent(entry, read, should_stop, turn)
        except ConflictError as error:  # the call before this one has not ended at the centre
            raise UnavailableError("unavailable.centre") from error
        receipt = receipt_of(reply, entry)
        _received()
        return receipt

    def carry(
        self, parcels: Sequence[tuple[SpoolEntry, bytes]], should_stop: Callable[[], bool]
    ) -> list[Receipt | CorsiaError]:
        """Send and commit several small parcels with one call, in their order. Idempotent, as `deliver`.

        Args:
            parcels: each with its bytes; together less than a message may have.
            should_stop: True stops at once.

        Returns:
            For each its receipt, not verified here, or why the centre does not take it.

        Raises:
            Paused: `paused.site`. IntegrityError: `parcel.truncated` when bytes are fewer than their entry says.
        """
        _stop(should_stop)
        for entry, data in parcels:
            self._pace.take(len(data), should_stop)
            if len(data) != entry.size_bytes:
                raise IntegrityError("parcel.truncated", "the parcel's file is shorter than its entry")
        request = pb.CarryRequest(parcels=[_announcement(entry, data) for entry, data in parcels])
        try:
            reply = self._ask(self._delivery.Carry, request, self._patience(request.ByteSize()))
        except NotOffered:  # an older centre
            return [self.deliver(entry, io.BytesIO(data), should_stop) for entry, data in parcels]
        if len(reply.parcels) != len(parcels):
            raise InputError("input.message", "another number of receipts than of parcels")
        pairs = zip(reply.parcels, parcels, strict=True)
        outcomes = [outcome_of(one, reply.checkpoint, entry) for one, (entry, _) in pairs]
        _received()
        return outcomes

    def _sent(
        self, entry: SpoolEntry, read: BinaryIO, should_stop: Callable[[], bool], turn: Callable[[], None]
    ) -> pb.CommitReply:
        """Open, upload and commit; a small parcel goes along with the first of these, which then is all."""
        along = b""
        if entry.size_bytes <= SMALL_BYTES:
            source = Chunks(read, 0, entry.size_bytes, should_stop, self._pace)
            along = b"".join(data for _at, data in source)
            source.check()
            turn()
        opened = self._ask(self._delivery.Open, _announcement(entry, along))
        if along and opened.HasField("receipt"):
            return cast(pb.CommitReply, opened.receipt)
        if opened.offset > entry.size_bytes:
            raise InputError("input.message", "the centre has more of the parcel than there is")
        if not opened.committed and opened.offset < entry.size_bytes:
            self._upload(entry, read, opened.offset, should_stop)
        turn()
        _stop(should_stop)
        commit, patience = pb.CommitRequest(parcel_id=entry.parcel_id), self._patience(entry.size_bytes)
        return cast(pb.CommitReply, self._ask(self._delivery.Commit, commit, patience))

    def fetch(self, blob: Blob) -> bytes:
        """An object, checked: as it came with its assignment, else fetched; a broken stream goes on where it broke.

        Raises:
            IntegrityError: `blob.digest` when size or SHA-256 are not as announced.
            InputError: `input.message` when it is announced larger than this side takes.
        """
        if blob.size_bytes > MAX_BLOB_BYTES:
            raise InputError("input.message", "the object is larger than this site takes")
        if (along := self._along.take(blob)) is not None:
            return along
        data = io.BytesIO()  # grows with what has come, and gives it without a copy
        failures = 0
        while (before := data.tell()) < blob.size_bytes:
            try:
                self._fetch_more(blob, data)
            except UnavailableError:
                failures = 1 if data.tell() > before else failures + 1
                if failures >= _FETCH_ATTEMPTS or self._closed.is_set():
                    raise
                time.sleep(0.1 * 2**failures)
        made = data.getvalue()
        if not whole(blob, made):
            raise IntegrityError("blob.digest")
        return made

    def prove(self, index: int, size: int, to: int = 0) -> LogProof:
        """Proof of a leaf of the centre's log, in a log that extends what this site has seen; not verified here.

        Args:
            index: of the leaf.
            size: of the checkpoint that this site has seen, 0 for none.
            to: prove the log's growth from `size` to this size alone.
        """
        reply = self._ask(self._models.Prove, pb.ProveRequest(index=index, size=size, to=to))
        inclusion, consistency = tuple(reply.inclusion), tuple(reply.consistency)
        return LogProof(checkpoint=reply.checkpoint, inclusion=inclusion, consistency=consistency)

    @contextmanager
    def _named(self) -> Iterator[None]:
        """Name what grpc raises; when the server does not prove itself, look who answers there."""
        try:
            with named_errors(self._closed):
                yield
        except AuthenticationError as error:
            if error.code == "auth.fingerprint":
                check_answers(self._address, self._ca_pem, self._route, self._timeout_s)
            raise

    def _patience(self, size_bytes: int) -> float:
        """How long a transfer of so many bytes may take: several of them share the site's own limit."""
        limit = self._pace.bytes_per_s
        slowest = _SLOWEST_BYTES_PER_S if limit is None else min(_SLOWEST_BYTES_PER_S, limit / (2 * IN_FLIGHT))
        return 60.0 + size_bytes / slowest

    def landed(self, start: int) -> LandedPage:
        """What of this site's has landed, from a leaf of the centre's log on; not verified here."""
        return landed_of(self._ask(self._delivery.Landed, pb.LandedRequest(start=start)))

    def _ask(self, method: Callable[..., _Reply], message: Any, timeout_s: float | None = None) -> _Reply:
        with self._named():
            return method(message, timeout=timeout_s or self._timeout_s)

    def _upload(self, entry: SpoolEntry, read: BinaryIO, offset: int, should_stop: Callable[[], bool]) -> None:
        source = Chunks(read, offset, entry.size_bytes, should_stop, self._pace)
        messages = (encode(Chunk(entry.parcel_id if at == offset else "", at, data)) for at, data in source)
        with self._named():
            call = self._send.future(messages, timeout=self._patience(entry.size_bytes))
            try:
                reply = _wait(call, should_stop)
            except grpc.RpcError:
                source.check()
                raise
            finally:
                call.cancel()
        source.check()
        if reply.offset != entry.size_bytes:
            raise UnavailableError("unavailable.centre", "the centre has not taken the whole parcel")

    def _fetch_more(self, blob: Blob, data: io.BytesIO) -> None:
        with self._named():
            request = pb.FetchRequest(digest=blob.digest, offset=data.tell())
            call = self._models.Fetch(request, timeout=self._patience(blob.size_bytes))
            try:
                for chunk in call:
                    if chunk.offset != data.tell() or not chunk.data:
                        raise InputError("input.message", "a fetched chunk is not the next one")
                    if data.tell() + len(chunk.data) > blob.size_bytes:
                        raise IntegrityError("blob.digest", "more came than was announced")
                    data.write(chunk.data)
            finally:
                call.cancel()
        if data.tell() < blob.size_bytes:
            raise UnavailableError("unavailable.centre", "the object's stream ended early")


def _announcement(entry: SpoolEntry, along: bytes) -> pb.OpenRequest:
    return pb.OpenRequest(
        parcel_id=entry.parcel_id,
        study_digest=entry.study_digest,
        content_type=entry.content_type,
        size_bytes=entry.size_bytes,
        digest=entry.digest,
        assignment_id=entry.assignment_id,
        data=along,
    )


def _received() -> None:
    point("edge.receipt")


def _stop(should_stop: Callable[[], bool]) -> None:
    if should_stop():
        raise Paused("paused.site")


def _wait(call: Any, should_stop: Callable[[], bool]) -> Any:
    """A future's result; gives up at once when told to stop, even while no byte moves."""
    while True:
        try:
            return call.result(timeout=_STOP_POLL_S)
        except grpc.FutureTimeoutError:
            _stop(should_stop)
