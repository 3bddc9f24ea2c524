"""SIGKILL of the daemon at its own points, and the same outcome after a restart."""

from __future__ import annotations

import base64
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from edge.journal import Journal
from edge.ledger import Ledger
from tests.agentkit import enrolled, site_config, study

ROOT = Path(__file__).parents[2]
_RUN = """
import base64, json, sys
from pathlib import Path
from edge.config import load
from privacy.envelope import SecretKey
from protocol.assignment import Assignment, AssignmentKind
from tests.agentkit import Office, running
from tests.uplinkkit import Centre
folder = Path(sys.argv[1])
value = json.loads((folder / "office.json").read_text())
seed = lambda name: SecretKey.from_bytes(bytes.fromhex(value[name]))
office = Office(Centre(study_key=seed("study"), other_key=seed("other")))
asked = Assignment(id=value["id"], kind=AssignmentKind.STUDY, study_digest=value["digest"],
                   document=base64.b64decode(value["document"]), signature=base64.b64decode(value["signature"]))
office.assign(asked)
with running(load(folder / "edge.toml"), office):
    said = office.wait(asked)
print(json.dumps({"state": said.state.value, "code": said.code, "counts": said.counts, "parcels": len(office.parcels)}))
"""


def run(folder: Path, fault: str) -> tuple[int, dict[str, object]]:
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    if fault:
        env["CORSIA_FAULTS"] = f"{fault}={folder / 'fired'}"
    done = subprocess.run(
        [sys.executable, "-c", _RUN, str(folder)], capture_output=True, text=True, timeout=300, env=env, cwd=ROOT
    )
    assert done.returncode in (0, -signal.SIGKILL), done.stderr[-3000:]
    return done.returncode, json.loads(done.stdout.splitlines()[-1]) if done.returncode == 0 else {}


@pytest.mark.parametrize("point", ["edge.accepted", "edge.reserved", "edge.sealing", "edge.spooled"])
def test_a_kill_changes_nothing_in_the_outcome(tmp_path: Path, point: str) -> None:
    config = site_config(tmp_path)
    office = enrolled(config)
    asked = office.submit(study())
    (tmp_path / "office.json").write_text(
        json.dumps(
            {
                "study": office.keys.study_key.to_bytes().hex(),
                "other": office.keys.other_key.to_bytes().hex(),
                "id": asked.id,
                "digest": asked.study_digest,
                "document": base64.b64encode(asked.document).decode(),
                "signature": base64.b64encode(asked.signature).decode(),
            }
        )
    )
    assert run(tmp_path, point)[0] == -signal.SIGKILL
    assert (tmp_path / "fired").exists()
    status, outcome = run(tmp_path, "")
    assert status == 0
    assert (outcome["state"], outcome["code"], outcome["parcels"]) == ("done", "", 1)
    counts = outcome["counts"]
    assert isinstance(counts, dict)
    assert (counts["rows"], counts["withheld_consent"], counts["parcels"]) == (21, 3, 1)
    ledger = Ledger(config.state_dir / "ledger.db")
    assert ledger.verify() == 2
    assert [spend.state for spend in ledger.spends()] == ["committed"]
    assert Journal(config.state_dir / "journal.jsonl", readonly=True).verify() > 0
    assert not list((config.state_dir / "work").glob("*"))
