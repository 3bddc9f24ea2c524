"""What has to go although nobody asks for it: rows of who withdrew, and everything of a study whose time is over.

One thread of the daemon, beside those that run and deliver. A study's end takes its parcels, wherever they wait, the
kept answers and the list of its persons; the rounds' thread closes the worker. What the centre has is erased there.

What goes here is gone for good, so a study's time is over only when this machine's clock and the centre's both say so,
and nobody has set the former since the daemon started. A study that is not known here, or cannot be read, is left.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from edge.hold import is_held
from edge.studies import parsed
from edge.withdrawals import Withdrawals
from protocol.assignment import State
from protocol.errors import CorsiaError

if TYPE_CHECKING:
    from edge.site import Site

__all__ = ["Upkeep"]

_EVERY_S = 1.0
_STEP_S = 120.0  # by how much the clock may leave the steady one before no expiry is believed


class Upkeep:
    """One thread's work.

    Args:
        steady: seconds by a clock that nobody sets.
    """

    def __init__(self, site: Site, withdrawals: Withdrawals, steady: Callable[[], float] = time.monotonic) -> None:
        self._site, self._withdrawals, self._steady = site, withdrawals, steady
        self._began = site.now() - steady()

    def run(self) -> None:
        """Look every second until the daemon stops; what fails does not keep the rest from being done."""
        while not self._site.stop.wait(_EVERY_S):
            for work in (self._site.brakes.settle, self._withdrawals.look, self.remove):
                try:
                    work()
                except CorsiaError as error:
                    self._site.note("upkeep.delayed", error)

    def remove(self) -> int:
        """Remove what is kept of studies whose time is over; returns how many studies that were. Repeatable."""
        site = self._site
        over = [digest for digest in {*site.subjects.briefs(), *site.draws.studies()} if self.is_over(digest)]
        for digest in over:
            self._drop(digest)
        return len(over)

    def is_over(self, digest: str) -> bool:
        """Whether a study's time is over beyond doubt; in doubt what is kept of it stays."""
        site = self._site
        at, heard = site.now(), site.centre_now()
        if heard is None or abs(at - self._steady() - self._began) > _STEP_S or is_held(site.config.state_dir):
            return False
        record = site.state.study(digest)
        if record is None:
            return False
        try:
            return parsed(record.assignment.document).expires <= datetime.fromtimestamp(min(at, heard), UTC)
        except CorsiaError:  # of another version: it is not this one's to judge
            return False

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
