"""One site's opened state folder: what all threads of the daemon share.

Place in the flow: `Agent.run` opens it under the folder's lock; jobs, delivery and heartbeat work on it. It decides
nothing about a study. Whether anything may leave now `brakes` says (`edge.brakes`).
"""

from __future__ import annotations

import fcntl
import os
import shutil
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Any, BinaryIO, Protocol

from edge.approvals import Approvals
from edge.brakes import Brakes, note_failure
from edge.config import EdgeConfig
from edge.draws import Draws
from edge.heads import Heads
from edge.hold import is_held
from edge.identity import Identity
from edge.journal import Journal
from edge.lane import LaneRun
from edge.ledger import Ledger
from edge.logview import LogView
from edge.memory import Release, admitted
from edge.messages import Heard
from edge.pause import is_paused, paused_for, set_paused
from edge.plugins import PluginCode
from edge.released import Released
from edge.rounds import ledger_key
from edge.spends import Spend
from edge.spool import Spool, SpoolEntry
from edge.state import Record, SiteState
from edge.storage import named_errors
from edge.subjects import Subjects
from pipelines import registry
from privacy.inclusion import LogProof
from privacy.transparency import verify_receipt
from protocol.assignment import Assignment, AssignmentKind, Blob, SiteReport, State
from protocol.errors import BudgetExceeded, ConflictError, CorsiaError, DisclosureRefused, IntegrityError
from protocol.faults import point
from protocol.landed import LandedPage
from protocol.parcel import Receipt

__all__ = [
    "MEMORY_LOST",
    "SKEW",
    "Link",
    "Site",
    "is_paused",
    "is_running",
    "locked",
    "paused_for",
    "set_paused",
]

MEMORY_LOST = "memory_lost:"  # fact, by dataset: sums were released that its memory of cohorts lacks
SKEW = "clock_skew_s"  # fact: by how much the clock was ahead of the centre's when they last differed by another value
_SKEW_STEP_S = 5.0


class Link(Protocol):
    """The wire as the daemon needs it (`edge.uplink.Uplink`)."""

    def watch(self) -> Iterator[Assignment]: ...  # noqa: D102
    def report(self, report: SiteReport) -> Heard: ...  # noqa: D102
    def deliver(  # noqa: D102
        self, entry: SpoolEntry, read: BinaryIO, should_stop: Callable[[], bool], turn: Callable[[], None] = ...
    ) -> Receipt: ...
    def carry(  # noqa: D102
        self, parcels: Sequence[tuple[SpoolEntry, bytes]], should_stop: Callable[[], bool]
    ) -> list[Receipt | CorsiaError]: ...
    def fetch(self, blob: Blob) -> bytes: ...  # noqa: D102
    def prove(self, index: int, size: int, to: int = 0) -> LogProof: ...  # noqa: D102
    def landed(self, start: int) -> LandedPage: ...  # noqa: D102
    def renew(self, csr_der: bytes, signature: bytes) -> bytes: ...  # noqa: D102
    def close(self) -> None: ...  # noqa: D102


def is_running(state_dir: Path) -> bool:
    """Whether a daemon holds this state folder now."""
    try:
        handle = os.open(state_dir / "lock", os.O_RDWR | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return False
    except OSError:
        return True
    finally:
        os.close(handle)


@contextmanager
def locked(state_dir: Path) -> Iterator[None]:
    """Hold the state folder against a second daemon.

    Raises:
        ConflictError: `conflict.running`.
    """
    with named_errors():
        state_dir.mkdir(parents=True, exist_ok=True, mode=0o700)
        handle = os.open(state_dir / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise ConflictError("conflict.running") from None
        yield
    finally:
        os.close(handle)


class Site:
    """Everything of one site that is open while the daemon runs.

    Args:
        connect: makes the wire from an identity and an address (None: the one of the enrolment).
        stop: set when the daemon is to end.

    Raises:
        AuthenticationError: `auth.not-enrolled`, `auth.certificate`.
        IntegrityError: `journal.chain`: nothing leaves without a journal; `log.proof` when what was seen of the log is
            damaged.
        StorageError: the folder cannot be used.
    """

    def __init__(
        self, config: EdgeConfig, connect: Callable[[Identity, str | None], Link], stop: threading.Event
    ) -> None:
        state_dir = config.state_dir
        self.config, self.stop, self._connect = config, stop, connect
        self.identity = Identity.load(state_dir)
        self.scratch = state_dir / "work"
        shutil.rmtree(self.scratch, ignore_errors=True)
        self.state = SiteState(state_dir / "state.db")
        self.journal = Journal(state_dir / "journal.jsonl")
        self.log_view = LogView(self.state, self.journal.count)
        self.spool = Spool(state_dir / "spool", config.limits.spool_bytes)
        self.spool.recover()
        self.brakes = Brakes(state_dir, stop, self.journal, self.spool, self.log_view)
        self._recall()
        self.released, self._heads = Released(state_dir), Heads(state_dir)
        self.draws = Draws(state_dir / "draws", config.site, self.identity.key)
        self.subjects = Subjects(state_dir / "subjects")
        self.subjects.recover()
        self.approvals = Approvals(self.state, registry.code_digest, PluginCode(config, self.state).digest)
        self._version = version(registry.DISTRIBUTION)
        self.work = {kind: threading.Event() for kind in AssignmentKind}
        self.send, self.news = threading.Event(), threading.Event()
        self.compared = threading.Event()  # the centre was asked what it heard of this site last (`edge.reconcile`)
        self._centre_at: tuple[float, float] | None = None  # the centre's time, and the monotonic clock then
        self.ledger = self._open_ledger(state_dir / "ledger.db")
        self.link = connect(self.identity, self._fleet())

    def _fleet(self) -> str | None:
        return self.config.centre.fleet if self.config.centre else None

    def _recall(self) -> None:
        """Verify the journal; take again what receipts showed of the log and was not kept."""
        doubt: list[IntegrityError] = []

        def noted(take: Callable[[], None]) -> None:
            try:
                take()
            except IntegrityError as error:
                doubt.append(error)

        self.journal.verify(self.state.fact("journal_head"), lambda line: noted(lambda: self.log_view.recall(line)))
        if self.log_view.fresh:  # an earlier version's receipts
            key, origin = self.identity.log_key, self.identity.trust.log_origin
            for _entry, receipt in self.spool.receipts():
                noted(lambda receipt=receipt: self.log_view.note(verify_receipt(receipt, key, origin)))  # type: ignore[misc]
        for error in doubt[:1]:
            self.brakes.distrust(error)

    def _open_ledger(self, path: Path) -> Ledger | None:
        """A damaged ledger stops all egress; the rest goes on, so that steward and centre see why."""
        try:
            ledger = Ledger(path)
            ledger.verify(self.state.fact("ledger_head"))
            return ledger
        except BudgetExceeded as error:
            self.brakes.break_ledger(error)
            return None

    def close(self) -> None:
        """Remember the heads and close."""
        self.remember()
        self.journal.append("agent.stopped", site=self.config.site)
        self.state.set_fact("journal_head", self.journal.head())
        self._heads.sign(self.journal, self.config.site, self.identity.key, self.now)
        if self.ledger is not None:
            self.ledger.close()
        self.released.close()
        self.state.close()

    def remember(self) -> None:
        """Note the heads of ledger and journal, so that an older copy is found at the next start; sign the latter."""
        if self.ledger is not None and not self.brakes.ledger_code:
            self._remember("ledger_head", self.ledger.head())
        self._remember("journal_head", self.journal.head())
        self._heads.sign(self.journal, self.config.site, self.identity.key, self.now)

    def _remember(self, name: str, head: str) -> None:
        if self.state.fact(name) != head:
            self.state.set_fact(name, head)

    def reconnect(self, identity: Identity) -> None:
        """Use a new identity's certificate from now on; calls over the old one end."""
        old, self.identity = self.link, identity
        self.link = self._connect(identity, self._fleet())
        old.close()

    def wake(self) -> None:
        """Let every thread look again."""
        for event in (*self.work.values(), self.send, self.news):
            event.set()

    # --- the ledger

    def reserve(
        self, assignment: Assignment, lane: LaneRun, *, size_bytes: int, persons: int, release: Release | None = None
    ) -> None:
        """Spend before anything is sealed; the same release spends once.

        Args:
            release: whom sums are about, to be remembered with the spend.

        Raises:
            BudgetExceeded: `budget.bytes`, `budget.epsilon`, `budget.ledger`.
            DisclosureRefused: `gate.cohort`, `gate.differencing`, `gate.queries`.
            ConflictError: `conflict.state` when this release is over: nothing may leave under its key again.
        """
        if self.ledger is None:
            raise BudgetExceeded("budget.ledger")
        key, effective, cost = ledger_key(assignment), lane.decision.effective, lane.cost
        if release is not None and self.state.fact(f"{MEMORY_LOST}{lane.study.dataset.name}"):
            raise DisclosureRefused("gate.differencing", "sums left after the backup was made, about whom is not known")
        spend = self.ledger.reserve(
            key,
            lane.study.dataset.name,
            assignment.study_digest,
            k=effective.k,
            cohort=effective.min_cohort,
            bytes=size_bytes,
            cost=cost,
            persons=persons,
            limits=effective,
            memory=admitted(self.config.state_dir, key, release) if release is not None else None,
        )
        if spend.state == "committed":
            raise ConflictError("conflict.state", "what this key spent has left, or was given up")
        about: dict[str, Any] = {"assignment": assignment.id, "bytes": size_bytes, "persons": persons}
        if cost is not None:
            left = self.ledger.year(lane.study.dataset.name, effective.epsilon_per_year, effective.delta_per_year)
            about |= {"epsilon": round(cost.epsilon(effective.delta), 6), "epsilon_left": round(left.remaining, 6)}
        self.journal.append("ledger.reserved", **about)
        point("edge.reserved")

    def afford(self, assignment: Assignment, lane: LaneRun) -> None:
        """Look whether all of a training run fits into what is left; each round is reserved when it comes.

        Raises:
            BudgetExceeded: `budget.epsilon`, `budget.ledger`.
        """
        if lane.cost is None:
            return
        if self.ledger is None:
            raise BudgetExceeded("budget.ledger")
        self.ledger.afford(lane.study.dataset.name, assignment.study_digest, lane.cost, lane.decision.effective)

    def spent(self, key: str) -> Spend | None:
        """What a key has spent."""
        return self.ledger.spend(key) if self.ledger is not None else None

    def check_spent(self, assignment: Assignment, size_bytes: int) -> None:
        """Look, at the last moment before a release, whether the ledger holds at least what is about to leave.

        Raises:
            BudgetExceeded: `budget.bytes` when more was sealed than reserved, `budget.ledger` without a ledger.
        """
        if self.ledger is None or self.brakes.ledger_code:
            raise BudgetExceeded("budget.ledger")
        known = self.ledger.spend(ledger_key(assignment))
        if known is None or known.state != "reserved" or size_bytes > known.bytes:
            raise BudgetExceeded("budget.bytes", "more was sealed than the ledger holds for it")

    def commit(self, assignment: Assignment, size_bytes: int) -> None:
        """Note what was sealed under a reserved key; 0 when all of it was discarded unreleased.

        Raises:
            BudgetExceeded: `budget.bytes` when that is more than was reserved.
        """
        key = ledger_key(assignment)
        known = self.ledger.spend(key) if self.ledger is not None else None
        if self.ledger is not None and known is not None and known.state == "reserved":
            self.ledger.commit(key, size_bytes)
            self.state.set_fact("ledger_head", self.ledger.head())

    # --- states and notes

    def move(
        self, record: Record, state: State, *, code: str = "", error_id: str = "", counts: dict[str, int] | None = None
    ) -> None:
        """Set an assignment's state; it is reported soon, a round that goes well with the next heartbeat."""
        self.state.move(record.assignment.id, state, code=code, error_id=error_id, counts=counts)
        if code or record.assignment.kind is AssignmentKind.STUDY:
            self.news.set()

    def note(self, event: str, error: CorsiaError) -> None:
        """Log a named failure by code and id."""
        note_failure(event, error)

    def status(self) -> SiteReport:
        """What a heartbeat says."""
        parcels, size = self.spool.usage()
        held = is_held(self.config.state_dir)  # the centre must not forget the heads that it heard before
        return SiteReport(
            version=self._version,
            paused=self.brakes.pulled(),
            spool_parcels=parcels,
            spool_bytes=size,
            ledger_head="" if held or self.ledger is None else self.ledger.head(),
            journal_head="" if held else self.journal.head(),
        )

    def now(self) -> float:
        """Unix seconds."""
        return time.time()

    def heard(self, server_time: float) -> float:
        """Note the centre's time (Unix seconds); returns by how many seconds this machine's clock is ahead of it."""
        self._centre_at = (server_time, time.monotonic())
        skew = self.now() - server_time
        known = self.state.fact(SKEW)
        if known is None or abs(float(known) - skew) > _SKEW_STEP_S:
            self.state.set_fact(SKEW, f"{skew:.1f}")
        return skew

    def centre_now(self) -> float | None:
        """Unix seconds by the centre's clock, whatever this machine's says; None before the centre was heard."""
        if self._centre_at is None:
            return None
        server_time, at = self._centre_at
        return server_time + time.monotonic() - at
