"""SIGKILL of a hospital's daemon while it answers a round, in every phase: the same bytes leave, and are spent once.

`make test`: at one point of one phase; `make test-full`: at every point of every phase.
"""

from __future__ import annotations

import base64
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest

from central.federation.checkpoint import MemoryCheckpoints
from central.federation.local import LocalGrid, handler
from central.federation.rounds import Rounds
from edge.journal import Journal
from edge.ledger import Ledger
from pipelines.flower import message_from_bytes
from pipelines.train import load
from protocol.study import Study
from tests.agentkit import enrolled, site_config
from tests.integration.test_agent_training import training_study

ROOT = Path(__file__).parents[2]
PHASES = {"prepare": 0, "train": 1, "evaluate": 1}
POINTS = ["edge.reserved", "edge.sealing", "edge.spooled"]
_RUN = """
import base64, json, sys
from pathlib import Path
from edge.config import load
from privacy.envelope import SecretKey, read_key
from protocol.assignment import Assignment, AssignmentKind, RoundPhase, State
from protocol.parcel import Receipt
from tests.agentkit import Office, running
from tests.uplinkkit import Centre
folder, phases = Path(sys.argv[1]), sys.argv[2].split(",")
value = json.loads((folder / "office.json").read_text())
seed = lambda name: SecretKey.from_bytes(bytes.fromhex(value[name]))
office = Office(Centre(study_key=seed("study"), other_key=seed("other")), federation=seed("federation"))
asked = Assignment(id=value["id"], kind=AssignmentKind.STUDY, study_digest=value["digest"],
                   document=base64.b64decode(value["document"]), signature=base64.b64decode(value["signature"]))
office.assign(asked)
log = folder / "log.json"  # the centre's log outlives this process: a site detects one that begins anew
leaves = json.loads(log.read_text()) if log.exists() else []
for leaf in leaves:
    office.tree.append(Receipt.leaf(*leaf))
config = load(folder / "edge.toml")
said = {}
with running(config, office):
    assert office.wait(asked, timeout_s=240).state is State.DONE
    for phase in phases:
        made = office.instruct(asked, base64.b64decode(value["messages"][phase]), phase=RoundPhase(phase),
                               round=value["rounds"][phase], deadline=value["deadline"])
        assert office.wait(made, timeout_s=240).state is State.DONE
        for batch in office.opened(made, read_key(config.state_dir / "identity.key")):
            said[phase] = base64.b64encode(batch.items[0].data).decode()
landed = sorted(office.receipts.values(), key=lambda receipt: receipt.index)
log.write_text(json.dumps(leaves + [(receipt.parcel_id, receipt.digest) for receipt in landed]))
print(json.dumps(said))
"""


def conversation(plan: Study, rows: pd.DataFrame) -> tuple[dict[str, bytes], dict[str, bytes]]:
    """What a federation asks of this one site in a run of one round, and what it answers when nobody disturbs it."""
    asked: dict[str, bytes] = {}
    said: dict[str, bytes] = {}
    plain: Callable[[bytes], bytes] = handler(load(plan, "site-a", rows))

    def listening(raw: bytes) -> bytes:
        phase = str(message_from_bytes(raw).metadata.message_type).removeprefix("query.")
        asked[phase], said[phase] = raw, plain(raw)
        return said[phase]

    Rounds(plan, LocalGrid({"site-a": listening}), MemoryCheckpoints()).run()
    assert not [phase for phase in PHASES if message_from_bytes(said[phase]).has_error()]
    return asked, said


def run(folder: Path, phases: list[str], fault: str = "") -> tuple[int, dict[str, str]]:
    env = {**os.environ, "PYTHONPATH": str(ROOT), "CORSIA_FAULTS": fault}
    done = subprocess.run(
        [sys.executable, "-c", _RUN, str(folder), ",".join(phases)],
        capture_output=True, text=True, timeout=500, env=env, cwd=ROOT, check=False,
    )  # fmt: skip
    assert done.returncode in (0, -signal.SIGKILL), done.stderr[-3000:]
    return done.returncode, json.loads(done.stdout.splitlines()[-1]) if done.returncode == 0 else {}


def finished(folder: Path, phases: list[str]) -> dict[str, str]:
    status, said = run(folder, phases)
    assert status == 0
    return said


@pytest.mark.parametrize(
    "deaths",
    [
        pytest.param({"prepare": [], "train": ["edge.sealing"], "evaluate": []}, id="once"),
        pytest.param(dict.fromkeys(PHASES, POINTS), id="at every one in each", marks=pytest.mark.full),
    ],
)
@pytest.mark.timeout(1500)
def test_the_same_answer_leaves_and_is_spent_once(tmp_path: Path, deaths: dict[str, list[str]]) -> None:
    config = site_config(tmp_path)
    office, plan = enrolled(config), training_study(rounds=1)
    rows = pd.read_csv(tmp_path / "data" / "table.csv")
    messages, expected = conversation(plan, rows[rows["consent"] == "yes"].reset_index(drop=True))
    asked = office.submit(plan)
    value = {
        "study": office.keys.study_key.to_bytes().hex(),
        "other": office.keys.other_key.to_bytes().hex(),
        "federation": office.federation.to_bytes().hex(),
        "id": asked.id,
        "digest": asked.study_digest,
        "document": base64.b64encode(asked.document).decode(),
        "signature": base64.b64encode(asked.signature).decode(),
        "messages": {phase: base64.b64encode(raw).decode() for phase, raw in messages.items()},
        "rounds": PHASES,
        "deadline": 4e9,
    }
    (tmp_path / "office.json").write_text(json.dumps(value))
    said: dict[str, str] = {}
    waiting: list[str] = []
    for phase, points in deaths.items():
        if points and waiting:
            said |= finished(tmp_path, waiting)
            waiting = []
        for point in points:
            marker = tmp_path / f"{phase}-{point}"
            assert run(tmp_path, [phase], f"{point}={marker}")[0] == -signal.SIGKILL
            assert marker.exists()
        waiting.append(phase)
    said |= finished(tmp_path, waiting)
    assert {phase: base64.b64decode(answer) for phase, answer in said.items()} == {p: expected[p] for p in PHASES}
    ledger = Ledger(config.state_dir / "ledger.db")
    ledger.verify()
    spends = {spend.key: spend.state for spend in ledger.spends()}
    ledger.close()
    assert spends == {"r1/0/prepare": "committed", "r1/1/train": "committed", "r1/1/evaluate": "committed"}
    assert Journal(config.state_dir / "journal.jsonl", readonly=True).verify() > 0
