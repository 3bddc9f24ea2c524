"""Runs assignments of one kind one after the other and turns every outcome into a state; the daemon outlives them all.

Place in the flow: state.db -> `Jobs` -> the agent's `study` or `round`. What passes by itself (disk, network, a
pause) is tried again with back-off; everything else ends the assignment with its code and an opaque id. Nothing of an
error's text goes further than this process's own memory.
"""

from __future__ import annotations

import logging
import random
import time
from collections.abc import Callable, Iterator

from edge.rounds import ledger_key
from edge.site import Site
from edge.state import Record
from edge.worker import Stopped
from protocol.assignment import AssignmentKind, State
from protocol.errors import (
    ApprovalRequired,
    AuthenticationError,
    BudgetExceeded,
    CorsiaError,
    DisclosureRefused,
    Paused,
    PermissionRefused,
    PolicyRefused,
    StorageError,
    StudyRefused,
    UnavailableError,
    WorkerError,
)

__all__ = ["PASSING", "Jobs", "crashed"]

PASSING = (StorageError, UnavailableError, AuthenticationError, Paused)
_REFUSALS = (PolicyRefused, DisclosureRefused, BudgetExceeded, StudyRefused, PermissionRefused, ApprovalRequired)
_LONGEST_WAIT_S = 10.0
_log = logging.getLogger("edge.agent")


class Jobs:
    """One thread's work.

    Args:
        kind: which assignments.
        job: carries one out, or raises.
        idle: called between two looks.
    """

    def __init__(
        self, site: Site, kind: AssignmentKind, job: Callable[[Record], None], idle: Callable[[], None]
    ) -> None:
        self._site, self._kind, self._job, self._idle = site, kind, job, idle
        self._retry: dict[str, tuple[float, float]] = {}  # assignment -> (not before, delay)

    def run(self) -> None:
        """Work until the daemon stops."""
        wake = self._site.work[self._kind]
        while not self._site.stop.is_set():
            wake.clear()
            try:
                for record in self._due():
                    self.attempt(record)
                self._idle()
            except CorsiaError as error:
                self._site.note("jobs.delayed", error)
                self._site.stop.wait(1.0)
            wake.wait(0.5)

    def attempt(self, record: Record) -> None:
        """Carry out one assignment; its failure ends the assignment, never the daemon."""
        try:
            self._job(record)
            self._retry.pop(record.assignment.id, None)
        except Stopped:
            return
        except ApprovalRequired as error:
            self._wait_for_approval(record, error)
        except PASSING as error:
            if error.code == "storage.spool-full" and self._site.spool.alone(record.assignment.id):
                self._end(record, error)  # it is larger than the whole spool: waiting would not help
            else:
                self._later(record, error)
        except CorsiaError as error:
            self._end(record, error)
        except Exception as error:  # a fault of ours ends one job; its text stays out of the log
            crashed("job.crashed", error)
            self._end(record, WorkerError("worker.failed", type(error).__name__))

    def _due(self) -> Iterator[Record]:
        for record in self._site.state.open(self._kind):
            if self._site.brakes.ledger_code and record.state is State.RECEIVED:
                self._site.move(record, State.PENDING, code=self._site.brakes.ledger_code)
            if self._site.brakes.halted():
                continue
            waits_until, _delay = self._retry.get(record.assignment.id, (0.0, 0.0))
            if record.state is not State.DELIVERING and waits_until <= time.monotonic():
                yield record

    def _wait_for_approval(self, record: Record, error: ApprovalRequired) -> None:
        if self._kind is AssignmentKind.ROUND:
            self._end(record, error)
        elif (record.state, record.code) != (State.PENDING, error.code):
            event = "study.pending" if error.code == "approval.pending" else "study.suspended"
            assignment = record.assignment
            self._site.journal.append(event, assignment=assignment.id, study=assignment.study_digest)
            self._site.move(record, State.PENDING, code=error.code)

    def _later(self, record: Record, error: CorsiaError) -> None:
        name = record.assignment.id
        delay = min(_LONGEST_WAIT_S, 2 * self._retry.get(name, (0.0, 0.25))[1])
        self._retry[name] = (time.monotonic() + delay * random.uniform(0.5, 1.0), delay)  # noqa: S311 - jitter
        self._site.note("job.delayed", error)

    def _end(self, record: Record, error: CorsiaError) -> None:
        """End an assignment with a code; what it held goes, and is not spent, since nothing of it left."""
        site, name = self._site, record.assignment.id
        if isinstance(error, BudgetExceeded) and error.code == "budget.ledger":
            site.brakes.break_ledger(error)
            self._later(record, error)
            return
        try:
            if site.spool.released(name):  # too late to fail: it is on its way
                self._later(record, error)
                return
            site.spool.discard(name)
            state = State.REFUSED if isinstance(error, _REFUSALS) else State.FAILED
            state = State.EXPIRED if error.code in ("study.expired", "study.late") else state
            event = f"assignment.{state.value}"
            site.journal.append(event, assignment=name, code=error.code, error_id=error.id)
            site.move(record, state, code=error.code, error_id=error.id)
            if self._known(record):  # last: given back only once nothing can leave under this key any more
                site.commit(record.assignment, 0)
            fields = {"assignment": name, "code": error.code, "error_id": error.id}
            _log.warning(event, extra={"fields": fields})
        except StorageError as full:
            self._later(record, full)

    def _known(self, record: Record) -> bool:
        """Whether the document is one that could have spent (a malformed instruction has no key)."""
        try:
            return bool(ledger_key(record.assignment))
        except CorsiaError:
            return False


def crashed(event: str, error: BaseException) -> None:
    """Log where an unexpected error arose and its type; its text may quote data and is left out."""
    bare = RuntimeError(type(error).__name__)
    _log.error(
        event, extra={"fields": {"error": type(error).__name__}}, exc_info=(RuntimeError, bare, error.__traceback__)
    )
