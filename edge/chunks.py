"""A parcel's file as the chunks of one upload, from the byte the centre has reached.

Place in the flow: `edge/uplink.py` iterates while grpc sends. grpc would swallow an exception of its request
iterator, so the reason for an early end is kept here and raised by `check`. Nothing here knows the wire.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import BinaryIO

from edge.pace import Pace
from protocol.errors import CorsiaError, IntegrityError, Paused, StorageError
from protocol.faults import point

__all__ = ["CHUNK_BYTES", "Chunks"]

CHUNK_BYTES = 1 << 20


class Chunks:
    """(offset, data) of at most 1 MiB each, in order.

    Args:
        read: the parcel's file, seekable.
        offset: where to begin.
        size_bytes: where to end.
        should_stop: asked before each chunk; True ends the chunks at once.
        pace: asked before each chunk how long to wait.
    """

    def __init__(
        self, read: BinaryIO, offset: int, size_bytes: int, should_stop: Callable[[], bool], pace: Pace
    ) -> None:
        self._read = read
        self._offset = offset
        self._size_bytes = size_bytes
        self._should_stop = should_stop
        self._pace = pace
        self._error: CorsiaError | None = None

    def check(self) -> None:
        """Raise what ended the chunks early, if anything did.

        Raises:
            Paused: `paused.site`.
            IntegrityError: `parcel.truncated` when the file is shorter than `size_bytes`.
            StorageError: `storage.failed` when it cannot be read.
        """
        if self._error is not None:
            raise self._error

    def __iter__(self) -> Iterator[tuple[int, bytes]]:
        offset = self._offset
        try:
            self._read.seek(offset)
            while offset < self._size_bytes:
                if self._should_stop():
                    raise Paused("paused.site")
                data = self._read.read(min(CHUNK_BYTES, self._size_bytes - offset))
                if not data:
                    raise IntegrityError("parcel.truncated", "the parcel's file is shorter than its entry")
                self._pace.take(len(data), self._should_stop)
                yield offset, data
                if offset == self._offset:
                    point("edge.delivering")
                offset += len(data)
        except CorsiaError as error:
            self._error = error
        except (OSError, ValueError):
            self._error = StorageError("storage.failed", "the parcel's file cannot be read")
