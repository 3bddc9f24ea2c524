"""Checkpoints that witnesses have signed, as sites ask for them at their heartbeats.

`corsia log checkpoint import` writes them into the database, beside the gateway; here the newest is looked up, at most
every few seconds for all sites together. Whose signatures count is for each site to say.
"""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass

from sqlalchemy import select

from central.store import Store
from central.store.models import WitnessedRow

__all__ = ["Cosigned", "Witnessed"]

_LOOK_S = 5.0
_NEWEST = select(WitnessedRow.size, WitnessedRow.text).order_by(WitnessedRow.size.desc()).limit(1)


@dataclass(frozen=True, slots=True)
class Witnessed:
    """A checkpoint's size and text, witnesses' signature lines included."""

    size: int
    text: str


class Cosigned:
    """The newest one. Thread-safe."""

    def __init__(self, store: Store) -> None:
        self._store, self._lock = store, threading.Lock()
        self._looked, self._newest = -_LOOK_S, Witnessed(0, "")

    def newer(self, size: int) -> Witnessed | None:
        """The newest witnessed checkpoint, when it is larger than `size`."""
        with self._lock:
            if time.monotonic() - self._looked >= _LOOK_S:
                for row in self._store.rows(_NEWEST):
                    self._newest = Witnessed(row.size, row.text)
                self._looked = time.monotonic()
            return self._newest if self._newest.size > size else None
