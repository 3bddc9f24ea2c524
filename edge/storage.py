"""Durable small files and the names of the disk's and SQLite's errors: what spool, journal, ledger, identity stand on.

A file written here is whole under its name or not there at all, also after a power cut. This module knows nothing
of what the bytes mean.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from io import FileIO
from pathlib import Path
from typing import Any

from protocol.durable import TEMPORARY, sync_folder, write_file, write_files
from protocol.errors import StorageError

__all__ = ["TEMPORARY", "CountedFile", "named_errors", "read_json", "sync_folder", "write_file", "write_files"]


@contextmanager
def named_errors(message: str = "") -> Iterator[None]:
    """Turn the system's and SQLite's errors into `storage.full` or `storage.failed`, told with a message."""
    try:
        yield
    except OSError as error:
        raise StorageError.of(error, message) from error
    except sqlite3.Error as error:
        full = getattr(error, "sqlite_errorname", "") == "SQLITE_FULL"
        raise StorageError("storage.full" if full else "storage.failed", message) from error


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object; an empty one when the file is absent or damaged."""
    try:
        value = json.loads(path.read_bytes())
    except (FileNotFoundError, ValueError, RecursionError):
        return {}
    return value if isinstance(value, dict) else {}


class CountedFile:
    """The part of a binary file that a writer of parcels needs, counting each write before it is made.

    Args:
        raw: the unbuffered file.
        count: told the bytes of each write; refuses by raising.
    """

    def __init__(self, raw: FileIO, count: Callable[[int], None]) -> None:
        self._raw = raw
        self._count = count
        self.size = 0

    def write(self, data: bytes | bytearray | memoryview) -> int:
        """Write all of `data`."""
        view = memoryview(data).cast("B")
        self._count(len(view))
        self.size += len(view)
        done = 0
        while done < len(view):
            done += self._raw.write(view[done:])
        return len(view)

    def tell(self) -> int:
        """Bytes written."""
        return self.size

    def fileno(self) -> int:
        """The file's descriptor."""
        return self._raw.fileno()

    def flush(self) -> None:
        """Nothing is buffered."""

    def seekable(self) -> bool:
        """A parcel is written from first to last byte."""
        return False

    def writable(self) -> bool:
        """Always."""
        return True
