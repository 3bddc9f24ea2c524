"""`corsia edge ...` as a process: each command beside a running daemon and without one, JSON on exactly one line."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from typer.main import get_command

from corsia.cli.edge import app
from edge.config import EdgeConfig
from edge.ledger import Ledger
from protocol.assignment import State
from protocol.errors import CorsiaError
from tests.agentkit import Office, enrolled, running, site_config, study
from tests.uplinkkit import Centre


def corsia(folder: Path, *args: str) -> tuple[int, dict[str, Any]]:
    """Run one command with --json in this process; returns exit status and the object on its only line."""
    try:
        done = CliRunner().invoke(
            get_command(app), [*args, "--config", str(folder / "edge.toml"), "--json"], catch_exceptions=False
        )
    except CorsiaError as error:
        return error.exit_status, {"error": {"code": error.code}}
    lines = done.stdout.splitlines()
    assert len(lines) == 1, done.output
    return done.exit_code, json.loads(lines[0])


@pytest.fixture
def config(tmp_path: Path) -> EdgeConfig:
    return site_config(tmp_path, approve="manual")


@pytest.fixture
def office(config: EdgeConfig) -> Office:
    return enrolled(config)


def test_preview_approve_run_and_look(tmp_path: Path, config: EdgeConfig, office: Office) -> None:
    with running(config, office):
        asked = office.submit(study())
        office.wait(asked, State.PENDING)
        status, value = corsia(tmp_path, "status")
        assert (status, value["running"], value["enrolled"], value["paused"]) == (0, True, True, False)
        (line,) = value["studies"]
        assert (line["id"], line["state"], line["code"], line["approval"]) == (
            "one",
            "pending",
            "approval.pending",
            "pending",
        )
        status, seen = corsia(tmp_path, "preview", "one")
        assert (status, seen["allowed"], seen["code"]) == (0, True, "")
        assert (seen["source_rows"], seen["rows"], seen["columns"]) == (21, 21, ["age", "score"])
        assert seen["withheld"] == {"consent": 3}
        assert seen["bytes"] > 0
        assert {r["name"] for r in seen["rules"]} >= {"lane", "columns", "k", "bytes", "consent"}
        assert {c["rule"] for c in seen["gate"]} >= {"columns", "cohort"}
        assert office.parcels == {}
        assert Ledger(config.state_dir / "ledger.db").spends() == []
        assert corsia(tmp_path, "spool", "ls")[1] == {"parcels": []}
        status, value = corsia(tmp_path, "approve", "one")
        assert (status, value["verdict"], value["was"]) == (0, "approved", "pending")
        said = office.wait(asked)
        assert said.state is State.DONE
        assert said.counts["bytes"] > seen["bytes"]
    status, value = corsia(tmp_path, "spool", "ls")
    assert [(p["folder"], p["content_type"]) for p in value["parcels"]] == [("sent", "records")]
    status, value = corsia(tmp_path, "journal", "--tail", "100", "--verify")
    assert (status, value["verified"]) == (0, True)
    assert value["lines"] == len(value["entries"])
    assert "study.approved" in [entry["event"] for entry in value["entries"]]
    status, value = corsia(tmp_path, "status")
    assert (status, value["running"], value["studies"][0]["state"]) == (0, False, "done")
    assert value["ledger_head"] == Ledger(config.state_dir / "ledger.db").head()


def test_approving_again_shows_what_changed(tmp_path: Path, config: EdgeConfig, office: Office) -> None:
    from edge.state import SiteState
    from pipelines.registry import code_digest, code_manifest

    with running(config, office):
        asked = office.submit(study())
        office.wait(asked, State.PENDING)
    state = SiteState(config.state_dir / "state.db")
    old = code_manifest() | {"dependency:numpy": "1.0", "file:pipelines/gone.py": "0" * 64}
    state.set_fact("code:" + "e" * 64, json.dumps(old))
    state.set_approval(asked.study_digest, "approved", "steward", "e" * 64)
    office.reports.clear()
    with running(config, office):
        office.wait(asked, State.PENDING, code="approval.changed")
        value = corsia(tmp_path, "approve", "one")[1]
        assert (value["was"], value["code_digest"]) == ("suspended", code_digest())
        assert value["changed"] == ["changed dependency:numpy", "gone file:pipelines/gone.py"]
        assert office.wait(asked).state is State.DONE


def test_refuse_and_unknown_studies(tmp_path: Path, config: EdgeConfig, office: Office) -> None:
    with running(config, office):
        asked = office.submit(study())
        office.wait(asked, State.PENDING)
        assert corsia(tmp_path, "refuse", asked.study_digest[:12])[1]["verdict"] == "refused"
        assert office.wait(asked).code == "policy.refused"
    assert corsia(tmp_path, "approve", "no-such")[1]["error"]["code"] == "study.unknown"
    assert corsia(tmp_path, "preview")[1]["error"]["code"] == "input.usage"


@pytest.mark.parametrize(
    ("changes", "code"),
    [({"purpose": "marketing"}, "policy.purpose"), ({"dataset": {"name": "cohort", "columns": ["age", "score"], "where":
      [{"column": "score", "op": ">", "value": 2.9}]}}, "gate.cohort")],
)  # fmt: skip
def test_preview_of_a_file_says_what_would_end_it(
    tmp_path: Path, config: EdgeConfig, changes: dict[str, Any], code: str
) -> None:
    from protocol.study import dump_study

    path = tmp_path / "study.toml"
    path.write_bytes(dump_study(study(**changes)))
    status, seen = corsia(tmp_path, "preview", "--file", str(path))
    assert (status, seen["allowed"], seen["code"]) == (0, False, code)
    assert seen["hint"]
    html = tmp_path / "preview.html"
    assert corsia(tmp_path, "preview", "--file", str(path), "--html", str(html))[1] == seen
    assert html.stat().st_mode & 0o777 == 0o600
    assert code in html.read_text()
    assert "what to change" in html.read_text()
    assert "MRN" not in html.read_text()
    assert not list(config.state_dir.glob("preview-*"))
    assert not (config.state_dir / "spool").exists()


def test_a_forked_log_stops_egress_until_the_steward_decides(tmp_path: Path, office: Office) -> None:
    from privacy.transparency import Tree

    folder = tmp_path
    site_config(folder)  # approves by itself
    from edge.config import load

    with running(load(folder / "edge.toml"), office):
        office.wait(office.submit(study()))
        waited(lambda: corsia(folder, "status")[1]["log_size"] == 1)
        forged = Tree()
        for at in range(3):
            forged.append(b"forged %d" % at)
        true, office.tree = office.tree, forged  # whole: a heartbeat may ask meanwhile
        waited(lambda: corsia(folder, "status")[1]["paused_for"] == "log.proof")
        waited(lambda: len(list((folder / "state" / "evidence").glob("log-*.json"))) == 1)  # the last that it does
        assert corsia(folder, "resume") == (19, {"error": {"code": "log.proof"}})
        assert corsia(folder, "pause")[0] == 0  # a steward's pause hides nothing
        assert corsia(folder, "resume")[0] == 19
        waiting = office.submit(study("waiting"))
        assert corsia(folder, "resume", "--accept-log") == (0, {"site": "site-a", "paused": False})
        assert office.wait(waiting).state is State.DONE  # with the log as it is now
        waited(lambda: corsia(folder, "status")[1]["log_size"] == 4)
        office.tree = true
        waited(lambda: corsia(folder, "status")[1]["paused_for"] == "log.proof")
    entries = corsia(folder, "journal", "--tail", "100")[1]["entries"]
    told = [e["event"] for e in entries if e["event"].startswith(("log.", "egress."))]
    assert told == ["log.refused", "egress.paused", "log.forgotten", "egress.resumed", "log.refused", "egress.paused"]
    assert next(e for e in entries if e["event"] == "log.forgotten")["size"] == 1
    assert len(list((folder / "state" / "evidence").glob("log-*.json"))) == 2


def waited(check: Callable[[], bool], timeout_s: float = 60.0) -> None:
    until = time.monotonic() + timeout_s
    while not check():
        assert time.monotonic() < until
        time.sleep(0.05)


def test_pause_outlives_and_is_journalled(tmp_path: Path, config: EdgeConfig) -> None:
    for verb, paused in (("pause", True), ("pause", True), ("resume", False), ("resume", False)):
        assert corsia(tmp_path, verb) == (0, {"site": "site-a", "paused": paused})
        assert corsia(tmp_path, "status")[1]["paused"] is paused
    events = [entry["event"] for entry in corsia(tmp_path, "journal")[1]["entries"]]
    assert events == ["egress.paused", "egress.resumed"]


def test_spool_verify_and_retry(tmp_path: Path, config: EdgeConfig, office: Office) -> None:
    from protocol.errors import IntegrityError

    first = iter([IntegrityError("parcel.context")])

    def once() -> None:
        error = next(first, None)
        if error is not None:
            raise error

    office.fail["deliver"] = once
    corsia(tmp_path, "status")
    with running(config, office):
        asked = office.submit(study())
        office.wait(asked, State.PENDING)
        corsia(tmp_path, "approve", "one")
        office.wait(asked)
    (parcel,) = corsia(tmp_path, "spool", "ls")[1]["parcels"]
    assert (parcel["folder"], parcel["code"]) == ("bad", "parcel.context")
    assert corsia(tmp_path, "spool", "verify")[1]["damaged"] == 0
    assert corsia(tmp_path, "spool", "retry", parcel["parcel"])[1]["folder"] == "new"
    assert corsia(tmp_path, "spool", "retry", parcel["parcel"])[0] == 24
    with running(config, office):
        waited(lambda: bool(office.parcels))
    assert len(office.parcels) == 1


def test_damage_is_told(tmp_path: Path, config: EdgeConfig, office: Office) -> None:
    with running(config, office):
        pass
    path = config.state_dir / "journal.jsonl"
    path.write_bytes(path.read_bytes().replace(b"site-a", b"site-b", 1))
    assert corsia(tmp_path, "journal", "--verify")[0] == 19
    assert corsia(tmp_path, "status")[1]["journal_code"] == "journal.chain"


def test_every_command_has_help_with_an_example() -> None:
    group = get_command(app)
    todo = [([name], command) for name, command in group.commands.items()]  # type: ignore[attr-defined]
    seen = 0
    while todo:
        path, command = todo.pop()
        if hasattr(command, "commands"):
            todo += [([*path, name], inner) for name, inner in command.commands.items()]
            continue
        text = CliRunner().invoke(group, [*path, "--help"]).output
        assert f"Example: corsia edge {' '.join(path)}" in " ".join(text.split()), path
        seen += 1
    assert seen >= 16


def logged(config: EdgeConfig) -> list[str]:
    """The events of a site's log so far; the last line may still be being written."""
    path = config.state_dir / "log.jsonl"
    lines = path.read_text().split("\n")[:-1] if path.exists() else []
    return [json.loads(line)["event"] for line in lines]


def test_the_daemon_as_a_process_enrols_runs_and_obeys_sigterm(tmp_path: Path) -> None:
    config = site_config(tmp_path)
    centre = Centre(hold_open=True).start()
    env = {k: v for k, v in os.environ.items() if k != "CORSIA_FAULTS"}
    base = [sys.executable, "-m", "corsia", "edge"]
    toml = ["--config", str(tmp_path / "edge.toml")]
    try:
        done = subprocess.run(
            [*base, "enroll", *toml, "--code", centre.code(), "--json"], capture_output=True, text=True, env=env
        )
        assert done.returncode == 0, done.stderr
        assert json.loads(done.stdout)["fingerprint"]
        again = subprocess.run(
            [*base, "enroll", *toml, "--code", centre.code(), "--json"], capture_output=True, text=True, env=env
        )
        assert (again.returncode, json.loads(again.stdout)["error"]["code"]) == (24, "conflict.exists")
        child = subprocess.Popen([*base, "run", *toml], env=env, stderr=subprocess.PIPE)
        while "clock.skew" not in logged(config):  # the test centre's clock stands at 1234.5; told after a heartbeat
            assert child.poll() is None
            time.sleep(0.05)
        assert centre.reports
        child.send_signal(signal.SIGTERM)
        assert child.wait() == 0
        assert child.stderr is not None
        child.stderr.close()
    finally:
        centre.stop()
    events = logged(config)
    assert {"agent.started", "agent.stopped"} <= set(events)
    assert "log.text" not in events
