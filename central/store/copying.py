"""A whole central database as one SQLite file, and back: what a backup takes, and how a centre moves to PostgreSQL.

A copy is of one moment (one read transaction) and of any schema, since it goes by what the database says of itself.
What is filled is of this version's schema alone, in one transaction, into a database without rows.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from sqlalchemy import BigInteger, Integer, MetaData, Table, event, func, insert, select
from sqlalchemy.engine import Connection, Engine
from sqlalchemy.exc import DatabaseError

from central.store.engine import is_postgresql, open_engine
from central.store.models import Base
from central.store.schema import REVISIONS, prepare, revision_of
from privacy.folders import copy_database
from protocol.errors import ConflictError, StorageError

__all__ = ["fill", "save"]

_ROWS = 1000


def save(engine: Engine, target: Path) -> None:
    """Copy a database as it is at one moment to a new SQLite file of mode 0600, durably.

    Raises:
        OSError: the disk refused. StorageError: `storage.failed`, the database did not answer.
    """
    if not is_postgresql(engine.url):
        copy_database(Path(str(engine.url.database)), target)
        return
    os.close(os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))
    made = open_engine(f"sqlite:///{target}")
    try:
        found = MetaData()
        with engine.execution_options(read=True).connect() as source, made.begin() as copy:
            event.listen(found, "column_reflect", _as_sqlite)
            found.reflect(source)
            found.create_all(copy)
            for table in found.sorted_tables:
                _rows(source, copy, table)
        with made.connect() as plain:  # one file: no write-ahead log stays beside it
            plain.rollback()
            plain.connection.execute("PRAGMA journal_mode=DELETE")
    except DatabaseError as error:
        raise StorageError("storage.failed", "the central database cannot be copied") from error
    finally:
        made.dispose()


def fill(source: Path, engine: Engine) -> int:
    """Put a copy's rows into a database that has none; returns how many.

    Raises:
        ConflictError: `conflict.exists` when there are rows, which stay.
        StorageError: `storage.older`, `storage.newer`: the copy is of another schema; `storage.failed`: nothing
            was written.
    """
    prepare(engine)
    copied = open_engine(f"sqlite:///{source}")
    try:
        with copied.execution_options(read=True).connect() as rows, engine.begin() as target:
            if (revision := revision_of(rows)) != REVISIONS[-1]:
                raise StorageError("storage.older" if revision in REVISIONS else "storage.newer")
            if any(target.scalar(select(func.count()).select_from(t)) for t in Base.metadata.sorted_tables):
                raise ConflictError("conflict.exists", "the database that was named has rows already")
            count = sum(_rows(rows, target, table) for table in Base.metadata.sorted_tables)
            if is_postgresql(engine.url):
                _allot(target)
            return count
    except DatabaseError as error:
        raise StorageError("storage.failed", "the copy cannot be read, or the database refused its rows") from error
    finally:
        copied.dispose()


def _rows(source: Connection, target: Connection, table: Table) -> int:
    count = 0
    for rows in _read(source, table):
        target.execute(insert(table), rows)
        count += len(rows)
    return count


def _read(source: Connection, table: Table) -> Iterator[list[dict[str, Any]]]:
    for part in source.execution_options(stream_results=True).execute(select(table)).mappings().partitions(_ROWS):
        yield [dict(row) for row in part]


def _allot(target: Connection) -> None:
    """Go on counting after what was brought along."""
    for table in Base.metadata.sorted_tables:
        column = table.autoincrement_column
        if column is not None and (last := target.scalar(select(func.max(column)))) is not None:
            name = func.pg_get_serial_sequence(table.name, column.name)
            target.execute(select(func.setval(name, last)))


def _as_sqlite(_inspector: object, _table: object, column: dict[str, Any]) -> None:
    """The same column where numbers have one width and no sequence stands behind a default."""
    generic = column["type"].as_generic(allow_nulltype=True)
    column["type"] = Integer() if isinstance(generic, BigInteger) else generic
    column["default"] = None
    column.pop("identity", None)
