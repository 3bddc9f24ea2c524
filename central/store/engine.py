"""The engine that every process of the centre opens: SQLite beside the other state, or PostgreSQL where it has grown.

Which one is a secret's presence: `STATE/database.url` (mode 0600) holds PostgreSQL's URL with its password; without
it the database is `STATE/corsia.db`. Both give what the code above stands on: one write transaction at a time, so that
log indexes and serials are allotted without gaps, and readers that see one moment. SQLite does it by an immediate
transaction; PostgreSQL by an advisory lock that ends with the transaction, and by repeatable reads.
Each write transaction also tells `CHANNEL`, at its commit and only then (`changes.py` listens).

Source: PostgreSQL 15 manual, 13.3.5 (advisory locks), 13.2.2 (repeatable read), NOTIFY.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from sqlalchemy import URL, create_engine, event, make_url
from sqlalchemy.engine import Connection, Engine
from sqlalchemy.exc import ArgumentError, SQLAlchemyError

from protocol.errors import ConfigurationError, StorageError

__all__ = [
    "CHANNEL",
    "DRIVER",
    "ELSEWHERE",
    "FILE",
    "database_url",
    "is_made",
    "is_postgresql",
    "open_engine",
    "read_url",
    "reading",
]

FILE, ELSEWHERE = "database.url", "database.elsewhere"
DRIVER, CHANNEL = "postgresql+psycopg", "corsia"
_LOCK = 0x436F72736961  # "Corsia": the writers' advisory lock; the database is the centre's own
_BEGIN_WRITE = f"SELECT pg_advisory_xact_lock({_LOCK}), pg_notify('{CHANNEL}', '')"
_BEGIN_READ = "SET TRANSACTION ISOLATION LEVEL REPEATABLE READ READ ONLY"
# A process that hangs, or a machine that is gone, must not hold the writers' lock for ever.
_SESSION = (
    "-c timezone=UTC -c lock_timeout=30000 -c idle_in_transaction_session_timeout=120000 -c synchronous_commit=on"
    " -c tcp_keepalives_idle=20 -c tcp_keepalives_interval=5 -c tcp_keepalives_count=3"
)
_CONNECT = {"connect_timeout": 10, "application_name": "corsia", "options": _SESSION, "keepalives_idle": 20}


def database_url(state_dir: Path) -> str:
    """The URL of a centre's database.

    Raises:
        ConfigurationError: as `read_url`; also where a database on a server was the centre's and its URL is gone: a
            new, empty log would fork the old one.
    """
    path = state_dir / FILE
    if path.exists():
        return read_url(path)
    if (state_dir / ELSEWHERE).exists():
        raise ConfigurationError("config.missing", f"the centre's database is on a server, and {path} is gone")
    return f"sqlite:///{state_dir / 'corsia.db'}"


def read_url(path: Path) -> str:
    """The URL in a secret file.

    Raises:
        ConfigurationError: `config.invalid` when it is readable by others, or no PostgreSQL URL; its text is not in
            the message.
    """
    try:
        if path.stat().st_mode & 0o077:
            raise ConfigurationError("config.invalid", f"{path} is readable by others: chmod 600 it")
        url = make_url(path.read_text(encoding="utf-8").strip())
    except (OSError, UnicodeDecodeError):
        raise ConfigurationError("config.invalid", f"{path} cannot be read") from None
    except (ArgumentError, ValueError):
        url = None
    if url is None or url.drivername not in ("postgresql", "postgres", DRIVER) or not url.database:
        raise ConfigurationError("config.invalid", f"{path}: no postgresql://user:password@host/database")
    return url.set(drivername=DRIVER).render_as_string(hide_password=False)


def is_made(state_dir: Path) -> bool:
    """Whether a centre has, or is to have, a database that can be asked."""
    return (state_dir / FILE).exists() or (state_dir / "corsia.db").exists()


@contextmanager
def reading(state_dir: Path) -> Iterator[Connection]:
    """The centre's database at one moment, for what stands beside it; nothing is made or changed.

    Raises:
        ConfigurationError: as `database_url`.
        StorageError: `storage.failed`: it does not answer, is not there or is no database.
    """
    url = database_url(state_dir)
    if not is_made(state_dir):
        raise StorageError("storage.failed", f"{state_dir / 'corsia.db'} cannot be read")
    if not is_postgresql(make_url(url)):
        url = f"sqlite:///{(state_dir / 'corsia.db').resolve().as_uri()}?mode=ro&uri=true"
    engine = open_engine(url, plain=True)
    try:
        with engine.execution_options(read=True).connect() as connection:
            yield connection
    except SQLAlchemyError:
        raise StorageError("storage.failed", "the central database cannot be read") from None
    finally:
        engine.dispose()


def is_postgresql(url: URL) -> bool:
    """Whether this is the grown kind."""
    return url.get_backend_name() == "postgresql"


def open_engine(url: str, *, plain: bool = False) -> Engine:
    """An engine as every process of the centre uses it; nothing is opened or made yet.

    Args:
        url: of the database.
        plain: of an SQLite file that is opened for reading alone.
    """
    if is_postgresql(make_url(url)):
        engine = create_engine(url, connect_args=_CONNECT, pool_pre_ping=True, pool_size=8, max_overflow=24)
        event.listen(engine, "begin", _on_postgresql_begin)
        return engine
    engine = create_engine(url, connect_args={"timeout": 30})
    if not plain:
        event.listen(engine, "connect", _on_sqlite_connect)
    event.listen(engine, "begin", _on_sqlite_begin)
    return engine


def _on_postgresql_begin(connection: Any) -> None:
    connection.exec_driver_sql(_BEGIN_READ if connection.get_execution_options().get("read") else _BEGIN_WRITE)


def _on_sqlite_connect(connection: Any, _record: Any) -> None:
    connection.isolation_level = None  # the driver must not begin for us
    cursor = connection.cursor()
    cursor.execute("PRAGMA journal_mode=WAL")
    cursor.execute("PRAGMA synchronous=FULL")
    cursor.execute("PRAGMA foreign_keys=ON")
    cursor.execute("PRAGMA busy_timeout=30000")
    cursor.close()


def _on_sqlite_begin(connection: Any) -> None:
    connection.exec_driver_sql("BEGIN" if connection.get_execution_options().get("read") else "BEGIN IMMEDIATE")
