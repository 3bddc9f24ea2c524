"""What has to go although nobody asks for it: rows of who withdrew, and everything of a study whose time is over.

One thread of the daemon, beside those that run and deliver; it serves the metrics too. A study's end takes its parcels,
wherever they wait, the kept answers and the list of its persons; the rounds' thread closes the worker. What the centre
has is erased there.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING

from edge.metrics import observed
from edge.studies import parsed
from edge.withdrawals import Withdrawals
from protocol.assignment import State
from protocol.errors import CorsiaError

if TYPE_CHECKING:
    from edge.site import Site

__all__ = ["Upkeep", "is_over"]

_EVERY_S = 1.0


def is_over(document: bytes) -> bool:
    """Whether a study's time is over."""
    try:
        return parsed(document).expires <= datetime.now(UTC)
    except CorsiaError:  # a document that is no study: it never ran
        return True


class Upkeep:
    """One thread's work."""

    def __init__(self, site: Site, withdrawals: Withdrawals) -> None:
        self._site, self._withdrawals = site, withdrawals

    def run(self) -> None:
        """Look every second until the daemon stops. Raises: ConflictError, see `observed`."""
        with observed(self._site):
            while not self._site.stop.wait(_EVERY_S):
                try:
                    self._withdrawals.look()
                    self.remove()
                except CorsiaError as error:
                    self._site.note("upkeep.delayed", error)

    def remove(self) -> int:
        """Remove what is kept of studies whose time is over; returns how many studies that were. Repeatable."""
        site, over = self._site, 0
        for digest in {*site.subjects.briefs(), *site.draws.studies()}:
            record = site.state.study(digest)
            if record is None or is_over(record.assignment.document):
                self._drop(digest)
                over += 1
        return over

    def _drop(self, digest: str) -> None:
        """States first: an assignment whose parcels have gone must never look done."""
        site, gone = self._site, 0
        for record in site.state.open():
            if record.assignment.study_digest == digest and record.state is State.DELIVERING:
                site.move(record, State.EXPIRED, code="study.expired")
        for folder, entry in site.spool.entries():
            if entry.study_digest == digest and folder != "sent":
                site.spool.drop(entry)
                gone += 1
        site.draws.drop(digest)
        site.journal.append("study.removed", study=digest, parcels=gone)
        site.subjects.drop(digest)
