"""The site's own record of what was asked, decided and sent: a hash-chained file of JSON lines.

Place in the flow: the agent and the steward's commands append, the data protection officer reads, each heartbeat
carries the head. It holds event names, ids, codes and counts from fixed lists; it may not hold free text, column
names or values. It never changes a line that it has written.

Each line is canonical JSON `{"at","event","fields","prev","seq"}`; `prev` is the SHA-256 of the line before
(without its newline), 64 zeros for the first. The head is the SHA-256 of the last line.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import re
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edge.storage import named_errors, sync_folder
from protocol.errors import IntegrityError
from protocol.parcel import canonical_json

__all__ = ["EVENTS", "FIELDS", "GENESIS", "Journal", "Line"]

GENESIS = "0" * 64
EVENTS = frozenset(
    "journal.repaired agent.started agent.stopped site.enrolled certificate.renewed egress.paused egress.resumed "
    "assignment.received assignment.done assignment.failed assignment.refused assignment.expired "
    "study.received study.verified study.decided study.pending study.approved study.refused study.suspended "
    "study.started study.done study.failed study.expired round.received round.started round.done round.failed "
    "round.refused worker.started worker.failed records.selected records.withheld gate.passed gate.refused "
    "ledger.reserved ledger.committed ledger.refused ledger.broken parcel.planned parcel.sealed parcel.released "
    "parcel.exported parcel.sending parcel.delivered parcel.receipt parcel.bad parcel.retried spool.recovered "
    "spool.full consent.withdrawn consent.unknown study.removed log.refused log.forgotten subject.looked-up "
    "model.fetched model.accepted model.refused model.predicted backup.made backup.restored backup.older "
    "backup.counted backup.reconciled backup.written-off catalogue.told "
    "error.raised".split()
)
FIELDS = frozenset(
    "approver assignment attempt bytes checkpoint code code_digest cohort content_type count counts dataset digest "
    "duration_s epsilon epsilon_left error_id head index k kind lane ledger lines model part parts parcel parcels "
    "persons phase pipeline reason round rows rule rules run sequence serial sha256 site size size_bytes state study "
    "version withheld".split()
)
_WORD = re.compile(r"^[A-Za-z0-9*][A-Za-z0-9._:/+@*=<>-]{0,127}\Z")


@dataclass(frozen=True, slots=True, kw_only=True)
class Line:
    """One entry as read: `at` is Unix seconds, `digest` the SHA-256 of the line (the next line's `prev`)."""

    seq: int
    at: float
    event: str
    fields: dict[str, Any]
    digest: str


class Journal:
    """Append-only and safe for threads and processes: every append holds a lock on the file and is fsynced.

    Args:
        path: the file; made with mode 0600 when absent (unless `readonly`).
        readonly: never write; a line that another process is just writing is left out.

    Raises:
        IntegrityError: `journal.chain` when anything but a torn last line is damaged. A torn last line (a crash
            before the append returned) is cut off and journalled as `journal.repaired`.
        StorageError: `storage.failed`.
    """

    def __init__(self, path: Path, *, readonly: bool = False) -> None:
        self._path = path
        self._readonly = readonly
        self._lock = threading.RLock()
        self._head, self._count, self._size = GENESIS, 0, 0
        self._named = False  # whether the file's name is known to be durable
        if readonly:
            self.verify()
            return
        with self._locked() as handle:
            self._catch_up(handle)

    def append(self, event: str, **fields: Any) -> str:
        """Write one line durably and return the new head.

        Values are words (ids, codes), numbers, or flat maps and lists of them; any other text is written as `-`.

        Raises:
            AssertionError: an event or field that is not on the lists of this module; nothing is written.
            StorageError: `storage.full` or `storage.failed`; the line is not there (or cut off by the next append).
            IntegrityError: `journal.chain`; nothing is written.
        """
        return self.append_all([(event, fields)])

    def append_all(self, lines: Sequence[tuple[str, Mapping[str, Any]]]) -> str:
        """Write several lines and make them durable together; otherwise as `append`."""
        for event, fields in lines:
            if event not in EVENTS or not FIELDS.issuperset(fields):
                unknown = sorted(set(fields) - FIELDS)
                raise AssertionError(f"journal: event {event!r} or fields {unknown} are not on the list")
        if self._readonly:
            raise AssertionError("journal: opened for reading")
        with self._lock, self._locked() as handle:
            self._catch_up(handle)
            before = self._head, self._count, self._size
            try:
                for event, fields in lines:
                    self._write(handle, event, {name: _safe(value) for name, value in fields.items()})
                self._sync(handle)
            except OSError:  # all of them or none
                self._head, self._count, self._size = before
                with suppress(OSError):
                    os.ftruncate(handle, self._size)
                raise
            return self._head

    def head(self) -> str:
        """The SHA-256 (hex) of the last line, 64 zeros when empty."""
        with self._lock:
            return self._head

    def count(self) -> int:
        """The number of lines, as far as this process knows."""
        return self.end()[0]

    def end(self) -> tuple[int, str]:
        """The number of lines and the head of just these, as far as this process knows."""
        with self._lock:
            return self._count, self._head

    def verify(self, remembered: str | None = None, each: Callable[[Line], None] | None = None) -> int:
        """Check the whole chain as it lies on disk; returns the number of lines.

        Args:
            remembered: a head noted earlier; it must still be in the chain, so that a file cut short or put back
                from a backup is found.
            each: told every line, oldest first.

        Raises:
            IntegrityError: `journal.chain`.
        """
        seen = remembered in (None, GENESIS)
        head, count = GENESIS, 0
        for line in self._read(0, GENESIS, 0):
            head, count = line.digest, count + 1
            seen = seen or line.digest == remembered
            if each is not None:
                each(line)
        if not seen:
            raise IntegrityError("journal.chain", "the journal lacks a line that it once had")
        if self._readonly:
            with self._lock:
                self._head, self._count = head, count
        return count

    def tail(self, count: int = 20) -> list[Line]:
        """The last `count` lines, oldest first, after checking the chain."""
        return list(self._read(0, GENESIS, 0))[-count:] if count > 0 else []

    @contextmanager
    def _locked(self) -> Iterator[int]:
        with named_errors():
            handle = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
            try:
                fcntl.flock(handle, fcntl.LOCK_EX)
                yield handle
            finally:
                os.close(handle)

    def _catch_up(self, handle: int) -> None:
        """Under the lock: check what others appended since, and cut a torn last line."""
        size = os.fstat(handle).st_size
        if size == self._size:
            return
        if size < self._size:
            raise IntegrityError("journal.chain", "the journal became shorter")
        for line, end in self._lines(self._size, self._head, self._count):
            self._head, self._count, self._size = line.digest, line.seq + 1, end
        if self._size < size:
            os.ftruncate(handle, self._size)
            os.fsync(handle)
            self._write(handle, "journal.repaired", {"bytes": size - self._size})
            self._sync(handle)

    def _write(self, handle: int, event: str, fields: dict[str, Any]) -> None:
        raw = canonical_json(
            {"at": round(time.time(), 3), "event": event, "fields": fields, "prev": self._head, "seq": self._count}
        )
        written = 0
        data = raw + b"\n"
        while written < len(data):
            written += os.write(handle, data[written:])
        self._head = hashlib.sha256(raw).hexdigest()
        self._count += 1
        self._size += len(data)

    def _sync(self, handle: int) -> None:
        os.fsync(handle)
        if not self._named:
            sync_folder(self._path.parent)
            self._named = True

    def _read(self, start: int, head: str, count: int) -> Iterator[Line]:
        for line, _end in self._lines(start, head, count):
            yield line

    def _lines(self, start: int, head: str, count: int) -> Iterator[tuple[Line, int]]:
        """Whole lines from byte `start` on, each checked against the chain, with the byte where it ends."""
        if not self._path.exists():
            return
        with named_errors(), self._path.open("rb") as source:
            source.seek(start)
            end = start
            for raw in source:
                if not raw.endswith(b"\n"):
                    return
                line = _parse(raw[:-1], head, count)
                head, count, end = line.digest, count + 1, end + len(raw)
                yield line, end


def _parse(raw: bytes, prev: str, seq: int) -> Line:
    try:
        value = json.loads(raw)
        if value["prev"] != prev or repr(value["seq"]) != str(seq) or canonical_json(value) != raw:
            raise ValueError("chain")
        return Line(
            seq=seq,
            at=float(value["at"]),
            event=str(value["event"]),
            fields=dict(value["fields"]),
            digest=hashlib.sha256(raw).hexdigest(),
        )
    except (ValueError, KeyError, TypeError, RecursionError):
        raise IntegrityError("journal.chain", f"line {seq + 1} of the journal is damaged") from None


def _safe(value: Any) -> Any:
    if value is None or isinstance(value, bool | int):
        return value
    if isinstance(value, float):
        return value if abs(value) < float("inf") else "-"  # False for NaN too
    if isinstance(value, dict):
        return {str(_safe(str(name))): _safe(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [_safe(item) for item in value]
    text = str(value)
    return text if text == "" or _WORD.match(text) else "-"
