"""How fast and when parcels may leave: the site's limit of the rate, and its quiet hours.

Place in the flow: `edge/uplink.py` asks `Pace` before each chunk, `edge/deliver.py` whether the hours are `quiet`.
Heartbeats and what comes down are not counted: they are small, and without them the site looks dead.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from datetime import datetime
from datetime import time as Clock

from protocol.errors import Paused

__all__ = ["Pace", "Span", "quiet", "span_of"]

_STEP_S = 0.05
Span = tuple[Clock, Clock]


class Pace:
    """Lets so many bits a second pass, over all parcels under way together. Thread-safe.

    A parcel's chunk passes as a whole and is paid for afterwards by waiting, so the mean over seconds is the limit.

    Args:
        max_mbit_s: megabits a second; None for no limit.
        clock: seconds that only grow.
        sleep: waits so many seconds.

    Attributes:
        bytes_per_s: the limit in bytes; None for none.
    """

    def __init__(
        self,
        max_mbit_s: float | None = None,
        *,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], object] = time.sleep,
    ) -> None:
        self.bytes_per_s = None if max_mbit_s is None else max_mbit_s * 1e6 / 8
        self._clock, self._sleep = clock, sleep
        self._lock = threading.Lock()
        self._free_at = 0.0

    def take(self, size_bytes: int, should_stop: Callable[[], bool]) -> None:
        """Return when so many bytes may go.

        Raises:
            Paused: `paused.site` when told to stop meanwhile; the bytes are not sent.
        """
        if self.bytes_per_s is None:
            return
        with self._lock:
            now = self._clock()
            at = max(now, self._free_at)
            self._free_at = at + size_bytes / self.bytes_per_s
        while (left := at - self._clock()) > 0:
            if should_stop():
                raise Paused("paused.site")
            self._sleep(min(left, _STEP_S))


def span_of(text: str) -> Span:
    """Read `22:00-06:00`.

    Raises:
        ValueError: it is no span of a day, or an empty one.
    """
    begin, dash, end = text.partition("-")
    times = [datetime.strptime(part.strip(), "%H:%M").time() for part in (begin, end)]  # noqa: DTZ007 - a time of day
    if not dash or times[0] == times[1]:
        raise ValueError("a span is HH:MM-HH:MM, from one time of day to another")
    return times[0], times[1]


def quiet(spans: Sequence[Span], now: datetime) -> bool:
    """Whether a time lies in one of the spans, which may run over midnight; the end is not in it.

    Args:
        spans: of a day.
        now: in the time that the spans are written in.
    """
    at = now.time()
    return any(begin <= at < end if begin < end else at >= begin or at < end for begin, end in spans)
