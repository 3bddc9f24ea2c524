"""Tells the centre that the site is there and where its assignments stand; watches log, clock and certificate.

Place in the flow: after each change of state, and every `heartbeat_s`. Sends ids, codes, counts and the heads of
ledger and journal; while egress is paused, nothing but that it is paused. Each answer brings the centre's newest
checkpoint, which must extend everything that receipts have shown this site (`edge/watchman.py`).
"""

from __future__ import annotations

import logging
import random
import time
from dataclasses import replace
from datetime import UTC, datetime

from edge.catalogue import Catalogue
from edge.identity import Identity, renew
from edge.logview import MAX_ASKED
from edge.messages import Heard
from edge.reconcile import Reconciliation
from edge.site import Site, is_paused
from edge.state import Record
from edge.watchman import Watchman
from protocol.assignment import AssignmentKind, SiteReport, State
from protocol.errors import AuthenticationError, CorsiaError, StorageError, UnavailableError

__all__ = ["Heartbeat"]

_SKEW_S = 60.0
_MAX_COUNTS = 64
_log = logging.getLogger("edge.agent")


class Heartbeat:
    """One thread's work."""

    def __init__(self, site: Site) -> None:
        self._site = site
        self._log = Watchman(site)
        self._reconciliation = Reconciliation(site)
        self._catalogue = Catalogue(site.config.datasets)
        self._next_renewal = 0.0  # by the monotonic clock, as the next: the other one may be set meanwhile
        self._next_warning = 0.0

    def run(self) -> None:
        """Beat until the daemon stops."""
        site = self._site
        delay = 0.5
        while not site.stop.is_set():
            site.news.clear()
            try:
                self.beat()
                delay = 0.5
                site.news.wait(site.config.limits.heartbeat_s)
            except CorsiaError as error:
                site.note("heartbeat.failed", self._named(error))
                site.stop.wait(error.retry_s + delay * random.uniform(0.5, 1.0))  # noqa: S311 - jitter
                delay = min(2 * delay, site.config.limits.heartbeat_s, 10.0)

    def beat(self) -> None:
        """Report what is new, or a bare heartbeat; renew the certificate when it is time.

        Raises:
            UnavailableError, AuthenticationError, StorageError: nothing is lost; try again.
        """
        site = self._site
        self._renew()  # first: a centre that refuses a report may still renew
        self._reconcile()
        status = site.status()
        news = [] if is_paused(site.config.state_dir) else self._news()
        for record in news[:-1]:
            self._report(record, site.status())
        asked = self._log.asked()
        status = replace(site.status() if news else status, log_sizes=asked.sizes, witnessed=asked.witnessed)
        status = replace(status, catalogue=None if status.paused else self._catalogue.news())
        heard = self._report(news[-1], status) if news else site.link.report(status)
        if heard is not None:
            self._advertised(status)
            self._check_clock(heard.server_time)
            self._log.judge(asked, heard.log)
            if len(asked.view.apart) == MAX_ASKED:
                site.news.set()  # there are more
        site.remember()

    def _reconcile(self) -> None:
        """Before the first word to the centre: it would forget what it heard before."""
        try:
            self._reconciliation.step()
        except (UnavailableError, AuthenticationError, StorageError):
            raise
        except CorsiaError as error:  # nothing leaves; the centre is told that this site is paused
            self._site.note("backup.held", error)

    def _news(self) -> list[Record]:
        """What is to be told. Of a study's rounds that go well the newest alone: the centre has the others' answers."""
        found = self._site.state.unreported()
        well = {r.assignment.study_digest: r for r in found if r.assignment.kind is AssignmentKind.ROUND and not r.code}
        passed = [
            r for r in found
            if r.assignment.kind is AssignmentKind.ROUND and r.state is State.DONE
            and r is not well.get(r.assignment.study_digest)
        ]  # fmt: skip
        self._site.state.reported(*passed)
        return [record for record in found if record not in passed]

    def _report(self, record: Record, status: SiteReport) -> Heard | None:
        """Tell an assignment's state; None when the centre refuses to hear it."""
        site, heard = self._site, None
        counts = dict(sorted(record.counts.items())[:_MAX_COUNTS])
        report = replace(
            status,
            assignment_id=record.assignment.id,
            state=record.state,
            code=record.code,
            error_id=record.error_id,
            counts=counts,
        )
        try:
            heard = site.link.report(report)
        except (UnavailableError, AuthenticationError, StorageError):
            raise
        except CorsiaError as error:  # the centre does not know the assignment any more
            site.note("report.refused", error)
        site.state.reported(record)
        return heard

    def _advertised(self, status: SiteReport) -> None:
        """The centre has heard what this site tells of its datasets."""
        if status.catalogue is not None:
            self._catalogue.told(status.catalogue)
            if status.catalogue:
                self._site.journal.append("catalogue.told", count=len(status.catalogue))

    def _check_clock(self, server_time: float) -> None:
        skew = self._site.heard(server_time)
        if abs(skew) > _SKEW_S and time.monotonic() >= self._next_warning:
            self._next_warning = time.monotonic() + 3600
            _log.warning("clock.skew", extra={"fields": {"duration_s": round(skew, 1)}})

    def _renew(self) -> None:
        """At two thirds of the certificate's life, spread over sites; a failure is tried again after minutes."""
        site = self._site
        heard = site.centre_now()
        now = None if heard is None else datetime.fromtimestamp(heard, UTC)
        if not site.identity.needs_renewal(now) or time.monotonic() < self._next_renewal:
            return
        self._next_renewal = time.monotonic() + 300 * random.uniform(0.5, 1.0)  # noqa: S311 - jitter
        try:
            identity = renew(site.identity, site.link.renew, now)
        except CorsiaError as error:  # a third of its life is left to try again
            site.note("renewal.failed", error)
            return
        site.journal.append("certificate.renewed", serial=identity.serial)
        site.reconnect(identity)

    def _named(self, error: CorsiaError) -> CorsiaError:
        """What a failed beat is to be called; an enrolment made anew beside the running daemon is taken up."""
        site = self._site
        expired = site.identity.remaining_s() <= 0
        if not expired and not isinstance(error, AuthenticationError):
            return error
        try:
            identity = Identity.load(site.config.state_dir)
        except CorsiaError as found:
            return found  # the centre cannot say it: TLS ends before a word
        if identity.serial != site.identity.serial:
            _log.info("certificate.replaced", extra={"fields": {"serial": identity.serial}})
            site.reconnect(identity)
        return error
