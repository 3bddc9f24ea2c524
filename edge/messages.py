"""Messages into values: the one place of the edge where what the centre sends is checked for form.

Place in the flow: `edge/uplink.py` receives, this turns into frozen values or one error. What a signature must vouch
for is checked by the agent.
"""

from __future__ import annotations

import hashlib
import re
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from edge.callerrors import said
from privacy.inclusion import LogNews
from protocol.assignment import Assignment, AssignmentKind, Blob
from protocol.catalogue import AdvertisedDataset
from protocol.errors import ConflictError, CorsiaError, InputError, IntegrityError, UnavailableError
from protocol.landed import LandedPage, LandedParcel
from protocol.parcel import Receipt
from protocol.v1 import fleet_pb2 as pb

if TYPE_CHECKING:
    from edge.spool import SpoolEntry

__all__ = [
    "MAX_BLOB_BYTES",
    "Along",
    "Heard",
    "assignment_of",
    "catalogue_message",
    "heard_of",
    "landed_of",
    "outcome_of",
    "receipt_of",
    "whole",
]

MAX_BLOB_BYTES = 4 << 30
MAX_DOCUMENT_BYTES = 256 << 10
MAX_BLOBS = 64
MAX_LANDED = 1000  # parcels of one page
MAX_LINKS = 512
MAX_CHECKPOINT_CHARS = 1 << 17
MAX_ALONG = 16  # objects that came with an assignment and wait to be asked for
MAX_ALONG_BYTES = 1 << 20  # all of one assignment's
_ID = re.compile(r"^[A-Za-z0-9][A-Za-z0-9._:-]{0,63}\Z")
_BLOB_NAME = re.compile(r"^[A-Za-z0-9][A-Za-z0-9._-]{0,199}\Z")
_HEX32 = re.compile(r"^[0-9a-f]{32}\Z")
_HEAD = re.compile(r"^(?:[0-9a-f]{64})?\Z")
_HEX64 = re.compile(r"^[0-9a-f]{64}\Z")
_KINDS = {
    pb.ASSIGNMENT_KIND_STUDY: AssignmentKind.STUDY,
    pb.ASSIGNMENT_KIND_ROUND: AssignmentKind.ROUND,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Heard:
    """The centre's answer to a heartbeat: its time (Unix seconds), and its log where the site asked for it."""

    server_time: float
    log: LogNews | None = None


class Along:
    """Small objects that came along with their assignment, until they are asked for; the oldest go first."""

    def __init__(self) -> None:
        self._held: OrderedDict[str, bytes] = OrderedDict()

    def keep(self, message: pb.Assignment) -> None:
        """Keep the objects of a checked message."""
        for blob in message.blobs:
            if blob.data:
                self._held[blob.digest] = bytes(blob.data)
        while len(self._held) > MAX_ALONG:
            self._held.popitem(last=False)

    def take(self, blob: Blob) -> bytes | None:
        """An object's bytes, once; None when it did not come along, or is not what its digest says."""
        data = self._held.pop(blob.digest, None)
        return data if data is not None and whole(blob, data) else None


def whole(blob: Blob, data: bytes | bytearray) -> bool:
    """Whether these are an object's bytes."""
    return len(data) == blob.size_bytes and hashlib.sha256(data).hexdigest() == blob.digest


def assignment_of(message: pb.Assignment) -> Assignment:
    """An assignment, unverified.

    Raises:
        InputError: `input.message`.
    """
    kind = _KINDS.get(message.kind)
    if kind is None or not _ID.match(message.id) or not _HEX64.match(message.study_digest):
        raise InputError("input.message", "malformed assignment")
    along = sum(len(blob.data) for blob in message.blobs)
    if len(message.document) > MAX_DOCUMENT_BYTES or len(message.blobs) > MAX_BLOBS or along > MAX_ALONG_BYTES:
        raise InputError("input.message", "oversized assignment")
    return Assignment(
        id=message.id,
        kind=kind,
        study_digest=message.study_digest,
        document=bytes(message.document),
        signature=bytes(message.signature),
        blobs=tuple(_blob(blob) for blob in message.blobs),
    )


def heard_of(reply: pb.ReportReply) -> Heard:
    """The answer to a heartbeat; nothing of the log is verified here.

    Raises:
        InputError: `input.message`.
    """
    if not reply.HasField("log"):
        return Heard(server_time=float(reply.server_time))
    news = reply.log
    if len(news.links) > MAX_LINKS or max(len(news.checkpoint), len(news.witnessed)) > MAX_CHECKPOINT_CHARS:
        raise InputError("input.message", "oversized news of the log")
    links = {}
    for link in news.links:
        raw = bytes(link.consistency)
        if len(raw) % 32 or len(raw) > 65 * 32:
            raise InputError("input.message", "malformed proof")
        links[link.size] = tuple(raw[at : at + 32] for at in range(0, len(raw), 32))
    log = LogNews(size=news.size, checkpoint=news.checkpoint, links=links, witnessed=news.witnessed)
    return Heard(server_time=float(reply.server_time), log=log)


def receipt_of(reply: pb.CommitReply, entry: SpoolEntry) -> Receipt:
    """The receipt of a parcel; its proof is not verified here.

    Raises:
        IntegrityError: `log.proof` when it is malformed or for another parcel.
    """
    if (reply.parcel_id, reply.digest) != (entry.parcel_id, entry.digest):
        raise IntegrityError("log.proof", "the receipt is for another parcel")
    if len(reply.proof) > 64 or not all(_HEX64.match(node) for node in reply.proof) or len(reply.checkpoint) > 65_536:
        raise IntegrityError("log.proof", "malformed receipt")
    return Receipt(
        parcel_id=reply.parcel_id,
        digest=reply.digest,
        index=reply.index,
        proof=tuple(reply.proof),
        checkpoint=reply.checkpoint,
    )


def outcome_of(one: pb.Carried, checkpoint: str, entry: SpoolEntry) -> Receipt | CorsiaError:
    """What became of one parcel of several: its receipt, or the error that stands for it."""
    if one.code:
        error = said(one.code)
        return UnavailableError("unavailable.centre") if isinstance(error, ConflictError) else error
    one.receipt.checkpoint = checkpoint
    try:
        return receipt_of(one.receipt, entry)
    except IntegrityError as error:
        return error


def landed_of(reply: pb.LandedReply) -> LandedPage:
    """A page of what has landed, unverified.

    Raises:
        InputError: `input.message`.
    """
    if len(reply.parcels) > MAX_LANDED or len(reply.assignments) > 2 * MAX_LANDED or len(reply.checkpoint) > 65_536:
        raise InputError("input.message", "oversized page")
    if not all(_HEAD.match(head) for head in (reply.ledger_head, reply.journal_head)):
        raise InputError("input.message", "malformed head")
    return LandedPage(
        parcels=tuple(_landed(parcel) for parcel in reply.parcels),
        assignments=tuple(assignment_of(message) for message in reply.assignments),
        checkpoint=reply.checkpoint,
        more=reply.more,
        ledger_head=reply.ledger_head,
        journal_head=reply.journal_head,
    )


def _landed(message: pb.LandedParcel) -> LandedParcel:
    proof = tuple(message.proof)
    if len(proof) > 64 or not all(_HEX64.match(text) for text in (message.digest, *proof)):
        raise InputError("input.message", "malformed receipt")
    if not (_HEX32.match(message.parcel_id) and _ID.match(message.assignment_id)) or message.size_bytes >= 1 << 53:
        raise InputError("input.message", "malformed receipt")
    return LandedParcel(
        parcel_id=message.parcel_id,
        digest=message.digest,
        index=message.index,
        proof=proof,
        assignment_id=message.assignment_id,
        content_type=message.content_type,
        size_bytes=message.size_bytes,
        done=message.done,
    )


def _blob(message: pb.Blob) -> Blob:
    if not _BLOB_NAME.match(message.name) or not _HEX64.match(message.digest) or message.size_bytes > MAX_BLOB_BYTES:
        raise InputError("input.message", "malformed object reference")
    return Blob(name=message.name, digest=message.digest, size_bytes=message.size_bytes)


def catalogue_message(told: Sequence[AdvertisedDataset] | None) -> pb.Catalogue | None:
    """What the site tells of its datasets, on its way out; None where there is nothing new."""
    if told is None:
        return None
    return pb.Catalogue(
        datasets=[
            pb.AdvertisedDataset(
                name=one.name,
                rows=one.rows,
                columns=[pb.AdvertisedColumn(name=c.name, role=c.role, type=c.type) for c in one.columns],
                lanes=one.lanes,
                kinds=one.kinds,
            )
            for one in told
        ]
    )
