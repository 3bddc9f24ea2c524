"""The uplink against a real gRPC server with mutual TLS on loopback, honest and hostile."""

from __future__ import annotations

import hashlib
import os
import socket
import threading
import time
from collections.abc import Iterator
from concurrent import futures
from dataclasses import replace
from pathlib import Path
from typing import Any

import grpc
import pytest
from cryptography.hazmat.primitives import serialization

from edge.identity import Identity
from edge.pace import Pace
from edge.uplink import Uplink
from protocol.assignment import Assignment, AssignmentKind, Blob, SiteReport, State
from protocol.errors import (
    AuthenticationError,
    CorsiaError,
    InputError,
    IntegrityError,
    Paused,
    PermissionRefused,
    StorageError,
    UnavailableError,
)
from protocol.parcel import Receipt
from protocol.v1 import fleet_pb2 as pb
from tests.sourcekit import until
from tests.uplinkkit import STUDY, Authority, Centre, entry, noise

MIB = 1 << 20


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Centre, Identity]]:
    centre = Centre().start()
    yield centre, centre.enrol(tmp_path_factory.mktemp("site") / "state")
    centre.stop()


@pytest.fixture
def centre(place: tuple[Centre, Identity]) -> Iterator[Centre]:
    yield place[0]
    for kept in (place[0].hostile, place[0].assignments, place[0].parcels, place[0].blobs, place[0].uploads):
        kept.clear()
    place[0].hold_open = False
    place[0].commits = 0


@pytest.fixture
def uplink(place: tuple[Centre, Identity], centre: Centre) -> Iterator[Uplink]:
    made = Uplink(place[1])
    yield made
    made.close()


def go() -> bool:
    return False


def message(**changes: Any) -> pb.Assignment:
    value: dict[str, Any] = {
        "id": "a-1",
        "kind": pb.ASSIGNMENT_KIND_STUDY,
        "study_digest": STUDY,
        "document": b"study",
        "signature": b"signature",
    }
    return pb.Assignment(**{**value, **changes})


def refused(call: Any, error: type[CorsiaError], code: str) -> None:
    with pytest.raises(error) as caught:
        call()
    assert caught.value.code == code


# --- assignments and reports


def test_watch_yields_values_and_ends_with_the_stream(uplink: Uplink, centre: Centre) -> None:
    blob = pb.Blob(name="message.bin", digest="cd" * 32, size_bytes=7)
    centre.assignments = [message(), message(id="a-2", kind=pb.ASSIGNMENT_KIND_ROUND, blobs=[blob])]
    first, second = list(uplink.watch())
    assert first == Assignment(
        id="a-1", kind=AssignmentKind.STUDY, study_digest=STUDY, document=b"study", signature=b"signature"
    )
    assert second.kind is AssignmentKind.ROUND
    assert second.blobs == (Blob(name="message.bin", digest="cd" * 32, size_bytes=7),)


@pytest.mark.parametrize(
    "change",
    [
        {"kind": 0},
        {"kind": 99},
        {"id": ""},
        {"id": "../../etc/passwd"},
        {"id": "x" * 65},
        {"id": "a\n"},
        {"study_digest": "AB" * 32},
        {"study_digest": ""},
        {"document": b"x" * (257 << 10)},
        {"blobs": [pb.Blob(name="../x", digest="cd" * 32)]},
        {"blobs": [pb.Blob(name="x", digest="cd")]},
        {"blobs": [pb.Blob(name="x", digest="cd" * 32, size_bytes=1 << 60)]},
        {"blobs": [pb.Blob(name="x", digest="cd" * 32)] * 65},
    ],
)
def test_malformed_assignments_are_refused(uplink: Uplink, centre: Centre, change: dict[str, Any]) -> None:
    centre.assignments = [message(), message(**change)]
    stream = uplink.watch()
    assert next(stream).id == "a-1"
    refused(lambda: next(stream), InputError, "input.message")


def test_an_oversized_message_is_refused(uplink: Uplink, centre: Centre) -> None:
    centre.assignments = [message(document=b"x" * (9 * MIB))]
    refused(lambda: list(uplink.watch()), InputError, "input.message")


def test_close_ends_a_waiting_watch_quietly(uplink: Uplink, centre: Centre) -> None:
    centre.assignments = [message()]
    centre.hold_open = True
    seen: list[str] = []
    thread = threading.Thread(target=lambda: seen.extend(a.id for a in uplink.watch()))
    thread.start()
    until(lambda: bool(seen), "the assignment")
    assert thread.is_alive()
    uplink.close()
    thread.join(60)
    assert not thread.is_alive()
    assert seen == ["a-1"]
    refused(lambda: next(iter(uplink.watch())), UnavailableError, "unavailable.centre")


def test_report_carries_every_field(uplink: Uplink, centre: Centre) -> None:
    report = SiteReport(
        version="0.1.0",
        paused=True,
        spool_parcels=2,
        spool_bytes=3,
        ledger_head="aa",
        journal_head="bb",
        assignment_id="a-1",
        state=State.FAILED,
        code="gate.k",
        error_id="00ff",
        counts={"rows": 4},
    )
    assert uplink.report(report).server_time == 1234.5
    assert uplink.report(replace(report, assignment_id="", state=None)).server_time == 1234.5
    first, second = centre.reports[-2:]
    assert (first.state, first.code, dict(first.counts), first.paused) == (pb.STATE_FAILED, "gate.k", {"rows": 4}, True)
    assert second.state == pb.STATE_UNSPECIFIED
    for state in State:
        uplink.report(replace(report, state=state))
        assert pb.State.Name(centre.reports[-1].state) == f"STATE_{state.name}"


@pytest.mark.parametrize(
    ("code", "status", "error", "expect"),
    [
        ("auth.revoked", "UNAUTHENTICATED", AuthenticationError, "auth.revoked"),
        ("permission.site", "PERMISSION_DENIED", PermissionRefused, "permission.site"),
        ("unavailable.process", "UNAVAILABLE", UnavailableError, "unavailable.process"),
        ("storage.full", "RESOURCE_EXHAUSTED", UnavailableError, "unavailable.centre"),
        ("budget.ledger", "ABORTED", InputError, "input.message"),  # only a site says this
        ("paused.site", "ABORTED", InputError, "input.message"),
        ("no.such.code", "ABORTED", InputError, "input.message"),
        ("", "UNAUTHENTICATED", AuthenticationError, "auth.certificate"),
        ("", "PERMISSION_DENIED", PermissionRefused, "permission.site"),
        ("", "INVALID_ARGUMENT", InputError, "input.message"),
        ("", "RESOURCE_EXHAUSTED", InputError, "input.message"),
        ("", "UNIMPLEMENTED", InputError, "input.message"),
        ("", "INTERNAL", UnavailableError, "unavailable.centre"),
        ("", "UNAVAILABLE", UnavailableError, "unavailable.centre"),
    ],
)
def test_every_refusal_becomes_one_error(
    uplink: Uplink, centre: Centre, code: str, status: str, error: type[CorsiaError], expect: str
) -> None:
    def refuse(context: grpc.ServicerContext) -> None:
        if code:
            context.set_trailing_metadata((("corsia-code", code),))
        context.abort(grpc.StatusCode[status], "patient Rossi")

    centre.hostile["report"] = refuse
    report = SiteReport(version="", paused=False, spool_parcels=0, spool_bytes=0, ledger_head="", journal_head="")
    with pytest.raises(error) as caught:
        uplink.report(report)
    assert caught.value.code == expect
    assert "Rossi" not in str(caught.value)


def test_a_silent_centre_runs_into_the_deadline(place: tuple[Centre, Identity], centre: Centre) -> None:
    centre.hostile["report"] = lambda _context: time.sleep(1.0)
    uplink = Uplink(place[1], timeout_s=0.2)
    report = SiteReport(version="", paused=False, spool_parcels=0, spool_bytes=0, ledger_head="", journal_head="")
    refused(lambda: uplink.report(report), UnavailableError, "unavailable.centre")
    uplink.close()


# --- who the peers are


def test_no_listener_is_unavailable(place: tuple[Centre, Identity]) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        uplink = Uplink(place[1], f"127.0.0.1:{taken.getsockname()[1]}")
        refused(lambda: list(uplink.watch()), UnavailableError, "unavailable.centre")
        uplink.close()


@pytest.mark.parametrize("name", ["test CA", "another CA"])
def test_a_server_of_another_ca_is_not_spoken_to(place: tuple[Centre, Identity], name: str) -> None:
    other = Centre(authority=Authority(name)).start()
    other.assignments = [message()]
    uplink = Uplink(place[1], other.fleet)
    refused(lambda: list(uplink.watch()), AuthenticationError, "auth.intercepted")  # it answers in the centre's name
    uplink.close()
    other.stop()


def test_a_server_of_another_name_is_not_spoken_to(place: tuple[Centre, Identity]) -> None:
    key, chain = place[0].authority.server()
    server = grpc.server(futures.ThreadPoolExecutor(1))
    port = server.add_secure_port("127.0.0.2:0", grpc.ssl_server_credentials(((key, chain),)))
    server.start()
    uplink = Uplink(place[1], f"127.0.0.2:{port}")
    refused(lambda: list(uplink.watch()), AuthenticationError, "auth.fingerprint")
    uplink.close()
    server.stop(grace=0).wait()


def test_a_foreign_certificate_does_not_get_in(place: tuple[Centre, Identity], centre: Centre) -> None:
    key = serialization.load_pem_private_key(place[1].tls_key, None)
    foreign = Authority().site("site-a", key.public_key())
    uplink = Uplink(replace(place[1], certificate_pem=foreign))
    refused(lambda: list(uplink.watch()), UnavailableError, "unavailable.centre")
    uplink.close()


# --- delivery


def test_a_parcel_lands_once_and_its_receipt_repeats(uplink: Uplink, centre: Centre, tmp_path: Path) -> None:
    data = noise(3 * MIB + 17)
    parcel = entry(data, tmp_path)
    with parcel.path.open("rb") as read:
        receipt = uplink.deliver(parcel, read, go)
        assert uplink.deliver(parcel, read, go) == receipt
    assert (receipt.parcel_id, receipt.digest) == (parcel.parcel_id, parcel.digest)
    assert bytes(centre.parcels[parcel.parcel_id].data) == data
    assert centre.uploads == [0]  # the second time nothing was sent


def test_delivery_resumes_where_the_centre_stopped(uplink: Uplink, centre: Centre, tmp_path: Path) -> None:
    data = noise(4 * MIB)
    parcel = entry(data, tmp_path)

    def breaks(held: Any, context: grpc.ServicerContext) -> None:
        if len(held.data) == 2 * MIB and len(centre.uploads) == 1:
            context.abort(grpc.StatusCode.UNAVAILABLE, "going down")

    centre.hostile["upload"] = breaks
    with parcel.path.open("rb") as read:
        refused(lambda: uplink.deliver(parcel, read, go), UnavailableError, "unavailable.centre")
        uplink.deliver(parcel, read, go)
    assert centre.uploads == [0, 2 * MIB]
    assert bytes(centre.parcels[parcel.parcel_id].data) == data


def test_a_restarted_centre_is_found_again(tmp_path: Path) -> None:
    centre = Centre().start()
    uplink = Uplink(centre.enrol(tmp_path / "state"))
    parcel = entry(noise(MIB), tmp_path)
    with parcel.path.open("rb") as read:
        port = int(centre.fleet.rpartition(":")[2])
        centre.stop()
        refused(lambda: uplink.deliver(parcel, read, go), UnavailableError, "unavailable.centre")
        centre.start(port)
        deadline = time.monotonic() + 60
        while True:
            try:
                assert uplink.deliver(parcel, read, go).digest == parcel.digest
                break
            except UnavailableError:
                assert time.monotonic() < deadline
                time.sleep(0.1)
    uplink.close()
    centre.stop()


def test_pause_stops_between_chunks_and_resumes(uplink: Uplink, centre: Centre, tmp_path: Path) -> None:
    parcel = entry(noise(8 * MIB), tmp_path)
    stop = threading.Event()

    def pause(held: Any, context: grpc.ServicerContext) -> None:
        if len(held.data) >= 2 * MIB:
            over = threading.Event()
            stop.set()
            if context.add_callback(over.set):
                over.wait(60)  # nothing of this call comes behind the next one

    centre.hostile["upload"] = pause
    with parcel.path.open("rb") as read:
        refused(lambda: uplink.deliver(parcel, read, stop.is_set), Paused, "paused.site")
        assert centre.commits == 0
        stop.clear()
        centre.hostile.clear()
        assert uplink.deliver(parcel, read, stop.is_set).digest == parcel.digest


def test_pause_stops_while_no_byte_moves(uplink: Uplink, centre: Centre, tmp_path: Path) -> None:
    parcel = entry(noise(2 * MIB), tmp_path)
    stop = threading.Event()
    stuck, moved = threading.Event(), threading.Event()

    def hang(_held: Any, _context: grpc.ServicerContext) -> None:
        stop.set()
        stuck.wait(60)
        moved.set()

    centre.hostile["upload"] = hang
    with parcel.path.open("rb") as read:
        refused(lambda: uplink.deliver(parcel, read, stop.is_set), Paused, "paused.site")
    assert not moved.is_set(), "it has not waited for the centre"
    stuck.set()


def test_a_paused_site_does_not_even_announce(uplink: Uplink, centre: Centre, tmp_path: Path) -> None:
    parcel = entry(b"x", tmp_path)
    with parcel.path.open("rb") as read:
        refused(lambda: uplink.deliver(parcel, read, lambda: True), Paused, "paused.site")
    assert centre.parcels == {}


@pytest.mark.parametrize(
    "change",
    [
        {"parcel_id": "0" * 32},
        {"digest": "0" * 64},
        {"proof": ["zz"]},
        {"proof": ["00" * 32] * 65},
        {"checkpoint": "x" * 100_000},
    ],
)
def test_a_receipt_for_anything_else_is_refused(
    uplink: Uplink, centre: Centre, tmp_path: Path, change: dict[str, Any]
) -> None:
    def other(reply: pb.CommitReply) -> pb.CommitReply:
        value = {"parcel_id": reply.parcel_id, "digest": reply.digest, "index": 0, "proof": [], "checkpoint": ""}
        return pb.CommitReply(**{**value, **change})

    centre.hostile["commit"] = other
    parcel = entry(noise(10), tmp_path)
    with parcel.path.open("rb") as read:
        refused(lambda: uplink.deliver(parcel, read, go), IntegrityError, "log.proof")


def test_an_offset_beyond_the_parcel_is_refused(uplink: Uplink, centre: Centre, tmp_path: Path) -> None:
    centre.hostile["open"] = lambda _request, _context: pb.OpenReply(offset=11)
    parcel = entry(noise(10), tmp_path)
    with parcel.path.open("rb") as read:
        refused(lambda: uplink.deliver(parcel, read, go), InputError, "input.message")


def test_a_file_that_changed_under_us_is_named(uplink: Uplink, centre: Centre, tmp_path: Path) -> None:
    parcel = entry(noise(2 * MIB), tmp_path)
    with parcel.path.open("rb") as read:
        os.truncate(parcel.path, MIB)
        refused(lambda: uplink.deliver(parcel, read, go), IntegrityError, "parcel.truncated")
    parcel = entry(noise(100), tmp_path, "changed")
    parcel.path.write_bytes(noise(100, seed=1))
    with parcel.path.open("rb") as read:
        refused(lambda: uplink.deliver(parcel, read, go), IntegrityError, "parcel.truncated")  # the centre's word
    closed = parcel.path.open("rb")
    closed.close()
    centre.parcels.clear()
    refused(lambda: uplink.deliver(parcel, closed, go), StorageError, "storage.failed")


def test_a_delivery_still_under_way_at_the_centre_is_retried(uplink: Uplink, centre: Centre, tmp_path: Path) -> None:
    def busy(_request: pb.OpenRequest, context: grpc.ServicerContext) -> None:
        context.set_trailing_metadata((("corsia-code", "conflict.state"),))
        context.abort(grpc.StatusCode.ABORTED, "")

    centre.hostile["open"] = busy
    parcel = entry(noise(10), tmp_path)
    with parcel.path.open("rb") as read:
        refused(lambda: uplink.deliver(parcel, read, go), UnavailableError, "unavailable.centre")


def test_an_older_centre_is_sent_small_parcels_one_by_one(uplink: Uplink, centre: Centre, tmp_path: Path) -> None:
    parcels = [(entry(noise(100 + n), tmp_path, f"p{n}"), noise(100 + n)) for n in range(3)]
    outcomes = uplink.carry(parcels, go)  # this centre has no such call
    assert [outcome.parcel_id for outcome in outcomes if isinstance(outcome, Receipt)] == [
        sent.parcel_id for sent, _ in parcels
    ]
    assert len(centre.parcels) == 3
    refused(lambda: uplink.carry([(parcels[0][0], b"short")], go), IntegrityError, "parcel.truncated")
    refused(lambda: uplink.carry(parcels, lambda: True), Paused, "paused.site")


def test_a_limit_of_the_rate_holds_chunks_back_and_a_stop_ends_the_wait(
    place: tuple[Centre, Identity], centre: Centre, tmp_path: Path
) -> None:
    slept: list[float] = []
    pace = Pace(8.0, clock=lambda: sum(slept), sleep=slept.append)
    uplink = Uplink(place[1], pace=pace)
    parcel = entry(noise(3 * MIB), tmp_path)
    with parcel.path.open("rb") as read:
        uplink.deliver(parcel, read, go)
        assert sum(slept) == pytest.approx(2 * MIB / 1e6, rel=0.05)  # the first goes at once, two wait
        other = entry(noise(3 * MIB, seed=1), tmp_path, "other")
    with other.path.open("rb") as read:
        refused(lambda: uplink.deliver(other, read, lambda: sum(slept) > 2.5), Paused, "paused.site")
    uplink.close()


def test_a_parcel_is_committed_when_its_turn_has_come(uplink: Uplink, centre: Centre, tmp_path: Path) -> None:
    def not_yet() -> None:
        raise Paused("paused.site")

    for size in (100, 2 * MIB):
        parcel = entry(noise(size), tmp_path, f"p{size}")
        with parcel.path.open("rb") as read:
            refused(lambda sent=parcel, read=read: uplink.deliver(sent, read, go, not_yet), Paused, "paused.site")
            assert centre.commits == 0
            assert uplink.deliver(parcel, read, go).digest == parcel.digest
        centre.commits = 0


# --- objects


def blob_of(centre: Centre, data: bytes) -> Blob:
    digest = hashlib.sha256(data).hexdigest()
    centre.blobs[digest] = data
    return Blob(name="b", digest=digest, size_bytes=len(data))


@pytest.mark.parametrize("size", [0, 1, MIB, 3 * MIB + 5])
def test_fetch(uplink: Uplink, centre: Centre, size: int) -> None:
    data = noise(size)
    assert uplink.fetch(blob_of(centre, data)) == data


def test_fetch_resumes_a_broken_stream(uplink: Uplink, centre: Centre) -> None:
    data = noise(5 * MIB)
    offsets: list[int] = []

    def breaks(request: pb.FetchRequest, context: grpc.ServicerContext) -> Iterator[pb.Chunk]:
        offsets.append(request.offset)
        yield pb.Chunk(offset=request.offset, data=data[request.offset : request.offset + MIB])
        if len(offsets) % 2:
            context.abort(grpc.StatusCode.UNAVAILABLE, "")

    centre.hostile["fetch"] = breaks
    assert uplink.fetch(blob_of(centre, data)) == data
    assert offsets == [0, MIB, 2 * MIB, 3 * MIB, 4 * MIB]


def test_fetch_gives_up_without_progress(uplink: Uplink, centre: Centre) -> None:
    centre.hostile["fetch"] = lambda _request, _context: iter(())
    refused(lambda: uplink.fetch(blob_of(centre, b"x")), UnavailableError, "unavailable.centre")


@pytest.mark.parametrize(
    ("chunks", "error", "code"),
    [
        ([(0, b"abcX")], IntegrityError, "blob.digest"),
        ([(0, b"abcde")], IntegrityError, "blob.digest"),
        ([(0, b"ab"), (2, b"cde")], IntegrityError, "blob.digest"),
        ([(1, b"abcd")], InputError, "input.message"),
        ([(0, b"ab"), (0, b"cd")], InputError, "input.message"),
        ([(0, b"")], InputError, "input.message"),
        ([(0, b"x" * (9 * MIB))], InputError, "input.message"),
    ],
)
def test_a_wrong_object_is_refused(
    uplink: Uplink, centre: Centre, chunks: list[tuple[int, bytes]], error: type[CorsiaError], code: str
) -> None:
    centre.hostile["fetch"] = lambda _request, _context: iter([pb.Chunk(offset=at, data=data) for at, data in chunks])
    refused(lambda: uplink.fetch(blob_of(centre, b"abcd")), error, code)


def test_an_object_that_is_not_there_or_too_large(uplink: Uplink, centre: Centre) -> None:
    refused(lambda: uplink.fetch(Blob(name="b", digest="0" * 64, size_bytes=1)), IntegrityError, "blob.digest")
    refused(lambda: uplink.fetch(Blob(name="b", digest="0" * 64, size_bytes=1 << 40)), InputError, "input.message")
    refused(lambda: uplink.fetch(Blob(name="b", digest="0" * 64, size_bytes=0)), IntegrityError, "blob.digest")
