"""Messages into values and back: the one place where what hospitals send is checked for form.

Nothing behind this module sees a protobuf message of a request. Unknown enum values, malformed ids, negative or
unbounded numbers and unknown codes are refused with `input.message`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from central.gateway import catalogue
from privacy.inclusion import LogNews, LogProof
from protocol.assignment import Assignment, AssignmentKind, SiteReport, State
from protocol.errors import CODES, InputError
from protocol.landed import LandedPage
from protocol.parcel import ContentType, Receipt
from protocol.v1 import fleet_pb2 as pb

__all__ = [
    "CHUNK_BYTES",
    "Announcement",
    "Enrolment",
    "announcement",
    "announcements",
    "assignment_message",
    "carried",
    "enrolment",
    "fetch",
    "identifier",
    "landed",
    "landed_message",
    "opened",
    "receipt_message",
    "renewal",
    "report_message",
    "site_report",
    "uploaded",
    "version",
]

CHUNK_BYTES = 1 << 20
MAX_CARRIED = 256
MAX_COUNTS = 64
MAX_SIZES = 257
MAX_COUNT = 1 << 53
_ID = re.compile(r"[0-9a-f]{32}")
_DIGEST = re.compile(r"[0-9a-f]{64}")
_ASSIGNMENT = re.compile(r"[A-Za-z0-9-]{1,64}")
_VERSION = re.compile(r"[A-Za-z0-9.+_-]{0,64}")
_HEAD = re.compile(r"[A-Za-z0-9+/=_:.-]{0,128}")
_ERROR_ID = re.compile(r"[0-9a-f]{0,32}")
_COUNT = re.compile(r"[A-Za-z][A-Za-z0-9_.:-]{0,63}")
_SITE = re.compile(r"[a-z0-9][a-z0-9-]{0,62}")
_KINDS = {
    AssignmentKind.STUDY: pb.ASSIGNMENT_KIND_STUDY,
    AssignmentKind.ROUND: pb.ASSIGNMENT_KIND_ROUND,
}
_STATES: dict[int, State | None] = {
    pb.STATE_UNSPECIFIED: None,
    pb.STATE_RECEIVED: State.RECEIVED,
    pb.STATE_PENDING: State.PENDING,
    pb.STATE_RUNNING: State.RUNNING,
    pb.STATE_DELIVERING: State.DELIVERING,
    pb.STATE_DONE: State.DONE,
    pb.STATE_REFUSED: State.REFUSED,
    pb.STATE_FAILED: State.FAILED,
    pb.STATE_EXPIRED: State.EXPIRED,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Announcement:
    """A parcel as its site announces it; `digest` is the SHA-256 (hex) of the whole parcel."""

    parcel_id: str
    study_digest: str
    assignment_id: str
    content_type: ContentType
    size_bytes: int
    digest: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Enrolment:
    """What a site sends to enrol."""

    site: str
    secret: bytes
    csr_der: bytes
    identity: bytes
    signature: bytes


def identifier(text: str) -> str:
    """A parcel id."""
    return _matched(_ID, text, "parcel_id")


def version(text: str) -> str:
    """A product version."""
    return _matched(_VERSION, text, "version")


def announcement(message: pb.OpenRequest) -> Announcement:
    """Check an OpenRequest; whether it is allowed is decided elsewhere."""
    if message.content_type not in {c.value for c in ContentType}:
        raise InputError("input.message", "content_type")
    if not 0 < message.size_bytes < 1 << 53 or len(message.data) not in (0, message.size_bytes):
        raise InputError("input.message", "size_bytes")
    return Announcement(
        parcel_id=identifier(message.parcel_id),
        study_digest=_matched(_DIGEST, message.study_digest, "study_digest"),
        assignment_id=_matched(_ASSIGNMENT, message.assignment_id, "assignment_id"),
        content_type=ContentType(message.content_type),
        size_bytes=message.size_bytes,
        digest=_matched(_DIGEST, message.digest, "digest"),
    )


def announcements(message: pb.CarryRequest) -> list[tuple[Announcement, bytes]]:
    """Check a CarryRequest: whole small parcels, each once."""
    parcels = [(announcement(one), one.data) for one in message.parcels]
    if not 1 <= len(parcels) <= MAX_CARRIED or not all(data for _, data in parcels):
        raise InputError("input.message", "parcels")
    if len({what.parcel_id for what, _ in parcels}) != len(parcels):
        raise InputError("input.message", "parcel_id")
    return parcels


def opened(offset: int, *, committed: bool = False, receipt: Receipt | None = None) -> pb.OpenReply:
    """From where to send a parcel, or that it has landed."""
    reply = pb.OpenReply(offset=offset, committed=committed)
    if receipt is not None:
        reply.receipt.CopyFrom(receipt_message(receipt))
    return reply


def uploaded(offset: int) -> pb.UploadReply:
    """How much of a parcel is here."""
    return pb.UploadReply(offset=offset)


def carried(outcomes: Sequence[tuple[str, str]], receipts: Mapping[str, Receipt]) -> pb.CarryReply:
    """Ids with codes, and receipts that have their checkpoint in common, as a message that holds it once."""
    reply = pb.CarryReply()
    for parcel_id, code in outcomes:
        one = reply.parcels.add(code=code)
        if not code:
            receipt = receipts[parcel_id]
            reply.checkpoint = receipt.checkpoint
            one.receipt.CopyFrom(receipt_message(replace(receipt, checkpoint="")))
    return reply


def site_report(message: pb.SiteReport) -> SiteReport:
    """Check a heartbeat or an assignment's state."""
    if message.state not in _STATES:
        raise InputError("input.message", "state")
    state = _STATES[message.state]
    if bool(message.assignment_id) != (state is not None):
        raise InputError("input.message", "assignment_id and state belong together")
    if message.code and message.code not in CODES:
        raise InputError("input.message", "code")
    if len(message.counts) > MAX_COUNTS:
        raise InputError("input.message", "counts")
    for name, count in message.counts.items():
        _matched(_COUNT, name, "counts")
        if not 0 <= count <= MAX_COUNT:
            raise InputError("input.message", "counts")
    if max(message.spool_parcels, message.spool_bytes) > MAX_COUNT:
        raise InputError("input.message", "spool")
    if len(message.log_sizes) > MAX_SIZES or max([*message.log_sizes, message.witnessed]) > MAX_COUNT:
        raise InputError("input.message", "log_sizes")
    return SiteReport(
        version=version(message.version),
        paused=message.paused,
        spool_parcels=message.spool_parcels,
        spool_bytes=message.spool_bytes,
        ledger_head=_matched(_HEAD, message.ledger_head, "ledger_head"),
        journal_head=_matched(_HEAD, message.journal_head, "journal_head"),
        assignment_id=_matched(_ASSIGNMENT, message.assignment_id, "assignment_id") if state else "",
        state=state,
        code=message.code,
        error_id=_matched(_ERROR_ID, message.error_id, "error_id"),
        counts=dict(message.counts),
        log_sizes=tuple(message.log_sizes),
        witnessed=message.witnessed if message.HasField("witnessed") else None,
        catalogue=catalogue.read(message.catalogue) if message.HasField("catalogue") else None,
    )


def enrolment(message: pb.EnrolRequest) -> Enrolment:
    """Check an EnrolRequest for form."""
    return Enrolment(
        site=_matched(_SITE, message.site, "site"),
        secret=_sized(message.secret, 24, 24, "secret"),
        csr_der=_sized(message.csr_der, 1, 16_384, "csr_der"),
        identity=_sized(message.identity_public, 1, 16_384, "identity_public"),
        signature=_sized(message.signature, 1, 16_384, "signature"),
    )


def renewal(message: pb.RenewRequest) -> tuple[bytes, bytes]:
    """CSR and signature of a RenewRequest."""
    csr = _sized(message.csr_der, 1, 16_384, "csr_der")
    return csr, _sized(message.signature, 1, 16_384, "signature")


def fetch(message: pb.FetchRequest) -> tuple[str, int]:
    """Digest and offset of a FetchRequest."""
    if message.offset > MAX_COUNT:
        raise InputError("input.message", "offset")
    return _matched(_DIGEST, message.digest, "digest"), message.offset


def proof(message: pb.ProveRequest) -> tuple[int, int, int]:
    """Index, seen size and target size of a ProveRequest."""
    if max(message.index, message.size, message.to) > MAX_COUNT:
        raise InputError("input.message", "index, size, to")
    return message.index, message.size, message.to


def landed(message: pb.LandedRequest) -> int:
    """The leaf from which a LandedRequest asks."""
    if message.start > MAX_COUNT:
        raise InputError("input.message", "start")
    return message.start


def landed_message(value: LandedPage) -> pb.LandedReply:
    """A page of landed parcels as a message."""
    return pb.LandedReply(
        parcels=[
            pb.LandedParcel(
                parcel_id=parcel.parcel_id,
                digest=parcel.digest,
                index=parcel.index,
                proof=list(parcel.proof),
                assignment_id=parcel.assignment_id,
                content_type=parcel.content_type,
                size_bytes=parcel.size_bytes,
                done=parcel.done,
            )
            for parcel in value.parcels
        ],
        assignments=[assignment_message(assignment, {}) for assignment in value.assignments],
        checkpoint=value.checkpoint,
        more=value.more,
        ledger_head=value.ledger_head,
        journal_head=value.journal_head,
    )


def report_message(server_time: float, news: LogNews | None) -> pb.ReportReply:
    """The answer to a heartbeat."""
    if news is None:
        return pb.ReportReply(server_time=server_time)
    links = [pb.LogLink(size=size, consistency=b"".join(proof)) for size, proof in news.links.items()]
    log = pb.LogNews(size=news.size, checkpoint=news.checkpoint, links=links, witnessed=news.witnessed)
    return pb.ReportReply(server_time=server_time, log=log)


def proof_message(value: LogProof) -> pb.ProveReply:
    """A proof as a message."""
    return pb.ProveReply(
        checkpoint=value.checkpoint, inclusion=list(value.inclusion), consistency=list(value.consistency)
    )


def assignment_message(value: Assignment, along: Mapping[str, bytes]) -> pb.Assignment:
    """An assignment as a message, with the objects (by digest) that go along."""
    return pb.Assignment(
        id=value.id,
        kind=_KINDS[value.kind],
        study_digest=value.study_digest,
        document=value.document,
        signature=value.signature,
        blobs=[
            pb.Blob(name=b.name, digest=b.digest, size_bytes=b.size_bytes, data=along.get(b.digest, b""))
            for b in value.blobs
        ],
    )


def receipt_message(value: Receipt) -> pb.CommitReply:
    """A receipt as a message."""
    return pb.CommitReply(
        parcel_id=value.parcel_id,
        digest=value.digest,
        index=value.index,
        proof=list(value.proof),
        checkpoint=value.checkpoint,
    )


def _matched(pattern: re.Pattern[str], text: str, field: str) -> str:
    if not pattern.fullmatch(text):
        raise InputError("input.message", field)
    return text


def _sized(raw: bytes, low: int, high: int, field: str) -> bytes:
    if not low <= len(raw) <= high:
        raise InputError("input.message", field)
    return raw
