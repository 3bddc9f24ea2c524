"""The brakes on all egress of one site: pause, damaged ledger, a log that is not what it was, a spool that is full.

Place in the flow: the daemon's threads ask `halted` before each job, part, release and chunk; jobs pull the brake for
a damaged ledger, delivery and heartbeat for a log that contradicts itself. What the daemon itself finds holds from the
moment it is found, whether or not the disk takes it down.
"""

from __future__ import annotations

import logging
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edge.journal import Journal
from edge.logview import LogView
from edge.pause import is_paused, paused_for, set_paused
from edge.spool import Spool
from edge.storage import named_errors, write_file
from edge.worker import Stopped
from protocol.errors import BudgetExceeded, CorsiaError, IntegrityError, StorageError
from protocol.parcel import canonical_json

__all__ = ["Brakes", "note_failure"]

_log = logging.getLogger("edge.agent")
_POLL_S = 0.2


def note_failure(event: str, error: CorsiaError) -> None:
    """Log a named failure by code and id."""
    _log.warning(event, extra={"fields": {"code": error.code, "error_id": error.id}})


@dataclass(slots=True)
class _Doubt:
    """What was found about the log, and what of it is not written down yet."""

    error: IntegrityError
    evidence: bytes
    size: int
    journalled: bool = False


class Brakes:
    """One site's. Safe for threads.

    Args:
        state_dir: where the pause and the evidence lie.
        stop: set when the daemon is to end.
        view: what this site has seen of the log.
    """

    def __init__(self, state_dir: Path, stop: threading.Event, journal: Journal, spool: Spool, view: LogView) -> None:
        self._state_dir, self._stop = state_dir, stop
        self._journal, self._spool, self._view = journal, spool, view
        self._lock = threading.RLock()
        self._doubt: _Doubt | None = None
        self.ledger_code = ""  # why the ledger does not verify

    def halted(self) -> bool:
        """Whether nothing may leave now: the daemon stops, egress is paused, or ledger or log do not verify."""
        return self._stop.is_set() or self.pulled()

    def pulled(self) -> bool:
        """Whether egress is stopped although the daemon runs."""
        return bool(self.ledger_code) or self._doubt is not None or is_paused(self._state_dir)

    def wait_unpaused(self) -> None:
        """Return when something may leave.

        Raises:
            Stopped: the daemon stops before.
            BudgetExceeded: `budget.ledger`.
        """
        while self.halted():
            if self._stop.is_set():
                raise Stopped
            if self.ledger_code:
                raise BudgetExceeded("budget.ledger")
            self._stop.wait(_POLL_S)

    def wait_room(self, assignment_id: str, size_bytes: int) -> None:
        """Return when the spool has room for so many bytes more, or when no delivery would make any.

        The pipeline waits meanwhile with what it has made.

        Raises:
            Stopped: the daemon stops before.
        """
        left, waiting = self._spool.room()
        if left < size_bytes and waiting:
            self._journal.append("spool.full", assignment=assignment_id, bytes=size_bytes)
            _log.warning("spool.full", extra={"fields": {"assignment": assignment_id, "size_bytes": size_bytes}})
        while left < size_bytes and waiting:
            if self._stop.wait(_POLL_S):
                raise Stopped
            left, waiting = self._spool.room()

    def break_ledger(self, error: BudgetExceeded) -> None:
        """Stop all egress until the daemon starts again with a ledger that verifies."""
        if not self.ledger_code:
            self.ledger_code = error.code
            self._journal.append("ledger.broken", code=error.code, error_id=error.id)
            note_failure("ledger.broken", error)

    def distrust(self, error: IntegrityError, **evidence: Any) -> None:
        """The centre's log is not what it was: stop all egress until the steward decides, and keep what was shown.

        It holds at once. What the disk does not take now is written down by `settle`.

        Args:
            evidence: texts, sizes and hashes, as the centre sent them.
        """
        with self._lock:
            if self._doubt is None:
                if paused_for(self._state_dir) in ("log.proof", error.code):
                    return
                linked = self._view.linked
                known = {"size": linked.size, "root": linked.root.hex()} if linked else {}
                shown = canonical_json({"linked": known, "shown": evidence})
                self._doubt = _Doubt(error, shown, linked.size if linked else 0)
                note_failure("log.refused", error)
            try:
                self.settle()
            except StorageError as full:
                note_failure("upkeep.delayed", full)

    def settle(self) -> None:
        """Write down what the daemon holds against the log; from then on the steward's word counts. Repeatable.

        Raises:
            StorageError: not all is written; the brake holds without it.
        """
        with self._lock:
            doubt = self._doubt
            if doubt is None:
                return
            error = doubt.error
            set_paused(self._state_dir, True, error.code)
            if not doubt.journalled:
                refused = {"code": error.code, "error_id": error.id, "size": doubt.size}
                self._journal.append_all([("log.refused", refused), ("egress.paused", {"reason": error.code})])
                doubt.journalled = True
            folder = self._state_dir / "evidence"
            with named_errors():
                folder.mkdir(exist_ok=True, mode=0o700)
                write_file(folder / f"log-{error.id}.json", doubt.evidence)
            self._doubt = None
