"""What was pulled from a place at the hospital, durably: files that a dataset reads as any folder, and what is known.

    origin -> pages -> a few records at a time: files synced, then one transaction that knows them -> the page's mark

A crash loses at most files that nothing knows; they are pulled and written again under the same names. A record that
cannot be used is set aside by itself and counted. Names of files, records and marks are digests: what a place calls
its records may tell of patients. Nothing here speaks to a network.
"""

from __future__ import annotations

import hashlib
import os
import secrets
import sqlite3
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, closing, contextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from edge.sources.origin import REFUSED, Bad, Gone, Origin, Page, Part
from edge.sources.turns import exclusive
from edge.storage import named_errors
from protocol.durable import sync_files, sync_folder
from protocol.errors import CorsiaError, StorageError, UnavailableError
from protocol.faults import point

__all__ = ["Halted", "Mirror", "Tally", "digest", "is_complete"]

_BATCH = 64
_BATCH_BYTES = 32 << 20
_LEFT_S = 86_400.0
_TRIES = 3  # how often a record that the place refuses to give is asked for, over all pulls
_SCHEMA = """
create table if not exists records
  (key text primary key, part text not null, place text not null) without rowid;
create index if not exists by_part on records (part);
create table if not exists parts (name text primary key, bytes integer not null, keys text not null) without rowid;
create table if not exists stale (part text primary key) without rowid;
create table if not exists isolated
  (key text primary key, reason text not null, tries integer not null, name text not null, place text not null)
  without rowid;
create table if not exists marks (name text primary key, version text not null) without rowid;
"""
Item = Part | Bad | Gone


class Halted(Exception):
    """The pull was asked to stop; what it has is kept."""


@dataclass(slots=True, kw_only=True)
class Tally:
    """What one pull did."""

    kept: int = 0
    gone: int = 0
    isolated: Counter[str] = field(default_factory=Counter)
    refused: int = 0  # of the isolated, those that are asked for again


class Mirror:
    """One kind of one dataset, below the site's state folder. Safe between threads; one process pulls at a time.

    Args:
        root: its folder, made when absent.
        max_bytes: beyond it nothing more is taken; nothing is dropped.

    Raises:
        StorageError: `storage.failed`, `storage.full`.
    """

    def __init__(self, root: Path, *, max_bytes: int = 10**15) -> None:
        self.root, self._max_bytes = root, max_bytes
        self.records, self.aside, self.incoming = root / "records", root / "isolated", root / "incoming"
        self._place = ""  # from which the records of the present pull are
        self._lock = threading.RLock()
        self._seen: set[str] | None = None  # what a full pull has met
        with _named():
            for folder in (root, self.records, self.aside, self.incoming):
                folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            self._forget_left()
            path = root / "mirror.db"
            os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))
            self._db = sqlite3.connect(path, isolation_level=None, timeout=30.0, check_same_thread=False)
            self._db.execute("pragma journal_mode = wal")
            self._db.execute("pragma synchronous = full")
            self._db.executescript(_SCHEMA)

    def close(self) -> None:
        """Let go of the database."""
        self._db.close()

    # --- what is known (`origin.Known`)

    def mark(self, name: str) -> str:
        """See `Known.mark`."""
        return str(self._value("select version from marks where name = ?", digest(name)) or "")

    def has(self, key: str) -> bool:
        """See `Known.has`."""
        name = digest(key)
        if self._seen is not None:
            self._seen.add(name)
        if self._value("select 1 from records where key = ?", name):
            return True
        found = self._value("select case when reason <> ? then 99 else tries end from isolated where key = ?",
                            REFUSED, name)  # fmt: skip
        return found is not None and int(found) >= _TRIES

    def status(self) -> dict[str, Any]:
        """`records`, `bytes`, `isolated` (by reason) and `complete` (when a pull last got to its end; "" if never)."""
        with self._lock:
            reasons = self._db.execute("select reason, count(*) from isolated group by reason order by reason")
            return {
                "records": int(self._value("select count(*) from records") or 0),
                "bytes": self._bytes(),
                "isolated": {str(reason): int(count) for reason, count in reasons.fetchall()},
                "complete": self.mark(_COMPLETE),
            }

    # --- pulling

    def pull(
        self,
        origin: Origin,
        halted: Callable[[], bool] = lambda: False,
        *,
        full: bool = False,
        emptied: bool = False,
        place: str = "",
    ) -> Tally:
        """Take all that an origin has and this does not.

        Args:
            full: enumerate what is marked as done too, and drop what the place has no more. One that was broken off
                is gone on with by the next of the same mirror.
            emptied: drop all, should a full pull find nothing there: it was emptied.
            place: its name: what came from another one is not dropped.

        Raises:
            Halted: when asked to; CorsiaError: of the origin or the disk. What was read is kept, and known.
            UnavailableError: a full pull found nothing where something is known, and it is not `emptied`.
        """
        tally, self._place = Tally(), place
        if not full:
            self._seen = None
        elif self._seen is None:  # else it goes on where it was broken off
            self._seen = set()
            self._write("delete from marks where name <> ?", digest(_COMPLETE))
        with closing(origin):
            for page in origin.pages(self):
                before = tally.refused
                self._take(page, tally, halted)
                if page.version and tally.refused == before:
                    self._write("insert or replace into marks values (?, ?)", digest(page.mark), page.version)
                point("source.page")
        if full and not tally.refused:
            tally.gone += self._sweep(emptied=emptied)
        self.tidy()
        if not tally.refused:
            self.completed()
        return tally

    def completed(self) -> None:
        """Say that all which the place has is here; until this was said once, no study reads it."""
        now = datetime.now(UTC).isoformat(timespec="seconds")
        self._write("insert or replace into marks values (?, ?)", digest(_COMPLETE), now)

    def keep(self, items: Sequence[Item], tally: Tally | None = None) -> None:
        """Keep, set aside or forget records; durable when it returns.

        Raises:
            StorageError: `storage.full`, also at `max_bytes`; `storage.failed`.
        """
        tally = tally if tally is not None else Tally()
        parts = [item for item in items if isinstance(item, Part) and item.keys]
        bad = [item for item in items if isinstance(item, Bad)]
        with self._lock, _named():
            if self._bytes() + sum(len(part.data) for part in parts) > self._max_bytes:
                raise StorageError("storage.full", "the source's max_bytes is reached: nothing more is taken from it")
            self._land(self.records, {_name(part): part.data for part in parts})
            self._land(self.aside, {digest(one.key): one.data for one in bad if one.data is not None})
            point("source.files")
            with self._transaction():
                for part in parts:
                    self._know(part)
                for one in bad:
                    self._know_bad(one)
                for key in (item.key for item in items if isinstance(item, Gone)):
                    tally.gone += self._forget(digest(key))
        tally.kept += sum(len(part.keys) for part in parts)
        tally.isolated.update(one.reason for one in bad)
        tally.refused += sum(one.reason == REFUSED and not self.has(one.key) for one in bad)

    def tidy(self) -> None:
        """Rewrite files that hold records which are gone or have come anew, unless a study reads them now."""
        with exclusive(self.root) as alone:
            if not alone:
                return
            for (name,) in self._rows("select part from stale"):
                self._rewrite(name)

    # --- inside

    def _take(self, page: Page, tally: Tally, halted: Callable[[], bool]) -> None:
        batch: list[Item] = []
        size = 0
        try:
            for item in page.items:
                batch.append(item)
                size += 0 if isinstance(item, Gone) else len(item.data or b"")
                if len(batch) >= _BATCH or size >= _BATCH_BYTES:
                    done, batch, size = batch, [], 0
                    self.keep(done, tally)
                if halted():
                    raise Halted
        except (CorsiaError, Halted):
            if batch:
                self.keep(batch, tally)
            raise
        self.keep(batch, tally)

    def _land(self, folder: Path, files: dict[str, bytes]) -> None:
        """Files into a folder in which somebody may read: each whole, and durable when it returns."""
        made = [(self.incoming / secrets.token_hex(16), folder / name) for name in files]
        for (temporary, _target), data in zip(made, files.values(), strict=True):
            with os.fdopen(
                os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600), "wb"
            ) as file:
                file.write(data)
        if made:
            sync_files([temporary for temporary, _target in made])
            for temporary, target in made:
                temporary.rename(target)
            sync_folder(folder)

    def _forget_left(self) -> None:
        """Remove what a crash left half written; another writer's is younger."""
        for left in self.incoming.iterdir():
            with suppress(FileNotFoundError):
                if time.time() - left.stat().st_mtime > _LEFT_S:
                    left.unlink()

    def _know(self, part: Part) -> None:
        name = _name(part)
        keys = [digest(key) for key in part.keys]
        if self._seen is not None:
            self._seen.update(keys)
        for key in keys:
            self._db.execute(
                "insert or replace into stale select part from records where key = ? and part <> ?", (key, name)
            )
            self._db.execute("insert or replace into records values (?, ?, ?)", (key, name, self._place))
            self._drop_aside(key)
        listed = ",".join(keys) if part.lines else ""
        self._db.execute("insert or replace into parts values (?, ?, ?)", (name, len(part.data), listed))

    def _know_bad(self, one: Bad) -> None:
        if self._seen is not None:
            self._seen.add(digest(one.key))
        self._db.execute(
            "insert into isolated values (?, ?, 1, ?, ?) on conflict (key)"
            " do update set reason = excluded.reason, tries = tries + 1, name = excluded.name",
            (digest(one.key), one.reason, "" if one.data is None else digest(one.key), self._place),
        )

    def _drop_aside(self, key: str) -> None:
        found = self._db.execute("delete from isolated where key = ? returning name", (key,)).fetchall()
        for (name,) in found:
            if name:
                (self.aside / name).unlink(missing_ok=True)

    def _forget(self, key: str) -> int:
        found = self._db.execute("delete from records where key = ? returning part", (key,)).fetchall()
        for (part,) in found:
            self._db.execute("insert or ignore into stale values (?)", (part,))
        self._drop_aside(key)
        return len(found)

    def _rewrite(self, name: str) -> None:
        row = self._rows("select keys from parts where name = ?", name)
        live = {key for (key,) in self._rows("select key from records where part = ?", name)}
        path = self.records / name
        with self._lock, _named():
            if live and row and path.exists():
                keys = str(row[0][0]).split(",")
                lines = path.read_bytes().splitlines(keepends=True)
                kept = [(key, line) for key, line in zip(keys, lines, strict=True) if key in live]
                data = b"".join(line for _key, line in kept)
                made = digest("".join(key for key, _line in kept) + str(len(data)))[:32] + Path(name).suffix
                self._land(self.records, {made: data})
                point("source.tidied")
                with self._transaction():
                    listed = ",".join(key for key, _line in kept)
                    self._db.execute("insert or replace into parts values (?, ?, ?)", (made, len(data), listed))
                    self._db.execute("update records set part = ? where part = ?", (made, name))
                    self._remove(name, path if made != name else None)
            else:
                with self._transaction():
                    self._remove(name, path)
            sync_folder(self.records)

    def _remove(self, name: str, path: Path | None) -> None:
        self._db.execute("delete from stale where part = ?", (name,))
        if path is not None:
            self._db.execute("delete from parts where name = ?", (name,))
            path.unlink(missing_ok=True)

    def _sweep(self, *, emptied: bool) -> int:
        """Forget what a full pull did not meet; but a place that lists nothing at all may have lost its index.

        Raises:
            UnavailableError: it does, and nobody says that it was emptied.
        """
        met, gone, self._seen = self._seen or set(), 0, None
        ours = "select key from records where place = ? union select key from isolated where place = ?"
        known = self._rows(ours, self._place, self._place)
        if known and not met and not emptied:
            told = "the place lists nothing now, and had something: nothing is dropped, unless it is said to be emptied"
            raise UnavailableError("unavailable.source", told)
        with self._lock, _named(), self._transaction():
            for (key,) in known:
                if key not in met:
                    gone += self._forget(key)
        return gone

    def _bytes(self) -> int:
        return int(self._value("select sum(bytes) from parts") or 0)

    def _value(self, query: str, *values: object) -> Any:
        rows = self._rows(query, *values)
        return rows[0][0] if rows else None

    def _rows(self, query: str, *values: object) -> list[Any]:
        with self._lock, _named():
            return self._db.execute(query, values).fetchall()

    def _write(self, query: str, *values: object) -> None:
        with self._lock, _named():
            self._db.execute(query, values)

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        self._db.execute("begin immediate")
        try:
            yield
        except BaseException:
            self._db.execute("rollback")
            raise
        self._db.execute("commit")


def is_complete(root: Path) -> bool:
    """Whether a pull of this mirror has ever got to its end.

    Raises:
        StorageError: `storage.failed`.
    """
    mirror = Mirror(root)
    try:
        return bool(mirror.mark(_COMPLETE))
    finally:
        mirror.close()


def digest(text: str) -> str:
    """What a record, file or mark is called here."""
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


_COMPLETE = "mirror:complete"


def _name(part: Part) -> str:
    """One file a record keeps its name when the record comes again; of many, it is made from all and their bytes."""
    made = digest(part.keys[0]) if not part.lines else digest("\n".join(part.keys) + "\n" + _sum(part.data))
    return made[:32] + part.suffix


def _sum(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def _named() -> AbstractContextManager[None]:
    return named_errors("what is known of a source")
