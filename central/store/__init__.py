"""The central database and blob folder, shared by the centre's processes.

Each process opens its own `Store`. A write is one `with store.begin() as session:` transaction, immediate on SQLite,
so that log indexes and serials are allotted without gaps.
"""

from __future__ import annotations

import hashlib
import os
import tempfile
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from sqlalchemy import Executable, bindparam, create_engine, event, func, insert, select
from sqlalchemy.engine import Engine
from sqlalchemy.orm import Session

from central.store.models import Base, EventRow, LogRow, SiteRow
from central.store.schema import prepare
from protocol.assignment import Blob
from protocol.durable import sync_folder
from protocol.errors import IntegrityError, StorageError
from protocol.parcel import canonical_json

__all__ = ["Store", "open_engine"]

_HALF, _STALE_S = ".", 86_400.0
# Made once, and without the mapper: they run many times a round.
_EVENT, _LEAF = (insert(Base.metadata.tables[row.__tablename__]) for row in (EventRow, LogRow))
_LAST_LEAF = select(func.max(LogRow.index))
_SITE = select(SiteRow).where(SiteRow.name == bindparam("name"))


class Store:
    """Database sessions and content-addressed blobs under one state folder."""

    def __init__(self, state_dir: Path, url: str | None = None) -> None:
        """Open, or make, the database.

        Raises:
            StorageError: `storage.newer`, `storage.older` where its schema is not this version's.
        """
        self.state_dir = state_dir
        self._blobs = state_dir / "blobs"
        self._blobs.mkdir(parents=True, exist_ok=True, mode=0o700)
        for half in self._blobs.glob(f"{_HALF}*"):
            with suppress(FileNotFoundError):  # another process that starts now
                if half.stat().st_mtime < time.time() - _STALE_S:  # of a process that was killed
                    half.unlink()
        self.engine = open_engine(url or f"sqlite:///{state_dir / 'corsia.db'}")
        self._reader = self.engine.execution_options(read=True)
        prepare(self.engine)

    @contextmanager
    def begin(self) -> Iterator[Session]:
        """A write transaction: committed at the end, rolled back by an exception."""
        with Session(self.engine, expire_on_commit=False) as session, session.begin():
            yield session

    @contextmanager
    def read(self) -> Iterator[Session]:
        """A session for reading; what it loaded stays usable after it."""
        with Session(self._reader, expire_on_commit=False) as session:
            yield session

    def rows(self, statement: Executable, **values: Any) -> Sequence[Any]:
        """What a statement made beforehand reads, without a session's cost."""
        with self._reader.connect() as connection:
            return connection.execute(statement, values).all()

    def emit(self, session: Session, kind: str, *, site: str = "", study: str = "", **fields: Any) -> None:
        """Add an event for the dashboard: ids, codes and counts only."""
        session.execute(_EVENT, {"at": time.time(), "kind": kind, "site": site, "study": study, "fields": fields})

    def append_leaf(self, session: Session, value: dict[str, Any] | bytes) -> int:
        """Append a leaf to the log within the caller's transaction; returns its index."""
        return self.append_leaves(session, [value if isinstance(value, bytes) else canonical_json(value)])

    def append_leaves(self, session: Session, leaves: Sequence[bytes]) -> int:
        """Append leaves to the log, in order, within the caller's transaction; returns the first one's index."""
        last = session.scalar(_LAST_LEAF)
        first: int = 0 if last is None else last + 1
        session.execute(_LEAF, [{"index": index, "leaf": leaf} for index, leaf in enumerate(leaves, first)])
        return first

    def put_blob(self, name: str, data: bytes | Iterable[bytes | memoryview]) -> Blob:
        """Store bytes durably under their SHA-256; a large object may come in pieces, which are gone through twice.

        Raises:
            StorageError: the disk refused; nothing is stored.
        """
        parts = (data,) if isinstance(data, bytes) else data
        hasher, size = hashlib.sha256(), 0
        for part in parts:
            hasher.update(part)
            size += len(part)
        digest = hasher.hexdigest()
        target = self._blobs / digest
        if not target.exists():
            try:
                self._write_blob(target, parts)
            except OSError as error:
                raise StorageError.of(error) from error
        return Blob(name=name, digest=digest, size_bytes=size)

    def _write_blob(self, target: Path, parts: Iterable[bytes | memoryview]) -> None:
        """Whole under its name, also after a power cut, before a row names it."""
        with tempfile.NamedTemporaryFile(dir=self._blobs, prefix=_HALF, delete=False) as handle:
            try:
                for part in parts:
                    handle.write(part)
                handle.flush()
                os.fsync(handle.fileno())
                os.replace(handle.name, target)
            except BaseException:
                os.unlink(handle.name)  # a full disk needs the room
                raise
        sync_folder(self._blobs)

    def blob_path(self, digest: str) -> Path:
        """Where a blob lies.

        Raises:
            IntegrityError: `blob.digest` when the name is no digest or there is no such blob.
        """
        path = self._blobs / digest
        if len(digest) != 64 or not set(digest) <= set("0123456789abcdef") or not path.is_file():
            raise IntegrityError("blob.digest", "no such blob")
        return path

    def drop_blob(self, digest: str) -> None:
        """Remove a blob that no row names any more; one that is gone already is no error.

        Raises:
            StorageError: the disk refused.
        """
        try:
            (self._blobs / digest).unlink(missing_ok=True)
        except OSError as error:
            raise StorageError("storage.failed") from error

    def checked_path(self, digest: str) -> Path:
        """As `blob_path`, of bytes that have their digest."""
        path = self.blob_path(digest)
        with path.open("rb") as file:
            if hashlib.file_digest(file, "sha256").hexdigest() != digest:
                raise IntegrityError("blob.digest", "a stored blob is damaged")
        return path

    def get_blob(self, digest: str) -> bytes:
        """A blob's bytes, checked against their digest."""
        data = self.blob_path(digest).read_bytes()
        if hashlib.sha256(data).hexdigest() != digest:
            raise IntegrityError("blob.digest", "a stored blob is damaged")
        return data

    def site(self, name: str) -> SiteRow | None:
        """A site by name."""
        with self.read() as session:
            return session.scalar(_SITE, {"name": name})


def open_engine(url: str) -> Engine:
    """An engine as every process of the centre uses it; nothing is opened or made yet."""
    sqlite = url.startswith("sqlite")
    engine = create_engine(url, connect_args={"timeout": 30} if sqlite else {})
    if sqlite:

        @event.listens_for(engine, "connect")
        def _on_connect(connection: Any, _record: Any) -> None:
            connection.isolation_level = None  # the driver must not begin for us
            cursor = connection.cursor()
            cursor.execute("PRAGMA journal_mode=WAL")
            cursor.execute("PRAGMA synchronous=FULL")
            cursor.execute("PRAGMA foreign_keys=ON")
            cursor.execute("PRAGMA busy_timeout=30000")
            cursor.close()

        @event.listens_for(engine, "begin")
        def _on_begin(connection: Any) -> None:
            connection.exec_driver_sql(
                "BEGIN IMMEDIATE" if not connection.get_execution_options().get("read") else "BEGIN"
            )

    return engine
