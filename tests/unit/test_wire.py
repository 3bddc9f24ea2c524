"""Messages and values: nothing known is missing from a mapping, nothing unknown passes."""

from __future__ import annotations

import grpc
import pytest

from central.gateway import wire
from central.gateway.server import status_of
from protocol import errors
from protocol.assignment import Assignment, AssignmentKind, Blob, State
from protocol.errors import CODES, InputError, from_code
from protocol.parcel import ContentType, Receipt
from protocol.v1 import fleet_pb2 as pb

OPEN = {
    "parcel_id": "a" * 32,
    "study_digest": "b" * 64,
    "content_type": "records",
    "size_bytes": 1,
    "digest": "c" * 64,
    "assignment_id": "d" * 32,
}


def test_every_state_and_kind_has_its_number() -> None:
    known = {n: v for n, v in pb.State.items() if v}
    assert len(known) == len(State)
    for name, number in known.items():
        report = wire.site_report(pb.SiteReport(assignment_id="a" * 32, state=number))  # type: ignore[arg-type]
        assert report.state is State[name.removeprefix("STATE_")]
    for kind in AssignmentKind:
        value = Assignment(
            id="a" * 32, kind=kind, study_digest="b" * 64, document=b"d", signature=b"s",
            blobs=(Blob(name="n", digest="c" * 64, size_bytes=5),),
        )  # fmt: skip
        message = pb.Assignment.FromString(wire.assignment_message(value, {}).SerializeToString())
        assert pb.AssignmentKind.Name(message.kind) == f"ASSIGNMENT_KIND_{kind.name}"
        assert (message.blobs[0].digest, message.blobs[0].size_bytes) == ("c" * 64, 5)


def test_every_content_type_is_taken() -> None:
    for content in ContentType:
        assert wire.announcement(pb.OpenRequest(**(OPEN | {"content_type": content.value}))).content_type is content


@pytest.mark.parametrize(
    "changes",
    [
        {"parcel_id": ""},
        {"parcel_id": "A" * 32},
        {"study_digest": "b" * 63},
        {"digest": "g" * 64},
        {"assignment_id": "a/b"},
        {"content_type": ""},
        {"size_bytes": 0},
        {"size_bytes": 2**63},
    ],
)
def test_malformed_announcements(changes: dict[str, object]) -> None:
    with pytest.raises(InputError, match=r"input\.message"):
        wire.announcement(pb.OpenRequest(**(OPEN | changes)))  # type: ignore[arg-type]


@pytest.mark.parametrize("number", [-1, 9, 2**31 - 1])
def test_unknown_states(number: int) -> None:
    with pytest.raises(InputError):
        wire.site_report(pb.SiteReport(assignment_id="a", state=number))  # type: ignore[arg-type]


def test_receipts_keep_all_they_say() -> None:
    receipt = Receipt(parcel_id="a" * 32, digest="b" * 64, index=7, proof=("c" * 64,), checkpoint="text — é\n")
    message = pb.CommitReply.FromString(wire.receipt_message(receipt).SerializeToString())
    assert (message.parcel_id, message.digest, message.index) == ("a" * 32, "b" * 64, 7)
    assert (list(message.proof), message.checkpoint) == (["c" * 64], "text — é\n")


def test_every_error_has_a_status_and_only_its_code_leaves() -> None:
    for code in CODES:
        status = status_of(from_code(code, "Rossi Mario"))
        assert status not in (grpc.StatusCode.OK, grpc.StatusCode.INTERNAL, grpc.StatusCode.UNKNOWN)
    assert status_of(errors.UnavailableError("unavailable.centre")) is grpc.StatusCode.UNAVAILABLE
