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
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from sqlalchemy import func, select

from central.federation.checkpoint import join_arrays
from central.federation.control import Command, ask
from central.federation.local import train_locally
from central.store.models import AssignmentRow, EventRow, LogRow, ModelRow, ParcelRow, RoundRow, RunRow, StudyRow
from pipelines import infer
from pipelines.train import load
from protocol import faults
from protocol.assignment import RoundInstruction, RoundPhase
from protocol.study import Study
from tests.federation_hospital import Consortium, Hospitals, frame, study
from tests.federation_process import PUBLICATION_KEY, federation
from tests.mlflowkit import store_in

Tamper = Callable[[str, RoundInstruction, bytes], bytes | None]
PLAN = study(strategy="fedadam", rounds=2)
PHASE = ["federation.instructed", "federation.collected", "federation.checkpoint"]
END = ["federation.ended", "federation.publish"]
COMMANDED = ["federation.heeded", "federation.paused"]  # only where an operator asks for something
# A process that starts again is at the beginning of the phase, masks and all, that the one before it died in.
PLAIN = PHASE * 5 + END
STEPS = [f"federation.instructed#{step}" for step in range(1, 6)]
MASKED = [f"{point}#{step}" for step in range(1, 6) for point in PHASE[:2]]


def masked(plan: Study) -> Study:
    changed = plan.privacy.model_dump(exclude_none=True) | {"secure_aggregation": True}
    return Study.model_validate(plan.model_dump(by_alias=True, exclude_none=True) | {"privacy": changed})


@pytest.fixture(scope="module")
def expected() -> bytes:
    reached = train_locally(PLAN, {site: load(PLAN, site, frame(site)) for site in PLAN.sites})
    return join_arrays(reached.model, reached.preprocessing)


def attend(consortium: Consortium, tmp_path: Path, spec: str = "") -> int:
    uri = store_in(tmp_path)
    environment = {**os.environ, "CORSIA_FAULTS": spec, "MLFLOW_DISABLE_TELEMETRY": "true"}
    command = [sys.executable, "-m", "tests.federation_process", str(consortium.root), uri, PLAN.id]
    root = Path(__file__).parents[2]
    environment["PYTHONPATH"] = str(root)
    return subprocess.run(command, cwd=tmp_path, env=environment, timeout=540, check=False).returncode


def untouched(_site: str, _instruction: RoundInstruction, reply: bytes) -> bytes | None:
    return reply


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


def killed(consortium: Consortium, folder: Path, points: list[str], tamper: Tamper = untouched) -> None:
    """One process after the other dies at its point; the last one ends."""
    markers = [folder / f"fired-{number}" for number in range(len(points))]
    specs = [f"{point}={marker}" for point, marker in zip(points, markers, strict=True)]
    uri = store_in(folder)
    command = [sys.executable, "-m", "tests.federation_process", str(consortium.root), uri, consortium.study.id, *specs]
    environment = {**os.environ, "MLFLOW_DISABLE_TELEMETRY": "true", "PYTHONPATH": str(Path(__file__).parents[2])}
    with Hospitals(consortium, tamper):
        done = subprocess.run(
            command, cwd=folder, env=environment, timeout=540, check=False, capture_output=True, text=True
        )
    assert done.returncode == 0, done.stderr[-3000:]
    assert json.loads(done.stdout.splitlines()[-1]) == [-signal.SIGKILL] * len(points) + [0]


def published(consortium: Consortium) -> bytes:
    with consortium.store.read() as reading:
        return consortium.store.get_blob(reading.scalars(select(ModelRow)).one().weights)


def local(plan: Study) -> bytes:
    reached = train_locally(plan, {site: load(plan, site, frame(site)) for site in plan.sites})
    return join_arrays(reached.model, reached.preprocessing)


def test_the_points_are_all_there_are() -> None:
    named = [name for name in faults.POINTS if name.startswith("federation.")]
    assert sorted(named) == sorted([*PHASE, *COMMANDED, *END])


def test_killed_at_every_point_of_every_phase(tmp_path: Path, expected: bytes) -> None:
    consortium = Consortium(tmp_path / "state", PLAN)
    killed(consortium, tmp_path, PLAIN)
    check_outcome(consortium, expected)
    from central.registry import Registry

    registry = Registry(f"sqlite:///{tmp_path / 'mlflow.db'}")
    assert registry.next_version("lung-survival") == 2  # one version, whatever happened


def test_killed_in_every_step_of_the_masks(tmp_path: Path) -> None:
    plan = masked(study(rounds=1))
    consortium = Consortium(tmp_path / "state", plan)
    killed(consortium, tmp_path, STEPS + PHASE[2:] + MASKED + PHASE[2:] + STEPS + PHASE[2:] + END)
    assert published(consortium) == local(plan)
    with consortium.store.read() as reading:
        rounds = reading.scalars(select(AssignmentRow).where(AssignmentRow.kind == "round")).all()
    assert len(rounds) == 3 * 5 * 3  # nobody was asked twice


@pytest.mark.full
@pytest.mark.parametrize("place", [f"{p}#{n}" for p in PHASE for n in range(1, 6)] + END)
def test_killed_once_in_one_phase(tmp_path: Path, place: str, expected: bytes) -> None:
    consortium = Consortium(tmp_path / "state", PLAN)
    killed(consortium, tmp_path, [place])
    check_outcome(consortium, expected)


@pytest.mark.full
@pytest.mark.parametrize(
    "place", [f"{p}#{n}" for p in PHASE[:2] for n in range(1, 16)] + [f"{PHASE[2]}#{n}" for n in (1, 2, 3)] + END
)
def test_killed_once_in_one_step_of_the_masks(tmp_path: Path, place: str) -> None:
    plan = masked(study(rounds=1))
    consortium = Consortium(tmp_path / "state", plan)
    killed(consortium, tmp_path, [place])
    assert published(consortium) == local(plan)


# -- under its operator: the wish, and what has been done about it, outlive every process


def asking(consortium: Consortium, round_: int, phase: RoundPhase, command: str, **more: object) -> Tamper:
    """While site-a answers this phase, once."""

    def tamper(site: str, instruction: RoundInstruction, reply: bytes) -> bytes | None:
        if (site, instruction.round, instruction.phase) == ("site-a", round_, phase):
            ask(consortium.store, consortium.study.id, Command(command), **more)
        return reply

    return tamper


def test_killed_on_the_way_into_a_pause_and_out_of_it(tmp_path: Path, expected: bytes) -> None:
    consortium = Consortium(tmp_path / "state", PLAN)
    over = threading.Event()

    def resume() -> None:
        while not over.is_set():
            if (tmp_path / "fired-2").exists():
                ask(consortium.store, PLAN.id, Command.RESUME)
                return
            time.sleep(0.02)

    operator = threading.Thread(target=resume)
    operator.start()
    try:
        points = ["federation.heeded", "federation.paused"] * 2
        killed(consortium, tmp_path, points, asking(consortium, 1, RoundPhase.TRAIN, "pause"))
    finally:
        over.set()
        operator.join()
    check_outcome(consortium, expected)


@pytest.mark.parametrize(
    "hidden", [pytest.param(False, id="plain"), pytest.param(True, id="masked", marks=pytest.mark.full)]
)
def test_killed_while_it_stops(tmp_path: Path, hidden: bool) -> None:
    plan = masked(PLAN) if hidden else PLAN
    consortium = Consortium(tmp_path / "state", plan)
    stop = asking(consortium, 2, RoundPhase.EVALUATE, "stop")
    killed(consortium, tmp_path, ["federation.ended", "federation.heeded", "federation.publish"], stop)
    shorter = study(strategy="fedadam", rounds=1)
    assert published(consortium) == local(masked(shorter) if hidden else shorter)


def test_killed_while_it_is_extended(tmp_path: Path) -> None:
    consortium = Consortium(tmp_path / "state", study(strategy="fedadam", rounds=1, max_rounds=2))
    extend = asking(consortium, 1, RoundPhase.EVALUATE, "extend", rounds=2)
    killed(consortium, tmp_path, ["federation.heeded", "federation.ended"], extend)
    assert published(consortium) == local(PLAN)


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
