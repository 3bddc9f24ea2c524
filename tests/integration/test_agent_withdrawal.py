"""Consent withdrawn after, while and before a study's results leave, and studies whose time is over, by the daemon."""

from __future__ import annotations

import io
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pandas as pd
import pytest

from edge.config import EdgeConfig
from edge.journal import Journal
from edge.lane import job_key
from privacy.deid.pseudonym import Pseudonymizer
from privacy.envelope import ParcelInfo, read_key, unseal
from protocol.assignment import Assignment, State
from protocol.errors import StorageError, StudyRefused, UnavailableError
from protocol.parcel import Batch, ItemKind, unpack_batch
from protocol.withdrawal import SUBJECTS, Withdrawal, read_subjects
from tests.agentkit import Office, enrolled, running, site_config, study
from tests.integration.test_agent_training import prepare_message, training_study

PATIENT = "MRN0000003"
SLOW_S = 120.0  # no longer than it takes: for a machine that does much else


@pytest.fixture
def config(tmp_path: Path) -> EdgeConfig:
    return site_config(tmp_path, limits={"worker_timeout_s": SLOW_S})


@pytest.fixture
def office(config: EdgeConfig) -> Office:
    return enrolled(config)


def withdraw(config: EdgeConfig, patient: str = PATIENT) -> None:
    table = config.datasets["cohort"].table
    assert table is not None
    frame = pd.read_csv(table, dtype=str, keep_default_na=False)
    frame.loc[frame.patient_id == patient, "consent"] = "no"
    half = table.with_suffix(".new")
    frame.to_csv(half, index=False)
    half.replace(table)


def until(true: Callable[[], bool], timeout_s: float = SLOW_S) -> None:
    end = time.monotonic() + timeout_s
    while not true():
        assert time.monotonic() < end, "it did not happen in time"
        time.sleep(0.02)


def told(config: EdgeConfig, office: Office, asked: Assignment, key: str = "vault") -> list[Batch]:
    """What the office was told of withdrawals, opened."""
    found = []
    for entry, data in list(office.parcels.values()):
        if entry.content_type == "withdrawal":
            info = ParcelInfo(
                parcel_id=entry.parcel_id, study=asked.study_digest, site="site-a", content_type="withdrawal"
            )
            sender = read_key(config.state_dir / "identity.key").public
            found.append(
                unpack_batch(b"".join(unseal(io.BytesIO(data), key=getattr(office, key), sender=sender, expect=info)))
            )
    return found


def pseudonym(config: EdgeConfig, asked: Assignment, patient: str = PATIENT) -> str:
    return Pseudonymizer(job_key(config.state_dir, asked.study_digest)).pseudonym(patient)


def test_a_withdrawal_after_delivery_is_told_once_and_names_nobody(config: EdgeConfig, office: Office) -> None:
    with running(config, office) as agent:
        asked = office.submit(study())
        assert office.wait(asked, timeout_s=SLOW_S).state is State.DONE
        (batch,) = office.opened(asked, read_key(config.state_dir / "identity.key"))
        (about,) = (item for item in batch.items if item.kind is ItemKind.SUBJECTS)
        (records,) = (item for item in batch.items if item.kind is ItemKind.TABLE)
        rows = pd.read_parquet(io.BytesIO(records.data))
        named = read_subjects(about.data)[records.name]
        mine = pseudonym(config, asked)
        assert (about.name, len(named)) == (SUBJECTS, len(rows))
        assert rows.score[named.index(mine)] == pytest.approx(3 / 7), "the row is the person's"
        withdraw(config)
        until(lambda: bool(told(config, office, asked)))
        until(lambda: not agent.site.spool.pending())
    kept = Withdrawal.of(told(config, office, asked)[0])
    assert kept.subjects == {mine}
    with running(config, office) as agent:  # a restart looks anew, and tells nothing twice
        until(lambda: hasattr(agent, "_withdrawals"))
        agent._withdrawals.look()
        assert not agent.site.spool.pending()
    (word,) = told(config, office, asked)
    assert Withdrawal.of(word).subjects == {mine}
    kept = b"".join(path.read_bytes() for path in (config.state_dir / "subjects").iterdir())
    assert PATIENT.encode() not in kept + about.data + word.items[0].data
    events = [line.event for line in Journal(config.state_dir / "journal.jsonl", readonly=True).tail(1000)]
    assert events.count("consent.withdrawn") == 1


def test_what_waits_does_not_leave_any_more_and_a_new_study_is_without_the_person(
    config: EdgeConfig, office: Office
) -> None:
    def away() -> None:
        raise UnavailableError("unavailable.centre")

    office.fail["deliver"] = away
    with running(config, office) as agent:
        asked = office.submit(study())
        office.wait(asked, State.DELIVERING, timeout_s=SLOW_S)
        withdraw(config)
        until(lambda: agent.site.subjects.left(asked.study_digest))
        del office.fail["deliver"]
        said = office.wait(asked, timeout_s=SLOW_S)
        assert (said.state, said.code) == (State.REFUSED, "study.withdrawn")
        until(lambda: bool(told(config, office, asked)))
        until(lambda: [folder for folder, _ in agent.site.spool.entries()] == ["sent"])
        fresh = office.submit(study("two"))
        assert office.wait(fresh, timeout_s=SLOW_S).state is State.DONE
    assert not [entry for entry, _ in office.parcels.values() if entry.assignment_id == asked.id]
    (batch,) = office.opened(fresh, read_key(config.state_dir / "identity.key"))
    (named,) = read_subjects(next(i.data for i in batch.items if i.kind is ItemKind.SUBJECTS)).values()
    assert len(named) == 20
    assert pseudonym(config, fresh) not in named


def test_a_withdrawal_while_the_study_runs_makes_it_run_again(config: EdgeConfig, office: Office) -> None:
    with running(config, office) as agent:
        until(lambda: hasattr(agent, "_withdrawals"))
        kept, sealed = agent.site.spool.hold, list[object]()

        def hold(*args: object) -> object:
            if not sealed:
                withdraw(config)
            sealed.append(args)
            return kept(*args)  # type: ignore[arg-type]

        agent.site.spool.hold = hold  # type: ignore[assignment, method-assign]
        asked = office.submit(study())
        assert office.wait(asked, timeout_s=SLOW_S).state is State.DONE
    assert len(sealed) == 2
    (batch,) = office.opened(asked, read_key(config.state_dir / "identity.key"))
    (named,) = read_subjects(next(i.data for i in batch.items if i.kind is ItemKind.SUBJECTS)).values()
    assert pseudonym(config, asked) not in named
    assert not told(config, office, asked), "nothing about the person has left"


def test_a_site_leaves_the_run_before_the_next_round(config: EdgeConfig, office: Office) -> None:
    asked_study = training_study()
    message = prepare_message(asked_study)
    with running(config, office) as agent:
        asked = office.submit(asked_study)
        assert office.wait(asked, timeout_s=SLOW_S).state is State.DONE
        assert office.wait(office.instruct(asked, message), timeout_s=SLOW_S).state is State.DONE
        worker = agent._warm[asked.study_digest]
        assert worker.alive
        withdraw(config)
        said = office.wait(office.instruct(asked, message, round=1), timeout_s=SLOW_S)  # at once: nobody has looked yet
        assert (said.state, said.code) == (State.REFUSED, "study.withdrawn")
        until(lambda: not worker.alive)
        until(lambda: bool(told(config, office, asked, "federation")))
        said = office.wait(office.instruct(asked, message, round=2), timeout_s=SLOW_S)
        assert (said.state, said.code) == (State.REFUSED, "study.withdrawn")
    (word,) = told(config, office, asked, "federation")
    assert Withdrawal.of(word).subjects == frozenset(), "of a run nothing about single persons has left"


def test_without_the_table_no_round_is_answered_and_a_full_spool_hinders_no_delivery(
    config: EdgeConfig, office: Office
) -> None:
    with running(config, office) as agent:
        asked = office.submit(study())
        assert office.wait(asked, timeout_s=SLOW_S).state is State.DONE
        table = config.datasets["cohort"].table
        assert table is not None
        away = table.rename(table.with_suffix(".away"))
        agent._withdrawals.check(asked.study_digest)
        with pytest.raises(UnavailableError):
            agent._withdrawals.check(asked.study_digest, sure=True)
        away.rename(table)
        agent._withdrawals.check(asked.study_digest, sure=True)
        agent.site.spool._bound.max_bytes = 10  # no room for the word
        withdraw(config)
        until(lambda: agent.site.subjects.left(asked.study_digest))
        with pytest.raises(StudyRefused):
            agent._withdrawals.check(asked.study_digest)
        with pytest.raises(StorageError):
            agent._withdrawals.look()
        agent.site.spool._bound.max_bytes = 10**9
        until(lambda: len(told(config, office, asked)) == 1)


def test_a_study_whose_time_is_over_leaves_nothing_behind(config: EdgeConfig, office: Office) -> None:
    expires = datetime.now(UTC) + timedelta(seconds=8)
    with running(config, office) as agent:
        train = office.submit(training_study().model_copy(update={"expires": expires}))
        loaded = (
            office.wait(train, timeout_s=SLOW_S).state is State.DONE
        )  # else this machine is too slow for its worker
        other = office.submit(study("other"))
        assert office.wait(other, timeout_s=SLOW_S).state is State.DONE
        for digest in (train.study_digest, other.study_digest):
            (config.state_dir / "draws" / f"{digest}-train.sealed").write_bytes(b"kept")

        def away() -> None:
            raise UnavailableError("unavailable.centre")

        office.fail["deliver"] = away
        asked = office.submit(study(expires=datetime.now(UTC) + timedelta(seconds=8)))
        begun = office.wait(asked, State.DELIVERING, State.EXPIRED, timeout_s=SLOW_S).state is State.DELIVERING
        until(lambda: [path.stem for path in (config.state_dir / "subjects").iterdir()] == [other.study_digest])
        until(lambda: not any(worker.alive for worker in agent._warm.values()))
        until(lambda: [path.stem for path in (config.state_dir / "draws").iterdir()] == [f"{other.study_digest}-train"])
        until(lambda: [folder for folder, _ in agent.site.spool.entries()] == ["sent"])
        assert office.wait(asked, timeout_s=SLOW_S).code == "study.expired"
    lines = Journal(config.state_dir / "journal.jsonl", readonly=True).tail(1000)
    removed = [line.fields["study"] for line in lines if line.event == "study.removed"]
    assert {one.study_digest for one, there in ((asked, begun), (train, loaded)) if there} <= set(removed)
    assert other.study_digest not in removed


def test_cut_off_between_spool_and_note_it_tells_the_same_again(
    config: EdgeConfig, office: Office, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two parcels with the same word: the vault removes a row once (tests/unit/test_withdrawal.py)."""
    reached: list[str] = []

    def die(name: str) -> None:
        reached.append(name)
        if len(reached) == 1:
            raise UnavailableError("unavailable.process")

    monkeypatch.setattr("edge.withdrawals.point", die)
    with running(config, office):
        asked = office.submit(study())
        assert office.wait(asked, timeout_s=SLOW_S).state is State.DONE
        withdraw(config)
        until(lambda: len(told(config, office, asked)) == 2)
    assert len({Withdrawal.of(word).subjects for word in told(config, office, asked)}) == 1
    assert reached == ["edge.withdrawn"] * 2
