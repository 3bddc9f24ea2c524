"""Local calls: replies, errors by code, long paths, limits, foreign bytes, one server a socket."""

from __future__ import annotations

import json
import os
import socket
import struct
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from central import ipc
from protocol.errors import ConflictError, PolicyRefused, UnavailableError


def boom(_: dict[str, Any]) -> dict[str, Any]:
    raise ValueError("Rossi Mario")


def refuse(_: dict[str, Any]) -> dict[str, Any]:
    raise PolicyRefused("policy.k", "k is 3")


HANDLERS = {"echo": lambda p: p, "boom": boom, "refuse": refuse, "slow": lambda p: time.sleep(p["s"]) or p}


@pytest.fixture
def path(tmp_path: Path) -> Iterator[Path]:
    folder = tmp_path / ("long" * 40) / "run"
    path, stop = folder / "x.sock", threading.Event()
    thread = threading.Thread(target=ipc.serve, args=(path, HANDLERS, stop))
    thread.start()
    until = time.monotonic() + 60
    while True:  # the file is there a moment before it is listened to
        with suppress(UnavailableError):
            ipc.call(path, "ping")
            break
        assert time.monotonic() < until
        time.sleep(0.01)
    yield path
    stop.set()
    thread.join(10)
    assert not path.exists()


def test_replies_and_ping_over_a_path_longer_than_the_kernel_takes(path: Path) -> None:
    assert len(str(path)) > 107
    assert ipc.call(path, "echo", text="è", number=1.5, none=None) == {"text": "è", "number": 1.5, "none": None}
    assert ipc.call(path, "ping")["pid"] > 0
    assert path.stat().st_mode & 0o077 == 0


def test_large_replies(path: Path) -> None:
    assert len(ipc.call(path, "echo", data="x" * 20_000_000)["data"]) == 20_000_000


def test_errors_cross_by_code_and_unexpected_ones_without_their_text(path: Path) -> None:
    with pytest.raises(PolicyRefused, match="k is 3"):
        ipc.call(path, "refuse")
    with pytest.raises(UnavailableError) as caught:
        ipc.call(path, "boom")
    assert "Rossi" not in str(caught.value)
    with pytest.raises(Exception, match=r"input\.message"):
        ipc.call(path, "nothing")


def test_nobody_there_and_nobody_in_time(path: Path) -> None:
    for missing in (path.with_name("y.sock"), Path("/nonexistent/z.sock")):
        with pytest.raises(UnavailableError):
            ipc.call(missing, "ping")
    with pytest.raises(UnavailableError):
        ipc.call(path, "slow", timeout_s=0.1, s=0.5)
    assert ipc.call(path, "slow", timeout_s=5.0, s=0.01)


def test_calls_run_side_by_side(path: Path) -> None:
    began = time.monotonic()
    threads = [threading.Thread(target=ipc.call, args=(path, "slow"), kwargs={"s": 0.3}) for _ in range(10)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert time.monotonic() - began < 2.0


@pytest.mark.slow
@pytest.mark.parametrize(
    "raw",
    [b"", b"\xff", struct.pack(">I", 2**32 - 1), struct.pack(">I", 5) + b"hello", struct.pack(">I", 2) + b"[]"],
)
def test_foreign_bytes_are_dropped_and_the_server_lives(path: Path, raw: bytes) -> None:
    with socket.socket(socket.AF_UNIX) as client, ipc._short(path) as address:
        client.connect(address)
        client.sendall(raw)
        client.shutdown(socket.SHUT_WR)
        client.settimeout(5)
        assert client.recv(100) == b""
    assert ipc.call(path, "ping")


@pytest.mark.parametrize("request_", [{}, {"method": 1, "params": {}}, {"method": "echo", "params": []}])
def test_malformed_requests_get_a_code(path: Path, request_: dict[str, Any]) -> None:
    with socket.socket(socket.AF_UNIX) as client, ipc._short(path) as address:
        client.connect(address)
        ipc._send(client, request_)
        reply = ipc._receive(client, 1000)
    assert json.dumps(reply).count("input.message") == 1


def test_one_server_a_socket_and_a_dead_one_leaves_no_obstacle(path: Path, tmp_path: Path) -> None:
    with pytest.raises(ConflictError):
        ipc.serve(path, {}, threading.Event())
    assert ipc.call(path, "ping")
    stale, stop = tmp_path / "stale.sock", threading.Event()
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(stale))
    stop.set()
    ipc.serve(stale, {}, stop)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a folder to another user")
def test_root_makes_nothing_in_another_users_state_folder(tmp_path: Path) -> None:
    with ipc.stopped(tmp_path):
        pass
    os.chown(tmp_path, 12345, -1)
    with pytest.raises(ConflictError, match="#12345"), ipc.stopped(tmp_path):
        pytest.fail("it went on")
    assert list(tmp_path.iterdir()) == []
