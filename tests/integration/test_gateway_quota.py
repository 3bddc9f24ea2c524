"""A site that floods is its own trouble: limits at the gateway, and a peer that really floods it."""

from __future__ import annotations

import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import grpc
import pytest

from central.config import load_config
from central.store.models import AssignmentRow, ParcelRow
from edge.callerrors import named_errors
from protocol.assignment import State
from protocol.errors import UnavailableError
from protocol.v1 import fleet_pb2 as pb
from tests.gatewaykit import Centre, Site, code_of, draft, eventually, running

LIMITS = """
[limits.sites.site-q]
bytes_per_day = 60_000
parcels_per_day = 4
[limits.sites.site-f]
calls_per_s = 20
calls = 4
[limits.sites.site-s]
calls_per_s = 30
[limits.sites.site-h]
idle_s = 1
calls = 4
[limits.sites.site-i]
idle_s = 1
open_uploads = 2
"""
FLOOD = """
import sys, threading, grpc
from pathlib import Path
from protocol.v1 import fleet_pb2 as pb
from protocol.v1 import fleet_pb2_grpc as rpc
folder, address = Path(sys.argv[1]), sys.argv[2]
ca, key, chain = (folder.joinpath(name).read_bytes() for name in ("ca", "key", "chain"))
codes = {}
def flood(number):
    credentials = grpc.ssl_channel_credentials(ca, key, chain)
    options = [("grpc.use_local_subchannel_pool", 1), ("grpc.enable_http_proxy", 0)]
    channel = grpc.secure_channel(address, credentials, options)
    reports, delivery = rpc.AssignmentsStub(channel), rpc.DeliveryStub(channel)
    while True:
        futures = [reports.Report.future(pb.SiteReport(version="1"), timeout=5) for _ in range(8)]
        futures += [delivery.Commit.future(pb.CommitRequest(parcel_id="0" * 32), timeout=5) for _ in range(8)]
        streams = [reports.Watch(pb.WatchRequest(version="1"), timeout=5) for _ in range(4)]
        for future in futures:
            error = future.exception()
            trailing = dict(error.trailing_metadata() or ()) if error is not None else {}
            codes[trailing.get("corsia-code", "")] = trailing.get("corsia-retry-s", "")
        for stream in streams:
            stream.cancel()
        if number == 0:
            print(" ".join(f"{code}={wait}" for code, wait in sorted(codes.items()) if code), flush=True)
for number in range(3):
    threading.Thread(target=flood, args=(number,), daemon=True).start()
threading.Event().wait()
"""


@pytest.fixture(scope="module")
def centre(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Centre]:
    with running(tmp_path_factory.mktemp("centre"), gateway=False) as made:
        with made.path.open("a") as file:
            file.write(LIMITS)
        made.config = load_config(made.path)
        yield made.start()


def refused(code: str):  # type: ignore[no-untyped-def]
    return pytest.raises(grpc.RpcError, check=lambda e: code_of(e) == code and e.code() is grpc.StatusCode.UNAVAILABLE)


def studied(centre: Centre, site: str) -> tuple[Site, str, str]:
    """A site with a study of its own: its stubs, the study's digest and the assignment."""
    made = centre.enrol(site)
    digest = centre.submit(draft(id=f"of-{site}", sites=[site]))
    return made, digest, made.first().id


def test_bytes_and_parcels_of_a_day(centre: Centre) -> None:
    site, digest, assignment = studied(centre, "site-q")
    key = centre.keys["of-site-q"]
    big = site.parcel(digest, key, b"x" * 30_000)
    receipt = site.deliver(big, assignment)
    for along in (True, False):
        other = site.parcel(digest, key, b"x" * 30_000)
        with refused("unavailable.quota"):
            site.open(other, assignment, **({"data": other.raw} if along else {}))
    assert site.deliver(big, assignment).index == receipt.index  # what has landed is answered as before
    small = [site.parcel(digest, key) for _ in range(4)]
    carried = pb.CarryRequest(
        parcels=[
            pb.OpenRequest(
                parcel_id=p.id, study_digest=digest, content_type="features", size_bytes=len(p.raw), digest=p.digest,
                assignment_id=assignment, data=p.raw,
            )
            for p in small
        ]
    )  # fmt: skip
    outcomes = site.delivery.Carry(carried, timeout=60).parcels
    assert [outcome.code for outcome in outcomes] == ["", "", "", "unavailable.quota"]
    with centre.store.read() as session:
        assert session.query(ParcelRow).filter(ParcelRow.site == "site-q").count() == 4


def test_a_call_that_stands_still_is_ended_and_its_upload_goes_on(centre: Centre) -> None:
    site, digest, assignment = studied(centre, "site-i")
    key = centre.keys["of-site-i"]
    parcels = [site.parcel(digest, key, b"x" * 5000) for _ in range(3)]
    site.open(parcels[0], assignment)

    ended = threading.Event()

    def stalls() -> Iterator[pb.Chunk]:
        yield pb.Chunk(parcel_id=parcels[0].id, offset=0, data=parcels[0].raw[:4096])
        ended.wait(30)  # as a peer whose line is dead

    upload = site.delivery.Upload.future(stalls(), timeout=60)
    stream = site.watch()
    error = upload.exception()
    ended.set()
    assert error.code() is grpc.StatusCode.CANCELLED  # it waits for bytes: cut, since it cannot end by itself
    next(stream)
    stream.cancel()
    assert site.open(parcels[0], assignment).offset == 4096
    for parcel in parcels[1:]:
        site.open(parcel, assignment)  # two may be open: the first one's beginning is dropped
    assert site.open(parcels[0], assignment).offset == 0


def test_calls_that_never_send_their_message_hold_no_thread_of_others(centre: Centre) -> None:
    """Headers without a body: the caller is counted and refused, or ended, all the same."""
    site, neighbour = centre.enrol("site-h"), centre.enrol("site-g")
    silent = threading.Event()

    def nothing() -> Iterator[bytes]:
        silent.wait(60)
        yield b""

    assert site.channel is not None
    calls = [
        site.channel.stream_unary(f"/corsia.v1.{name}").future(nothing(), timeout=60)
        for name in ("Assignments/Report", "Delivery/Open", "Delivery/Commit") * 3
    ]
    streams = [site.channel.stream_stream("/corsia.v1.Assignments/Watch")(nothing(), timeout=60) for _ in range(2)]
    codes = [code_of(call.exception()) for call in calls]
    assert codes.count("unavailable.busy") >= 5  # four may be open
    with pytest.raises(grpc.RpcError):
        list(streams[0])
    neighbour.assignments.Report(pb.SiteReport(version="1"), timeout=60)
    silent.set()


@pytest.fixture
def flooded(centre: Centre, tmp_path: Path) -> Iterator[tuple[Site, Callable[[], str]]]:
    """A process that floods the gateway as site-f, with what it is told."""
    site = centre.enrol("site-f")
    for name, data in (("ca", site.ca), ("key", site.tls_key()), ("chain", site.chain)):
        (tmp_path / name).write_bytes(data)
    command = [sys.executable, "-c", FLOOD, str(tmp_path), centre.config.gateway.fleet_address]
    out = tmp_path / "out"
    with out.open("w") as file:
        process = subprocess.Popen(command, stdout=file, stderr=subprocess.DEVNULL)
    try:
        yield site, lambda: (out.read_text().splitlines() or [""])[-1]
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()


def test_a_site_that_floods_harms_no_other(centre: Centre, flooded: tuple[Site, Callable[[], str]]) -> None:
    hostile, told = flooded
    site, digest, assignment = studied(centre, "site-b")
    key = centre.keys["of-site-b"]
    eventually(lambda: "unavailable.rate" in told(), 120)
    site.timeout_s = (
        120.0  # a refused flood costs this machine time all the same; what counts is that nobody is refused
    )
    stream = site.assignments.Watch(pb.WatchRequest(version="1"), timeout=300)
    for number in range(6):  # none is refused, none is lost
        parcel = site.parcel(digest, key, b"x" * 2000 * number)
        along = {"data": parcel.raw} if number % 2 else {}
        if along:
            assert site.open(parcel, assignment, **along).committed
        else:
            site.deliver(parcel, assignment)
        site.assignments.Report(pb.SiteReport(version="1"), timeout=120)
    assert next(stream).id == assignment
    later = centre.submit(draft(id="later", sites=["site-b"]))
    while next(stream).study_digest != later:
        pass
    stream.cancel()
    waits = dict(pair.split("=") for pair in told().split())
    assert {"unavailable.rate", "unavailable.busy"} >= waits.keys() - {"conflict.state"}
    assert 1 <= int(waits["unavailable.rate"]) <= 3600
    with pytest.raises(UnavailableError) as named, named_errors(threading.Event()):
        asked(hostile, [pb.SiteReport(version="1")] * 1000)
    assert named.value.code in ("unavailable.rate", "unavailable.busy")
    assert named.value.retry_s >= 1  # what the agent waits


def test_changes_of_state_cost_more_than_heartbeats(centre: Centre) -> None:
    site, _digest, assignment = studied(centre, "site-s")
    states = [pb.STATE_PENDING, pb.STATE_RUNNING] * 100
    with refused("unavailable.rate"):
        asked(site, [pb.SiteReport(version="1", assignment_id=assignment, state=state) for state in states])
    with centre.store.read() as session:
        row = session.query(AssignmentRow).filter(AssignmentRow.id == assignment).one()
        assert State(row.state) in (State.RUNNING, State.PENDING)


def asked(site: Site, reports: Iterable[pb.SiteReport]) -> None:
    for report in reports:
        site.assignments.Report(report, timeout=60)
