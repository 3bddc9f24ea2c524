"""kill -9 at every named point of the demo, and the same outcome as undisturbed (TRUST rules, "the same outcome").

`make test`: one run in which every point kills once. `make test-full`: runs besides in which each process dies once.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from protocol.faults import POINTS
from tests.e2e.outcome import outcome
from tests.e2e.running import Demo, isolated

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(2400)]

_RUN = """
import json, sys
from pathlib import Path
from corsia.demo import run_demo
tell = lambda line: print(line, file=sys.stderr, flush=True)
result = run_demo(Path(sys.argv[1]), faults=json.loads(sys.argv[2]), tell=tell)
print(json.dumps(result.summary))
"""
# Which hospital dies where: spread, so that a run has one kill a process at a time.
_SITES = {"edge.accepted": "site-a", "edge.reserved": "site-b", "edge.sealing": "site-c", "edge.spooled": "site-a",
          "edge.delivering": "site-b", "edge.receipt": "site-c"}  # fmt: skip
# Where the demo does not lead: an operator's commands (test_federation_kill.py), training with noise
# (test_training_budget_kill.py), the end of a study or of a consent (test_vault_restart.py, test_agent_withdrawal.py),
# servers of a hospital (tests/contract/test_sources_contract.py).
_ELSEWHERE = ("edge.drawn", "edge.kept", "edge.withdrawn", "federation.heeded", "federation.paused")
_DEMO = [p for p in POINTS if p not in _ELSEWHERE and not p.startswith(("erasure.", "withdrawal.", "source."))]


def run(out: Path, points: list[str]) -> dict[str, Any]:
    """The demo with these points armed; all of them must have fired."""
    markers = {point: out.parent / f"{out.name}-{point}.fired" for point in points}
    faults: dict[str, str] = {}
    for point in points:
        process = _SITES.get(point, "centre")
        faults[process] = ",".join(filter(None, (faults.get(process, ""), f"{point}={markers[point]}")))
    done = subprocess.run(
        [*isolated(), sys.executable, "-c", _RUN, str(out), json.dumps(faults)],
        capture_output=True, text=True, timeout=1500, env=os.environ,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-6000:]
    assert [p for p in points if not markers[p].exists()] == []
    return dict(json.loads(done.stdout.splitlines()[-1]))


def test_every_point_kills_once_in_one_run(tmp_path: Path, demo: Demo) -> None:
    out = tmp_path / "out"
    assert outcome(out, run(out, _DEMO)) == demo.outcome


def _once_a_process() -> list[list[str]]:
    """The points in as few runs as kill no process twice."""
    runs: list[dict[str, str]] = []
    for point in _DEMO:
        process = _SITES.get(point, point.partition(".")[0])
        free = next((run for run in runs if process not in run), None)
        if free is None:
            runs.append(free := {})
        free[process] = point
    return [list(run.values()) for run in runs]


@pytest.mark.full
@pytest.mark.parametrize("points", _once_a_process(), ids=" ".join)
def test_each_process_dies_once_a_run(tmp_path: Path, demo: Demo, points: list[str]) -> None:
    out = tmp_path / "out"
    assert outcome(out, run(out, points)) == demo.outcome
