"""Group commit: whatever waits to land is made durable together, by one of those who wait.

    verified parcels of many calls -> one sync of their files, one rename each, one sync of the folder -> one
    transaction with one checkpoint and one signature -> each call has its rows

Whoever finds the commit free takes all that have queued up meanwhile with it: under load the batch grows by itself,
and a lone parcel waits for nobody. No row is given back before all of this is on the disk.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import dataclass, field

from central.gateway.landing import Announced, Landing
from central.gateway.receipts import Log
from central.store.models import ParcelRow
from protocol import faults

__all__ = ["Commits", "Ready"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Ready:
    """A verified parcel whose bytes are in the landing zone: its announcement and the study's id."""

    entry: Announced
    study: str


@dataclass(slots=True)
class _Ticket:
    parcels: Sequence[Ready]
    rows: list[ParcelRow] = field(default_factory=list)
    error: BaseException | None = None
    done: bool = False


class Commits:
    """Lands parcels in groups. Thread-safe.

    Attributes:
        busy: held while a commit is under way.
        groups: how many commits were made, and `parcels` of how many parcels.
    """

    def __init__(self, landing: Landing, log: Log) -> None:
        self._landing = landing
        self._log = log
        self.busy = threading.Lock()
        self._guard = threading.Lock()
        self._queue: list[_Ticket] = []
        self.groups = self.parcels = 0

    @property
    def waiting(self) -> int:
        """How many calls wait for the next commit."""
        return len(self._queue)

    def land(self, parcels: Sequence[Ready]) -> list[ParcelRow]:
        """Make parcels durable and log them, in their order; returns their rows when all is on the disk.

        The caller holds their ids, so that none is here twice.

        Raises:
            StorageError, IntegrityError: nothing of the group is logged; its files are completed by a repeat.
        """
        if not parcels:
            return []
        ticket = _Ticket(parcels)
        with self._guard:
            self._queue.append(ticket)
        with self.busy:
            if not ticket.done:
                with self._guard:
                    group, self._queue = self._queue, []
                self._commit(group)
        if ticket.error is not None:
            raise ticket.error
        return ticket.rows

    def _commit(self, group: Sequence[_Ticket]) -> None:
        parcels = [parcel for ticket in group for parcel in ticket.parcels]
        try:
            self._landing.settle([parcel.entry.what.parcel_id for parcel in parcels])
            faults.point("gateway.commit")
            rows = self._log.land([(parcel.entry, parcel.study) for parcel in parcels])
        except BaseException as error:
            for ticket in group:
                ticket.error, ticket.done = error, True
            return
        self.groups, self.parcels = self.groups + 1, self.parcels + len(parcels)
        faults.point("gateway.committed")
        at = 0
        for ticket in group:
            ticket.rows, ticket.done = rows[at : at + len(ticket.parcels)], True
            at += len(ticket.parcels)
