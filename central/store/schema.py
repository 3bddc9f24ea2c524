"""Which schema the central database has, and the way from an older one to this version's.

A new database is made as `models.py` says and marked with the newest revision. An older one is brought forward by
`corsia central serve` alone, one process before all others: copied first, then all steps in one transaction. A newer
one is refused: this version does not know what its rows mean.

A change to `models.py` needs a further file in `migrations/versions` and its number in `REVISIONS`
(`tests/unit/test_migrations.py` compares them).
"""

from __future__ import annotations

import logging
import os
import time
from pathlib import Path

from sqlalchemy import inspect, text
from sqlalchemy.engine import Connection, Engine
from sqlalchemy.exc import DatabaseError

from central.store.models import Base
from protocol.durable import sync_folder
from protocol.errors import StorageError

__all__ = ["REVISIONS", "migrate", "prepare", "revision_of"]

REVISIONS = ("0001", "0002", "0003", "0004", "0005", "0006")
_UNMARKED = (("0003", "promotions"), ("0002", "controls"), ("0001", "sites"))  # before revisions were written down
_log = logging.getLogger("central.store")


def prepare(engine: Engine) -> None:
    """Make a new database, or see that the one that is there has this version's schema.

    Raises:
        StorageError: `storage.newer`, `storage.older`; `storage.failed` when it is no database.
    """
    try:
        with engine.execution_options(read=True).connect() as connection:
            found = revision_of(connection)
        if found is None:
            with engine.begin() as connection:
                if (found := revision_of(connection)) is None:  # another process may have been first
                    Base.metadata.create_all(connection)
                    _mark(connection, REVISIONS[-1])
                    return
    except DatabaseError as error:
        raise StorageError("storage.failed", "the central database cannot be opened") from error
    _known(found)
    if found != REVISIONS[-1]:
        raise StorageError("storage.older")


def revision_of(connection: Connection) -> str | None:
    """The revision of a database; None of an empty one. One that carries no mark is known by its tables."""
    tables = set(inspect(connection).get_table_names())
    if "alembic_version" in tables:
        return str(connection.execute(text("SELECT version_num FROM alembic_version")).scalar_one())
    return next((revision for revision, table in _UNMARKED if table in tables), None)


def migrate(engine: Engine, state_dir: Path) -> str | None:
    """Bring an older database forward, after a copy of it; nothing else may have it open.

    Args:
        engine: of the database.
        state_dir: where the copy goes, as an SQLite file, of whichever database it is.

    Returns:
        The revision it had, None when there was nothing to do.

    Raises:
        StorageError: `storage.newer`; `storage.failed`, `storage.full`: the database is as it was.
    """
    path = engine.url.database
    if engine.url.drivername.startswith("sqlite") and not (path and Path(path).exists()):
        return None
    try:
        with engine.execution_options(read=True).connect() as connection:
            found = revision_of(connection)
            marked = "alembic_version" in inspect(connection).get_table_names()
        if found is None or (_known(found) == len(REVISIONS) - 1 and marked):
            return None
        _copy(engine, state_dir / f"before-{REVISIONS[-1]}-{int(time.time())}.db")
        _upgrade(engine, found, marked)
    except DatabaseError as error:
        raise StorageError("storage.failed", "the central database cannot be brought forward") from error
    except OSError as error:
        raise StorageError.of(error) from error
    _log.warning("store.migrated", extra={"fields": {"version": REVISIONS[-1]}})
    return found


def _known(revision: str) -> int:
    if revision not in REVISIONS:
        raise StorageError("storage.newer")
    return REVISIONS.index(revision)


def _upgrade(engine: Engine, found: str, marked: bool) -> None:
    from alembic import command
    from alembic.config import Config

    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent / "migrations"))
    with engine.begin() as connection:  # all steps or none
        if not marked:
            _mark(connection, found)
        config.attributes["connection"] = connection
        command.upgrade(config, "head")


def _mark(connection: Connection, revision: str) -> None:
    connection.execute(text("CREATE TABLE alembic_version (version_num VARCHAR(32) NOT NULL PRIMARY KEY)"))
    connection.execute(text("INSERT INTO alembic_version VALUES (:revision)"), {"revision": revision})


def _copy(engine: Engine, target: Path) -> None:
    from central.store.copying import save  # which reads this module's revisions

    half = target.with_name(f".tmp-{target.name}")
    half.unlink(missing_ok=True)
    save(engine, half)
    os.rename(half, target)
    sync_folder(target.parent)
