"""What a PACS has sent and nobody has taken yet: a little in memory, more in a private file that has no name.

A PACS tells how a retrieval went when it has sent all of it; until then the instances wait here. Nothing is left of the
file when the process ends, however it ends.
"""

from __future__ import annotations

import tempfile
import threading
from collections import deque
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from edge.storage import named_errors
from protocol.errors import StorageError

__all__ = ["Inbox"]

_IN_MEMORY_BYTES = 32 << 20
_WHAT = "what a PACS has sent"


class Inbox:
    """Instances in the order in which they came. Safe between threads.

    Args:
        folder: where the file lies; None for the system's own.
        max_bytes: of what waits; beyond it nothing more is taken.
    """

    def __init__(self, folder: Path | None, max_bytes: int) -> None:
        self._folder, self._max_bytes, self._end = folder, max_bytes, 0
        self._waiting: deque[tuple[str, int, int]] = deque()  # uid, where, length
        self._file: IO[bytes] | None = None  # while something waits
        self._closed, self._lock = False, threading.Lock()

    def close(self) -> None:
        """Forget all, and take nothing more."""
        with self._lock:
            self._closed = True
            self._emptied()

    def put(self, uid: str, data: bytes) -> None:
        """Take one.

        Raises:
            StorageError: `storage.full`, also at `max_bytes`; `storage.failed`. Nothing of it is kept.
        """
        with self._lock, named_errors(_WHAT):
            if self._closed or self._end + len(data) > self._max_bytes:
                raise StorageError("storage.full", "too much of a retrieval waits: nothing more is taken")
            if self._file is None:
                folder = None if self._folder is None else str(self._folder)
                self._file = tempfile.SpooledTemporaryFile(max_size=_IN_MEMORY_BYTES, dir=folder)
            self._file.seek(self._end)
            self._file.write(data)
            self._waiting.append((uid, self._end, len(data)))
            self._end += len(data)

    def taken(self) -> Iterator[tuple[str, bytes]]:
        """All that waits, one by one."""
        while (one := self._next()) is not None:
            yield one

    def _next(self) -> tuple[str, bytes] | None:
        with self._lock, named_errors(_WHAT):
            if self._file is None or not self._waiting:
                return None
            uid, at, size = self._waiting.popleft()
            self._file.seek(at)
            data = self._file.read(size)
            if not self._waiting:
                self._emptied()
            return uid, data

    def _emptied(self) -> None:
        self._waiting.clear()
        self._end = 0
        if self._file is not None:
            self._file.close()
            self._file = None
