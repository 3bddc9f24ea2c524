"""Kill -9 in the middle of sealing, between each system call of a release, and after it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

from edge.spool import Spool

ROOT = Path(__file__).parents[2]
PROGRAM = """
import hashlib, os, signal, sys
from pathlib import Path
import edge.storage, edge.spool
from edge.spool import ParcelMeta, Spool
from protocol.parcel import Receipt

root, kill_at = Path(sys.argv[1]), int(sys.argv[2])
calls = 0

def step(real):
    def call(*args, **kwargs):
        global calls
        calls += 1
        if calls == kill_at:
            os.kill(os.getpid(), signal.SIGKILL)
        return real(*args, **kwargs)
    return call

def write(number):
    def to(target):
        data = bytes([number]) * 3000
        target.write(data)
        return hashlib.sha256(data).hexdigest()
    return to

spool = Spool(root, 10**6)
spool.recover()
os.rename, os.fsync, Path.unlink = step(os.rename), step(os.fsync), step(Path.unlink)
for number in (1, 2):
    meta = ParcelMeta(parcel_id=f"{number:032x}", assignment_id="a", study_digest="ab" * 32, content_type="records")
    spool.hold(meta, write(number))
spool.release("a")
for entry in spool.pending():
    entry = spool.sending(entry)
    spool.sent(entry, Receipt(parcel_id=entry.parcel_id, digest=entry.digest, index=0, proof=(), checkpoint="c"))
print(calls)
"""


def run(root: Path, kill_at: int, **env: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", PROGRAM, str(root), str(kill_at)],
        capture_output=True,
        text=True,
        check=False,
        cwd=ROOT,
        env={**os.environ, **env},
    )


def outcome(root: Path) -> tuple[int, int]:
    """(parcels waiting, receipts) after recovery; everything that lies there is whole."""
    spool = Spool(root, 10**6)
    spool.recover()
    assert spool.verify() == []
    assert not [path for path in root.rglob("*") if path.name.startswith(".tmp-")]
    assert list((root / "held").iterdir()) == list((root / "sending").iterdir()) == []
    stems = {path.stem for path in (root / "new").iterdir()}
    assert {path.stem for path in (root / "meta").iterdir()} == stems
    return len(stems), len(list(spool.receipts()))


def test_killed_while_sealing_nothing_remains(tmp_path: Path) -> None:
    done = run(tmp_path / "s", 0, CORSIA_FAULTS=f"edge.sealing={tmp_path / 'marker'}")
    assert done.returncode == -signal.SIGKILL
    assert list((tmp_path / "s" / "held").glob(".tmp-*"))
    assert outcome(tmp_path / "s") == (0, 0)
    assert run(tmp_path / "s", 0, CORSIA_FAULTS=f"edge.sealing={tmp_path / 'marker'}").returncode == 0


def test_killed_after_the_release_all_remains(tmp_path: Path) -> None:
    done = run(tmp_path / "s", 0, CORSIA_FAULTS=f"edge.spooled={tmp_path / 'marker'}")
    assert done.returncode == -signal.SIGKILL
    assert outcome(tmp_path / "s") == (2, 0)


def test_killed_at_every_system_call(tmp_path: Path) -> None:
    whole = run(tmp_path / "whole", 0)
    assert whole.returncode == 0, whole.stderr
    assert outcome(tmp_path / "whole") == (0, 2)
    seen = set()
    for step in range(1, int(whole.stdout) + 1):
        root = tmp_path / str(step)
        assert run(root, step).returncode == -signal.SIGKILL
        seen.add(outcome(root))
    assert seen == {(0, 0), (2, 0), (1, 1), (0, 2)}  # all released or none; each sent once
