"""What the daemon finds against the log holds at once, also where the disk takes nothing down, and is kept later."""

from __future__ import annotations

import json
import threading
from pathlib import Path

import pytest

from edge.brakes import Brakes
from edge.journal import Journal
from edge.logview import LogView
from edge.pause import paused_for, set_paused
from edge.spool import Spool
from edge.state import SiteState
from protocol.errors import IntegrityError, StorageError


@pytest.fixture
def brakes(tmp_path: Path) -> Brakes:
    spool, journal = Spool(tmp_path / "spool", 1 << 20), Journal(tmp_path / "journal.jsonl")
    return Brakes(tmp_path, threading.Event(), journal, spool, LogView(SiteState(tmp_path / "state.db")))


def events(folder: Path) -> list[str]:
    return [line.event for line in Journal(folder / "journal.jsonl", readonly=True).tail(100)]


@pytest.mark.parametrize("refuses", ["paused", "evidence"])
def test_a_disk_that_takes_nothing_down_lets_nothing_out(tmp_path: Path, brakes: Brakes, refuses: str) -> None:
    if refuses == "paused":
        (tmp_path / ".tmp-paused").mkdir()  # no file can be put beside it, nor this be removed like one
    else:
        (tmp_path / "evidence").write_bytes(b"")  # no folder can be made
    found = IntegrityError("log.proof")
    brakes.distrust(found, checkpoint="as it was shown")
    assert brakes.halted()
    brakes.distrust(IntegrityError("log.proof"))  # found again: nothing is told twice
    with pytest.raises(StorageError):
        brakes.settle()
    if refuses == "evidence":
        set_paused(tmp_path, False)
        assert brakes.halted(), "the steward decides when he can see what was shown"
        (tmp_path / "evidence").unlink()
    else:
        assert events(tmp_path) == []
        (tmp_path / ".tmp-paused").rmdir()
    brakes.settle()
    assert paused_for(tmp_path) == "log.proof"
    assert events(tmp_path) == ["log.refused", "egress.paused"]
    (evidence,) = (tmp_path / "evidence").iterdir()
    assert evidence.name == f"log-{found.id}.json"
    assert json.loads(evidence.read_bytes())["shown"] == {"checkpoint": "as it was shown"}
    set_paused(tmp_path, False)
    assert not brakes.halted()
