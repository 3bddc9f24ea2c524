"""The operator's commands by REST, command line and notebook: one meaning, and the run's events as they come."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import select

import corsia
from central.store.models import EventRow, RunRow, StudyRow
from corsia.cli import main
from protocol.errors import ConflictError, InputError, StudyRefused, UnavailableError
from tests.webkit import Running, running_centre

TRAINING = {
    "learner": "survival", "features": ["age"], "outcome": ["time"], "rounds": 3, "max_rounds": 6,
    "publish": {"model": "risk"},
}  # fmt: skip


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    with running_centre(tmp_path_factory.mktemp("centre")) as made:
        yield made


@pytest.fixture
def fed(running: Running, request: pytest.FixtureRequest) -> str:
    """A training study with a run under way; each test has its own."""
    world, name = running.world, f"fed-{abs(hash(request.node.name)) % 10**9}"
    world.submit(name, lane="train", pipeline={"name": "train"}, training=TRAINING, output={})
    with world.store.begin() as session:
        session.add(RunRow(id=f"{name:0>32}"[-32:], study_digest=world.digest(name), updated_at=time.time()))
    return name


@pytest.fixture
def hub(running: Running) -> Iterator[corsia.Hub]:
    with corsia.connect(running.url, token_file=running.token_file) as made:
        yield made


def test_the_notebook_commands_a_run(hub: corsia.Hub, fed: str, running: Running) -> None:
    run = hub.studies[fed].run
    assert run.pause() == {"study": fed, "wish": "pause", "rounds": 3, "discard": False}
    assert (run.status()["wish"], run.status()["of"], run.status()["max_rounds"]) == ("pause", 3, 6)
    assert run.extend(5)["rounds"] == 5
    assert run.resume()["wish"] == "run"
    assert run.status()["of"] == 5
    with pytest.raises(StudyRefused) as refused:
        run.extend(7)
    assert refused.value.code == "study.rounds"
    with pytest.raises(InputError):
        run.extend(4)
    assert run.stop(discard=True) == {"study": fed, "wish": "stop", "rounds": 5, "discard": True}
    with pytest.raises(ConflictError):
        run.resume()
    with running.world.store.begin() as session:
        session.get_one(StudyRow, fed).state = "closed"
    with pytest.raises(ConflictError) as ended:
        run.stop()
    assert ended.value.code == "conflict.state"


@pytest.mark.parametrize(
    ("path", "body", "status", "code"),
    [
        ("/runs/none/pause", None, 404, "study.unknown"),
        ("/runs/{}/extend", {"rounds": 99}, 409, "study.rounds"),
        ("/runs/{}/extend", {"rounds": 0}, 422, "input.usage"),
        ("/runs/{}/extend", None, 422, "input.usage"),
        ("/runs/{}/stop", {"discard": "maybe"}, 422, "input.usage"),
        ("/runs/{}/stop", {"keep": True}, 422, "input.usage"),
    ],
)
def test_a_bad_command_is_one_problem(running: Running, fed: str, path: str, body: Any, status: int, code: str) -> None:
    with running.operator() as http:
        answer = http.post(f"/api/v1{path.format(fed)}", json=body)
    assert (answer.status_code, answer.json()["code"]) == (status, code)


def test_who_asked_is_written_down(running: Running, fed: str) -> None:
    with corsia.connect(running.url, running.centre.operators.add("alice")) as alice:
        alice.studies[fed].run.pause()
    with running.operator() as http:
        assert http.post(f"/api/v1/runs/{fed}/stop", json={"discard": True}).status_code == 202
    with running.world.store.read() as session:
        rows = session.scalars(select(EventRow).where(EventRow.kind == "run.asked", EventRow.study == fed))
        assert [(row.fields["command"], row.fields["operator"]) for row in rows] == [
            ("pause", "alice"), ("stop", "operator"),
        ]  # fmt: skip


def test_a_study_of_another_lane_has_no_run(running: Running) -> None:
    running.world.submit("rows")
    with running.operator() as http:
        assert http.post("/api/v1/runs/rows/stop").json()["code"] == "study.unknown"


def cli(capsys: pytest.CaptureFixture[str], *args: str) -> tuple[int, dict[str, Any]]:
    with pytest.raises(SystemExit) as ended:
        main(["study", *args, "--json"])
    out = capsys.readouterr().out
    assert out.count("\n") == 1
    return int(str(ended.value.code or 0)), json.loads(out)


@pytest.mark.parametrize("way", ["url", "config"])
def test_the_command_line_says_the_same(
    running: Running, fed: str, way: str, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    config = tmp_path / "central.toml"
    config.write_text(f'name = "consortium"\nstate_dir = "{running.centre.store.state_dir}"\n')
    where = ["--config", str(config)]
    if way == "url":
        where = ["--url", running.url, "--token-file", str(running.token_file)]
    assert cli(capsys, "pause", fed, *where) == (0, {"study": fed, "wish": "pause", "rounds": 3, "discard": False})
    assert cli(capsys, "resume", fed, *where)[1]["wish"] == "run"
    assert cli(capsys, "extend", fed, "--rounds", "6", *where)[1]["rounds"] == 6
    status, value = cli(capsys, "extend", fed, "--rounds", "7", *where)
    assert (status, value["error"]["code"]) == (16, "study.rounds")
    assert cli(capsys, "stop", fed, "--discard", *where)[1]["discard"] is True
    status, value = cli(capsys, "pause", fed, *where)
    assert (status, value["error"]["code"]) == (24, "conflict.state")


@pytest.mark.parametrize("command", ["pause", "resume", "stop", "extend"])
def test_help_has_an_example(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["study", command, "--help"])
    assert f"Example: corsia study {command}" in " ".join(capsys.readouterr().out.split())


def test_watch_gives_every_event_of_the_run_once_until_its_end(running: Running, hub: corsia.Hub, fed: str) -> None:
    store = running.world.store

    def emit(kind: str, study: str, **fields: Any) -> None:
        with store.begin() as session:
            store.emit(session, kind, study=study, **fields)

    def later() -> None:
        time.sleep(0.4)
        emit("round.finished", "another", round=9, metrics={})
        emit("round.finished", fed, round=1, metrics={"c-index": 0.71, "rows": 120})
        emit("study.done", fed)

    emit("round.begun", fed, round=1, phase="train", asked=3)
    thread = threading.Thread(target=later)
    thread.start()
    events = list(hub.studies[fed].run.events(timeout_s=60))
    thread.join()
    known = [e.kind for e in events if e.kind != "study.submitted"]
    assert known == ["round.begun", "round.finished", "study.done"]
    assert [e.seq for e in events] == sorted({e.seq for e in events})
    finished = events[-2]
    assert finished.fields["metrics"] == {"c-index": 0.71, "rows": 120}
    assert str(finished) == "round.finished round=1 c-index=0.71 rows=120"
    assert [e.kind for e in hub.studies[fed].run.events(since=finished.seq)] == ["study.done"]


def test_watching_has_an_end_of_its_own(hub: corsia.Hub, fed: str) -> None:
    with pytest.raises(UnavailableError):
        list(hub.studies[fed].run.events(timeout_s=0.2))
