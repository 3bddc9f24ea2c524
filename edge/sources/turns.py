"""Who reads a mirror and who rewrites it, between threads and processes: many may read, one rewrites, pulls exclude."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from edge.storage import named_errors
from protocol.errors import ConflictError, UnavailableError

__all__ = ["exclusive", "pulling", "reading", "reading_pulled"]


@contextmanager
def reading(root: Path) -> Iterator[None]:
    """No file of a mirror is rewritten or removed meanwhile."""
    with _held(root / "reading.lock", fcntl.LOCK_SH):
        yield


@contextmanager
def reading_pulled(folder: Path, *, pulled: bool) -> Iterator[None]:
    """As `reading`, if a dataset's folder is a mirror's `records`; one of the hospital's own is not touched.

    Raises:
        UnavailableError: `unavailable.source` while no pull has got to its end.
    """
    if not pulled:
        yield
        return
    from edge.sources.mirror import is_complete

    root = folder.parent
    if not (root / "mirror.db").exists() or not is_complete(root):
        raise UnavailableError("unavailable.source", "no pull has got to its end yet")
    with reading(root):
        yield


@contextmanager
def exclusive(root: Path) -> Iterator[bool]:
    """Whether nobody reads now, and nobody does meanwhile."""
    with _held(root / "reading.lock", fcntl.LOCK_EX | fcntl.LOCK_NB) as held:
        yield held


@contextmanager
def pulling(root: Path) -> Iterator[None]:
    """One process pulls at a time.

    Raises:
        ConflictError: `conflict.running`.
    """
    with _held(root / "pulling.lock", fcntl.LOCK_EX | fcntl.LOCK_NB) as held:
        if not held:
            raise ConflictError("conflict.running", "another process pulls this source now")
        yield


@contextmanager
def _held(path: Path, how: int) -> Iterator[bool]:
    with named_errors():
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        try:
            fcntl.flock(handle, how)
            held = True
        except BlockingIOError:
            held = False
        yield held
    finally:
        os.close(handle)
