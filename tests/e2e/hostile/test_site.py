"""An enrolled hospital that turned against the centre: signer and gateway as processes of their own, real mutual TLS.

It holds a valid certificate and an identity key, and speaks the protocol by itself.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import grpc
import pytest

from central import ipc
from central.config import load_config
from corsia.cli.init_central import init_central
from privacy.envelope import SecretKey, new_parcel_id
from protocol.v1 import fleet_pb2 as pb
from tests.gatewaykit import Centre, Site, at_free_ports, code_of, draft, eventually

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(300)]

_RUN = """
import json, sys
from pathlib import Path
from central.supervisor import Supervisor
Supervisor(Path(sys.argv[1]), on_ready=lambda c: print(json.dumps({"ready": True}), flush=True),
           processes=("signer", "gateway")).run()
"""


class Running(Centre):
    """The kit's centre over processes that run; only the holder of the study's key is here."""

    def __init__(self, path: Path) -> None:
        self.path, self.config = path, load_config(path)
        self.keys: dict[str, SecretKey] = {}
        self._stop, self._threads = threading.Event(), []
        self._serve("vault", {"new_study_key": lambda p: {"key": self._key(p["study"]).public.to_base64()}})

    def close(self) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join(10)


@pytest.fixture(scope="module")
def centre(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    path = tmp_path_factory.mktemp("centre") / "central.toml"
    init_central(path, as_json=True)
    at_free_ports(path)
    process = subprocess.Popen([sys.executable, "-c", _RUN, str(path)], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert json.loads(process.stdout.readline()) == {"ready": True}
    made = Running(path)
    yield made
    made.close()
    assert process.poll() is None, "the centre did not outlive its site"
    process.terminate()
    assert process.wait(60) == 0
    process.stdout.close()


@pytest.fixture(scope="module")
def sites(centre: Running) -> Iterator[tuple[Site, Site]]:
    """The hostile one and an honest one, both of one study."""
    made = centre.enrol("site-x"), centre.enrol("site-a")
    for site in made:
        site.timeout_s = 60.0
    centre.submit(draft(sites=["site-x", "site-a"]))
    yield made
    for site in made:
        site.close()


def refused(call: Callable[[], Any]) -> str:
    with pytest.raises(grpc.RpcError) as caught:
        call()
    return code_of(caught.value)


def pid(centre: Running) -> int:
    return int(ipc.call(centre.config.socket("gateway"), "ping")["pid"])


def test_another_sites_parcel(centre: Running, sites: tuple[Site, Site]) -> None:
    """Taken over, sent under the own certificate, sealed in the other's name, answered to the other's assignment."""
    hostile, honest = sites
    theirs, mine = honest.first(), hostile.first()
    parcel = honest.parcel(theirs.study_digest, centre.keys["lung"])
    honest.open(parcel, theirs.id)
    assert refused(lambda: hostile.open(parcel, mine.id)) == "permission.site"
    assert refused(lambda: hostile.upload(parcel)) == "permission.site"
    assert refused(lambda: hostile.commit(parcel)) == "permission.site"
    honest.deliver(parcel, theirs.id)
    assert refused(lambda: hostile.commit(parcel)) == "permission.site"
    named = hostile.parcel(mine.study_digest, centre.keys["lung"], site="site-a")  # our key, their name
    assert refused(lambda: hostile.deliver(named, mine.id)).startswith("parcel.")
    assert refused(lambda: hostile.open(hostile.parcel(mine.study_digest, centre.keys["lung"]), theirs.id)) in (
        "permission.study",
        "permission.site",
        "study.unknown",
    )
    stranger = hostile.parcel(mine.study_digest, SecretKey.generate())  # to a recipient that the study does not name
    assert refused(lambda: hostile.deliver(stranger, mine.id)) == "parcel.context"


def test_the_wrong_kind_and_the_wrong_study(centre: Running, sites: tuple[Site, Site]) -> None:
    hostile, _ = sites
    mine = hostile.first()
    update = hostile.parcel(mine.study_digest, centre.keys["lung"], content_type="update")
    assert refused(lambda: hostile.open(update, mine.id)) == "parcel.context"
    unknown = hostile.parcel("ab" * 32, centre.keys["lung"])
    assert refused(lambda: hostile.open(unknown, mine.id)) in ("study.unknown", "permission.study", "permission.site")


def test_garbage_in_every_call(centre: Running, sites: tuple[Site, Site]) -> None:
    """Bytes that are no message have our code, and the process that took them is the same afterwards."""
    hostile, honest = sites
    before = pid(centre)
    for service, method in (
        ("Assignments", "Report"), ("Assignments", "Renew"), ("Delivery", "Open"), ("Delivery", "Commit"),
        ("Models", "Prove"),
    ):  # fmt: skip
        assert hostile.channel is not None
        call = hostile.channel.unary_unary(f"/corsia.v1.{service}/{method}", lambda raw: raw, lambda raw: raw)
        for raw in (b"\xff" * 900, os.urandom(3000), b"\x0a\xff\xff\xff\xff\x0f"):
            assert refused(lambda call=call, raw=raw: call(raw, timeout=60)) == "input.message"  # type: ignore[misc]
    report = pb.SiteReport(version="x" * 500)
    assert refused(lambda: hostile.assignments.Report(report, timeout=60)) == "input.message"
    assert (
        refused(lambda: hostile.delivery.Commit(pb.CommitRequest(parcel_id="../../x"), timeout=60)) == "input.message"
    )
    big = pb.OpenRequest(parcel_id=new_parcel_id(), size_bytes=1 << 40, digest="ab" * 32, data=b"x" * 100)
    assert refused(lambda: hostile.delivery.Open(big, timeout=60)) == "input.message"
    assert pid(centre) == before
    assert honest.first().study_digest


@contextmanager
def listening(site: Site, streams: int) -> Iterator[list[threading.Thread]]:
    """So many streams of assignments, each with a thread that takes what comes for as long as the stream lives.

    gRPC tells a caller that a stream has ended when nothing of it is left to be read.
    """
    calls = [site.watch() for _ in range(streams)]

    def take(call: Any) -> None:
        with suppress(grpc.RpcError):
            for _ in call:
                pass

    threads = [threading.Thread(target=take, args=(call,)) for call in calls]
    for thread in threads:
        thread.start()
    try:
        yield threads
    finally:
        for call in calls:
            call.cancel()
        for thread in threads:
            thread.join(60)


def test_a_flood_leaves_the_others_their_place(centre: Running, sites: tuple[Site, Site]) -> None:
    """More streams and calls at once than a site may have; announcements of all sizes that are never sent."""
    hostile, honest = sites
    before, mine = pid(centre), hostile.first()
    done: list[str] = []

    def storm() -> None:
        for n in range(40):
            parcel = hostile.parcel(mine.study_digest, centre.keys["lung"], os.urandom(64))
            try:
                hostile.open(parcel, mine.id, size_bytes=(1 << 53) - 1 if n % 2 else len(parcel.raw))
                done.append("")
            except grpc.RpcError as error:
                done.append(code_of(error) or error.code().name)

    most = centre.config.limits.of("site-x").streams
    with listening(hostile, 40) as streams:
        threads = [threading.Thread(target=storm) for _ in range(4)]
        for thread in threads:
            thread.start()
        parcel = honest.parcel(honest.first().study_digest, centre.keys["lung"], b"in the middle of it")
        receipt = honest.deliver(parcel, honest.first().id)  # each call has its deadline: who is starved fails by it
        for thread in threads:
            thread.join(60)
        eventually(lambda: sum(stream.is_alive() for stream in streams) <= most)  # the newest took over
    assert receipt.parcel_id == parcel.id
    assert len(done) == 160
    refusals = {"gate.bytes", "permission.size", "input.message", "storage.full", "unavailable.centre"}
    assert set(done) <= refusals | {"", "UNAVAILABLE", "RESOURCE_EXHAUSTED"}, set(done)  # gRPC's own: come again later
    assert any(done), "what is larger than a parcel may be was not refused"
    assert pid(centre) == before

    def let_in() -> str:
        try:
            return hostile.first().study_digest
        except grpc.RpcError as error:
            if error.code().name in ("UNAVAILABLE", "RESOURCE_EXHAUSTED"):  # its own streams are being taken down
                return ""
            raise

    eventually(let_in, timeout_s=60)
