"""A researcher's own model through the daemon: approved by name, version and digest, isolated, or refused."""

from __future__ import annotations

import json
import os
import socket
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from safetensors.numpy import save
from typer.testing import CliRunner

from corsia.cli import app
from edge.config import EdgeConfig, load
from edge.lane import LaneRun
from edge.ledger import Ledger
from edge.plugins import installed
from edge.policy import decide
from edge.worker import Worker
from pipelines import learners
from pipelines.flower import ARRAYS, arrays_of, message_from_bytes, record_of
from pipelines.learners.described import FOLDER, outlined
from pipelines.registry import INSTALLED
from privacy.envelope import read_key
from protocol.assignment import Assignment, RoundPhase, State
from protocol.errors import PolicyRefused
from protocol.study import Study
from tests.agentkit import Office, enrolled, running, site_config, study
from tests.integration.test_agent_imaging import asked
from tests.integration.test_agent_models import Shelf
from tests.pluginkit import KEY, install

SETTINGS = {"positive": 1, "local": {"batch": 8}, "model": {"width": 6}}


def plan(name: str = "plug", key: str = KEY, **changes: Any) -> Study:
    return study(
        name, lane="train", dataset={"name": "cohort", "columns": ["age", "score", "status"]},
        pipeline={"name": "train", "plugin": key, "parameters": SETTINGS}, output={},
        training={
            "learner": "wide-net", "features": ["age", "score"], "outcome": ["status"], "rounds": 1, "local_steps": 5,
            "publish": {"model": "wide"},
        } | changes,
    )  # fmt: skip


def with_plugins(folder: Path, *keys: str, **policy: Any) -> EdgeConfig:
    """A hospital whose policy allows these plug-ins."""
    site_config(folder, plugins=list(keys), **policy)
    path = folder / "edge.toml"
    path.write_text('plugins = "plugins"\n' + path.read_text())
    return load(path)


@pytest.fixture(name="folder")
def _folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    install(tmp_path / "plugins")
    monkeypatch.setenv(FOLDER, str(tmp_path / "plugins"))  # the centre's own
    return tmp_path


def answer(config: EdgeConfig, office: Office, of: Assignment, message: bytes, **said: Any) -> dict[str, Any]:
    made = office.instruct(of, message, **said)
    report = office.wait(made)
    assert (report.state, report.code) == (State.DONE, "")
    (batch,) = office.opened(made, read_key(config.state_dir / "identity.key"))
    return arrays_of(record_of(message_from_bytes(batch.items[0].data), ARRAYS))


def test_a_plug_in_trains_and_neither_agent_nor_centre_imports_it(folder: Path) -> None:
    config = with_plugins(folder, KEY)
    office = enrolled(config)
    asked_study = plan()
    centre = learners.for_study(asked_study)  # the federation's view of it
    assert (centre.name, centre.version) == ("wide-net", KEY)
    with running(config, office):
        of = office.submit(asked_study)
        report = office.wait(of)
        assert (report.state, report.code) == (State.DONE, "")
        sums = answer(config, office, of, asked(asked_study, "prepare"))
        preprocessing = centre.agree(sums)
        model = centre.initial(sums, preprocessing)
        assert {name: value.shape for name, value in model.items()} == {
            "0.weight": (6, 2), "0.bias": (6,), "2.weight": (1, 6), "2.bias": (1,),
        }  # fmt: skip
        assert all(np.array_equal(centre.initial(sums, preprocessing)[k], v) for k, v in model.items())
        message = asked(asked_study, "train", model, preprocessing)
        trained = answer(config, office, of, message, round=1, phase=RoundPhase.TRAIN)
        message = asked(asked_study, "evaluate", trained, preprocessing)
        scores = answer(config, office, of, message, round=1, phase=RoundPhase.EVALUATE)
    assert any((trained[name] != value).any() for name, value in model.items())
    assert "auc" in centre.metrics(scores)
    assert "corsia_example" not in sys.modules


@pytest.mark.parametrize(
    ("allowed", "key", "code"),
    [
        ((), KEY, "policy.plugin"),
        (("corsia-example==2.0.0",), KEY, "policy.plugin"),
        (("corsia-example==2.0.0",), "corsia-example==2.0.0", "policy.plugin"),  # allowed, but not installed
        ((KEY,), KEY, "input.study"),  # the plug-in has no such learner
    ],
)
def test_what_the_site_did_not_allow_or_has_not_is_refused(
    folder: Path, allowed: tuple[str, ...], key: str, code: str
) -> None:
    config = with_plugins(folder, *allowed)
    office = enrolled(config)
    changes = {"learner": "no-net"} if code == "input.study" else {}
    with running(config, office):
        said = office.wait(office.submit(plan(key=key, **changes)))
    assert said.code == code


def test_after_an_upgrade_the_approval_is_suspended_and_what_changed_is_shown(folder: Path) -> None:
    config = with_plugins(folder, KEY, approve="manual")
    office = enrolled(config)

    def approve() -> dict[str, Any]:
        done = CliRunner().invoke(app, ["edge", "approve", "plug", "--config", str(folder / "edge.toml"), "--json"])
        assert done.exit_code == 0, done.output
        return dict(json.loads(done.stdout.strip().splitlines()[-1]))

    with running(config, office):
        of = office.submit(plan())
        office.wait(of, State.PENDING)
        first = approve()
        assert office.wait(of).state is State.DONE
        install(folder / "plugins", change=("Tanh", "ReLU"))
        said = office.wait(office.instruct(of, asked(plan(), "prepare")))
        assert said.code == "approval.changed"
        second = approve()
    assert (second["was"], second["verdict"]) == ("suspended", "approved")
    assert second["code_digest"] != first["code_digest"]
    assert f"changed plugin:{KEY}/corsia_example/__init__.py" in second["changed"]
    assert not any("pipelines" in line for line in second["changed"])


HOSTILE = """
        import os, socket, pathlib
        seen = []
        for path in settings["paths"]:
            try:
                pathlib.Path(path).read_bytes(); seen.append(path)
            except OSError:
                pass
        try:
            pathlib.Path(settings["folder"], "written").write_text("x"); seen.append("write")
        except OSError:
            pass
        for address in [("127.0.0.1", settings["port"]), ("198.51.100.1", 443)]:
            try:
                socket.create_connection(address, timeout=1); seen.append("socket")
            except OSError:
                pass
        try:
            os.kill(settings["pid"], 0); seen.append("signal")
        except OSError:
            pass
        if seen:
            raise MemoryError(",".join(map(str, seen)))
        width"""


def tries(folder: Path, config: EdgeConfig, server: socket.socket) -> dict[str, Any]:
    """What the hostile plug-in is told to reach."""
    return {
        "port": server.getsockname()[1], "pid": os.getpid(), "folder": str(folder),
        "paths": [
            str(config.state_dir / "identity.key"), str(folder / "data" / "table.csv"), str(folder / "edge.toml"),
            f"/proc/{os.getpid()}/environ", f"/proc/{os.getpid()}/mem", "/etc/shadow",
        ],
    }  # fmt: skip


def test_a_hostile_plug_in_reaches_neither_key_nor_network_nor_disk(folder: Path) -> None:
    install(folder / "plugins", change=("\n        width", HOSTILE))
    config = with_plugins(folder, KEY)
    office = enrolled(config)
    with socket.create_server(("127.0.0.1", 0)) as server:
        model = tries(folder, config, server)
        asked_study = plan()
        raw = asked_study.model_dump(by_alias=True, exclude_none=True)
        raw["pipeline"]["parameters"] = {**SETTINGS, "model": model}
        with running(config, office):
            said = office.wait(office.submit(Study.model_validate(raw)))
    assert (said.state, said.code) == (State.DONE, ""), "the plug-in reached something"
    assert not (folder / "written").exists()


def test_a_plug_in_trains_with_noise_that_the_ledger_has_paid(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The site needs nothing of the plug-in to know what a round costs, and nothing of the centre's folder."""
    config = with_plugins(folder, KEY, allow_unbounded_epsilon=False, delta=1e-5)
    office, raw = enrolled(config), plan("private").model_dump(by_alias=True, exclude_none=True)
    raw["privacy"] |= {"dp": "sample", "epsilon": 1.0, "delta": 1e-5}
    raw["pipeline"]["parameters"] |= {"private": {"bounds": {"age": [0, 110], "score": [0, 40]}, "rate": 0.5}}
    asked_study = Study.model_validate(raw)
    centre = learners.for_study(asked_study)
    first = asked(asked_study, "prepare")
    agreed = centre.agree({name: np.ones(shape) for name, (_, shape) in centre.preparation().items()})
    model = centre.initial({}, agreed)
    second = asked(asked_study, "train", model, agreed)
    monkeypatch.delenv(FOLDER)
    with running(config, office):
        of = office.submit(asked_study)
        report = office.wait(of)
        assert (report.state, report.code) == (State.DONE, "")
        sums = answer(config, office, of, first)
        made = answer(config, office, of, second, round=1, phase=RoundPhase.TRAIN)
    assert not sums["outcome"].any()
    assert not any((made[name] == value).any() for name, value in model.items())
    monkeypatch.setenv(FOLDER, str(folder / "plugins"))
    ledger = Ledger(config.state_dir / "ledger.db")
    try:
        spent = [one.cost for one in ledger.spends()]
    finally:
        ledger.close()
    assert centre.schedule is not None
    costs = [centre.schedule.cost(phase) for phase in (RoundPhase.PREPARE, RoundPhase.TRAIN)]
    assert sorted(curve.epsilon(1e-5) for curve in spent) == pytest.approx(sorted(cost.epsilon(1e-5) for cost in costs))
    assert sum(costs[1:], costs[0]).epsilon(1e-5) <= 1.0


# -- lane `infer` ------------------------------------------------------------------------------------------------------


def scoring(name: str = "score", key: str | None = KEY) -> Study:
    pipeline = {"name": "infer"} if key is None else {"name": "infer", "plugin": key}
    return study(
        name, lane="infer", dataset={"name": "cohort", "columns": ["age", "score"]}, pipeline=pipeline, output={},
        model={"name": "wide"},
    )  # fmt: skip


def trained(office: Office, table: pd.DataFrame, model: dict[str, Any] | None = None, key: str = KEY) -> Any:
    """A published model of the plug-in: weights, preprocessing, and what an assignment brings."""
    centre, draw = outlined(plan()), np.random.default_rng(1)
    agreed = centre.agree(centre.sums(centre.rows(table), 5))
    shapes = {"0.weight": (6, 2), "0.bias": (6,), "2.weight": (1, 6), "2.bias": (1,)}
    weights = {name: draw.normal(size=shape).astype(np.float32) for name, shape in shapes.items()}
    arrays = {f"model/{k}": v for k, v in weights.items()} | {f"preprocessing/{k}": v for k, v in agreed.items()}
    shelf = Shelf(office, save(arrays))
    learner = {"name": "wide-net", "version": key, "settings": {**SETTINGS, "model": {"width": 6, **(model or {})}}}
    blobs = shelf.blobs(shelf.document(1, name="wide", features=["age", "score"], learner=learner))
    return weights, agreed, blobs


def cohort(folder: Path) -> pd.DataFrame:
    return pd.read_csv(folder / "data" / "table.csv")


def test_a_plug_in_scores_at_the_site_and_the_agent_does_not_import_it(folder: Path) -> None:
    config = with_plugins(folder, KEY)
    office, table = enrolled(config), cohort(folder)
    weights, agreed, blobs = trained(office, table)
    with running(config, office):
        said = office.wait(office.submit(scoring(), blobs=blobs))
        assert (said.state, said.code) == (State.DONE, "")
    made = pd.read_parquet(config.state_dir / "results" / "score.parquet")
    assert said.counts["rows"] == len(made) > 10
    assert [column for column in made.columns if column not in ("row", "pseudonym")] == ["probability"]
    chosen = table[table["consent"] == "yes"] if "consent" in table else table
    x = (chosen[["age", "score"]].to_numpy(float) - agreed["mean"]) / agreed["scale"]
    hidden = np.tanh(x @ weights["0.weight"].T + weights["0.bias"])
    logits = (hidden @ weights["2.weight"].T + weights["2.bias"])[:, 0]
    assert np.sort(made["probability"]) == pytest.approx(np.sort(1 / (1 + np.exp(-logits))), abs=1e-5)
    assert "corsia_example" not in sys.modules
    assert list((config.state_dir / "work").glob("*")) == []
    assert office.parcels == {}


def test_a_model_runs_with_the_plug_in_that_its_study_names_alone(folder: Path) -> None:
    other = "corsia-example==2.0.0"
    install(folder / "plugins", version="2.0.0")
    config = with_plugins(folder, KEY, other)
    office = enrolled(config)
    _, _, blobs = trained(office, cohort(folder))
    with running(config, office):
        for name, key in (("none", None), ("other", other), ("absent", "corsia-example==3.0.0")):
            said = office.wait(office.submit(scoring(name, key), blobs=blobs))
            assert said.code == "policy.plugin"
        assert office.wait(office.submit(scoring(), blobs=blobs)).state is State.DONE
    assert [path.name for path in (config.state_dir / "results").iterdir()] == ["score.parquet"]


def test_an_approval_to_score_is_of_the_plug_in_as_it_was(folder: Path) -> None:
    config = with_plugins(folder, KEY, approve="manual")
    office = enrolled(config)
    _, _, blobs = trained(office, cohort(folder))

    with running(config, office):
        of = office.submit(scoring(), blobs=blobs)
        office.wait(of, State.PENDING)
        done = CliRunner().invoke(app, ["edge", "approve", "score", "--config", str(folder / "edge.toml"), "--json"])
        assert done.exit_code == 0, done.output
        assert office.wait(of).state is State.DONE
        install(folder / "plugins", change=("Tanh", "ReLU"))
        again = replace(of, id="e" * 32)  # the same study, once more
        office.assign(again)
        said = office.wait(again, State.PENDING, *(state for state in State if state.final))
        assert (said.state, said.code) == (State.PENDING, "approval.changed")


def test_a_hostile_plug_in_reaches_nothing_when_it_scores_either(folder: Path) -> None:
    install(folder / "plugins", change=("\n        width", HOSTILE))
    config = with_plugins(folder, KEY)
    office = enrolled(config)
    with socket.create_server(("127.0.0.1", 0)) as server:
        _, _, blobs = trained(office, cohort(folder), tries(folder, config, server))
        with running(config, office):
            said = office.wait(office.submit(scoring(), blobs=blobs))
    assert (said.state, said.code) == (State.DONE, ""), "the plug-in reached something"
    assert not (folder / "written").exists()


UNCONFINED = """
import json, struct, sys
head = json.dumps({"op": "hello", "network": "shared", "missing": sys.argv[1].split()}).encode()
sys.stdout.buffer.write(struct.pack(">IQ", len(head), 0) + head)
sys.stdout.buffer.flush()
sys.stdin.buffer.read()
"""


@pytest.mark.parametrize("lacks", ["network", "files", "network files signals calls"])
def test_where_a_worker_has_network_or_files_plug_ins_do_not_run(folder: Path, lacks: str) -> None:
    """A worker on a kernel that cannot confine it says so, and is told nothing of the study then."""
    config = with_plugins(folder, KEY)
    asked_study = plan()
    decision = decide(asked_study, config, INSTALLED, installed(config, asked_study))
    config.state_dir.mkdir()
    lane = LaneRun.prepare(asked_study, "0" * 64, config, decision)
    worker = Worker(config.limits, folder / "work", argv=[sys.executable, "-I", "-c", UNCONFINED, lacks])
    with pytest.raises(PolicyRefused) as error:
        worker.start_training(lane.job, lane.source())
    assert error.value.code == "policy.plugin"
    assert not worker.alive


def test_the_centre_without_the_plug_in_refuses_the_study(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(FOLDER)
    with pytest.raises(PolicyRefused):
        learners.for_study(plan())
