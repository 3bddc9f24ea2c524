"""How much a site may ask and send: calls a second, bytes and parcels a day. One site's flood is its own trouble.

A refusal is `unavailable.*`, which sites try again, with the seconds after which that makes sense (`retry_s`); it
costs the gateway neither a disk access nor a signature. What landed in the last 24 hours is kept by the hour, in
memory, and read from the database when a site is first heard after a start. The limits are `[limits.site]`, and
`[limits.sites.NAME]` where one site's differ.
"""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from collections.abc import Sequence

from sqlalchemy import Integer, bindparam, cast, func, select

from central.config import LimitsConfig
from central.store import Store
from central.store.models import ParcelRow
from protocol.errors import UnavailableError
from protocol.parcel import ContentType

__all__ = ["Calls", "Landed", "Rate"]

HOUR_S = 3600.0
DAY_H = 24
LONGEST_WAIT_S = 3600.0
_HOUR = cast(func.round(ParcelRow.landed_at / HOUR_S - 0.5), Integer)  # databases differ in what a cast rounds to
_LANDED = (
    select(_HOUR, func.sum(ParcelRow.size_bytes), func.count())
    .where(ParcelRow.site == bindparam("site"), ParcelRow.landed_at > bindparam("since"))
    .group_by(_HOUR)
)
_IS_WITHDRAWAL = ParcelRow.content_type == ContentType.WITHDRAWAL.value


class Rate:
    """A token bucket per peer: `burst` calls at once, `per_s` a second, at most `peers` of them kept."""

    def __init__(self, burst: float = 120.0, per_s: float = 1.0, peers: int = 4096) -> None:
        self._burst = burst
        self._per_s = per_s
        self._peers = peers
        self._lock = threading.Lock()
        self._buckets: OrderedDict[str, tuple[float, float]] = OrderedDict()

    def take(self, peer: str, cost: float = 1.0) -> None:
        """Pay for a call; one that is refused costs nothing, so that who asks too often still gets its rate.

        Raises:
            UnavailableError: `unavailable.rate`, nothing is left; the caller may try later.
        """
        with self._lock:
            left, now = self._left(peer)
            self._keep(peer, max(0.0, left - cost) if left >= 1.0 else left, now)
        if left < 1.0:
            wait_s = (1.0 - left) / self._per_s if self._per_s else LONGEST_WAIT_S
            raise UnavailableError("unavailable.rate", retry_s=min(LONGEST_WAIT_S, max(1.0, wait_s)))

    def fine(self, peer: str, cost: float) -> None:
        """Charge for what was wrong with a call that has been paid for; also what is not there, up to a whole burst."""
        with self._lock:
            left, now = self._left(peer)
            self._keep(peer, max(-self._burst, left - cost), now)

    def _left(self, peer: str) -> tuple[float, float]:
        now = time.monotonic()
        left, at = self._buckets.pop(peer, (self._burst, now))
        return min(self._burst, left + (now - at) * self._per_s), now

    def _keep(self, peer: str, left: float, now: float) -> None:
        self._buckets[peer] = (left, now)
        while len(self._buckets) > self._peers:
            self._buckets.popitem(last=False)


class Calls:
    """The rates of all sites, each by its own limits."""

    def __init__(self, limits: LimitsConfig) -> None:
        self._limits = limits
        self._lock = threading.Lock()
        self._rates: dict[str, Rate] = {}  # of registered sites alone

    def take(self, site: str, cost: float = 1.0) -> None:
        """Pay for what a site asks; a change that must be written down costs more than a look. Raises as `Rate`."""
        with self._lock:
            rate = self._rates.get(site)
            if rate is None:
                per_s = self._limits.of(site).calls_per_s
                rate = self._rates[site] = Rate(burst=2 * per_s, per_s=per_s, peers=1)
        rate.take(site, cost)


class Landed:
    """What each site landed in the last 24 hours: of its withdrawals alone, or of everything else."""

    def __init__(self, store: Store, limits: LimitsConfig, *, withdrawals: bool = False) -> None:
        self._store = store
        self._query = _LANDED.where(_IS_WITHDRAWAL if withdrawals else ~_IS_WITHDRAWAL)
        self._limits = limits
        self._lock = threading.Lock()
        self._hours: dict[str, dict[int, list[int]]] = {}  # site -> hour -> [bytes, parcels]

    def check(self, site: str, sizes: Sequence[int]) -> None:
        """Whether parcels of these sizes may land today.

        Raises:
            UnavailableError: `unavailable.quota`.
        """
        limits = self._limits.of(site)
        with self._lock:
            hours = self._of(site)
            size = sum(entry[0] for entry in hours.values()) + sum(sizes)
            parcels = sum(entry[1] for entry in hours.values()) + len(sizes)
            if size <= limits.bytes_per_day and parcels <= limits.parcels_per_day:
                return
            oldest = min(hours, default=_hour())
        wait_s = (oldest + DAY_H + 1) * HOUR_S - time.time()
        raise UnavailableError("unavailable.quota", retry_s=min(LONGEST_WAIT_S, max(60.0, wait_s)))

    def add(self, site: str, size_bytes: int) -> None:
        """A parcel has landed."""
        with self._lock:
            entry = self._of(site).setdefault(_hour(), [0, 0])
            entry[0] += size_bytes
            entry[1] += 1

    def _of(self, site: str) -> dict[int, list[int]]:
        hours = self._hours.get(site)
        if hours is None:
            rows = self._store.rows(self._query, site=site, since=time.time() - DAY_H * HOUR_S)
            hours = self._hours[site] = {int(hour): [int(size), int(parcels)] for hour, size, parcels in rows}
        first = _hour() - DAY_H
        for hour in [hour for hour in hours if hour < first]:
            del hours[hour]
        return hours


def _hour() -> int:
    return int(time.time() / HOUR_S)
