"""Kill -9 in the middle of sealing and after a release; `test_seam.py` does it at each step."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

from edge.spool import Spool

ROOT = Path(__file__).parents[2]
PROGRAM = """
import hashlib, sys
from pathlib import Path
from edge.spool import ParcelMeta, Spool
from protocol.parcel import Receipt

root = Path(sys.argv[1])

def write(number):
    def to(target):
        data = bytes([number]) * 3000
        target.write(data)
        return hashlib.sha256(data).hexdigest()
    return to

spool = Spool(root, 10**6)
spool.recover()
for number in (1, 2):
    meta = ParcelMeta(parcel_id=f"{number:032x}", assignment_id="a", study_digest="ab" * 32, content_type="records")
    spool.hold(meta, write(number))
spool.release("a")
for entry in spool.pending():
    entry = spool.sending(entry)
    spool.sent(entry, Receipt(parcel_id=entry.parcel_id, digest=entry.digest, index=0, proof=(), checkpoint="c"))
"""


def run(root: Path, **env: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", PROGRAM, str(root)],
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
    done = run(tmp_path / "s", CORSIA_FAULTS=f"edge.sealing={tmp_path / 'marker'}")
    assert done.returncode == -signal.SIGKILL
    assert list((tmp_path / "s" / "held").glob(".tmp-*"))
    assert outcome(tmp_path / "s") == (0, 0)
    assert run(tmp_path / "s", CORSIA_FAULTS=f"edge.sealing={tmp_path / 'marker'}").returncode == 0


def test_killed_after_the_release_all_remains(tmp_path: Path) -> None:
    done = run(tmp_path / "s", CORSIA_FAULTS=f"edge.spooled={tmp_path / 'marker'}")
    assert done.returncode == -signal.SIGKILL
    assert outcome(tmp_path / "s") == (2, 0)
