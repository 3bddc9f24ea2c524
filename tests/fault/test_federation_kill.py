"""SIGKILL at each of the federation's fault points, then start again: the outcome of an undisturbed run.

Hospitals answer through the store (tests/federation_hospital.py); the loop, the checkpoints, MLflow and the kill are
real.
"""

from __future__ import annotations

import hashlib
import json
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from sqlalchemy import func, select

from central.federation.checkpoint import join_arrays
from central.federation.local import train_locally
from central.store.models import AssignmentRow, EventRow, LogRow, ModelRow, ParcelRow, RoundRow, RunRow, StudyRow
from pipelines import infer
from pipelines.train import load
from protocol import faults
from tests.federation_hospital import Consortium, Hospitals, frame, study
from tests.federation_process import PUBLICATION_KEY, federation

POINTS = [name for name in faults.POINTS if name.startswith("federation.")]
PLAN = study(strategy="fedadam", rounds=2)


@pytest.fixture(scope="module")
def expected() -> bytes:
    reached = train_locally(PLAN, {site: load(PLAN, site, frame(site)) for site in PLAN.sites})
    return join_arrays(reached.model, reached.preprocessing)


def attend(consortium: Consortium, tmp_path: Path, spec: str = "") -> int:
    uri = f"sqlite:///{tmp_path / 'mlflow.db'}"
    environment = {**os.environ, "CORSIA_FAULTS": spec, "MLFLOW_DISABLE_TELEMETRY": "true"}
    command = [sys.executable, "-m", "tests.federation_process", str(consortium.root), uri, PLAN.id]
    root = Path(__file__).parents[2]
    environment["PYTHONPATH"] = str(root)
    return subprocess.run(command, cwd=tmp_path, env=environment, timeout=120, check=False).returncode


def check_outcome(consortium: Consortium, expected: bytes) -> None:
    with consortium.store.read() as reading:
        model = reading.scalars(select(ModelRow)).one()
        assert reading.scalars(select(RunRow)).one().state == "done"
        assert reading.get_one(StudyRow, PLAN.id).state == "done"
        assert reading.scalars(select(RoundRow.round).order_by(RoundRow.round)).all() == [0, 1, 2]
        rounds = reading.scalars(select(AssignmentRow).where(AssignmentRow.kind == "round")).all()
        leaves = [json.loads(leaf) for leaf in reading.scalars(select(LogRow.leaf))]
        parcels = reading.scalar(select(func.count()).select_from(ParcelRow))
        kinds = reading.scalars(select(EventRow.kind)).all()
    assert len(rounds) == parcels == 3 * 5  # nobody was instructed, and nothing landed, twice
    assert kinds.count("model.published") == 1
    assert [leaf["kind"] for leaf in leaves].count("model") == 1
    weights = consortium.store.get_blob(model.weights)
    assert hashlib.sha256(weights).digest() == hashlib.sha256(expected).digest()
    manifest = infer.verify(consortium.store.get_blob(model.manifest), weights, PUBLICATION_KEY.public)
    assert (manifest.name, manifest.version, manifest.serial, model.version) == ("lung-survival", 1, 1, 1)
    assert leaves[manifest.value["log"]["index"]] == infer.log_leaf(manifest.value)
    assert manifest.value["epsilon"] is None
    assert manifest.value["masked"] is False
    assert list(consortium.landing.iterdir()) == []


@pytest.mark.parametrize("point", POINTS)
def test_killed_and_started_again(tmp_path: Path, point: str, expected: bytes) -> None:
    consortium = Consortium(tmp_path / "state", PLAN)
    marker = tmp_path / "marker"
    with Hospitals(consortium):
        assert attend(consortium, tmp_path, f"{point}={marker}") == -signal.SIGKILL
        assert marker.exists()
        assert attend(consortium, tmp_path) == 0
    check_outcome(consortium, expected)
    from central.registry import Registry

    registry = Registry(f"sqlite:///{tmp_path / 'mlflow.db'}")
    assert registry.next_version("lung-survival") == 2  # one version, whatever happened


def test_undisturbed_and_again(tmp_path: Path, expected: bytes) -> None:
    consortium = Consortium(tmp_path / "state", PLAN)
    stop = threading.Event()
    with Hospitals(consortium):
        assert attend(consortium, tmp_path) == 0
        check_outcome(consortium, expected)
        again = federation(consortium.root, f"sqlite:///{tmp_path / 'mlflow.db'}", stop)
        again.attend(PLAN.id)  # a finished study is left as it is
        status = again.status(PLAN.id)
    check_outcome(consortium, expected)
    assert (status["state"], status["round"], status["phase"]) == ("done", 2, "done")
    assert [r["round"] for r in status["rounds"]] == [0, 1, 2]
