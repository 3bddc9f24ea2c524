"""A whole site under the seam: a study comes in, runs, passes the gate, is spent, sealed, released and delivered.

The agent's own code from the assignment to the receipt, in this process: only the worker's process and the agent's
threads are left out, since a step must have a number. The wire has steps too: a call that is lost before the centre
has it, and one whose answer is lost.
"""

from __future__ import annotations

import hashlib
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

import pytest

from edge.agent import Agent
from edge.config import load
from edge.deliver import Delivery
from edge.jobs import PASSING, Jobs
from edge.ledger import Ledger
from edge.masking import Masking
from edge.site import Site
from edge.spool import Spool, SpoolEntry
from edge.told import Outcome, Told
from edge.withdrawals import Withdrawals
from pipelines import Job, Source, registry
from privacy.transparency import verify_receipt
from protocol.assignment import Assignment, AssignmentKind, State
from protocol.errors import UnavailableError
from protocol.parcel import Item, Receipt
from protocol.study import Lane
from protocol.withdrawal import SUBJECTS
from tests.agentkit import Office, Wire, enrolled, site_config, study
from tests.fault.seam import Seam
from tests.fault.sweep import Work, sweep, undisturbed

NOW = time.time()


class InProcess:
    """Runs an installed lane here; what a worker does without its process."""

    def run(self, job: Job, source: Source, put: Callable[[Item], None]) -> Outcome:
        self.outcome, self.put_item = Outcome(), put
        registry.load(job.study.pipeline.name)(job, source, self)
        return self.outcome

    def put(self, item: Item) -> None:
        self.put_item(item)

    def cohort(self, persons: Iterable[str], numbers: Mapping[str, int]) -> None:
        self.outcome.cohorts.append(Told(persons=tuple(persons), numbers=dict(numbers)))

    def withhold(self, reason: str, count: int = 1) -> None:
        self.outcome.withheld[reason] = self.outcome.withheld.get(reason, 0) + count

    def progress(self, done: int, total: int) -> None:
        pass


class Alone(Agent):
    """The agent without its threads."""

    @contextmanager
    def _worker(self, lane: Lane) -> Iterator[Any]:
        yield InProcess()


class Still(Site):
    """A site whose clock stands: the first head of the journal that is signed on a day takes two steps more."""

    def now(self) -> float:
        return NOW


class Line(Wire):
    """A wire whose calls are steps."""

    def deliver(
        self,
        entry: SpoolEntry,
        read: BinaryIO,
        should_stop: Callable[[], bool],
        turn: Callable[[], None] = lambda: None,
    ) -> Receipt:
        _wire("asked")
        receipt = super().deliver(entry, read, should_stop, turn)
        _wire("answered")
        return receipt


def _wire(what: str) -> None:
    if Seam.active is not None and not Seam.active.stuck:
        try:
            Seam.active.step(f"wire {what}")
        except OSError:
            Seam.active.stuck = False  # the disk has nothing to do with it
            raise UnavailableError("unavailable.centre") from None


class SiteWork:
    """Makes the hospital once; each run has an office of its own."""

    def __init__(self) -> None:
        self.offices: dict[Path, Office] = {}

    def prepare(self, run: Path) -> None:
        office = enrolled(site_config(run))
        self.keys, self.vault = office.keys, office.vault
        self.asked = office.submit(study())

    def start(self, run: Path) -> SiteRun:
        office = self.offices.setdefault(run, Office(self.keys, vault=self.vault))
        return SiteRun(run, office, self.asked)

    def outcome(self, run: Path) -> Any:
        office, config = self.offices[run], load(run / "edge.toml")
        again = SiteRun(run, office, self.asked)  # a start: the ledger's and the journal's heads are looked at
        try:
            site = again.site
            spool = Spool(config.state_dir / "spool", 10**9)
            assert (spool.verify(), spool.usage(), site.brakes.ledger_code) == ([], (0, 0), "")
            site.journal.verify(site.state.fact("journal_head"))
            receipts = list(spool.receipts())
            for _entry, receipt in receipts:
                verify_receipt(receipt, site.identity.log_key, site.identity.trust.log_origin)
            record = site.state.record(self.asked.id)
            assert record is not None
            assert record.state is State.DONE, record.code
            batches = [
                (b.part, b.last, b.withheld, [(i.name, i.rows, _told(i)) for i in b.items])
                for b in office.opened(self.asked, site.identity.key)
            ]
            ledger = Ledger(config.state_dir / "ledger.db")
            total, spends = ledger.total("cohort"), [(s.state, s.persons) for s in ledger.spends()]
            ledger.close()
            delivered = [line for line in site.journal.tail(999) if line.event == "parcel.delivered"]
            assert {line.fields["parcel"] for line in delivered} == set(office.parcels)
            return record.state, record.counts, batches, total.releases, total.bytes, spends, len(receipts)
        finally:
            again.close()


class SiteRun:
    def __init__(self, run: Path, office: Office, asked: Assignment) -> None:
        config = load(run / "edge.toml")
        self.wire, self.asked = Line(office), asked
        self.agent = Alone(config, connect=lambda _identity, _fleet: self.wire)
        self.site = self.agent.site = Still(config, lambda _identity, _fleet: self.wire, threading.Event())
        self.agent._masking = Masking(config.site, self.site.identity.key, self.site.state)
        self.agent._withdrawals = Withdrawals(self.site)
        self.jobs = Jobs(self.site, AssignmentKind.STUDY, self.agent._study, lambda: None)
        self.delivery = Delivery.of(self.site, self.agent._may_leave)

    def work(self) -> None:
        self.agent._accept(self.asked)  # the centre gives it out again at each connection
        for _ in range(3):
            for record in self.site.state.open(AssignmentKind.STUDY):
                if record.state is not State.DELIVERING:
                    self.jobs.attempt(record)
            try:
                self.delivery.run_once(self.wire)
            except UnavailableError:  # and no StorageError: that is for the seam to give
                continue
        self.site.remember()

    def close(self) -> None:
        try:
            self.site.close()
        finally:
            self.abandon()

    def abandon(self) -> None:
        """The process is dead: only what the kernel lets go of."""
        if self.site.ledger is not None:
            self.site.ledger.close()
        self.site.state.close()


def _told(item: Item) -> str:
    """What an item says; of pseudonyms, whose key is made in each folder anew, how long it is."""
    return str(len(item.data)) if item.name == SUBJECTS else hashlib.sha256(item.data).hexdigest()


def _work() -> Work:
    made = SiteWork()
    return Work(made.prepare, made.start, made.outcome, whole, PASSING, forks=False)


def whole(found: Any) -> bool:
    """The 21 rows of 24 that consent lets go, in the centre's hands, spent once, a receipt for each part."""
    state, counts, batches, releases, size, spends, receipts = found
    rows = sum(item[1] for batch in batches for item in batch[3] if item[0] == "records.parquet")
    return (state, rows, counts["rows"], counts["withheld_consent"], counts["bytes"], releases, spends) == (
        State.DONE, 21, 21, 3, size, 1, [("committed", 21)],
    ) and counts["parcels"] == len(batches) == receipts > 0  # fmt: skip


@pytest.fixture(autouse=True)
def parts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each item is a parcel of its own, so that a release has several."""
    monkeypatch.setattr("edge.sealing.MAX_PART_ITEMS", 1)


def test_the_seam_sees_the_wire_of_each_part(memory: Path) -> None:
    steps, _ = undisturbed(_work(), memory)
    assert [step for step in steps if step.startswith("wire")] == ["wire asked", "wire answered"] * 2


def test_steps_of_a_whole_site(memory: Path) -> None:
    sweep(_work(), memory, 17)


@pytest.mark.full
def test_every_step_of_a_whole_site(memory: Path) -> None:
    sweep(_work(), memory)
