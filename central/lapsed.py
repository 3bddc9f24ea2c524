"""What opened the centre when a backup was made, and must not open it again when the backup is put back.

A backup knows nothing of what was taken back after it: an API token revoked, a session ended, a reader put out, a join
code used or cancelled. So a restore brings none of them back. Who had a right logs in again, makes a token anew, is
invited or let read anew; who submitted a study reads it as before. Operators are another matter: without two of them
nothing is decided, so they come back, and `restore` names them.
"""

from __future__ import annotations

import json
import sqlite3
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

__all__ = ["Lapsed", "end", "lapsed"]

DATABASE, INVITES, OPERATORS = "corsia.db", "signer/invites.db", "operators.json"
_READERS = "entitlements WHERE account != given_by"  # who submitted a study has given it to himself
_UNUSED = "invites WHERE used_at IS NULL"


@dataclass(frozen=True, slots=True, kw_only=True)
class Lapsed:
    """How many of each a backup holds, and a restore leaves out; `operators` are those that come back, by name."""

    tokens: int
    sessions: int
    readers: int
    invites: int
    operators: tuple[str, ...]


def lapsed(folder: Path) -> Lapsed:
    """Count in an unpacked backup; an older one may lack a table.

    Raises:
        sqlite3.Error, OSError: a database that cannot be read.
    """
    tokens = _count(folder / DATABASE, "access WHERE kind = 'token'")
    return Lapsed(
        tokens=tokens,
        sessions=_count(folder / DATABASE, "access") - tokens,
        readers=_count(folder / DATABASE, _READERS),
        invites=_count(folder / INVITES, _UNUSED),
        operators=_operators(folder / OPERATORS),
    )


def end(folder: Path) -> None:
    """Remove them from a backup that is being put back. Raises as `lapsed`."""
    for path, rows in ((DATABASE, "access"), (DATABASE, _READERS), (INVITES, _UNUSED)):
        if _has(folder / path, rows):
            with closing(sqlite3.connect(folder / path)) as database, database:
                database.execute(f"DELETE FROM {rows}")  # noqa: S608 - the constants above


def _count(path: Path, rows: str) -> int:
    if not _has(path, rows):
        return 0
    with closing(_read(path)) as database:
        ((count,),) = database.execute(f"SELECT COUNT(*) FROM {rows}").fetchall()  # noqa: S608 - the constants above
    return int(count)


def _has(path: Path, rows: str) -> bool:
    if not path.exists():
        return False
    with closing(_read(path)) as database:
        found = database.execute("SELECT 1 FROM sqlite_master WHERE type = 'table' AND name = ?", (rows.split()[0],))
        return found.fetchone() is not None


def _read(path: Path) -> sqlite3.Connection:
    return sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True)


def _operators(path: Path) -> tuple[str, ...]:
    try:
        value = json.loads(path.read_bytes())
        return tuple(sorted(str(one["name"]) for one in value))
    except FileNotFoundError:
        return ()
    except (ValueError, KeyError, TypeError):  # the register itself is judged by who reads it at the start
        return ()
