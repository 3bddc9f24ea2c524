"""What this site was asked and how far it got: SQLite, durable before anything is done about it.

Place in the flow: the watch thread stores, the work threads move states on, reports and the steward's commands read.
Holds signed documents, states, codes and counts; never a row of a dataset, a key or an error's text.
"""

from __future__ import annotations

import json
import os
import sqlite3
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path

from edge.schema import STATE, bring_forward
from edge.storage import named_errors
from protocol.assignment import Assignment, AssignmentKind, Blob, RoundInstruction, State
from protocol.errors import IntegrityError, StudyRefused

__all__ = ["MAX_DOCUMENT_BYTES", "MAX_OPEN", "Accepted", "Record", "SiteState"]

MAX_OPEN = 10_000  # assignments that are not final; more are refused, so that a centre cannot fill the disk
MAX_DOCUMENT_BYTES = 256 * 1024
_COLUMNS = "number, id, kind, study_digest, document, signature, blobs, received, state, code, error_id, counts"
_FINAL = tuple(state.value for state in State if state.final)


@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """An assignment with what became of it. `number` grows in order of arrival."""

    number: int
    assignment: Assignment
    received: float
    state: State
    code: str = ""
    error_id: str = ""
    counts: dict[str, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Accepted:
    """A model's manifest that this site has accepted; `at` is Unix seconds, `digest` of the document."""

    name: str
    alias: str
    serial: int
    version: int
    digest: str
    rollback: int  # 1: signed as a roll-back
    at: float


class SiteState:
    """`state.db` (WAL, synchronous=FULL), safe for threads and for the steward's commands beside the daemon.

    Raises:
        StorageError: `storage.full` or `storage.failed`, from every method; nothing changed then. `storage.newer`
            for a file that a later version wrote.
    """

    def __init__(self, path: Path) -> None:
        self._lock = threading.RLock()
        with named_errors():
            os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))
            self._db = sqlite3.connect(path, timeout=30.0, isolation_level=None, check_same_thread=False)
            self._db.execute("PRAGMA journal_mode=WAL")
            self._db.execute("PRAGMA synchronous=FULL")
            bring_forward(self._db, STATE)

    def close(self) -> None:
        """Close the file."""
        with self._lock:
            self._db.close()

    # --- assignments

    def store(self, assignment: Assignment) -> bool:
        """Keep an assignment, once; returns whether it is new. A known one that is final is reported again.

        Raises:
            StudyRefused: `study.replay` when the id is known with other content, too many are open, or the
                document is too large.
        """
        with self._transaction():
            row = self._db.execute(
                "SELECT document, signature FROM assignments WHERE id = ?", (assignment.id,)
            ).fetchone()
            if row is not None:
                if (row[0], row[1]) != (assignment.document, assignment.signature):
                    raise StudyRefused("study.replay", "an assignment came again with other content")
                self._db.execute("UPDATE assignments SET reported = 0 WHERE id = ?", (assignment.id,))
                return False
            (count,) = self._db.execute(
                f"SELECT COUNT(*) FROM assignments WHERE state NOT IN ({_marks(_FINAL)})",  # noqa: S608 - marks
                _FINAL,
            ).fetchone()
            if count >= MAX_OPEN or len(assignment.document) > MAX_DOCUMENT_BYTES:
                raise StudyRefused("study.replay", "too many open assignments, or a document that is too large")
            self._db.execute(
                "INSERT INTO assignments (id, kind, study_digest, document, signature, blobs, received, state)"
                " VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
                (
                    assignment.id,
                    assignment.kind.value,
                    assignment.study_digest,
                    assignment.document,
                    assignment.signature,
                    json.dumps([asdict(blob) for blob in assignment.blobs]),
                    time.time(),
                    State.RECEIVED.value,
                ),
            )
        return True

    def move(
        self,
        assignment_id: str,
        state: State,
        *,
        code: str = "",
        error_id: str = "",
        counts: dict[str, int] | None = None,
    ) -> None:
        """Set an assignment's state; it is due to be reported then. Counts are added to those known."""
        with self._transaction():
            record = self._record(assignment_id)
            if record is None or record.state.final:
                return
            merged = {**record.counts, **(counts or {})}
            if (record.state, record.code, record.counts) == (state, code, merged):
                return
            self._db.execute(
                "UPDATE assignments SET state = ?, code = ?, error_id = ?, counts = ?, reported = 0 WHERE id = ?",
                (state.value, code, error_id, json.dumps(merged), assignment_id),
            )

    def record(self, assignment_id: str) -> Record | None:
        """One assignment, or None."""
        with self._lock, named_errors():
            return self._record(assignment_id)

    def open(self, kind: AssignmentKind | None = None) -> list[Record]:
        """Assignments that are not final, in order of arrival."""
        where = f"state NOT IN ({_marks(_FINAL)})" + (" AND kind = ?" if kind else "")
        return self._select(where, (*_FINAL, *((kind.value,) if kind else ())))

    def studies(self, limit: int = 1000) -> list[Record]:
        """The newest studies received, in order of arrival."""
        found = self._select("kind = 'study'", (), f"ORDER BY number DESC LIMIT {int(limit)}")
        return found[::-1]

    def study(self, study_digest: str) -> Record | None:
        """The study assignment of a digest, or None."""
        return next(iter(self._select("kind = 'study' AND study_digest = ?", (study_digest,))), None)

    def counts(self) -> dict[tuple[str, str], int]:
        """How many assignments there are by kind and state."""
        with self._lock, named_errors():
            found = self._db.execute("SELECT kind, state, COUNT(*) FROM assignments GROUP BY kind, state").fetchall()
        return {(kind, state): count for kind, state, count in found}

    def unreported(self) -> list[Record]:
        """Assignments whose present state the centre has not acknowledged."""
        return self._select("reported = 0", ())

    def reported(self, *records: Record) -> None:
        """Note that the centre has these states, each unless it changed meanwhile."""
        if not records:
            return
        with self._transaction():
            self._db.executemany(
                "UPDATE assignments SET reported = 1 WHERE id = ? AND state = ? AND code = ? AND counts = ?",
                [(r.assignment.id, r.state.value, r.code, json.dumps(r.counts)) for r in records],
            )

    # --- instructions of a federation

    def instruct(self, instruction: RoundInstruction, digest: str, assignment_id: str) -> bool:
        """Note an instruction before it is carried out; returns whether it has been answered already.

        Args:
            instruction: a verified instruction.
            digest: SHA-256 (hex) of its exact bytes.
            assignment_id: under which it came.

        Raises:
            StudyRefused: `study.replay` when its (run, round, phase, attempt) was used for other content, or when a
                later round, or a later attempt of this phase, was seen.
        """
        place = (instruction.run, instruction.round, instruction.place)
        with self._transaction():
            row = self._db.execute(
                "SELECT digest, answered FROM instructions WHERE run = ? AND round = ? AND phase = ? AND attempt = ?",
                (*place, instruction.attempt),
            ).fetchone()
            if row is not None:
                if row[0] != digest:
                    raise StudyRefused("study.replay", "an instruction's number came with other content")
                return bool(row[1])
            (last,) = self._db.execute(
                "SELECT MAX(round) FROM instructions WHERE run = ?", (instruction.run,)
            ).fetchone()
            (attempt,) = self._db.execute(
                "SELECT MAX(attempt) FROM instructions WHERE run = ? AND round = ? AND phase = ?", place
            ).fetchone()
            if instruction.round < (last or 0) or instruction.attempt < (attempt or 0):
                raise StudyRefused("study.replay", "an instruction is out of order")
            self._db.execute(
                "INSERT INTO instructions (run, round, phase, attempt, digest, assignment) VALUES (?, ?, ?, ?, ?, ?)",
                (*place, instruction.attempt, digest, assignment_id),
            )
        return False

    def answered(self, assignment_id: str) -> None:
        """Note that the instruction of an assignment has its answer in the spool."""
        with self._transaction():
            self._db.execute("UPDATE instructions SET answered = 1 WHERE assignment = ?", (assignment_id,))

    # --- secure aggregation: `privacy.secagg.Guard`, durable

    def claim(self, study: str, phase: str, round_: int, attempt: int, survivors: bytes) -> bool:
        """Bind a study's round and phase to one attempt and survivor set, for ever; False when they are bound already.

        Whatever the run is called (the column `run` holds the phase): the centre names runs.
        """
        with self._transaction():
            self._db.execute("INSERT OR IGNORE INTO claims VALUES (?, ?, ?, ?, ?)",
                             (study, phase, round_, attempt, survivors))  # fmt: skip
            row = self._db.execute(
                "SELECT attempt, survivors FROM claims WHERE study = ? AND run = ? AND round = ?",
                (study, phase, round_),
            ).fetchone()
        return (int(row[0]), bytes(row[1])) == (attempt, survivors)

    def claimed(self, study: str, phase: str, round_: int) -> int | None:
        """The attempt to which a round is bound, or None."""
        with self._lock, named_errors():
            row = self._db.execute(
                "SELECT attempt FROM claims WHERE study = ? AND run = ? AND round = ?", (study, phase, round_)
            ).fetchone()
        return int(row[0]) if row else None

    # --- models

    def accepted(self, name: str | None = None) -> list[Accepted]:
        """Manifests accepted here, by model and alias, the newest serial last; of one model or all."""
        with self._lock, named_errors():
            rows = self._db.execute(
                "SELECT name, alias, serial, version, digest, rollback, at FROM accepted WHERE ? IS NULL OR name = ?"
                " ORDER BY name, alias, serial",
                (name, name),
            ).fetchall()
        return [Accepted(*row) for row in rows]

    def accept_model(
        self, name: str, alias: str, serial: int, version: int, digest: str, *, rollback: bool = False
    ) -> None:
        """Note a verified manifest.

        Args:
            digest: SHA-256 (hex) of the manifest's document.
            rollback: it is signed as a roll-back.

        Raises:
            IntegrityError: `model.rollback` when a later serial was accepted under this alias, or a higher version and
                this is no roll-back; `model.manifest` for another manifest of an accepted serial.
        """
        with self._transaction():
            last = next((m for m in reversed(self.accepted(name)) if m.alias == alias), None)
            if last is not None and (serial < last.serial or (version < last.version and not rollback)):
                raise IntegrityError("model.rollback")
            if last is not None and serial == last.serial and last.digest not in ("", digest):
                raise IntegrityError("model.manifest", "two manifests of one serial")
            self._db.execute(
                "INSERT OR REPLACE INTO accepted VALUES (?, ?, ?, ?, ?, ?, ?)",
                (name, alias, serial, version, digest, int(rollback), time.time()),
            )

    # --- facts: the last heads of ledger and journal, so that an older copy put back is found

    def fact(self, name: str) -> str | None:
        """A remembered value, or None."""
        with self._lock, named_errors():
            row = self._db.execute("SELECT value FROM facts WHERE name = ?", (name,)).fetchone()
        return str(row[0]) if row else None

    def set_fact(self, name: str, value: str) -> None:
        """Remember a value."""
        with self._transaction():
            self._db.execute("INSERT OR REPLACE INTO facts (name, value) VALUES (?, ?)", (name, value))

    # --- approvals (edge/approvals.py decides what they mean)

    def approval(self, study_digest: str) -> tuple[str, str, str] | None:
        """(decision, approver, code digest) of a study, or None."""
        with self._lock, named_errors():
            row = self._db.execute(
                "SELECT decision, approver, code_digest FROM approvals WHERE study_digest = ?", (study_digest,)
            ).fetchone()
        return (str(row[0]), str(row[1]), str(row[2])) if row else None

    def set_approval(self, study_digest: str, decision: str, approver: str, code_digest: str) -> None:
        """Record a decision on a study; the latest holds."""
        with self._transaction():
            self._db.execute(
                "INSERT OR REPLACE INTO approvals (study_digest, decision, approver, code_digest, at)"
                " VALUES (?, ?, ?, ?, ?)",
                (study_digest, decision, approver, code_digest, time.time()),
            )

    # --- inside

    def _record(self, assignment_id: str) -> Record | None:
        return next(iter(self._select("id = ?", (assignment_id,))), None)

    def _select(self, where: str, values: tuple[object, ...], order: str = "ORDER BY number") -> list[Record]:
        with self._lock, named_errors():
            rows = self._db.execute(
                f"SELECT {_COLUMNS} FROM assignments WHERE {where} {order}",  # noqa: S608 - texts of this module
                values,
            ).fetchall()
        return [_record_of(row) for row in rows]

    @contextmanager
    def together(self) -> Iterator[None]:
        """Several changes as one: all of them are durable at the end, or none has been made."""
        with self._transaction():
            yield

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        with self._lock, named_errors():
            if self._db.in_transaction:  # within `together`, by this very thread
                yield
                return
            self._db.execute("BEGIN IMMEDIATE")
            try:
                yield
                self._db.execute("COMMIT")
            except BaseException:
                if self._db.in_transaction:  # a full disk has rolled back already
                    self._db.execute("ROLLBACK")
                raise


def _record_of(row: tuple[object, ...]) -> Record:
    number, name, kind, digest, document, signature, blobs, received, state, code, error_id, counts = row
    return Record(
        number=int(str(number)),
        assignment=Assignment(
            id=str(name),
            kind=AssignmentKind(str(kind)),
            study_digest=str(digest),
            document=bytes(document),  # type: ignore[call-overload]
            signature=bytes(signature),  # type: ignore[call-overload]
            blobs=tuple(Blob(**blob) for blob in json.loads(str(blobs))),
        ),
        received=float(str(received)),
        state=State(str(state)),
        code=str(code),
        error_id=str(error_id),
        counts={str(k): int(v) for k, v in json.loads(str(counts)).items()},
    )


def _marks(values: tuple[str, ...]) -> str:
    return ", ".join("?" for _ in values)
