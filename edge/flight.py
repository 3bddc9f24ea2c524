"""Several parcels on their way at once, the order of each study kept.

Place in the flow: `edge/deliver.py` gives the parcels that wait and what to do with one; this module decides what goes
together and what waits for what. Small parcels of a study that follow each other go in one call; a large one is sent
while the one before it is being committed, and committed after it. It sees neither bytes nor the wire.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field

from edge.spool import SpoolEntry
from protocol.errors import CorsiaError, Paused

__all__ = ["IN_FLIGHT", "SMALL_BYTES", "Leg", "fly", "legs_of"]

IN_FLIGHT = 4
SMALL_BYTES = 256 << 10  # a parcel up to this size goes along with its announcement
_CARRIED = 128
_CARRIED_BYTES = 2 << 20


@dataclass(slots=True, eq=False)
class Leg:
    """What goes together: one parcel, or several small ones of a study, in order; `before` must be over first."""

    entries: list[SpoolEntry]
    before: Leg | None = None
    over: threading.Event = field(default_factory=threading.Event)
    failed: bool = False

    @property
    def small(self) -> bool:
        """Whether its parcels are sent with their announcements."""
        return self.entries[0].size_bytes <= SMALL_BYTES

    def takes(self, entry: SpoolEntry) -> bool:
        """Whether one more parcel may go with these."""
        total = sum(held.size_bytes for held in self.entries) + entry.size_bytes
        fits = len(self.entries) < _CARRIED and total <= _CARRIED_BYTES
        return self.small and entry.size_bytes <= SMALL_BYTES and fits

    def turn(self, should_stop: Callable[[], bool]) -> None:
        """Wait until what goes before has been committed or set aside.

        Raises:
            Paused: `paused.site` when it has not, and so this may not go either; or when told to stop.
        """
        if self.before is None:
            return
        while not self.before.over.wait(0.05):
            if should_stop():
                raise Paused("paused.site")
        if self.before.failed:
            raise Paused("paused.site", "the parcel before it has not gone")


def legs_of(entries: Iterable[SpoolEntry]) -> list[Leg]:
    """Parcels in their order as legs in the order of their first parcels."""
    legs: list[Leg] = []
    newest: dict[str, Leg] = {}
    for entry in entries:
        last = newest.get(entry.study_digest)
        if last is not None and last.takes(entry):
            last.entries.append(entry)
        else:
            legs.append(Leg([entry], last))
            newest[entry.study_digest] = legs[-1]
    return legs


def fly(legs: Sequence[Leg], deliver: Callable[[Leg], None], should_stop: Callable[[], bool]) -> None:
    """Deliver each leg, a few at a time, begun in their order; after the first failure none is begun.

    Raises:
        CorsiaError: what `deliver` raised first, after those under way have ended; `Paused` only if nothing else.
    """
    errors: list[CorsiaError] = []

    def one(leg: Leg) -> None:
        try:
            if errors or should_stop():
                leg.failed = True
                return
            deliver(leg)
        except CorsiaError as error:
            leg.failed = True
            errors.append(error)
        except BaseException:
            leg.failed = True
            raise
        finally:
            leg.over.set()

    if len(legs) == 1:
        one(legs[0])
    elif legs:
        with ThreadPoolExecutor(min(IN_FLIGHT, len(legs)), thread_name_prefix="delivery") as pool:
            made: list[Future[None]] = [pool.submit(one, leg) for leg in legs]
            wait(made)
        for future in made:
            future.result()
    if errors:
        raise next((error for error in errors if not isinstance(error, Paused)), errors[0])
