"""The ports that a demo's servers get, and that none of its processes is left behind."""

from __future__ import annotations

import itertools
import os
import secrets
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from corsia.fleet import Fleet, free_port


def test_no_port_is_one_that_browsers_refuse_and_none_is_given_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    def in_order(choices: Sequence[int]) -> int:
        return choices[next(counted)]

    counted = itertools.count()
    monkeypatch.setattr(secrets, "choice", in_order)
    given = [free_port() for _ in range(3)]
    assert min(given) > 10_080
    assert len(set(given)) == 3


def test_two_processes_are_not_given_the_same_before_either_listens(monkeypatch: pytest.MonkeyPatch) -> None:
    offered: dict[int, set[int]] = {4711: set(), 4712: set()}

    def chosen(choices: Sequence[int]) -> int:
        offered[os.getpid()].update(choices)
        return choices[-1]

    monkeypatch.setattr(secrets, "choice", chosen)
    for process in offered:
        monkeypatch.setattr(os, "getpid", lambda number=process: number)
        assert free_port() > 10_080
    assert not offered[4711] & offered[4712]


def test_a_signal_while_a_process_starts_leaves_none_behind(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    started: list[subprocess.Popen[bytes]] = []

    class Interrupted(subprocess.Popen[bytes]):
        """Ctrl-C arrives once the child runs, before anybody knows of it."""

        def __init__(self, *args: Any, **more: Any) -> None:
            super().__init__(*args, **more)
            started.append(self)
            signal.raise_signal(signal.SIGINT)

    monkeypatch.setattr(subprocess, "Popen", Interrupted)
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # a job in the background begins with none
    try:
        with pytest.raises(KeyboardInterrupt), Fleet(tmp_path) as fleet:
            fleet._start("sleeper", [sys.executable, "-c", "import time; time.sleep(100_000)"])
    finally:
        signal.signal(signal.SIGINT, before)
    (child,) = started
    code = child.poll()
    if code is None:
        os.killpg(child.pid, signal.SIGKILL)
    assert code is not None


def test_who_starts_a_process_is_told_that_it_cannot_be(tmp_path: Path) -> None:
    with Fleet(tmp_path) as fleet, pytest.raises(FileNotFoundError):
        fleet._start("none", [str(tmp_path / "none")])
