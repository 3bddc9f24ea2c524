"""How many bytes of sealed parcels a site keeps: counted while they are sealed, never beyond the bound.

Place in the flow: the spool seals each parcel into a `half` file from here; the pipeline waits where there is no room.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from edge.storage import CountedFile
from protocol.errors import StorageError

__all__ = ["Bound"]


class Bound:
    """Bytes of whole parcels and of those that are being sealed.

    Args:
        max_bytes: over all of them.
        measure: counts the bytes of whole parcels on the disk.
        lock: the spool's, under which `measure` counts.
    """

    def __init__(self, max_bytes: int, measure: Callable[[], int], lock: threading.RLock) -> None:
        self.max_bytes = max_bytes
        self._measure, self._lock = measure, lock
        self._whole: int | None = None  # counted at the first parcel, and when it looks as if there were no room
        self._writing = 0

    def left(self) -> int:
        """Bytes that still fit, counted anew."""
        with self._lock:
            return self.max_bytes - self._measure() - self._writing

    def add(self, size_bytes: int) -> None:
        """A half has become a whole parcel."""
        with self._lock:
            self._whole = (self._whole or 0) + size_bytes

    @contextmanager
    def half(self, path: Path) -> Iterator[CountedFile]:
        """A temporary file that counts while it is written, gone at the end unless renamed.

        Raises:
            StorageError: `storage.spool-full`, from a write too.
            OSError: the disk refused.
        """
        handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        with os.fdopen(handle, "wb", buffering=0) as raw:
            half = CountedFile(raw, self._reserve)
            try:
                self._reserve(0)
                yield half
            finally:
                with self._lock:
                    self._writing -= half.size
                path.unlink(missing_ok=True)

    def _reserve(self, count: int) -> None:
        """Count bytes about to be written."""
        with self._lock:
            wanted = self._writing + max(count, 1)
            if self._whole is None or self._whole + wanted > self.max_bytes:
                self._whole = self._measure()
            if self._whole + wanted > self.max_bytes:
                raise StorageError("storage.spool-full")
            self._writing += count
