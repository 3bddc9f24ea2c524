"""Fault points die once, by SIGKILL, only when asked."""

from __future__ import annotations

import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from protocol import faults

ROOT = Path(__file__).parents[2]


def test_a_named_point_kills_once(tmp_path: Path) -> None:
    code = "from protocol import faults; faults.point('edge.spooled'); print('alive')"
    env = {"CORSIA_FAULTS": f"edge.spooled={tmp_path / 'marker'}", "PATH": "/usr/bin"}
    first = subprocess.run([sys.executable, "-c", code], env=env, cwd=ROOT, capture_output=True)
    second = subprocess.run([sys.executable, "-c", code], env=env, cwd=ROOT, capture_output=True)
    assert first.returncode == -signal.SIGKILL
    assert second.stdout == b"alive\n"


def test_nothing_happens_unasked_and_unknown_names_are_bugs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CORSIA_FAULTS", raising=False)
    faults.point("edge.spooled")
    monkeypatch.setenv("CORSIA_FAULTS", "edge.spooled=/nonexistent/x")
    with pytest.raises(AssertionError):
        faults.point("no.such.point")


def test_every_point_stands_in_the_code_once() -> None:
    text = "\n".join(p.read_text() for folder in ("edge", "central") for p in (ROOT / folder).rglob("*.py"))
    used = re.findall(r"\bpoint\(\"([a-z.]+)\"\)", text)
    assert sorted(used) == sorted(faults.POINTS)
