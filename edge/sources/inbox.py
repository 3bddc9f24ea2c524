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
        self._lock = threading.Lock()
        self._open()

    def close(self) -> None:
        """Forget all."""
        with self._lock:
            self._waiting.clear()
            self._file.close()

    def put(self, uid: str, data: bytes) -> None:
        """Take one.

        Raises:
            StorageError: `storage.full`, also at `max_bytes`; `storage.failed`. Nothing of it is kept.
        """
        with self._lock, named_errors(_WHAT):
            if self._file.closed or self._end + len(data) > self._max_bytes:
                raise StorageError("storage.full", "too much of a retrieval waits: nothing more is taken")
            self._file.seek(self._end)
            self._file.write(data)
            self._waiting.append((uid, self._end, len(data)))
            self._end += len(data)

    def taken(self) -> Iterator[tuple[str, bytes]]:
        """All that waits, one by one."""
        while self._waiting:
            with self._lock, named_errors(_WHAT):
                uid, at, size = self._waiting.popleft()
                self._file.seek(at)
                data = self._file.read(size)
                if not self._waiting:
                    self._file.close()
                    self._open()
            yield uid, data

    def _open(self) -> None:
        self._end = 0
        self._file = tempfile.SpooledTemporaryFile(
            max_size=_IN_MEMORY_BYTES, dir=str(self._folder) if self._folder else None
        )
