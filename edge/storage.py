"""Durable small files and the names of the disk's errors: what spool, journal, ledger and identity stand on.

A file written here is whole under its name or not there at all, also after a power cut. This module knows nothing
of what the bytes mean.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from errno import EDQUOT, EFBIG, ENOSPC
from io import FileIO
from pathlib import Path
from typing import Any

from protocol.durable import sync_files, sync_folder
from protocol.errors import StorageError

__all__ = ["TEMPORARY", "CountedFile", "named_errors", "read_json", "sync_folder", "write_file", "write_files"]

TEMPORARY = ".tmp-"


@contextmanager
def named_errors() -> Iterator[None]:
    """Turn the system's errors into `storage.full` or `storage.failed`."""
    try:
        yield
    except OSError as error:
        full = error.errno in (ENOSPC, EDQUOT, EFBIG)
        raise StorageError("storage.full" if full else "storage.failed") from error


def write_file(path: Path, data: bytes) -> None:
    """Replace a file as a whole, durably, mode 0600: temporary, fsync, rename, fsync of the folder.

    Raises:
        OSError: the old file, if any, is untouched and no temporary remains.
    """
    write_files(path.parent, {path.name: data})


def write_files(folder: Path, files: Mapping[str, bytes]) -> None:
    """Replace files of one folder, each as a whole, and make them durable together; in their order.

    Raises:
        OSError: a file is the old one or the new one, and no temporary remains.
    """
    temporaries = {name: folder / (TEMPORARY + name) for name in files}
    try:
        for name, data in files.items():
            with os.fdopen(_fresh(temporaries[name]), "wb") as target:
                target.write(data)
        sync_files(list(temporaries.values()))
        for name, temporary in temporaries.items():
            os.rename(temporary, folder / name)
    except BaseException:
        for temporary in temporaries.values():
            temporary.unlink(missing_ok=True)
        raise
    if files:
        sync_folder(folder)


def _fresh(path: Path) -> int:
    """A new file of this name; what a crash left under it goes first."""
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
    try:
        return os.open(path, flags, 0o600)
    except FileExistsError:
        path.unlink(missing_ok=True)
        return os.open(path, flags, 0o600)


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
