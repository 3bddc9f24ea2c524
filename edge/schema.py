"""The tables of a site's two databases, and the steps from an older file to this version's.

A file's `user_version` counts the steps that it has had; 0 is one of before they were counted, to which the first
step does no harm. Steps only ever go forward, each with its count in one transaction; a file of a later version is
refused. A change is a further function at the end of a list, never another first step.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Sequence

from protocol.errors import StorageError

__all__ = ["LEDGER", "STATE", "bring_forward"]

Step = Callable[[sqlite3.Connection], None]
_STATE = (
    """
    CREATE TABLE IF NOT EXISTS assignments (
      number INTEGER PRIMARY KEY AUTOINCREMENT, id TEXT NOT NULL UNIQUE, kind TEXT NOT NULL, study_digest TEXT NOT NULL,
      document BLOB NOT NULL, signature BLOB NOT NULL, blobs TEXT NOT NULL, received REAL NOT NULL, state TEXT NOT NULL,
      code TEXT NOT NULL DEFAULT '', error_id TEXT NOT NULL DEFAULT '', counts TEXT NOT NULL DEFAULT '{}',
      reported INTEGER NOT NULL DEFAULT 0)
    """,
    """
    CREATE INDEX IF NOT EXISTS assignments_by_study ON assignments (study_digest, kind)
    """,
    """
    CREATE INDEX IF NOT EXISTS assignments_by_state ON assignments (kind, state)
    """,
    """
    CREATE INDEX IF NOT EXISTS assignments_unreported ON assignments (reported) WHERE reported = 0
    """,
    """
    CREATE TABLE IF NOT EXISTS approvals (
      study_digest TEXT PRIMARY KEY, decision TEXT NOT NULL, approver TEXT NOT NULL, code_digest TEXT NOT NULL,
      at REAL NOT NULL)
    """,
    """
    CREATE TABLE IF NOT EXISTS instructions (
      run TEXT NOT NULL, round INTEGER NOT NULL, phase TEXT NOT NULL, attempt INTEGER NOT NULL, digest TEXT NOT NULL,
      assignment TEXT NOT NULL, answered INTEGER NOT NULL DEFAULT 0, PRIMARY KEY (run, round, phase, attempt))
    """,
    """
    CREATE TABLE IF NOT EXISTS claims (
      study TEXT NOT NULL, run TEXT NOT NULL, round INTEGER NOT NULL, attempt INTEGER NOT NULL, survivors BLOB NOT NULL,
      PRIMARY KEY (study, run, round))
    """,
    """
    CREATE TABLE IF NOT EXISTS models (name TEXT PRIMARY KEY, serial INTEGER NOT NULL)
    """,
    """
    CREATE TABLE IF NOT EXISTS accepted (
      name TEXT NOT NULL, alias TEXT NOT NULL, serial INTEGER NOT NULL, version INTEGER NOT NULL, digest TEXT NOT NULL,
      rollback INTEGER NOT NULL, at REAL NOT NULL, PRIMARY KEY (name, alias, serial))
    """,
    """
    INSERT OR IGNORE INTO accepted SELECT name, 'champion', serial, 0, '', 0, 0.0 FROM models
    """,
    """
    CREATE TABLE IF NOT EXISTS facts (name TEXT PRIMARY KEY, value TEXT NOT NULL)
    """,
)
_LEDGER = (
    """
    CREATE TABLE IF NOT EXISTS ledger (
      seq INTEGER PRIMARY KEY, at REAL NOT NULL, event TEXT NOT NULL, key TEXT NOT NULL, dataset TEXT NOT NULL,
      study TEXT NOT NULL, k INTEGER NOT NULL, cohort INTEGER NOT NULL, bytes INTEGER NOT NULL, epsilon TEXT NOT NULL,
      persons INTEGER NOT NULL, memory TEXT NOT NULL DEFAULT '', prev TEXT NOT NULL, hash TEXT NOT NULL)
    """,
    "CREATE TABLE IF NOT EXISTS memories (dataset TEXT PRIMARY KEY, data BLOB NOT NULL)",
    "CREATE INDEX IF NOT EXISTS ledger_by_key ON ledger (key)",
)


def bring_forward(database: sqlite3.Connection, steps: Sequence[Step]) -> None:
    """Do the steps that a file lacks; safe for several processes at once.

    Args:
        database: in autocommit mode (`isolation_level=None`).
        steps: all there are, the oldest first.

    Raises:
        StorageError: `storage.newer`.
        sqlite3.Error: the step that failed has left no trace.
    """
    while (done := _done(database)) < len(steps):
        database.execute("BEGIN IMMEDIATE")
        try:
            if (done := _done(database)) < len(steps):  # another process may have been first
                steps[done](database)
                database.execute(f"PRAGMA user_version = {done + 1}")
            database.execute("COMMIT")
        except BaseException:
            if database.in_transaction:
                database.execute("ROLLBACK")
            raise
    if done > len(steps):
        raise StorageError("storage.newer")


def _done(database: sqlite3.Connection) -> int:
    return int(database.execute("PRAGMA user_version").fetchone()[0])


def _first_state(database: sqlite3.Connection) -> None:
    for statement in _STATE:
        database.execute(statement)


def _first_ledger(database: sqlite3.Connection) -> None:
    for statement in _LEDGER:
        database.execute(statement)
    if "memory" not in [row[1] for row in database.execute("PRAGMA table_info(ledger)")]:
        database.execute("ALTER TABLE ledger ADD COLUMN memory TEXT NOT NULL DEFAULT ''")


STATE: Sequence[Step] = (_first_state,)
LEDGER: Sequence[Step] = (_first_ledger,)
