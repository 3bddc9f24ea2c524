"""Whether the central database has changed since one last asked: what lets the pollers wait long and be woken at once.

SQLite's `data_version` (https://sqlite.org/pragma.html#pragma_data_version) moves whenever another connection, of this
process or any other, commits. It is read from shared memory in microseconds, against half a millisecond for a query.
`wait` sleeps in the kernel until the write-ahead log is written to (inotify(7)); the commit shows a moment after that.
PostgreSQL tells its listeners at each commit of a writer (`notices.py`). A database that cannot be asked now, or tells
nothing, always counts as changed and is polled.
"""

from __future__ import annotations

import ctypes
import os
import sqlite3
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING

from sqlalchemy.engine import Engine

from central.stopping import POLL_S as STOP_S
from central.stopping import wait_for
from central.store.engine import is_postgresql

if TYPE_CHECKING:
    from central.store.notices import Notices

__all__ = ["Changes"]

POLL_S = 0.05  # where nothing wakes us
LOOK_S = 2.0  # a look all the same, should a wake-up get lost
_COMMITTING_S, _STEP_S = 0.05, 0.001  # how long after a write its commit is looked for, and from how soon on
_IN_MODIFY = 0x2
_libc = ctypes.CDLL(None, use_errno=True)


class Changes:
    """One poller's own connection, which never writes. For one thread at a time.

    Args:
        engine: of the store.
        stop: ends a `wait` early: at once where it is a `Stop`.
    """

    def __init__(self, engine: Engine, stop: threading.Event | None = None) -> None:
        url, self._stop = engine.url, stop
        self._path = Path(url.database) if url.drivername.startswith("sqlite") and url.database else None
        self._notices: Notices | None = None
        if is_postgresql(url):
            from central.store.notices import Notices  # with its driver, of which SQLite's process needs nothing

            self._notices = Notices(url)
        self._connection: sqlite3.Connection | None = None
        self._seen: int | None = None
        self._watch: int | None = None
        self._written_at = 0.0

    def __del__(self) -> None:
        self.close()

    @property
    def exact(self) -> bool:
        """Whether `seen` knows of every commit that was made before it is asked: then what was read may be kept."""
        return self._path is not None

    def seen(self) -> bool:
        """Whether something was committed since the last call; True the first time.

        A caller that then fails to read must remember that itself.
        """
        if self._notices is not None:
            return self._notices.heard(0.0)
        if self._path is None:
            return True
        try:
            if self._connection is None:
                self._connection = sqlite3.connect(self._path, timeout=1.0, check_same_thread=False)
            (version,) = self._connection.execute("PRAGMA data_version").fetchone()
            if self._watch is None:
                self._watch = _watched(self._path)
        except sqlite3.Error:
            self.close()
            return True
        before, self._seen = self._seen, int(version)
        return self._seen != before

    def wait(self, timeout_s: float) -> bool:
        """Return as soon as something has been committed since the last call, after `timeout_s`, or at the end.

        Returns:
            As `seen`.
        """
        if self._path is None and self._notices is None:
            time.sleep(min(timeout_s, POLL_S))
            return True
        until = time.monotonic() + timeout_s
        while not self._come(until):
            if time.monotonic() >= until or (self._stop is not None and self._stop.is_set()):
                return False
        return True

    def _come(self, until: float) -> bool:
        """Whether something was committed, after a while at the most."""
        if self._notices is not None:  # its server's word comes by its own way: the end is looked for in between
            left = max(0.0, until - time.monotonic())
            return self._notices.heard(left if self._stop is None else min(left, STOP_S))
        if self.seen():
            return True
        left = until - time.monotonic()
        if left > 0:
            self._sleep(left)
        return False

    def close(self) -> None:
        """Close the connection; asking again opens another."""
        if self._notices is not None:
            self._notices.close()
        if self._connection is not None:
            self._connection.close()
        if self._watch is not None:
            os.close(self._watch)
        self._connection, self._seen, self._watch = None, None, None

    def _sleep(self, left_s: float) -> None:
        if self._watch is None:
            time.sleep(min(left_s, POLL_S))
        elif (since := time.monotonic() - self._written_at) < _COMMITTING_S:  # the longer it takes, the less often
            time.sleep(min(left_s, max(_STEP_S, since / 2)))
        elif wait_for(self._watch, self._stop, min(left_s, LOOK_S)):
            os.read(self._watch, 1 << 16)
            self._written_at = time.monotonic()


def _watched(database: Path) -> int | None:
    """A descriptor that can be read after each write to the write-ahead log; None where there is no such thing."""
    try:
        handle = int(_libc.inotify_init1(os.O_NONBLOCK | os.O_CLOEXEC))
    except AttributeError:
        return None
    if handle < 0:
        return None
    if _libc.inotify_add_watch(handle, os.fsencode(f"{database}-wal"), _IN_MODIFY) < 0:
        os.close(handle)
        return None
    return handle
