"""The daemon end to end with real spool, ledger, journal and workers; only the wire is in memory."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from io import BytesIO
from pathlib import Path

import pandas as pd
import pytest

from edge.agent import Agent
from edge.config import EdgeConfig, MetricsConfig
from edge.journal import Journal
from edge.ledger import Ledger
from edge.site import paused_for, set_paused
from edge.spool import Spool
from privacy.envelope import SecretKey, read_key
from protocol.assignment import State
from protocol.errors import AuthenticationError, ConflictError, IntegrityError, StorageError, UnavailableError
from tests.agentkit import Office, Wire, enrolled, running, site_config, study


@pytest.fixture
def config(tmp_path: Path) -> EdgeConfig:
    return site_config(tmp_path)


@pytest.fixture
def office(config: EdgeConfig) -> Office:
    return enrolled(config)


def until(true: Callable[[], bool]) -> None:
    end = time.monotonic() + 60
    while not true():
        assert time.monotonic() < end, "it did not happen in time"
        time.sleep(0.02)


def key_of(config: EdgeConfig) -> SecretKey:
    return read_key(config.state_dir / "identity.key")


def test_a_harvest_from_assignment_to_receipt(config: EdgeConfig, office: Office) -> None:
    with running(config, office):
        asked = office.submit(study())
        said = office.wait(asked)
    assert (said.state, said.code) == (State.DONE, "")
    assert said.counts["rows"] == 21
    assert said.counts["withheld_consent"] == 3
    assert said.counts["parcels"] == 1
    (batch,) = office.opened(asked, key_of(config))
    assert (batch.site, batch.last, batch.withheld) == ("site-a", True, {"consent": 3})
    table = pd.read_parquet(BytesIO(batch.items[0].data))
    assert list(table.columns) == ["age", "score"]
    assert len(table) == 21
    ledger = Ledger(config.state_dir / "ledger.db")
    assert ledger.verify() == 2
    (spend,) = ledger.spends()
    assert (spend.state, spend.bytes, spend.k, spend.cohort) == ("committed", said.counts["bytes"], 2, 5)
    events = [line.event for line in Journal(config.state_dir / "journal.jsonl", readonly=True).tail(100)]
    for event in ("assignment.received", "study.decided", "gate.passed", "ledger.reserved", "parcel.delivered"):
        assert event in events
    assert events[0] == "agent.started"
    assert events[-1] == "agent.stopped"
    for path in config.state_dir.rglob("*"):
        if path.is_file():
            raw = path.read_bytes()
            assert b"Bardellini" not in raw
            assert b"MRN00" not in raw


def test_a_signature_of_another_key_and_a_foreign_site_are_refused(config: EdgeConfig, office: Office) -> None:
    with running(config, office):
        forged = office.submit(study("forged"), sign=SecretKey.generate())
        foreign = office.submit(study("foreign", sites=["site-b"]))
        late = office.submit(study("late", expires=datetime.now(UTC) - timedelta(seconds=1)))
        lane = office.submit(study("purpose", purpose="marketing"))
        good = office.submit(study("good"))
        assert (office.wait(forged).state, office.wait(forged).code) == (State.REFUSED, "study.signature")
        assert office.wait(foreign).code == "permission.site"
        assert (office.wait(late).state, office.wait(late).code) == (State.EXPIRED, "study.expired")
        assert office.wait(lane).code == "policy.purpose"
        assert office.wait(good).state is State.DONE
    assert {entry.assignment_id for entry, _ in office.parcels.values()} == {good.id}


def test_the_gate_holds_a_small_cohort_back_and_nothing_is_spent(tmp_path: Path) -> None:
    config = site_config(tmp_path, min_cohort=50)
    office = enrolled(config)
    with running(config, office):
        said = office.wait(office.submit(study()))
    assert (said.state, said.code) == (State.REFUSED, "gate.cohort")
    assert said.error_id
    assert office.parcels == {}
    assert Ledger(config.state_dir / "ledger.db").total("cohort").bytes == 0


def test_budget_of_the_year(tmp_path: Path) -> None:
    config = site_config(tmp_path, max_bytes=1_000_000, max_bytes_per_year=1_000_000)
    office = enrolled(config)
    with running(config, office):
        assert office.wait(office.submit(study("one"))).state is State.DONE
        said = office.wait(office.submit(study("two")))
    assert (said.state, said.code) == (State.REFUSED, "budget.bytes")
    assert len(office.parcels) == 1


def test_manual_approval_waits_and_the_steward_decides(tmp_path: Path) -> None:
    from edge.approvals import Approvals
    from edge.state import SiteState
    from pipelines.registry import code_digest

    config = site_config(tmp_path, approve="manual")
    office = enrolled(config)
    with running(config, office):
        yes, no = office.submit(study("yes")), office.submit(study("no"))
        assert office.wait(yes, State.PENDING).code == "approval.pending"
        office.wait(no, State.PENDING)
        approvals = Approvals(SiteState(config.state_dir / "state.db"), code_digest)
        approvals.approve(yes.study_digest)
        approvals.refuse(no.study_digest)
        assert office.wait(yes).state is State.DONE
        assert office.wait(no).code == "policy.refused"


def test_pause_holds_everything_and_resume_lets_it_go(config: EdgeConfig, office: Office) -> None:
    config.state_dir.mkdir(exist_ok=True)
    set_paused(config.state_dir, True)
    with running(config, office) as agent:
        asked = office.submit(study())
        until(lambda: hasattr(agent, "_upkeep") and agent.site.state.record(asked.id) is not None)  # it has come
        heard = len(office.reports)
        until(lambda: len(office.reports) > heard + 3)  # and with it time to be begun
        assert office.parcels == {}
        assert office.state(asked) is None
        assert office.reports[-1].paused
        set_paused(config.state_dir, False)
        assert office.wait(asked).state is State.DONE


def test_a_pause_between_release_and_delivery_stops_the_parcel(config: EdgeConfig, office: Office) -> None:
    def refuse() -> None:
        raise UnavailableError("unavailable.centre")

    office.fail["deliver"] = refuse
    with running(config, office):
        asked = office.submit(study())
        office.wait(asked, State.DELIVERING)
        set_paused(config.state_dir, True)
        del office.fail["deliver"]
        time.sleep(1.5)
        assert office.parcels == {}
        set_paused(config.state_dir, False)
        assert office.wait(asked).state is State.DONE


@pytest.mark.parametrize("reason", ["refused", "expired"])
def test_what_was_released_stays_when_the_steward_withdraws_or_the_study_expires(
    config: EdgeConfig, office: Office, reason: str
) -> None:
    def away() -> None:
        raise UnavailableError("unavailable.centre")

    office.fail["deliver"] = away
    # Long enough that a machine has released the result before the study expires; one that has not sends it as little.
    expires = datetime.now(UTC) + (timedelta(seconds=10) if reason == "expired" else timedelta(days=1))
    with running(config, office) as agent:
        asked = office.submit(study(expires=expires))
        office.wait(asked, State.DELIVERING, State.EXPIRED)
        if reason == "refused":
            agent.site.approvals.refuse(asked.study_digest)
        else:
            time.sleep(max(0.0, (expires - datetime.now(UTC)).total_seconds()))
        del office.fail["deliver"]
        said = office.wait(asked)
        kept = ["bad"] if reason == "refused" else []  # the steward may think again; an expired study is over
        until(lambda: [folder for folder, _ in agent.site.spool.entries()] == kept)
    expected = {"refused": (State.REFUSED, "policy.refused"), "expired": (State.EXPIRED, "study.expired")}
    assert (said.state, said.code) == expected[reason]
    assert office.parcels == {}


def test_an_unreachable_centre_is_waited_for(config: EdgeConfig, office: Office) -> None:
    fails = iter([UnavailableError("unavailable.centre"), AuthenticationError("auth.revoked")] * 2)

    def sometimes() -> None:
        error = next(fails, None)
        if error is not None:
            raise error

    office.fail["deliver"] = sometimes
    with running(config, office):
        assert office.wait(office.submit(study())).state is State.DONE
    assert len(office.parcels) == 1


def test_a_parcel_the_centre_refuses_is_set_aside_and_the_next_goes(config: EdgeConfig, office: Office) -> None:
    first = iter([IntegrityError("parcel.context")])

    def once() -> None:
        error = next(first, None)
        if error is not None:
            raise error

    office.fail["deliver"] = once
    with running(config, office) as agent:
        bad = office.wait(office.submit(study("bad")))
        assert (bad.state, bad.code) == (State.FAILED, "parcel.context")
        assert office.wait(office.submit(study("good"))).state is State.DONE
        assert [folder for folder, _ in agent.site.spool.entries()] == ["bad", "sent"]


def unanswered() -> None:
    raise UnavailableError("unavailable.centre")


def test_a_receipt_that_does_not_verify_is_not_believed(config: EdgeConfig, office: Office) -> None:
    office.keys.other_key = SecretKey.generate()
    office.fail["report"] = unanswered  # else a heartbeat finds it before anything is sent
    with running(config, office) as agent:
        asked = office.submit(study())
        until(lambda: paused_for(config.state_dir) == "log.proof")  # nothing more leaves until the steward decides
        until(lambda: [folder for folder, _ in agent.site.spool.entries()] == ["bad"])
        record = agent.site.state.record(asked.id)
        assert record is not None
        assert (record.state, record.code) == (State.FAILED, "log.proof")


def test_a_missing_column_and_a_crash_end_one_job_only(config: EdgeConfig, office: Office) -> None:
    table = config.datasets["cohort"].table
    assert table is not None
    kept = table.read_text()
    table.write_text(kept.replace("score", "other", 1))
    with running(config, office):
        said = office.wait(office.submit(study("lacks")))
        assert (said.state, said.code) == (State.FAILED, "input.column-missing")
        table.write_text(kept)
        assert office.wait(office.submit(study("fine"))).state is State.DONE


def test_a_full_spool_waits_and_goes_on_by_itself(config: EdgeConfig, office: Office) -> None:
    def away() -> None:
        raise UnavailableError("unavailable.centre")

    office.fail["deliver"] = away
    with running(config, office) as agent:
        first = office.submit(study("one"))
        office.wait(first, State.DELIVERING)
        agent.site.spool._bound.max_bytes = agent.site.spool.usage()[1] * 3 // 2
        second = office.submit(study("two"))

        def lines() -> list[tuple[str, object]]:
            return [(line.event, line.fields.get("assignment")) for line in agent.site.journal.tail(100)]

        until(lambda: ("spool.full", second.id) in lines())
        office.wait(second, State.RUNNING)
        del office.fail["deliver"]
        assert {office.wait(asked).state for asked in (first, second)} == {State.DONE}
        told = lines()
    for event in ("spool.full", "study.started", "parcel.planned"):  # the pipeline waited: nothing was made twice
        assert told.count((event, second.id)) == 1
    assert Ledger(config.state_dir / "ledger.db").verify() == 4


def test_results_larger_than_the_whole_spool_fail_with_their_code(tmp_path: Path) -> None:
    config = site_config(tmp_path, limits={"spool_bytes": 1000})
    office = enrolled(config)
    with running(config, office) as agent:
        said = office.wait(office.submit(study("large")))
        assert (said.state, said.code) == (State.FAILED, "storage.spool-full")
        agent.site.spool._bound.max_bytes = 10**9  # the steward raises the bound
        assert office.wait(office.submit(study("fine"))).state is State.DONE
    assert Ledger(config.state_dir / "ledger.db").total("cohort").releases == 2
    assert [spend.bytes > 0 for spend in Ledger(config.state_dir / "ledger.db").spends()] == [False, True]


def test_more_sealed_than_reserved_is_refused_before_it_leaves(tmp_path: Path) -> None:
    config = site_config(tmp_path, max_bytes=4000)  # the rows fit, the sealed parcel does not
    office = enrolled(config)
    with running(config, office) as agent:
        said = office.wait(office.submit(study()))
        assert (said.state, said.code) == (State.REFUSED, "budget.bytes")
        assert agent.site.spool.usage() == (0, 0)
    assert office.parcels == {}
    assert Ledger(config.state_dir / "ledger.db").total("cohort").bytes == 0


def test_a_site_that_forgot_a_study_sends_nothing_of_it(config: EdgeConfig, office: Office) -> None:
    def away() -> None:
        raise UnavailableError("unavailable.centre")

    office.fail["deliver"] = away
    with running(config, office):
        office.wait(office.submit(study()), State.DELIVERING)
        office.assignments.clear()
    (config.state_dir / "state.db").unlink()
    del office.fail["deliver"]
    spool = Spool(config.state_dir / "spool", 10**9)
    with running(config, office):
        until(lambda: not spool.pending())
    ((folder, entry),) = spool.entries()
    assert (folder, spool.code(entry)) == ("bad", "study.unknown")
    assert office.parcels == {}


def test_an_idle_daemon_sends_a_heartbeat_at_its_interval_only(tmp_path: Path) -> None:
    config = site_config(tmp_path, limits={"heartbeat_s": 3600.0})
    office = enrolled(config)

    def rests() -> bool:
        told = len(office.reports)
        time.sleep(1.0)
        return len(office.reports) == told

    with running(config, office):
        office.wait(office.submit(study()))
        until(rests)
        told = len(office.reports)
        time.sleep(2.0)
        assert len(office.reports) == told


def test_a_second_daemon_is_refused(config: EdgeConfig, office: Office) -> None:
    with running(config, office):
        asked = office.submit(study())
        office.wait(asked)
        with pytest.raises(ConflictError) as caught:
            Agent(config, connect=lambda _i, _f: Wire(office)).run(threading.Event())
        assert caught.value.code == "conflict.running"


def test_a_damaged_ledger_keeps_the_daemon_up_and_stops_egress(config: EdgeConfig, office: Office) -> None:
    with running(config, office):
        assert office.wait(office.submit(study("one"))).state is State.DONE
    import sqlite3

    with sqlite3.connect(config.state_dir / "ledger.db") as db:
        db.execute("UPDATE ledger SET bytes = bytes - 1")
    with running(config, office):
        asked = office.submit(study("two"))
        said = office.wait(asked, State.PENDING)
        assert said.code == "budget.ledger"
        time.sleep(0.5)
        assert len(office.parcels) == 1


def test_an_older_ledger_put_back_is_found(config: EdgeConfig, office: Office) -> None:
    ledger = config.state_dir / "ledger.db"
    with running(config, office):
        office.wait(office.submit(study("one")))
    kept = {path: path.read_bytes() for path in ledger.parent.glob("ledger.db*")}
    with running(config, office):
        office.wait(office.submit(study("two")))
    for path in ledger.parent.glob("ledger.db*"):
        path.unlink()
    for path, raw in kept.items():
        path.write_bytes(raw)
    with running(config, office):
        said = office.wait(office.submit(study("three")), State.PENDING)
        assert said.code == "budget.ledger"


def test_a_broken_journal_stops_the_daemon(config: EdgeConfig, office: Office) -> None:
    with running(config, office):
        office.wait(office.submit(study()))
    path = config.state_dir / "journal.jsonl"
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join([lines[0], *lines[2:]]))
    with pytest.raises(IntegrityError), running(config, office):
        time.sleep(0.5)


def test_the_same_assignment_again_is_done_once_and_reported_again(config: EdgeConfig, office: Office) -> None:
    with running(config, office):
        asked = office.submit(study())
        office.wait(asked)
        office.reports.clear()
        office.assign(asked)
        assert office.wait(asked).state is State.DONE
    assert len(office.parcels) == 1


def test_an_anonymized_table_leaves_without_identities(config: EdgeConfig, office: Office) -> None:
    names = [("pseudonym", "string"), ("age", "string"), ("sex", "string"), ("note", "string"), ("score", "float")]
    asked_study = study(
        lane="anonymize",
        dataset={"name": "cohort", "columns": ["patient_id", "name", "age", "sex", "note", "score"]},
        pipeline={"name": "anonymize", "parameters": {"bands": {"age": 10}}},
        output={"columns": [{"name": n, "dtype": t} for n, t in names]},
    )
    with running(config, office):
        asked = office.submit(asked_study)
        said = office.wait(asked)
    assert (said.state, said.code) == (State.DONE, "")
    (batch,) = office.opened(asked, key_of(config))
    table = pd.read_parquet(BytesIO(batch.items[0].data))
    assert set(table.columns) == {name for name, _ in names}
    assert len(table) == 21
    assert table["pseudonym"].nunique() == 21
    assert json.loads(batch.items[1].data)["table"]["k"]["achieved"] >= 2


@pytest.fixture(autouse=True)
def _no_threads_left() -> Iterator[None]:
    before = threading.active_count()
    yield
    until(lambda: threading.active_count() <= before + 1)  # the enrolment's server lets go of its own in its time


def test_storage_errors_are_not_failures(config: EdgeConfig, office: Office) -> None:
    errors = iter([StorageError("storage.full")] * 3)

    def full() -> None:
        error = next(errors, None)
        if error is not None:
            raise error

    office.fail["deliver"] = full
    with running(config, office):
        assert office.wait(office.submit(study())).state is State.DONE


def test_a_daemon_tells_its_numbers_and_nobodys_name(tmp_path: Path) -> None:
    from corsia.fleet import free_port
    from tests.unit.test_metrics import asked, documented, samples

    plain, port = site_config(tmp_path), free_port()
    config = plain.model_copy(update={"metrics": MetricsConfig(port=port)})
    office = enrolled(config)
    with running(config, office):
        work = office.submit(study())
        office.wait(work)
        status, text = asked(port, "/metrics")
    found = samples(text)
    assert status == 200
    assert found["corsia_edge_assignments", (("kind", "study"), ("state", "done"))] == 1.0
    assert found["corsia_edge_spool_parcels", ()] == 0.0
    assert found["corsia_edge_ledger_sound", ()] == 1.0
    assert found["corsia_edge_certificate_seconds", ()] > 0
    assert found["corsia_scrape_failures", ()] == 0.0
    assert {name for name, _labels in found if name.startswith("corsia_edge_")} == documented("corsia_edge_")
    names = (config.site, *config.datasets, work.id, work.study_digest, study().id, study().title)
    assert not [name for name in names if f'"{name}"'.encode() in text]
