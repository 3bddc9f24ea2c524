"""Whether the central database has changed since one last asked: what lets the pollers ask often and cost nothing.

SQLite's `data_version` (https://sqlite.org/pragma.html#pragma_data_version) moves whenever another connection, of this
process or any other, commits. It is read from shared memory in microseconds, against half a millisecond for a query.
Other databases, and a database that cannot be asked now, always count as changed.
"""

from __future__ import annotations

import sqlite3
from pathlib import Path

from sqlalchemy.engine import Engine

__all__ = ["Changes"]


class Changes:
    """One poller's own connection, which never writes. For one thread at a time."""

    def __init__(self, engine: Engine) -> None:
        url = engine.url
        self._path = Path(url.database) if url.drivername.startswith("sqlite") and url.database else None
        self._connection: sqlite3.Connection | None = None
        self._seen: int | None = None

    def seen(self) -> bool:
        """Whether something was committed since the last call; True the first time.

        A caller that then fails to read must remember that itself.
        """
        if self._path is None:
            return True
        try:
            if self._connection is None:
                self._connection = sqlite3.connect(self._path, timeout=1.0, check_same_thread=False)
            (version,) = self._connection.execute("PRAGMA data_version").fetchone()
        except sqlite3.Error:
            self.close()
            return True
        before, self._seen = self._seen, int(version)
        return self._seen != before

    def close(self) -> None:
        """Close the connection; asking again opens another."""
        if self._connection is not None:
            self._connection.close()
        self._connection, self._seen = None, None
