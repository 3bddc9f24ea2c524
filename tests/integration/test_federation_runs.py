"""The life of a study at the federation: from the sites' approval to done, and every way it is refused."""

from __future__ import annotations

import threading
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from sqlalchemy import select, update

from central.federation.keys import RunKeys
from central.store.models import AssignmentRow, EventRow, ModelRow, RunRow, StudyRow
from protocol.errors import ConfigurationError, InputError, StudyRefused
from tests.federation_hospital import Consortium, Hospitals, study
from tests.federation_process import federation


def state(consortium: Consortium) -> str:
    with consortium.store.read() as reading:
        return reading.get_one(StudyRow, "tiny").state


def code(consortium: Consortium) -> str:
    with consortium.store.read() as reading:
        failed = reading.scalars(select(EventRow).where(EventRow.kind == "study.failed")).one()
        return str(failed.fields["code"])


def wait_for(consortium: Consortium, wanted: str) -> None:
    until = time.monotonic() + 240  # MLflow makes its tables meanwhile, torch is loaded: a minute on a busy machine
    while state(consortium) != wanted:
        assert time.monotonic() < until
        time.sleep(0.05)


def test_the_process_loop_takes_a_study_to_done(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    consortium, stop = Consortium(tmp_path / "state", study(rounds=1)), threading.Event()
    made = federation(consortium.root, f"sqlite:///{tmp_path / 'mlflow.db'}", stop)
    loop = threading.Thread(target=made.run)
    with Hospitals(consortium):
        loop.start()
        wait_for(consortium, "done")
        stop.set()
        loop.join(120)
        assert not loop.is_alive()
    with consortium.store.read() as reading:
        kinds = reading.scalars(select(EventRow.kind).order_by(EventRow.seq)).all()
        assert reading.scalars(select(ModelRow)).one().uri == "models:/lung-survival/1"
    exchange = ["round.begun", *["round.answered"] * 3]
    assert kinds == [
        "run.started", *exchange, "round.finished", *exchange, *exchange, "round.finished", "model.published",
        "study.done",
    ]  # fmt: skip


def test_without_mlflow_the_run_waits_and_says_so_then_publishes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    consortium, stop = Consortium(tmp_path / "state", study(rounds=1)), threading.Event()
    without = federation(consortium.root, "http://127.0.0.1:9", stop)
    thread = threading.Thread(target=without.attend, args=("tiny",))
    with Hospitals(consortium):
        thread.start()
        until = time.monotonic() + 240  # as above
        while without.status("tiny").get("code") != "unavailable.mlflow":
            assert time.monotonic() < until
            time.sleep(0.05)
        stop.set()
        thread.join(240)
        assert not thread.is_alive()
    assert (state(consortium), without.status("tiny")["phase"]) == ("open", "publish")
    federation(consortium.root, f"sqlite:///{tmp_path / 'mlflow.db'}", threading.Event()).attend("tiny")
    assert state(consortium) == "done"
    assert without.status("tiny")["code"] == ""


def test_too_many_refusals_fail_the_study_before_any_round(tmp_path: Path) -> None:
    consortium = Consortium(tmp_path, study())
    with consortium.store.begin() as writing:
        writing.execute(update(AssignmentRow).where(AssignmentRow.site == "site-b").values(state="refused"))
    federation(tmp_path, "sqlite://", threading.Event()).attend("tiny")
    assert (state(consortium), code(consortium)) == ("failed", "unavailable.quorum")
    with consortium.store.read() as reading:
        assert reading.scalars(select(RunRow)).one().state == "failed"
        assert reading.scalars(select(AssignmentRow).where(AssignmentRow.kind == "round")).all() == []


def test_sites_that_stay_away_past_the_expiry_close_the_study(tmp_path: Path) -> None:
    plan = study().model_copy(update={"expires": datetime.now(UTC) + timedelta(seconds=1)})
    consortium = Consortium(tmp_path, plan)
    with consortium.store.begin() as writing:
        writing.execute(update(AssignmentRow).values(state="received"))
    federation(tmp_path, "sqlite://", threading.Event()).attend("tiny")
    assert (state(consortium), code(consortium)) == ("failed", "study.expired")
    with consortium.store.read() as reading:
        assert {row.state for row in reading.scalars(select(AssignmentRow))} == {"expired"}


def test_a_study_that_was_changed_or_names_another_key_is_not_run(tmp_path: Path) -> None:
    consortium = Consortium(tmp_path, study())
    with consortium.store.begin() as writing:
        row = writing.get_one(StudyRow, "tiny")
        row.document = row.document.replace(b"rounds = 3", b"rounds = 4")
    federation(tmp_path, "sqlite://", threading.Event()).attend("tiny")
    assert code(consortium) == "study.signature"


def test_a_missing_run_key_fails_the_study_with_its_code(tmp_path: Path) -> None:
    consortium = Consortium(tmp_path, study())
    (tmp_path / "federation" / "keys" / "tiny.key").unlink()
    federation(tmp_path, "sqlite://", threading.Event()).attend("tiny")
    assert code(consortium) == "config.missing"


def test_protection_that_is_not_there_fails_the_study(tmp_path: Path) -> None:
    plan = study()
    plan = plan.model_copy(
        update={"privacy": plan.privacy.model_copy(update={"dp": "sample", "epsilon": 1.0, "delta": 1e-5})}
    )
    consortium = Consortium(tmp_path, plan)
    federation(tmp_path, "sqlite://", threading.Event()).attend("tiny")
    assert code(consortium) == "input.study"


def test_run_keys_are_made_once_private_and_only_for_study_ids(tmp_path: Path) -> None:
    keys = RunKeys(tmp_path / "keys")
    assert (
        keys.public("a-study").to_bytes()
        == keys.public("a-study").to_bytes()
        == keys.secret("a-study").public.to_bytes()
    )
    assert (tmp_path / "keys" / "a-study.key").stat().st_mode & 0o777 == 0o600
    for bad in ("../up", "A", "", "a/b"):
        with pytest.raises(InputError):
            keys.public(bad)
    with pytest.raises(ConfigurationError):
        keys.secret("never-made")


def test_the_status_of_an_unknown_study_is_refused(tmp_path: Path) -> None:
    Consortium(tmp_path, study())
    with pytest.raises(StudyRefused):
        federation(tmp_path, "sqlite://", threading.Event()).status("other")
