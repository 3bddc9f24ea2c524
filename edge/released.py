"""Who was in what left: keyed hashes of persons, by parcel, so that the site can answer one who asks (GDPR 15).

Place in the flow: gate (who is in an item) -> sealer (who is in a part) -> `note`, before the parcel can leave; `among`
and `count` for the steward's questions. No name, id or pseudonym is kept: a hash under a key that lies beside the file,
is used for nothing else and never leaves the site. Without the patient's id nothing can be looked up.
"""

from __future__ import annotations

import hashlib
import hmac
import os
import secrets
import sqlite3
import threading
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from edge.storage import named_errors
from privacy.deid.pseudonym import normalise_id
from privacy.envelope.keyfile import kept_secret
from protocol.errors import StorageError

__all__ = ["UNKNOWN", "Released"]

UNKNOWN = "?"  # somebody is in the parcel, and the data do not say who
_HASH_BYTES = 16
_KEY_BYTES = 32
_SCHEMA = """
CREATE TABLE IF NOT EXISTS released (
  study TEXT NOT NULL, assignment TEXT NOT NULL, parcel TEXT NOT NULL, subject BLOB NOT NULL, at REAL NOT NULL,
  PRIMARY KEY (subject, study, parcel)) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS released_by_study ON released (study, parcel);
CREATE INDEX IF NOT EXISTS released_by_assignment ON released (assignment);
"""


class Released:
    """`released.db` and `released.key` in a state folder; safe for threads and processes.

    Raises:
        StorageError: `storage.full` or `storage.failed`, from every method; nothing changed then.
    """

    def __init__(self, state_dir: Path) -> None:
        self._lock = threading.RLock()
        path, key = state_dir / "released.db", state_dir / "released.key"
        with named_errors():
            self._key = kept_secret(key, lambda: secrets.token_bytes(_KEY_BYTES))
            os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))
            self._db = sqlite3.connect(path, timeout=30.0, isolation_level=None, check_same_thread=False)
            self._db.execute("PRAGMA journal_mode=WAL")
            self._db.execute("PRAGMA synchronous=FULL")
            self._db.executescript(_SCHEMA)
        if len(self._key) != _KEY_BYTES:
            raise StorageError("storage.failed", "the key of who was in what left is damaged")

    def close(self) -> None:
        """Close the file."""
        with self._lock:
            self._db.close()

    def note(self, study: str, assignment: str, parcel: str, persons: Iterable[str] | None) -> None:
        """Remember, durably, who is in a parcel; once each.

        Args:
            study: its digest.
            parcel: its id; empty for every parcel of the study (each update of a training run).
            persons: patients' ids, or pseudonyms of this very study; None when the data do not say.
        """
        names = [UNKNOWN] if persons is None else persons
        rows = [(study, assignment, parcel, self._hash(study, one), round(time.time(), 3)) for one in names]
        with self._lock, self._transaction():
            self._db.executemany("INSERT OR IGNORE INTO released VALUES (?, ?, ?, ?, ?)", rows)

    def drop(self, assignment: str) -> None:
        """Forget who was in parcels of an assignment that are made anew: none of them has left."""
        with self._lock, self._transaction():
            self._db.execute("DELETE FROM released WHERE assignment = ?", (assignment,))

    def studies(self) -> list[str]:
        """Digests of the studies of which somebody was noted."""
        with self._lock, named_errors():
            return [str(row[0]) for row in self._db.execute("SELECT DISTINCT study FROM released ORDER BY study")]

    def among(self, study: str, names: Iterable[str]) -> dict[str, bool]:
        """Parcels of a study that hold somebody of these names; False where the data do not say who is in them.

        Args:
            names: one person's: the id, and the pseudonym in this study.
        """
        found: dict[str, bool] = {}
        with self._lock, named_errors():
            for name, sure in ((UNKNOWN, False), *((one, True) for one in names)):
                query = "SELECT parcel FROM released WHERE subject = ? AND study = ?"
                found |= {str(row[0]): sure for row in self._db.execute(query, (self._hash(study, name), study))}
        return found

    def count(self, study: str, parcels: Iterable[str]) -> int | None:
        """How many different persons are in these parcels of a study; None when that is not known of one of them."""
        wanted = {"", *parcels}
        with self._lock, named_errors():
            rows = self._db.execute("SELECT parcel, subject FROM released WHERE study = ?", (study,)).fetchall()
        persons = {bytes(subject) for parcel, subject in rows if parcel in wanted}
        return None if not persons or self._hash(study, UNKNOWN) in persons else len(persons)

    def _hash(self, study: str, name: str) -> bytes:
        body = hashlib.sha256(study.encode() + b"\0" + normalise_id(name).encode()).digest()
        return hmac.digest(self._key, b"corsia subject" + body, "sha256")[:_HASH_BYTES]

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        with named_errors():
            self._db.execute("BEGIN IMMEDIATE")
            try:
                yield
                self._db.execute("COMMIT")
            except BaseException:
                if self._db.in_transaction:
                    self._db.execute("ROLLBACK")
                raise
