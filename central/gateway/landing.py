"""Parcels on the gateway's disk: `partial/ID.part` beside `partial/ID.json`, then `ID.parcel` once verified.

Only file operations live here; who may send what is decided in `delivery.py`. All bytes are ciphertext. A file
moves write -> fsync -> rename -> fsync of the folder, so that a kill at any step leaves either the old or the new.
"""

from __future__ import annotations

import json
import os
import shutil
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from central.gateway.wire import Announcement
from protocol import faults
from protocol.durable import sync_files, sync_folder
from protocol.errors import ConflictError, InputError, StorageError
from protocol.parcel import ContentType

__all__ = ["Announced", "Landing", "Writer"]

MAX_PARTIALS = 16
STALE_S = 14 * 86_400.0
RESERVE_BYTES = 4 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Announced:
    """An announcement with the site that made it: what the sidecar file holds."""

    site: str
    what: Announcement

    def to_json(self) -> str:
        """The sidecar's text."""
        return json.dumps({"site": self.site, **asdict(self.what)})

    @classmethod
    def from_json(cls, text: str) -> Announced:
        """Read a sidecar; ValueError, KeyError, TypeError or RecursionError for anything else."""
        value: dict[str, Any] = json.loads(text)
        if not isinstance(value, dict):
            raise ValueError("object")
        site = str(value.pop("site"))
        value["content_type"] = ContentType(value["content_type"])
        return cls(site=site, what=Announcement(**value))


class Writer:
    """Appends to one partial file. A later `Landing.announce` or writer of the same parcel ends it."""

    def __init__(self, landing: Landing, entry: Announced, descriptor: int) -> None:
        self._landing = landing
        self._descriptor = descriptor
        self._first = True
        self.entry = entry
        self.position = os.fstat(descriptor).st_size

    def append(self, offset: int, data: bytes | memoryview) -> None:
        """Write the next bytes.

        Raises:
            InputError: `input.message`, a wrong offset or more than announced; nothing is written.
            ConflictError: `conflict.state`, another stream has taken over.
            StorageError: the disk refused; what is on it stays a valid beginning.
        """
        if offset != self.position or not data or self.position + len(data) > self.entry.what.size_bytes:
            raise InputError("input.message", "offset or size of a chunk")
        with self._landing.locked(self.entry.what.parcel_id), _disk():
            self._landing.check_writer(self)
            rest = memoryview(data)
            while rest:
                rest = rest[os.write(self._descriptor, rest) :]
        self.position += len(data)
        if self._first:
            self._first = False
            faults.point("gateway.chunk")


class Landing:
    """The landing zone under `root`."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._partial = root / "partial"
        self._partial.mkdir(parents=True, exist_ok=True, mode=0o700)
        self._guard = threading.Lock()
        self._locks: dict[str, tuple[threading.RLock, int]] = {}
        self._writers: dict[str, Writer] = {}

    def path(self, parcel_id: str) -> Path:
        """Where a verified parcel lies."""
        return self._root / f"{parcel_id}.parcel"

    @contextmanager
    def locked(self, parcel_id: str, *, wait: bool = True) -> Iterator[bool]:
        """Hold one parcel, or whatever else has a name; reentrant. Whether it is held: without `wait`, only if free."""
        with self._guard:
            lock, users = self._locks.get(parcel_id, (threading.RLock(), 0))
            self._locks[parcel_id] = (lock, users + 1)
        held = False
        try:
            held = lock.acquire(blocking=wait)
            yield held
        finally:
            if held:
                lock.release()
            with self._guard:
                lock, users = self._locks[parcel_id]
                if users == 1:
                    del self._locks[parcel_id]
                else:
                    self._locks[parcel_id] = (lock, users - 1)

    def announced(self, parcel_id: str) -> Announced | None:
        """What was announced under an id; None when nothing, or when the sidecar did not survive a power cut."""
        try:
            return Announced.from_json(self._sidecar(parcel_id).read_text())
        except (FileNotFoundError, ValueError, KeyError, TypeError, RecursionError):
            return None

    def announce(self, entry: Announced, most: int = MAX_PARTIALS) -> int:
        """Record an announcement; returns the bytes that are durably here. Anything changed restarts at 0.

        Args:
            entry: what is announced.
            most: parcels that this site may have open; one more and its oldest is dropped.

        Raises:
            StorageError: `storage.full` when the rest would not fit.
        """
        parcel_id = entry.what.parcel_id
        known = self.announced(parcel_id)
        if known is None:
            self._make_room(entry.site, most)
        with self.locked(parcel_id), _disk():
            self._writers.pop(parcel_id, None)
            if known != entry:
                self._part(parcel_id).unlink(missing_ok=True)
                if known is not None:
                    self.path(parcel_id).unlink(missing_ok=True)
                self._write_sidecar(entry)
            offset = self._durable(parcel_id)
            if offset > entry.what.size_bytes:
                self.path(parcel_id).unlink(missing_ok=True)
                self._part(parcel_id).unlink(missing_ok=True)
                offset = self._durable(parcel_id)
            self._check_room(entry.what.size_bytes - offset)
            return offset

    def _check_room(self, size_bytes: int) -> None:
        if shutil.disk_usage(self._root).free < size_bytes + RESERVE_BYTES:
            raise StorageError("storage.full")

    @contextmanager
    def writer(self, entry: Announced) -> Iterator[Writer]:
        """A writer at the end of what is here; its bytes are durable when the context ends without an error."""
        parcel_id = entry.what.parcel_id
        with self.locked(parcel_id), _disk():
            if self.path(parcel_id).exists():
                raise ConflictError("conflict.state", "the parcel is complete: commit it")
            descriptor = os.open(self._part(parcel_id), os.O_WRONLY | os.O_APPEND | os.O_CLOEXEC)
            writer = self._writers[parcel_id] = Writer(self, entry, descriptor)
        try:
            yield writer
            with _disk():
                os.fsync(descriptor)
        finally:
            os.close(descriptor)
            with self.locked(parcel_id):
                if self._writers.get(parcel_id) is writer:
                    del self._writers[parcel_id]

    def check_writer(self, writer: Writer) -> None:
        """Refuse a writer that was replaced."""
        if self._writers.get(writer.entry.what.parcel_id) is not writer:
            raise ConflictError("conflict.state", "another stream sends this parcel")

    def content(self, parcel_id: str) -> Path:
        """The file that holds a parcel's bytes now: verified, else partial."""
        path = self.path(parcel_id)
        return path if path.exists() else self._part(parcel_id)

    def place(self, parcel_id: str, data: bytes) -> None:
        """Write a whole verified parcel as if it had been sent in parts; it is durable once settled.

        Raises:
            StorageError: the disk refused; `storage.full` when it has no room.
        """
        with self.locked(parcel_id), _disk():
            self._writers.pop(parcel_id, None)
            self._check_room(len(data))
            part = os.open(self._part(parcel_id), os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
            with open(part, "wb", buffering=0) as file:
                rest = memoryview(data)
                while rest:
                    rest = rest[file.write(rest) :]

    def settle(self, ids: Sequence[str]) -> None:
        """Move verified partial files to their places, durably and together. Repeatable."""
        with _disk():
            parts = [(parcel_id, part) for parcel_id in ids if (part := self._part(parcel_id)).exists()]
            if not all(self.path(parcel_id).exists() for parcel_id in set(ids) - {parcel_id for parcel_id, _ in parts}):
                raise StorageError("storage.failed", "a parcel is not where it was")
            for parcel_id, _ in parts:
                self._writers.pop(parcel_id, None)
            sync_files([part for _, part in parts])
            for parcel_id, part in parts:
                os.replace(part, self.path(parcel_id))
            sync_folder(self._root)

    def forget(self, parcel_id: str) -> None:
        """Drop the announcement of a parcel that is in the database."""
        with _disk():
            self._sidecar(parcel_id).unlink(missing_ok=True)
            self._part(parcel_id).unlink(missing_ok=True)

    def discard(self, parcel_id: str) -> None:
        """Drop a parcel that must not land."""
        with self.locked(parcel_id), _disk():
            self._writers.pop(parcel_id, None)
            self.path(parcel_id).unlink(missing_ok=True)
            self.forget(parcel_id)

    def pending(self) -> list[Announced]:
        """All announcements; those abandoned for two weeks are dropped first, and bytes that nobody announced."""
        with _disk():
            for file in self._partial.glob(".*"):
                file.unlink()
            for file in self._partial.glob("*.part"):
                if not file.with_suffix(".json").exists():
                    file.unlink()
            for file in self._partial.glob("*.json"):
                if self.announced(file.stem) is None or file.stat().st_mtime < time.time() - STALE_S:
                    self.discard(file.stem)
        return [a for a in (self.announced(f.stem) for f in sorted(self._partial.glob("*.json"))) if a is not None]

    def unannounced(self) -> list[str]:
        """Ids of whole parcels without announcement: in the database, or a crash came before they were."""
        return sorted(file.stem for file in self._root.glob("*.parcel") if not self._sidecar(file.stem).exists())

    def _make_room(self, site: str, most: int) -> None:
        with self._guard:
            files = sorted(self._partial.glob("*.json"), key=_age)
        mine = [f.stem for f in files if (a := self.announced(f.stem)) is not None and a.site == site]
        over = len(mine) - most + 1
        for parcel_id in mine:
            if over <= 0:
                return
            with self.locked(parcel_id, wait=False) as held:  # to wait with our own held could be for ever
                if held:  # else a call works on it: of these there are not many
                    self._writers.pop(parcel_id, None)
                    self.forget(parcel_id)  # not what is whole: it may have landed meanwhile
                    over -= 1

    def _durable(self, parcel_id: str) -> int:
        content = self.content(parcel_id)
        with open(os.open(content, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600), "rb") as file:
            size = os.fstat(file.fileno()).st_size
            if size:
                os.fsync(file.fileno())
            return size

    def _write_sidecar(self, entry: Announced) -> None:
        # No fsync: a sidecar lost in a power cut only means that the site announces the parcel again.
        draft = self._partial / f".{entry.what.parcel_id}.{threading.get_ident()}"
        with open(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600), "w") as file:
            file.write(entry.to_json())
        os.replace(draft, self._sidecar(entry.what.parcel_id))

    def _part(self, parcel_id: str) -> Path:
        return self._partial / f"{parcel_id}.part"

    def _sidecar(self, parcel_id: str) -> Path:
        return self._partial / f"{parcel_id}.json"


def _age(path: Path) -> float:
    try:
        return path.stat().st_mtime
    except FileNotFoundError:
        return 0.0


@contextmanager
def _disk() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise StorageError.of(error) from None
