"""Databases of a hospital: reading only, checked before the first row, in one snapshot, row by row.

No SQL comes from the centre. The site names a relation; a study names columns and conditions, which become bound
parameters and quoted names (`edge.sources.selectors`). Credentials that could write are refused: a mistake of ours
must not be able to change a hospital's record. Nothing of a statement, value or address gets into a message.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from edge.secret import read_secret
from edge.sources.places import Database
from protocol.errors import (
    AuthenticationError,
    ConfigurationError,
    InputError,
    PermissionRefused,
    UnavailableError,
)

if TYPE_CHECKING:
    from sqlalchemy import Connection, Engine, Table

__all__ = ["Reader", "opened"]

_BATCH = 5000
_CONNECT_S = 10
_SYSTEM = "('pg_catalog', 'information_schema')"
# What errors without a state say when asking again is of no use; "no such file" is a socket of a server that starts.
_LASTING = ("no such table", "no such column", "not a database", "does not exist")
# What a role could change, of all that there is: rows, columns, new tables, what it owns; so could each that it may
# take on, be it by `set role` alone.
_POSTGRES_WRITES = f"""
select exists (select 1 from pg_roles r where pg_has_role(r.oid, 'MEMBER') and (
  r.rolsuper or r.rolcreaterole or r.rolcreatedb
  or r.rolname in ('pg_write_all_data', 'pg_write_server_files', 'pg_execute_server_program')
  or has_database_privilege(r.oid, current_database()::text, 'CREATE')
  or exists (select 1 from pg_class c join pg_namespace n on n.oid = c.relnamespace
    where n.nspname not in {_SYSTEM} and n.nspname not like 'pg\\_toast%' and n.nspname not like 'pg\\_temp%'
    and c.relkind in ('r', 'p', 'v', 'm', 'f')
    and (c.relowner = r.oid or has_table_privilege(r.oid, c.oid, 'INSERT, UPDATE, DELETE, TRUNCATE, TRIGGER')
      or has_any_column_privilege(r.oid, c.oid, 'INSERT, UPDATE')))
  or exists (select 1 from pg_namespace n where n.nspname not in {_SYSTEM} and n.nspname not like 'pg\\_t%'
    and (n.nspowner = r.oid or has_schema_privilege(r.oid, n.oid, 'CREATE')))))
"""  # noqa: S608 - constants of ours


class Reader:
    """A connection in a read-only transaction of one snapshot.

    Args:
        link: SQLAlchemy's connection.
        place: where to.

    Attributes:
        dialect: SQLAlchemy's name of the database's kind.
    """

    def __init__(self, link: Connection, place: Database) -> None:
        self._link, self._place = link, place
        self.dialect = link.dialect.name

    def table(self, relation: str) -> Table:
        """What the database says of a relation: its columns and their types.

        Raises:
            InputError: `input.source` when there is none of this name.
        """
        from sqlalchemy import MetaData, Table
        from sqlalchemy.exc import NoSuchTableError

        schema, _, name = relation.rpartition(".")
        with _told():
            try:
                return Table(name, MetaData(), schema=schema or None, autoload_with=self._link, resolve_fks=False)
            except NoSuchTableError:
                raise InputError("input.source", "the database has no such table or view") from None

    def names(self, schema: str) -> list[str]:
        """Tables and views of a schema, whatever holds their rows; "" is the default one."""
        from sqlalchemy import inspect
        from sqlalchemy.dialects.postgresql.base import PGInspector

        where = schema or None
        with _told():
            look = inspect(self._link)
            found = {*look.get_table_names(where), *look.get_view_names(where)}
            if isinstance(look, PGInspector):
                found |= {*look.get_materialized_view_names(where), *look.get_foreign_table_names(where)}
            return sorted(found)

    def rows(self, statement: Any) -> Iterator[list[tuple[Any, ...]]]:
        """The rows of a SELECT, some thousands at a time; never all of them in memory here.

        Raises:
            UnavailableError: `unavailable.source`; InputError: `input.source`.
        """
        with _told():
            result = self._link.execution_options(yield_per=_BATCH).execute(statement)
            for some in result.partitions():
                yield [tuple(row) for row in some]

    def count(self, relation: str) -> int:
        """How many rows a relation has."""
        from sqlalchemy import func, select

        with _told():
            return int(self._link.execute(select(func.count()).select_from(self.table(relation))).scalar_one())


@contextmanager
def opened(place: Database) -> Iterator[Reader]:
    """A reader of a database, once it is sure that the credentials can only read.

    Raises:
        ConfigurationError: `config.key-mode`, `config.missing`, `config.invalid`, `config.extra-missing`.
        PermissionRefused: `permission.source` when the credentials may write, or nobody knows.
        AuthenticationError: `auth.source`. UnavailableError: `unavailable.source`.
    """
    with _told(), closing_engine(place) as engine, engine.connect() as link:
        _read_only(link, place)
        yield Reader(link, place)


@contextmanager
def closing_engine(place: Database) -> Iterator[Engine]:
    """An engine without a pool, which shows no parameter in an error."""
    try:
        from sqlalchemy import create_engine, make_url
        from sqlalchemy.exc import ArgumentError, NoSuchModuleError
        from sqlalchemy.pool import NullPool
    except ImportError:
        raise ConfigurationError("config.extra-missing", "this source needs corsia[sources]") from None
    try:
        url = make_url(read_secret(place.url_file))
        more: dict[str, Any] = {}
        if url.get_backend_name() == "sqlite":
            more["creator"] = _sqlite(url.database)
        elif url.get_backend_name() == "postgresql":
            more["connect_args"] = {"connect_timeout": _CONNECT_S}
        engine = create_engine(url, poolclass=NullPool, hide_parameters=True, **more)
    except (ArgumentError, NoSuchModuleError, ValueError):
        raise ConfigurationError("config.invalid", f"{place.url_file}: no SQLAlchemy URL that we know") from None
    except ImportError:
        raise ConfigurationError("config.extra-missing", "the database's driver is not installed") from None
    try:
        yield engine
    finally:
        engine.dispose()


def _sqlite(database: str | None) -> Any:
    """Opens a SQLite file that exists, for reading: by the file's mode, whatever rights we have on it."""
    import sqlite3
    from urllib.parse import quote

    if not database or not os.path.isfile(database):
        raise ConfigurationError("config.missing", "the SQLite file that the URL names does not exist")
    address = f"file:{quote(os.path.abspath(database))}?mode=ro"
    return lambda: sqlite3.connect(address, uri=True, timeout=30.0, isolation_level=None)


def _read_only(link: Connection, place: Database) -> None:
    from sqlalchemy import text

    name = link.dialect.name
    if name == "postgresql":
        link.execution_options(isolation_level="REPEATABLE READ", postgresql_readonly=True)
        link.execute(
            text("select set_config('statement_timeout', :ms, false)"), {"ms": str(int(place.timeout_s * 1e3))}
        )
        if link.execute(text(_POSTGRES_WRITES)).scalar_one():
            raise PermissionRefused("permission.source", "the database credentials may write: give ones that may not")
    elif name == "sqlite":
        link.exec_driver_sql("pragma query_only = on")
        link.exec_driver_sql("begin")
    elif not place.stated_read_only:
        raise PermissionRefused(
            "permission.source", "what these credentials may do cannot be looked up: see stated_read_only"
        )


@contextmanager
def _told() -> Iterator[None]:
    """What SQLAlchemy and drivers raise, as errors of the tree, without their text."""
    try:
        from sqlalchemy import exc
    except ImportError:
        raise ConfigurationError("config.extra-missing", "this source needs corsia[sources]") from None
    try:
        yield
    except exc.NoSuchModuleError:
        raise ConfigurationError("config.invalid", "no SQLAlchemy dialect of this name") from None
    except exc.DBAPIError as error:
        state = str(getattr(error.orig, "sqlstate", "") or "")
        words = str(error.orig).lower()
        if state.startswith("28") or "authentication failed" in words or "access denied" in words:
            raise AuthenticationError("auth.source") from None
        if isinstance(error, exc.DataError) or "could not decode" in words:  # an infinite date, say: so each time
            raise InputError("input.source", "a value of the database cannot be read, or be compared so") from None
        if state.startswith("42") or any(told in words for told in _LASTING):
            raise InputError("input.source", "the database refuses the statement: rights, or a changed table") from None
        raise UnavailableError("unavailable.source") from None
    except (exc.SQLAlchemyError, UnicodeError):
        raise InputError("input.source", "the database answers in a way that cannot be used") from None
