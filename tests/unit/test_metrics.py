"""Numbers for Prometheus: on loopback alone, and nobody's name in them."""

from __future__ import annotations

import http.client
import logging
import re
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from central.gateway.metrics import read
from central.store.models import RunRow
from protocol.errors import ConflictError
from protocol.metrics import Gauge, Metrics
from tests.vaultkit import World


def samples(text: bytes) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(text.decode())
        for sample in family.samples
    }


def documented(prefix: str) -> set[str]:
    """The names on the page that operators write alarms by."""
    page = (Path(__file__).parents[2] / "docs" / "metrics.md").read_text()
    return {name for name in re.findall(r"corsia_[a-z_]+", page) if name.startswith(prefix)}


def asked(port: int, path: str) -> tuple[int, bytes]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    try:
        connection.request("GET", path)
        answer = connection.getresponse()
        return answer.status, answer.read()
    finally:
        connection.close()


@pytest.fixture
def numbers() -> list[Gauge]:
    return [Gauge(name="corsia_x", doc="X", value=2.0, labels={"state": "landed"})]


@pytest.fixture
def serving(numbers: list[Gauge]) -> Iterator[tuple[Metrics, int]]:
    made = Metrics(lambda: numbers)
    port = made.start(0)
    yield made, port
    made.stop()


def test_a_scrape_gets_numbers_and_events_by_name(serving: tuple[Metrics, int]) -> None:
    log = logging.getLogger("edge.agent")
    for _ in range(2):
        log.warning("delivery.delayed", extra={"fields": {"code": "unavailable.centre", "site": "site-a"}})
    log.warning("Mario Rossi was born on 1 May", extra={"fields": {"code": "mario.rossi"}})
    status, text = asked(serving[1], "/metrics")
    found = samples(text)
    assert status == 200
    assert found["corsia_x", (("state", "landed"),)] == 2.0
    assert found["corsia_events_total", (("event", "delivery.delayed"),)] == 2.0
    assert found["corsia_events_total", (("event", "other"),)] == 1.0
    assert found["corsia_errors_total", (("code", "unavailable.centre"),)] == 2.0
    assert found["corsia_scrape_failures", ()] == 0.0
    for word in (b"Mario", b"mario", b"site-a", b"Rossi"):
        assert word not in text
    assert asked(serving[1], "/healthz") == (200, b"ok\n")
    assert asked(serving[1], "/")[0] == 404


def test_a_label_that_is_no_plain_word_is_left_out(serving: tuple[Metrics, int], numbers: list[Gauge]) -> None:
    numbers.append(Gauge(name="corsia_x", doc="X", value=1.0, labels={"state": "Rossi^Mario"}))
    assert b"Rossi" not in serving[0].text()


def test_a_source_that_fails_is_counted_and_asked_again(numbers: list[Gauge]) -> None:
    broken = [True]

    def source() -> Iterator[Gauge]:
        yield from numbers
        if broken[0]:
            raise RuntimeError("Mario Rossi")

    metrics = Metrics(source)
    first = samples(metrics.text())
    assert first["corsia_scrape_failures", ()] == 1.0
    assert not [name for name, _labels in first if name == "corsia_x"], "no half of an answer"
    broken[0] = False
    assert samples(metrics.text())["corsia_x", (("state", "landed"),)] == 2.0


def test_it_listens_on_loopback_alone_and_tells_a_taken_port(serving: tuple[Metrics, int]) -> None:
    listening = Path("/proc/net/tcp").read_text().splitlines()[1:]
    mine = [line.split()[1] for line in listening if line.split()[1].endswith(f":{serving[1]:04X}")]
    assert {address.partition(":")[0] for address in mine} == {"0100007F"}
    with pytest.raises(ConflictError):
        Metrics(list).start(serving[1])
    with socket.socket() as again:  # and gives it back
        serving[0].stop()
        again.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        again.bind(("127.0.0.1", serving[1]))


def test_an_asker_that_hangs_up_leaves_no_word(serving: tuple[Metrics, int], capfd: pytest.CaptureFixture[str]) -> None:
    with socket.create_connection(("127.0.0.1", serving[1])) as rude:
        rude.sendall(b"GET /met")
        rude.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")  # a reset, not an end
    assert asked(serving[1], "/healthz") == (200, b"ok\n")
    while any(thread.name.endswith("(process_request_thread)") for thread in threading.enumerate()):
        time.sleep(0.01)
    assert capfd.readouterr().err == ""


def test_the_centres_numbers_are_counts_without_names(state_folder: Path) -> None:
    world = World(state_folder)
    world.submit()
    world.land(world.batch())
    world.drain()
    with world.store.begin() as session:
        session.add(RunRow(id="r" * 32, study_digest=world.digest(), updated_at=0.0))
    found = samples(Metrics(lambda: read(world.store, ["site-a"], 1)).text())
    assert found["corsia_sites", (("state", "enrolled"),)] == 2.0
    assert found["corsia_sites", (("state", "connected"),)] == 1.0
    assert found["corsia_parcels", (("content", "records"), ("state", "opened"))] == 1.0
    assert found["corsia_parcel_bytes", (("content", "records"), ("state", "opened"))] > 0
    assert found["corsia_studies", (("lane", "harvest"), ("state", "open"))] == 1.0
    assert found["corsia_log_leaves", ()] == 1.0
    assert found["corsia_scrape_failures", ()] == 0.0
    assert found["corsia_runs", (("state", "running"),)] == 1.0
    told = {name for name, _labels in found if name.startswith("corsia_")} | {
        "corsia_events_total",
        "corsia_errors_total",
    }
    assert told == documented("corsia_") - documented("corsia_edge_")
    words = {value for _name, labels in found for _label, value in labels}
    assert words <= {"enrolled", "connected", "records", "opened", "harvest", "open", "running"}
