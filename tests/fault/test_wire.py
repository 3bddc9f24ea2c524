"""The line between a hospital and the real gateway: cut, half-open, slow, twice at once, out of order: lands once."""

from __future__ import annotations

import io
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import pytest

from central.store.models import LogRow, ParcelRow
from edge.identity import Identity, enrol
from edge.spool import SpoolEntry
from edge.uplink import Uplink
from privacy.transparency import verify_receipt
from protocol.errors import Paused, UnavailableError
from protocol.parcel import Receipt
from protocol.v1 import fleet_pb2 as pb
from tests.fault.proxy import Proxy
from tests.gatewaykit import Centre, Parcel, Site, eventually, first, running

MIB = 1 << 20
LONG_S = 60.0  # on a machine that has much else to do


@dataclass
class Place:
    """A centre, a line to it, an enrolled site with one parcel of 3 MiB for its study."""

    centre: Centre
    proxy: Proxy
    identity: Identity
    parcel: Parcel
    assignment: str

    def uplink(self) -> Uplink:
        return Uplink(self.identity, self.proxy.address, timeout_s=20.0)

    def deliver(self, uplink: Uplink, should_stop: Callable[[], bool] = lambda: False) -> Receipt:
        parcel = self.parcel
        entry = SpoolEntry(
            parcel_id=parcel.id, sequence=1, assignment_id=self.assignment, study_digest=parcel.study,
            content_type=parcel.content_type, digest=parcel.digest, size_bytes=len(parcel.raw), path=Path("unused"),
        )  # fmt: skip
        return uplink.deliver(entry, io.BytesIO(parcel.raw), should_stop)

    def until_delivered(self, uplink: Uplink) -> Receipt:
        """As the delivery thread: what is unavailable is tried again."""
        until = time.monotonic() + LONG_S
        while True:
            try:
                return self.deliver(uplink)
            except UnavailableError:
                assert time.monotonic() < until, "never delivered"
                time.sleep(0.05)

    def arrived(self) -> int:
        """Bytes of the parcel on the gateway's disk."""
        part = self.centre.config.state_dir / "landing" / "partial" / f"{self.parcel.id}.part"
        return part.stat().st_size if part.exists() else 0

    def wait_for(self, size_bytes: int, delivery: Future[Receipt]) -> None:
        """Until so much has arrived, or the delivery has ended."""
        eventually(lambda: self.arrived() >= size_bytes or delivery.done(), LONG_S)

    def landed(self, receipt: Receipt) -> None:
        """Once, whole, and the receipt is of it."""
        verify_receipt(receipt, self.identity.log_key, self.identity.trust.log_origin)
        with self.centre.store.read() as session:
            rows = session.query(ParcelRow).all()
            assert [(row.id, row.log_index) for row in rows] == [(self.parcel.id, receipt.index)]
            assert session.query(LogRow).count() == 2  # the study's and this one
        files = [p for p in (self.centre.config.state_dir / "landing").rglob("*") if p.is_file()]
        assert [p.read_bytes() for p in files] == [self.parcel.raw]


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Place]:
    with running(tmp_path / "centre") as centre, Proxy(centre.config.gateway.fleet_address) as proxy:
        identity = enrol("site-a", tmp_path / "edge", centre.ask("invite", site="site-a")["code"])
        centre.submit()
        uplink = Uplink(identity)
        assignment = first(uplink)
        uplink.close()
        site = Site("site-a", key=identity.key)
        parcel = site.parcel(assignment.study_digest, centre.keys["lung"], bytes(range(256)) * (3 * MIB // 256))
        yield Place(centre, proxy, identity, parcel, assignment.id)


def test_a_line_that_is_cut_again_and_again(place: Place) -> None:
    uplink = place.uplink()
    for at in (1_000, 4_000):  # in the handshake, before anything has come
        place.proxy.cut_up = at
        while place.proxy.cut_up is not None:  # it may take the channel a while to connect again
            with pytest.raises(UnavailableError):
                place.deliver(uplink)
            time.sleep(0.05)
    with ThreadPoolExecutor(1) as pool:
        for part in (1, 2):
            place.proxy.stop_at = place.proxy.sent + MIB + MIB // 2
            while place.arrived() < part * MIB:
                under_way = pool.submit(place.deliver, uplink)
                place.wait_for(part * MIB, under_way)
                place.proxy.cut()
                with pytest.raises(UnavailableError):
                    under_way.result(LONG_S)
    place.proxy.stop_at, before = None, place.proxy.sent
    place.landed(place.until_delivered(uplink))
    assert place.proxy.sent - before < 2 * MIB, "what had arrived was not sent again"
    uplink.close()


def test_an_answer_that_is_lost_is_asked_for_again(place: Place) -> None:
    uplink = place.uplink()
    place.proxy.stop_at = 2 * MIB
    with ThreadPoolExecutor(1) as pool:
        first = pool.submit(place.deliver, uplink)
        place.wait_for(MIB, first)
        place.proxy.stopped_down = True  # the centre will hear everything; we hear nothing more
        place.proxy.stop_at = None
        place.wait_for(len(place.parcel.raw), first)
        place.proxy.cut()
        with pytest.raises(UnavailableError):
            first.result(LONG_S)
    place.proxy.stopped_down = False
    receipt = place.until_delivered(uplink)
    place.landed(receipt)
    assert place.deliver(uplink).index == receipt.index
    uplink.close()


def test_a_half_open_connection_is_left_and_taken_over(place: Place) -> None:
    stop, uplink = threading.Event(), place.uplink()
    place.proxy.stop_at = 2 * MIB
    with ThreadPoolExecutor(1) as pool:
        stuck = pool.submit(place.deliver, uplink, stop.is_set)
        place.wait_for(MIB, stuck)
        place.proxy.stopped_down = True
        other = Uplink(place.identity)  # straight to the centre, which still holds the old stream open
        receipt = place.until_delivered(other)
        assert not stuck.done()
        stop.set()  # a stop is heeded though no byte moves
        with pytest.raises(Paused):
            stuck.result(LONG_S)
    place.landed(receipt)
    other.close()
    uplink.close()


def test_the_same_parcel_over_two_slow_lines_at_once(place: Place) -> None:
    place.proxy.delay_s = 0.002
    uplinks = [place.uplink() for _ in range(3)]
    with ThreadPoolExecutor(3) as pool:
        receipts = list(pool.map(place.until_delivered, uplinks))
    assert len({receipt.index for receipt in receipts}) == 1
    for receipt in receipts:
        place.landed(receipt)
    for uplink in uplinks:
        uplink.close()


def test_calls_and_chunks_out_of_order_change_nothing(place: Place) -> None:
    site = Site("site-a", key=place.identity.key, chain=place.identity.certificate_pem, ca=place.identity.ca_pem)
    site.tls_key = lambda: place.identity.tls_key  # type: ignore[method-assign]
    site.connect(place.centre.config.gateway.fleet_address)
    parcel = place.parcel
    chunks = [pb.Chunk(parcel_id=parcel.id, offset=at, data=parcel.raw[at : at + MIB]) for at in range(0, 3 * MIB, MIB)]

    def refused(call: Callable[[], object], code: str) -> None:
        import grpc

        from tests.gatewaykit import code_of

        with pytest.raises(grpc.RpcError) as caught:
            call()
        assert code_of(caught.value) == code

    refused(lambda: site.commit(parcel), "conflict.state")  # before it is announced
    refused(lambda: site.delivery.Upload(iter(chunks[:1]), timeout=LONG_S), "conflict.state")
    assert site.open(parcel, place.assignment).offset == 0
    refused(lambda: site.commit(parcel), "conflict.state")  # before it is sent
    for order, code in (
        ([1, 0], "conflict.state"),
        ([0, 2], "input.message"),
        ([0], "conflict.state"),
        ([2], "conflict.state"),
    ):
        refused(lambda order=order: site.delivery.Upload(iter([chunks[n] for n in order]), timeout=LONG_S), code)
    refused(lambda: site.delivery.Upload(iter([chunks[1], chunks[1]]), timeout=LONG_S), "input.message")
    assert site.open(parcel, place.assignment).offset == 2 * MIB  # those that came in their turn
    receipt = site.deliver(parcel, place.assignment)
    refused(lambda: site.delivery.Upload(iter(chunks[2:]), timeout=LONG_S), "conflict.state")  # a straggler
    assert site.open(parcel, place.assignment).committed
    assert site.commit(parcel).index == receipt.index
    place.landed(receipt)
    site.close()
