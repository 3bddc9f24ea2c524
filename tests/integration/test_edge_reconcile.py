"""After a restore: what left since is spent by the centre's receipts before anything else leaves; a lie only adds."""

from __future__ import annotations

import shutil
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
from sqlalchemy import select

from central.store.models import AssignmentRow, ParcelRow
from corsia.cli.edge_status import site_status
from edge.access import about
from edge.account import Release as Left
from edge.account import account
from edge.agent import Agent
from edge.backup import backup, recovery_key, restore
from edge.callerrors import NotOffered
from edge.config import EdgeConfig, load
from edge.heartbeat import Heartbeat
from edge.hold import is_held, release
from edge.identity import enrol
from edge.lane import LaneRun
from edge.ledger import Ledger
from edge.memory import Release
from edge.policy import Decision, decide
from edge.reconcile import Reconciliation, _cost
from edge.site import MEMORY_LOST, Site, is_paused
from edge.state import SiteState
from edge.writeoff import write_off
from pipelines import noising, registry
from privacy.disclosure.traps import Traps
from privacy.dp.accountant import ZERO
from privacy.envelope import SecretKey, read_key, read_public
from privacy.transparency import Tree
from protocol.assignment import Assignment, AssignmentKind, MaskStep, RoundInstruction, RoundPhase, State
from protocol.errors import BudgetExceeded, ConflictError, CorsiaError, DisclosureRefused, InputError, UnavailableError
from protocol.landed import LandedPage
from protocol.parcel import Receipt
from protocol.study import Study
from tests.agentkit import Office, Wire, enrolled, running, site_config, study
from tests.gatewaykit import Centre, draft, eventually
from tests.gatewaykit import running as centre_running
from tests.privatekit import private


@dataclass
class Lost:
    """A site that was backed up after its first study and lost after its second."""

    folder: Path
    office: Office
    first: Assignment
    second: Assignment

    def restored(self, folder: Path) -> EdgeConfig:
        """Put back at a fresh place."""
        shutil.copytree(self.folder, folder, ignore=shutil.ignore_patterns("state", "older"))
        config = load(folder / "edge.toml")
        key = self.folder / "K"
        restore(self.folder / "b", config.site, config.state_dir, read_key(key), read_public(f"{key}.sender"))
        return config

    def sizes(self, asked: Assignment) -> int:
        return sum(entry.size_bytes for entry, _ in self.office.parcels.values() if entry.assignment_id == asked.id)


@pytest.fixture(scope="module")
def lost(tmp_path_factory: pytest.TempPathFactory) -> Lost:
    folder = tmp_path_factory.mktemp("lost") / "site"
    folder.mkdir()
    config = site_config(folder)
    office = enrolled(config)
    recovery_key(config.state_dir, folder / "K")
    first = office.submit(study("one"))
    with running(config, office):
        office.wait(first)
        backup(config.site, config.state_dir, folder / "b")  # while the daemon runs
    shutil.copytree(config.state_dir, folder / "older")
    second = office.submit(study("two"))
    with running(config, office):
        office.wait(second)
    return Lost(folder, office, first, second)


@pytest.fixture
def office(lost: Lost) -> Iterator[Office]:
    """The centre, which a test may make lie; honest again afterwards."""
    yield lost.office
    lost.office.fail.clear()
    lost.office.landed = lost.office.lie = None


@contextmanager
def opened(config: EdgeConfig, office: Office) -> Iterator[Site]:
    site = Site(config, lambda _identity, _fleet: Wire(office), threading.Event())
    try:
        yield site
    finally:
        site.close()


def held_by(site: Site, code: str) -> None:
    with pytest.raises(CorsiaError) as caught:
        Reconciliation(site).step()
    assert caught.value.code == code
    assert is_held(site.config.state_dir)
    assert site.brakes.halted()


def test_the_daemon_waits_and_then_counts_what_left_since_the_backup(
    lost: Lost, office: Office, tmp_path: Path
) -> None:
    config = lost.restored(tmp_path / "site")
    third = office.submit(study("three"))

    def away() -> None:
        raise UnavailableError("unavailable.centre")

    office.fail["landed"] = away
    reports = len(office.reports)
    with running(config, office) as agent:
        while not hasattr(agent, "site"):
            time.sleep(0.01)
        while agent.site.state.record(third.id) is None:
            agent.site.stop.wait(0.02)
        agent.site.stop.wait(0.5)
        record = agent.site.state.record(third.id)
        assert record is not None
        assert record.state is State.RECEIVED
        assert agent.site.brakes.halted()
        assert len(office.reports) == reports  # it says nothing that would make the centre forget what it heard
        office.fail.clear()
        office.wait(third)
        assert not is_paused(config.state_dir)
        assert agent.site.ledger is not None
        spends = {spend.key: spend for spend in agent.site.ledger.spends()}
        assert spends[f"restored/{lost.second.id}"].bytes == lost.sizes(lost.second)
        assert spends[f"restored/{lost.second.id}"].cost is None
        assert set(spends) == {lost.first.id, f"restored/{lost.second.id}", third.id}
        events = [line.event for line in agent.site.journal.tail(100)]
        assert events.count("backup.counted") == events.count("backup.reconciled") == 1
        after = events[events.index("backup.restored") :]
        assert after.index("backup.reconciled") < after.index("parcel.released")
        second = agent.site.state.record(lost.second.id)
        assert second is not None
        assert second.state is State.DONE  # it was not done again


def test_what_left_since_the_backup_is_told_to_whoever_asks(lost: Lost, office: Office, tmp_path: Path) -> None:
    """In the account, for every patient as one who may be in it, and nothing more of the study leaves."""
    config = lost.restored(tmp_path / "site")
    digest = lost.second.study_digest
    (gone,) = [name for name, (entry, _) in office.parcels.items() if entry.assignment_id == lost.second.id]

    def told(**period: float) -> list[Left]:
        """Without what other tests' copies of the site have sent to this centre."""
        releases = account(config, **period).releases
        return [one for one in releases if one.assignment in (lost.first.id, lost.second.id)]

    with opened(config, office) as site:
        assert [one.assignment for one in told()] == [lost.first.id]
        Reconciliation(site).step()
        first, second = told()
        assert (first.counted, second.counted, second.parcel_ids, second.indexes) == (0, 1, [gone], [])
        assert (second.study.legal_basis, second.bytes) == ("scientific-research", lost.sizes(lost.second))
        assert second.persons is None
        assert second.first < second.last, "between the backup and the count"
        assert [one.counted for one in told(until=second.last)] == [0, 1]
        assert told(until=second.first) == [first]
        assert account(config, since=second.last + 60).releases == []
        found = {one.study.digest: one.sure for one in about(config, "somebody")}
        assert found[digest] is False
        assert lost.first.study_digest not in found
        assert site.subjects.left(digest)
        assert digest in site_status(config)["unfollowed"]
        assert not site.subjects.left(lost.first.study_digest)
        site.journal.append("parcel.delivered", assignment=lost.second.id, parcel=gone, bytes=5, index=1)
        assert [(one.counted, one.indexes) for one in told()][1] == (0, [1])


def test_a_parcel_that_was_planned_before_the_backup_and_left_after_it(
    lost: Lost, office: Office, tmp_path: Path
) -> None:
    """Its spend and its persons are here; that it left is known from the centre alone."""
    config = lost.restored(tmp_path / "site")
    (gone,) = [name for name, (entry, _) in office.parcels.items() if entry.assignment_id == lost.second.id]
    with opened(config, office) as site:
        site.released.note(lost.second.study_digest, lost.second.id, gone, ["a", "b"])
        site.journal.append("parcel.planned", assignment=lost.second.id, parcel=gone, part=0)
        Reconciliation(site).step()
        (found,) = [one for one in account(config).releases if one.counted and one.assignment == lost.second.id]
        assert (found.parcel_ids, found.study.digest) == ([gone], lost.second.study_digest)
        counted = [line for line in site.journal.tail(100) if line.event == "backup.counted"]
        assert [line.fields["parcel"] for line in counted].count(gone) == 1
        assert not site.subjects.left(lost.second.study_digest)


def test_an_answer_that_is_none_does_not_make_the_centre_an_older_one(
    lost: Lost, office: Office, tmp_path: Path
) -> None:
    config = lost.restored(tmp_path / "site")

    def answer(error: CorsiaError) -> None:
        raise error

    with opened(config, office) as site:
        release(config.state_dir)
        office.fail["landed"] = lambda: answer(InputError("input.message"))
        with pytest.raises(InputError):
            Reconciliation(site).step()
        assert not site.compared.is_set()
        office.fail["landed"] = lambda: answer(NotOffered("input.message"))
        Reconciliation(site).step()
        assert site.compared.is_set()


def test_a_copy_of_an_older_folder_is_found_by_the_heads_that_the_centre_heard(
    lost: Lost, office: Office, tmp_path: Path
) -> None:
    shutil.copytree(lost.folder, tmp_path / "site", ignore=shutil.ignore_patterns("state"))
    (tmp_path / "site" / "older").rename(tmp_path / "site" / "state")
    config = load(tmp_path / "site" / "edge.toml")
    hide = LandedPage(parcels=(), assignments=(), checkpoint="", more=False, ledger_head="f" * 64, journal_head="")

    def waits(start: int) -> LandedPage:
        if start < 1 << 40:
            raise UnavailableError("unavailable.centre")
        return hide

    office.landed = waits
    with opened(config, office) as site:
        assert not site.brakes.halted()
        with pytest.raises(UnavailableError):
            Heartbeat(site).beat()
        assert is_held(config.state_dir)
        assert site.brakes.halted()
        assert site.status().ledger_head == ""
        office.landed = None
        Heartbeat(site).beat()
        assert not site.brakes.halted()
        assert site.ledger is not None
        assert office.reports[-1].ledger_head == site.ledger.head()
        assert f"restored/{lost.second.id}" in [spend.key for spend in site.ledger.spends()]
        events = [line.event for line in site.journal.tail(9) if line.event.startswith("backup.")]
        events = events[events.index("backup.older") :]
        assert (events[0], set(events[1:-1]), events[-1]) == ("backup.older", {"backup.counted"}, "backup.reconciled")
    with opened(config, office) as site:  # the heads are those of now
        Reconciliation(site).step()
        assert not site.brakes.halted()


def test_a_centre_that_hides_receipts_unspends_nothing(lost: Lost, office: Office, tmp_path: Path) -> None:
    config = lost.restored(tmp_path / "site")
    office.landed = lambda _start: LandedPage(
        parcels=(), assignments=(), checkpoint="", more=False, ledger_head="", journal_head=""
    )
    with opened(config, office) as site:
        assert site.ledger is not None
        before = site.ledger.total("cohort")
        Reconciliation(site).step()
        assert site.ledger.total("cohort") == before
        assert before.bytes >= lost.sizes(lost.first)


def test_what_is_not_proved_keeps_the_hold(lost: Lost, office: Office, tmp_path: Path) -> None:
    config = lost.restored(tmp_path / "site")
    honest = Wire(office).landed(0)
    stranger = SecretKey.generate()

    def lies(**changes: object) -> Callable[[int], LandedPage]:
        return lambda start: replace(honest, **changes) if start < 1 << 40 else honest  # type: ignore[arg-type]

    one = honest.parcels[-1]
    forged = [replace(a, document=a.document + b"\n") for a in honest.assignments]
    foreign = [replace(a, signature=stranger.sign(b"corsia/v1/study", a.document)) for a in honest.assignments]
    with opened(config, office) as site:
        for page, code in (
            (lies(parcels=(*honest.parcels[:-1], replace(one, digest="0" * 64))), "log.proof"),
            (lies(parcels=(*honest.parcels[:-1], replace(one, parcel_id="0" * 32))), "log.proof"),
            (lies(parcels=honest.parcels[::-1]), "log.proof"),
            (lies(parcels=(), more=True), "log.proof"),
            (lies(checkpoint=honest.checkpoint.replace("\n", "\n ", 1)), "log.proof"),
            (lies(assignments=()), "study.signature"),
            (lies(assignments=tuple(forged)), "study.signature"),
            (lies(assignments=tuple(foreign)), "study.signature"),
        ):
            office.landed = page
            held_by(site, code)
        assert site.ledger is not None
        assert [spend.key for spend in site.ledger.spends()] == [lost.first.id]


def test_a_fork_of_the_log_keeps_the_hold(lost: Lost, office: Office, tmp_path: Path) -> None:
    config = lost.restored(tmp_path / "site")
    honest, fork = Wire(office).landed(0), Tree()
    for parcel in honest.parcels[::-1]:  # the same receipts in a log of another order
        fork.append(Receipt.leaf(parcel.parcel_id, parcel.digest))
    parcels = tuple(
        replace(parcel, index=index, proof=tuple(node.hex() for node in fork.inclusion(index)))
        for index, parcel in enumerate(honest.parcels[::-1])
    )
    office.landed = lambda _start: replace(honest, parcels=parcels, checkpoint=office.signed(fork))
    with opened(config, office) as site:
        held_by(site, "log.proof")


def test_a_centre_may_make_a_site_count_too_much(lost: Lost, office: Office, tmp_path: Path) -> None:
    """A receipt of what this site never sent: signed, in the log, and spent."""
    config = lost.restored(tmp_path / "site")
    entry = next(entry for entry, _ in office.parcels.values() if entry.assignment_id == lost.second.id)
    invented = replace(entry, parcel_id="b" * 32, digest="c" * 64, size_bytes=1000, assignment_id=lost.first.id)
    index = office.tree.append(Receipt.leaf(invented.parcel_id, invented.digest))
    office.parcels[invented.parcel_id] = (invented, b"")
    office.receipts[invented.parcel_id] = Receipt(
        parcel_id=invented.parcel_id, digest=invented.digest, index=index, proof=(), checkpoint=""
    )
    try:
        with opened(config, office) as site:
            Reconciliation(site).step()
            assert site.ledger is not None
            spends = {spend.key: spend.bytes for spend in site.ledger.spends()}
            assert spends[f"restored/{lost.first.id}"] == 1000
            assert spends[f"restored/{lost.second.id}"] == lost.sizes(lost.second)
            again = site.ledger.head()
            Reconciliation(site).step()  # no more hold: nothing is asked
            assert site.ledger.head() == again
    finally:
        del office.parcels[invented.parcel_id], office.receipts[invented.parcel_id]


def decided(asked: Study, config: EdgeConfig) -> Decision:
    return decide(asked, config, registry.INSTALLED, {})


MASKED = {
    "lane": "train",
    "pipeline": {"name": "train"},
    "output": {},
    "sites": ["site-a", "site-b", "site-c"],
    "privacy": {"k": 2, "min_cohort": 5, "secure_aggregation": True},
    "training": {"learner": "tabular", "features": ["age"], "outcome": ["status"], "publish": {"model": "m"}},
}  # fmt: skip


def test_what_no_receipt_tells_is_refused(lost: Lost, office: Office, tmp_path: Path) -> None:
    """Masked rounds were bound in a state that is lost; cohorts of sums that left are in no memory."""
    config = lost.restored(tmp_path / "site")
    known = len(office.assignments)
    roster = {name: SecretKey.generate().public.fingerprint for name in ("site-b", "site-c")}
    mine = read_key(config.state_dir / "identity.key").public.fingerprint
    masked = office.submit(study("masked", **MASKED, roster={"site-a": mine} | roster))
    counted = study("sums", lane="extract", pipeline={"name": "aggregate"})
    sums = office.submit(counted)
    office.assignments[known:] = []
    state = SiteState(config.state_dir / "state.db")
    state.store(masked)
    state.close()
    honest = Wire(office).landed(0)
    pretended = tuple(replace(p, assignment_id=sums.id) for p in honest.parcels if p.assignment_id == lost.second.id)
    office.landed = lambda _start: replace(
        honest, parcels=(honest.parcels[0], *pretended), assignments=(*honest.assignments, sums)
    )
    with opened(config, office) as site:
        Reconciliation(site).step()
        assert site.approvals.refused(masked.study_digest)
        assert not site.approvals.refused(lost.first.study_digest)
        assert site.state.fact(f"{MEMORY_LOST}cohort") == sums.id
        release = Release(cohorts={"all": ("1", "2")}, numbers={"score": 1}, minimum=1, traps=Traps())
        lane = LaneRun.prepare(study("one"), lost.first.study_digest, config, decided(study("one"), config))
        with pytest.raises(DisclosureRefused) as caught:
            site.reserve(sums, lane, size_bytes=1, persons=2, release=release)
        assert caught.value.code == "gate.differencing"


def test_noise_is_counted_at_what_it_cost() -> None:
    made = private("sample")
    whole, one = noising.cost(made), noising.cost(made, RoundPhase.TRAIN)
    assert whole is not None
    assert one is not None

    def asked(phase: RoundPhase, step: MaskStep | None = None) -> RoundInstruction:
        return RoundInstruction(
            run="r", study_digest="0" * 64, site="site-a", round=1, phase=phase, attempt=0, message="0" * 64,
            message_size=1, deadline=0.0, step=step,
        )  # fmt: skip

    assert _cost(made, asked(RoundPhase.TRAIN), rounds=True) == one != ZERO
    assert _cost(made, asked(RoundPhase.TRAIN, MaskStep.SHARE), rounds=True) == ZERO
    dearest = _cost(made, None, rounds=True)
    assert dearest is not None
    assert dearest.epsilon(1e-5) >= one.epsilon(1e-5)
    assert _cost(study("plain"), None, rounds=True) is None


def test_without_the_centre_everything_counts_as_spent(lost: Lost, tmp_path: Path) -> None:
    config = lost.restored(tmp_path / "site")
    assert write_off(config) == ["cohort"]
    assert not is_paused(config.state_dir)
    policy = config.datasets["cohort"].policy
    ledger = Ledger(config.state_dir / "ledger.db")
    assert ledger.total("cohort").bytes == policy.max_bytes_per_year
    assert ledger.year("cohort", policy.epsilon_per_year, policy.delta).remaining < 0.01
    state = SiteState(config.state_dir / "state.db")
    assert state.fact(f"{MEMORY_LOST}cohort") == "written-off"
    assert ledger.verify(state.fact("ledger_head")) == 3
    with pytest.raises(ConflictError):
        write_off(config)


def test_a_damaged_ledger_is_not_reconciled(lost: Lost, office: Office, tmp_path: Path) -> None:
    config = lost.restored(tmp_path / "site")
    (config.state_dir / "ledger.db").write_bytes(b"damaged" * 1000)
    with opened(config, office) as site:
        assert site.ledger is None
        with pytest.raises(BudgetExceeded):
            Reconciliation(site).step()
        assert is_held(config.state_dir)
    assert AssignmentKind.STUDY.value == "study"


def test_at_a_real_centre(tmp_path: Path) -> None:
    """Gateway, signer and wire as they are: backed up after one study, lost after two, counted, and on to the third."""
    (tmp_path / "site").mkdir()
    config = site_config(tmp_path / "site")
    with centre_running(tmp_path / "centre") as centre:
        enrol("site-a", config.state_dir, centre.ask("invite", site="site-a")["code"])
        recovery_key(config.state_dir, tmp_path / "K")
        harvest = study("one").model_dump(mode="json", by_alias=True, exclude_none=True)
        del harvest["recipients"], harvest["expires"]

        def done(name: str) -> str:
            digest = centre.submit(draft(**(harvest | {"id": name})))
            eventually(lambda: state_of(centre, digest) == "done", 120)
            return digest

        with working(config):
            done("one")
        backup(config.site, config.state_dir, tmp_path / "b")
        with working(config):
            second = done("two")
        shutil.rmtree(config.state_dir)
        restore(tmp_path / "b", config.site, config.state_dir, read_key(tmp_path / "K"),
                read_public(tmp_path / "K.sender"))  # fmt: skip
        with working(config):
            third = done("three")
        assert not is_held(config.state_dir)
        ledger = Ledger(config.state_dir / "ledger.db")
        assert [spend.study for spend in ledger.spends()][1:] == [second, third]
        with centre.store.read() as session:
            sizes = dict(session.execute(select(ParcelRow.study_digest, ParcelRow.size_bytes)).tuples().all())
        assert {spend.study: spend.bytes for spend in ledger.spends()} == sizes


def state_of(centre: Centre, digest: str) -> str:
    with centre.store.read() as session:
        return str(session.scalar(select(AssignmentRow.state).where(AssignmentRow.study_digest == digest)))


@contextmanager
def working(config: EdgeConfig) -> Iterator[None]:
    """The daemon over its own wire."""
    stop = threading.Event()
    thread = threading.Thread(target=Agent(config).run, args=(stop,))
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join(120)
        assert not thread.is_alive()
