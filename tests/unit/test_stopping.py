"""The end of a process, waited for in the kernel beside what else wakes it."""

from __future__ import annotations

import os
import signal
import socket
import threading
from pathlib import Path

import pytest

from central import ipc
from central.stopping import Stop, wait_for
from central.store import Store
from central.store.changes import Changes


def test_an_end_wakes_who_waits_without_a_time_and_everybody_after(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("central.stopping.POLL_S", 600.0)  # only the wake-up itself can end it
    stop = Stop()
    one, other = socket.socketpair()
    with one, other:
        threading.Timer(0.2, stop.set).start()
        assert not wait_for(one.fileno(), stop)
        assert stop.is_set()
        assert not wait_for(one.fileno(), stop, 600.0), "for good"
        other.send(b"x")
        assert wait_for(one.fileno(), stop)


def test_the_signal_of_the_main_thread_sets_it_while_it_waits() -> None:
    stop = Stop()
    before = signal.signal(signal.SIGUSR1, lambda *_: stop.set())
    try:
        read, write = os.pipe()
        threading.Timer(0.2, os.kill, (os.getpid(), signal.SIGUSR1)).start()
        assert not wait_for(read, stop)
        assert stop.is_set()
    finally:
        signal.signal(signal.SIGUSR1, before)
        os.close(read)
        os.close(write)


def test_a_server_without_a_caller_ends_at_once(tmp_path: Path) -> None:
    stop = Stop()
    server = threading.Thread(target=ipc.serve, args=(tmp_path / "s.sock", {}, stop))
    server.start()
    stop.set()
    server.join(20)
    assert not server.is_alive()


def test_a_wait_for_a_commit_ends_with_the_end(state_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("central.store.changes.LOOK_S", 600.0)
    stop = Stop()
    changes = Changes(Store(state_folder).engine, stop)
    changes.seen()
    threading.Timer(0.2, stop.set).start()
    assert not changes.wait(600.0)
    assert stop.is_set()
