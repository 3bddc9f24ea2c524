"""The wire as the hospital sees it: outward calls over mutual TLS, values in and values out.

Place in the flow: the watch thread takes assignments from here, the delivery thread hands sealed parcels over, the
worker's models are fetched here. With `callerrors` it is the only module of the edge that imports grpc; whatever a peer
sends is checked (`edge/messages.py`) and becomes a frozen value or one error. It may not verify what the centre signed
(the agent does), open a parcel, or write a file.
"""

from __future__ import annotations

import io
import threading
import time
from collections.abc import Callable, Iterator
from importlib.metadata import version as installed_version
from typing import TYPE_CHECKING, Any, BinaryIO, TypeVar, cast

import grpc

from edge.callerrors import named_errors
from edge.chunks import Chunks
from edge.handshake import is_loopback
from edge.messages import MAX_BLOB_BYTES, Along, Heard, assignment_of, heard_of, receipt_of, whole
from privacy.inclusion import LogProof
from protocol.assignment import Assignment, Blob, SiteReport
from protocol.errors import (
    ConflictError,
    InputError,
    IntegrityError,
    Paused,
    UnavailableError,
)
from protocol.faults import point
from protocol.parcel import Receipt
from protocol.v1 import fleet_pb2 as pb
from protocol.v1 import fleet_pb2_grpc as rpc

if TYPE_CHECKING:
    from edge.identity import Identity
    from edge.spool import SpoolEntry

__all__ = ["MAX_BLOB_BYTES", "MAX_MESSAGE_BYTES", "Uplink", "enrol_call"]

MAX_MESSAGE_BYTES = 8 << 20
_SLOWEST_BYTES_PER_S = 64 << 10  # a transfer slower than this is given up and resumed
_FETCH_ATTEMPTS = 5
_ALONG_BYTES = 256 << 10  # a parcel up to this size is one call
_STOP_POLL_S = 0.05
_Reply = TypeVar("_Reply")


class Uplink:
    """One channel to the centre. Thread-safe; the channel connects again by itself.

    Args:
        identity: certificates, keys and the pinned CA.
        fleet: `host:port` of the mutual-TLS port; the identity's own when None.
        timeout_s: deadline of each short call.

    Raises (every call):
        UnavailableError: `unavailable.centre`: no answer now; the only one to retry.
        AuthenticationError: `auth.fingerprint` when the server does not prove itself under the pinned CA, and what
            the centre says of this site (`auth.revoked`, `auth.certificate`, ...).
        InputError: `input.message` for anything malformed, oversized or unknown from the centre.
    """

    def __init__(self, identity: Identity, fleet: str | None = None, *, timeout_s: float = 30.0) -> None:
        credentials = grpc.ssl_channel_credentials(
            root_certificates=identity.ca_pem,
            private_key=identity.tls_key,
            certificate_chain=identity.certificate_pem,
        )
        self._timeout_s = timeout_s
        self._closed = threading.Event()
        self._along = Along()
        self._channel = _channel(fleet or identity.fleet, credentials)
        self._assignments = rpc.AssignmentsStub(self._channel)  # type: ignore[no-untyped-call]
        self._delivery = rpc.DeliveryStub(self._channel)  # type: ignore[no-untyped-call]
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
        with named_errors(self._closed):
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
        )
        return heard_of(self._ask(self._assignments.Report, message))

    def renew(self, csr_der: bytes, signature: bytes) -> bytes:
        """Ask for a new certificate over the old one; returns the PEM chain, unchecked."""
        reply = self._ask(self._assignments.Renew, pb.RenewRequest(csr_der=csr_der, signature=signature))
        return bytes(reply.certificate_pem)

    def deliver(self, entry: SpoolEntry, read: BinaryIO, should_stop: Callable[[], bool]) -> Receipt:
        """Send a parcel from where the centre has it, and commit. Idempotent: again gives the same receipt.

        Args:
            entry: the parcel.
            read: its file, seekable.
            should_stop: asked before each chunk and while the network is slow; True stops at once.

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
            reply = self._sent(entry, read, should_stop)
        except ConflictError as error:  # the call before this one has not ended at the centre
            raise UnavailableError("unavailable.centre") from error
        receipt = receipt_of(reply, entry)
        point("edge.receipt")
        return receipt

    def _sent(self, entry: SpoolEntry, read: BinaryIO, should_stop: Callable[[], bool]) -> pb.CommitReply:
        """Open, upload and commit; a small parcel goes along with the first of these, which then is all."""
        along = b""
        if entry.size_bytes <= _ALONG_BYTES:
            source = Chunks(read, 0, entry.size_bytes, should_stop)
            along = b"".join(data for _at, data in source)
            source.check()
        opened = self._ask(
            self._delivery.Open,
            pb.OpenRequest(
                parcel_id=entry.parcel_id,
                study_digest=entry.study_digest,
                content_type=entry.content_type,
                size_bytes=entry.size_bytes,
                digest=entry.digest,
                assignment_id=entry.assignment_id,
                data=along,
            ),
        )
        if along and opened.HasField("receipt"):
            return cast(pb.CommitReply, opened.receipt)
        if opened.offset > entry.size_bytes:
            raise InputError("input.message", "the centre has more of the parcel than there is")
        if not opened.committed and opened.offset < entry.size_bytes:
            self._upload(entry, read, opened.offset, should_stop)
        _stop(should_stop)
        return cast(
            pb.CommitReply,
            self._ask(self._delivery.Commit, pb.CommitRequest(parcel_id=entry.parcel_id), _patience(entry.size_bytes)),
        )

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

    def _ask(self, method: Callable[..., _Reply], message: Any, timeout_s: float | None = None) -> _Reply:
        with named_errors(self._closed):
            return method(message, timeout=timeout_s or self._timeout_s)

    def _upload(self, entry: SpoolEntry, read: BinaryIO, offset: int, should_stop: Callable[[], bool]) -> None:
        source = Chunks(read, offset, entry.size_bytes, should_stop)
        messages = (
            pb.Chunk(parcel_id=entry.parcel_id if at == offset else "", offset=at, data=data) for at, data in source
        )
        with named_errors(self._closed):
            call = self._delivery.Upload.future(messages, timeout=_patience(entry.size_bytes))
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
        with named_errors(self._closed):
            request = pb.FetchRequest(digest=blob.digest, offset=data.tell())
            call = self._models.Fetch(request, timeout=_patience(blob.size_bytes))
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


def enrol_call(
    address: str,
    ca_pem: bytes,
    *,
    site: str,
    secret: bytes,
    csr_der: bytes,
    identity_public: bytes,
    signature: bytes,
    timeout_s: float = 30.0,
) -> tuple[bytes, bytes, bytes]:
    """Enrol at the server-authenticated port; the CA given is the only root.

    Returns:
        The certificate chain (PEM), the trust bundle and its signature, all unchecked.

    Raises:
        CorsiaError: as every call of `Uplink`; `auth.join-code` when the secret is not accepted.
    """
    channel = _channel(address, grpc.ssl_channel_credentials(root_certificates=ca_pem))
    try:
        with named_errors(threading.Event()):
            message = pb.EnrolRequest(
                site=site, secret=secret, csr_der=csr_der, identity_public=identity_public, signature=signature
            )
            stub = rpc.EnrolmentStub(channel)  # type: ignore[no-untyped-call]
            reply = stub.Enrol(message, timeout=timeout_s)
    finally:
        channel.close()
    return bytes(reply.certificate_pem), bytes(reply.trust), bytes(reply.trust_signature)


def _channel(address: str, credentials: grpc.ChannelCredentials) -> grpc.Channel:
    options: list[tuple[str, Any]] = [
        ("grpc.max_receive_message_length", MAX_MESSAGE_BYTES),
        ("grpc.max_send_message_length", MAX_MESSAGE_BYTES),
        # Not more often: a server's default counts frequent pings as an attack and ends the connection.
        ("grpc.keepalive_time_ms", 60_000),
        ("grpc.keepalive_timeout_ms", 20_000),
        ("grpc.initial_reconnect_backoff_ms", 200),
        ("grpc.min_reconnect_backoff_ms", 1_000),
        ("grpc.max_reconnect_backoff_ms", 5_000),
        ("grpc.use_local_subchannel_pool", 1),
        ("grpc.enable_retries", 0),
    ]
    if is_loopback(address):
        options.append(("grpc.enable_http_proxy", 0))
    return grpc.secure_channel(address, credentials, options=options)


def _patience(size_bytes: int) -> float:
    return 60.0 + size_bytes / _SLOWEST_BYTES_PER_S


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
