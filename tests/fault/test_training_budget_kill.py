"""A daemon that dies between reserving, drawing, keeping, spooling and sending a noised training answer.

Whatever the point: the round is paid once, and the centre never gets two different draws for one payment.
"""

from __future__ import annotations

import base64
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from edge.ledger import Ledger
from pipelines import guarantee
from pipelines.flower import ARRAYS, arrays_of, message_from_bytes
from privacy.envelope import read_key
from protocol.assignment import Assignment, RoundPhase
from tests.agentkit import Office, enrolled
from tests.integration.test_agent_private import hospital, plan, question

_SENDING = "sending"
ROOT = Path(__file__).parents[2]
_RUN = """
import base64, json, os, sys
from pathlib import Path
from edge.config import load
from privacy.envelope import SecretKey
from protocol.assignment import Assignment, AssignmentKind
from tests.agentkit import Office, running
from tests.uplinkkit import Centre
folder = Path(sys.argv[1])
value = json.loads((folder / "office.json").read_text())
seed = lambda name: SecretKey.from_bytes(bytes.fromhex(value[name]))
office = Office(Centre(study_key=seed("study_key"), other_key=seed("other_key")), federation=seed("federation"))
office.blobs = {k: base64.b64decode(v) for k, v in value["blobs"].items()}
if len(sys.argv) > 2:  # die at the first sending
    def dies():
        marker = Path(sys.argv[2])
        if not marker.exists():
            marker.touch()
            os.kill(os.getpid(), 9)
    office.fail["deliver"] = dies
made = [Assignment(id=one["id"], kind=AssignmentKind(one["kind"]), study_digest=one["digest"],
                   document=base64.b64decode(one["document"]), signature=base64.b64decode(one["signature"]))
        for one in value["assignments"]]
said = []
with running(load(folder / "edge.toml"), office):
    for one in made:
        office.assign(one)
        said.append(office.wait(one, timeout_s=240))
    for entry, data in office.parcels.values():
        (folder / "landed").mkdir(exist_ok=True)
        (folder / "landed" / entry.assignment_id).write_bytes(data)
print(json.dumps([[one.state.value, one.code] for one in said]))
"""


def run(folder: Path, fault: str) -> tuple[int, list[list[str]]]:
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    arguments = [str(folder), *([str(folder / "fired")] if fault == _SENDING else [])]
    if fault and fault != _SENDING:
        env["CORSIA_FAULTS"] = f"{fault}={folder / 'fired'}"
    done = subprocess.run(
        [sys.executable, "-c", _RUN, *arguments], capture_output=True, text=True, timeout=500, env=env, cwd=ROOT
    )
    assert done.returncode in (0, -signal.SIGKILL), done.stderr[-3000:]
    return done.returncode, json.loads(done.stdout.splitlines()[-1]) if done.returncode == 0 else []


def written(folder: Path, office: Office, assignments: list[Assignment]) -> None:
    value = {
        "study_key": office.keys.study_key.to_bytes().hex(),
        "other_key": office.keys.other_key.to_bytes().hex(),
        "federation": office.federation.to_bytes().hex(),
        "blobs": {k: base64.b64encode(v).decode() for k, v in office.blobs.items()},
        "assignments": [
            {
                "id": one.id, "kind": one.kind.value, "digest": one.study_digest,
                "document": base64.b64encode(one.document).decode(),
                "signature": base64.b64encode(one.signature).decode(),
            }
            for one in assignments
        ],
    }  # fmt: skip
    (folder / "office.json").write_text(json.dumps(value))


@pytest.mark.parametrize(
    "point",
    [
        pytest.param("edge.reserved", marks=pytest.mark.full),
        "edge.drawn",
        "edge.kept",
        pytest.param("edge.sealing", marks=pytest.mark.full),
        "edge.spooled",
        _SENDING,
    ],
)
def test_a_round_is_paid_once_and_drawn_once(tmp_path: Path, point: str) -> None:
    config = hospital(tmp_path)
    office = enrolled(config)
    asked = plan()
    study = office.submit(asked)
    at = {"round": 1, "phase": RoundPhase.TRAIN, "deadline": 4e9}  # two daemons one after the other may take long
    first = office.instruct(study, question("train", asked, 1), **at)
    second = office.instruct(study, question("train", asked, 1, attempt=1), attempt=1, **at)
    written(tmp_path, office, [study, first, second])
    assert run(tmp_path, point)[0] == -signal.SIGKILL
    assert (tmp_path / "fired").exists()
    kept = [path.read_bytes() for path in (config.state_dir / "draws").glob("*")]
    assert bool(kept) is (point not in ("edge.reserved", "edge.drawn"))
    status, said = run(tmp_path, "")
    assert (status, said) == (0, [["done", ""]] * 3)
    ledger = Ledger(config.state_dir / "ledger.db")
    spent = ledger.total("cohort").cost
    ledger.verify()
    assert spent == guarantee.cost(asked, RoundPhase.TRAIN)
    if kept:
        assert [path.read_bytes() for path in (config.state_dir / "draws").glob("*")] == kept
    one, two = (opened(tmp_path, office, made) for made in (first, second))
    assert one.keys() == two.keys() != set()
    assert all(np.array_equal(one[name], two[name]) for name in one)
    assert any(array.any() for array in one.values()), "noise that is nothing would show nothing"


def opened(folder: Path, office: Office, made: Assignment) -> dict[str, np.ndarray]:
    from io import BytesIO

    from privacy.envelope import unseal
    from protocol.parcel import unpack_batch

    data = (folder / "landed" / made.id).read_bytes()
    sender = read_key(folder / "state" / "identity.key").public
    batch = unpack_batch(b"".join(unseal(BytesIO(data), key=office.federation, sender=sender)))
    return arrays_of(message_from_bytes(batch.items[0].data).content.array_records[ARRAYS])
