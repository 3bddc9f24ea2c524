"""What a daemon tells its service manager: over a real socket, as sd_notify(3) has it."""

from __future__ import annotations

import os
import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from protocol.service import Service


@pytest.fixture
def told(tmp_path: Path) -> Iterator[socket.socket]:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listener:
        listener.bind(str(tmp_path / "notify"))
        listener.settimeout(20)
        yield listener


def environment(monkeypatch: pytest.MonkeyPatch, **values: str) -> Service:
    for name in ("NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID"):
        monkeypatch.delenv(name, raising=False)
    for name, value in values.items():
        monkeypatch.setenv(name, value)
    return Service.of_environment()


def test_ready_alive_and_stopping_in_this_order(
    told: socket.socket, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    service = environment(
        monkeypatch, NOTIFY_SOCKET=str(tmp_path / "notify"), WATCHDOG_USEC="40000", WATCHDOG_PID=str(os.getpid())
    )
    stop = threading.Event()
    daemon = threading.Thread(target=service.stand_by, args=(stop,))
    daemon.start()
    assert [told.recv(64) for _ in range(4)] == [b"READY=1", b"WATCHDOG=1", b"WATCHDOG=1", b"WATCHDOG=1"]
    stop.set()
    daemon.join(20)
    assert not daemon.is_alive()
    last = b""
    while last != b"STOPPING=1":
        last = told.recv(64)
        assert last in (b"WATCHDOG=1", b"STOPPING=1")


def test_an_abstract_address_is_one(monkeypatch: pytest.MonkeyPatch) -> None:
    name = f"corsia-test-{os.getpid()}"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listener:
        listener.bind("\0" + name)
        listener.settimeout(20)
        environment(monkeypatch, NOTIFY_SOCKET="@" + name).tell("READY=1")
        assert listener.recv(64) == b"READY=1"


@pytest.mark.parametrize("address", ["", "relative", "/nowhere/at/all", "vsock:2:1"])
def test_a_manager_that_is_not_there_changes_nothing(address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    service = environment(monkeypatch, NOTIFY_SOCKET=address)
    stop = threading.Event()
    stop.set()
    service.stand_by(stop)
    assert service.watchdog_s == 0.0


@pytest.mark.parametrize(
    ("micro", "who", "expected"),
    [("120000000", "", 120.0), ("1000000", "1", 0.0), ("", "", 0.0), ("-5", "", 0.0), ("1e9", "", 0.0), ("²", "", 0.0)],
)
def test_a_watchdog_meant_for_another_or_for_nobody_is_not_fed(
    micro: str, who: str, expected: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert environment(monkeypatch, WATCHDOG_USEC=micro, WATCHDOG_PID=who).watchdog_s == expected
