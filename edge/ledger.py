"""The privacy ledger: every use of a dataset is spent here, durably, before anything leaves.

Place in the flow: gate -> `reserve` -> seal into the spool (held) -> `commit` -> release. A spend that was
reserved counts whether or not it was committed: unsure means spent. Rows are never changed; each carries the
SHA-256 over the row before and its own canonical JSON, and the head goes with every heartbeat. A dataset's memory of
released cohorts (`edge/memory.py`) changes in the same transaction, and the row carries its digest. This module knows
nothing of parcels and may not see data.
"""

from __future__ import annotations

import hashlib
import os
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from edge.schema import LEDGER, bring_forward
from edge.spends import Limits, Row, Spend, Total, cost_text, greatest, spend_of, total_of
from edge.storage import named_errors
from edge.totals import GENESIS, Totals
from privacy.dp.accountant import Curve
from privacy.dp.budget import Budget
from protocol.errors import BudgetExceeded, ConflictError

__all__ = ["GENESIS", "YEAR_S", "Ledger", "Limits", "Spend", "Total"]

YEAR_S = 365 * 86_400.0
_COLUMNS = "seq, at, event, key, dataset, study, k, cohort, bytes, epsilon, persons, memory, prev, hash"


class Ledger:
    """A hash-chained table in its own SQLite file (WAL, synchronous=FULL), safe for threads and processes.

    Raises:
        StorageError: `storage.full`, `storage.failed`; nothing is spent then. `storage.newer` for a file that a later
            version wrote.
        BudgetExceeded: `budget.ledger` when the file is no ledger or does not verify. It is verified before the
            first spend of a process.
    """

    def __init__(self, path: Path) -> None:
        self._lock = threading.RLock()
        self._verified = False
        self._totals = Totals()
        with _ledger_errors():
            os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))
            self._db = sqlite3.connect(path, timeout=30.0, isolation_level=None, check_same_thread=False)
            try:
                self._db.execute("PRAGMA journal_mode=WAL")
                self._db.execute("PRAGMA synchronous=FULL")
                bring_forward(self._db, LEDGER)
            except BaseException:
                self._db.close()  # else it would hold its lock on a damaged file
                raise

    def close(self) -> None:
        """Close the file."""
        with self._lock:
            self._db.close()

    def reserve(
        self,
        key: str,
        dataset: str,
        study: str,
        *,
        k: int,
        cohort: int,
        bytes: int,
        cost: Curve | None,
        persons: int,
        limits: Limits | None = None,
        memory: Callable[[bytes | None], bytes] | None = None,
    ) -> Spend:
        """Spend, durably, before anything is sealed. The same key spends once, however often it is asked.

        Args:
            key: names the release (`run/round/phase`, or an assignment id).
            dataset: whose budget is spent.
            study: the study's digest.
            k: the k that was checked.
            cohort: the cohort's size.
            bytes: the most that this key will let out. Asking again for more spends the difference.
            cost: the loss of this release as a curve, known before any noise is drawn; None when no noise bounds it.
            persons: how many persons the result is about.
            limits: refuse beyond these, in the same transaction.
            memory: makes the dataset's memory of what it was; what it raises is raised, and nothing is spent.

        Returns:
            What the key has now spent; `state` is `committed` when a run before this one came so far.

        Raises:
            BudgetExceeded: `budget.bytes`, `budget.epsilon` or `budget.ledger`; nothing is spent.
            ConflictError: `conflict.state` when the key belongs to another dataset or study, or is committed with
                less than is asked now.
        """
        if min(k, cohort, bytes, persons) < 0:
            raise AssertionError("ledger: a spend is never negative")
        with self._lock, self._transaction():
            if not self._verified:
                self._verify(None)
            old = self._spend(key)
            changed = self._remember(dataset, memory) if memory is not None else ""
            if old is not None:
                if (old.dataset, old.study) != (dataset, study):
                    raise ConflictError("conflict.state", "the ledger key belongs to another study")
                more = greatest([old.cost, cost])
                if not changed and bytes <= old.bytes and persons <= old.persons and more == old.cost:
                    return old
                if old.state == "committed":
                    raise ConflictError("conflict.state", "the release is committed already")
            if limits is not None:
                self._check(dataset, study, bytes - (old.bytes if old else 0), limits)
                self._check_cost(key, dataset, study, cost, limits)
            self._append("reserve", key, dataset, study, k, cohort, bytes, cost, persons, changed)
            spend = self._spend(key)
        if spend is None:
            raise AssertionError("ledger: the spend is not there")
        return spend

    def commit(self, key: str, bytes: int) -> Spend:
        """Note what was really sealed under a reserved key. Idempotent.

        Raises:
            BudgetExceeded: `budget.bytes` when more was sealed than reserved: do not release it.
            ConflictError: `conflict.state` when nothing is reserved, or it is committed with other bytes.
        """
        with self._lock, self._transaction():
            old = self._spend(key)
            if old is None:
                raise ConflictError("conflict.state", "nothing is reserved under this key")
            if old.state == "committed":
                if old.bytes != bytes:
                    raise ConflictError("conflict.state", "committed already with another size")
                return old
            if not 0 <= bytes <= old.bytes:
                raise BudgetExceeded("budget.bytes", "more was sealed than reserved")
            self._append("commit", key, old.dataset, old.study, old.k, old.cohort, bytes, old.cost, old.persons)
            spend = self._spend(key)
        if spend is None:
            raise AssertionError("ledger: the spend is not there")
        return spend

    def check(self, dataset: str, bytes: int, limits: Limits, *, study: str | None = None) -> None:
        """Refuse before any work when `bytes` more would go beyond the limits.

        Raises:
            BudgetExceeded: `budget.bytes`.
        """
        with self._lock, _ledger_errors():
            self._check(dataset, study, bytes, limits)

    def afford(self, dataset: str, study: str, cost: Curve, limits: Limits) -> None:
        """Refuse a study whose releases, all together, would not fit beside what other studies have spent.

        Raises:
            BudgetExceeded: `budget.epsilon`.
        """
        with self._lock, _ledger_errors():
            since = time.time() - YEAR_S
            others = [s for s in self._caught_up().spends(dataset, since) if s.study != study]
            spent = total_of(others).cost
            Budget(epsilon=limits.epsilon_per_year, delta=limits.delta_per_year, spent=spent).require(cost, "365 days")
            most = limits.epsilon if limits.epsilon is not None else 0.0
            Budget(epsilon=most, delta=limits.delta).require(cost, "study")

    def total(self, dataset: str, since: float = 0.0, *, study: str | None = None) -> Total:
        """What a dataset has spent since a time (Unix seconds), by all studies or by one."""
        with self._lock, _ledger_errors():
            return total_of(self._spends(dataset, since, study))

    def year(self, dataset: str, epsilon: float, delta: float) -> Budget:
        """What the noised releases of 365 days leave of a limit."""
        with self._lock, _ledger_errors():
            return self._year(self._spends(dataset, time.time() - YEAR_S, None), epsilon, delta)

    def spends(self) -> list[Spend]:
        """Every key's spend, oldest first."""
        with self._lock, _ledger_errors():
            keys = [str(row[0]) for row in self._db.execute("SELECT key FROM ledger GROUP BY key ORDER BY MIN(seq)")]
            return [spend for key in keys if (spend := self._spend(key)) is not None]

    def spend(self, key: str) -> Spend | None:
        """One key's spend, or None."""
        with self._lock, _ledger_errors():
            return self._spend(key)

    def head(self) -> str:
        """The last row's hash (hex), 64 zeros when empty."""
        with self._lock, _ledger_errors():
            return self._last()[1]

    def memory(self, dataset: str) -> bytes | None:
        """A dataset's memory, None before there is one.

        Raises:
            BudgetExceeded: `budget.ledger` when it is not the one that the chain names.
        """
        with self._lock, _ledger_errors():
            return self._memory(dataset)

    def verify(self, remembered: str | None = None) -> int:
        """Check every row and the chain; returns the number of rows.

        Args:
            remembered: a head noted earlier (in the site's state, or by the centre); it must still be in the
                chain, so that a ledger cut short or put back from a backup is found.

        Raises:
            BudgetExceeded: `budget.ledger`.
        """
        with self._lock, _ledger_errors():
            return self._verify(remembered)

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        with _ledger_errors():
            self._db.execute("BEGIN IMMEDIATE")
            try:
                yield
                self._db.execute("COMMIT")
            except BaseException:
                if self._db.in_transaction:  # a full disk has rolled back already
                    self._db.execute("ROLLBACK")
                raise

    def _append(
        self,
        event: str,
        key: str,
        dataset: str,
        study: str,
        k: int,
        cohort: int,
        size: int,
        cost: Curve | None,
        persons: int,
        memory: str = "",
    ) -> None:
        seq, prev = self._last()
        now = round(time.time(), 3)
        row = Row(seq + 1, now, event, key, dataset, study, k, cohort, size, cost_text(cost), persons, memory, prev, "")
        values = (*(getattr(row, name) for name in Row.__slots__[:-1]), row.computed())
        self._db.execute(f"INSERT INTO ledger ({_COLUMNS}) VALUES ({', '.join('?' * len(values))})", values)  # noqa: S608

    def _remember(self, dataset: str, change: Callable[[bytes | None], bytes]) -> str:
        before = self._memory(dataset)
        after = change(before)
        if after == before:
            return ""
        self._db.execute("INSERT OR REPLACE INTO memories (dataset, data) VALUES (?, ?)", (dataset, after))
        return hashlib.sha256(after).hexdigest()

    def _memory(self, dataset: str) -> bytes | None:
        said = self._db.execute(
            "SELECT memory FROM ledger WHERE dataset = ? AND memory != '' ORDER BY seq DESC LIMIT 1", (dataset,)
        ).fetchone()
        held = self._db.execute("SELECT data FROM memories WHERE dataset = ?", (dataset,)).fetchone()
        if (said is None) != (held is None) or (held and hashlib.sha256(held[0]).hexdigest() != said[0]):
            raise BudgetExceeded("budget.ledger", "the memory of cohorts is not the one that was written")
        return bytes(held[0]) if held else None

    def _last(self) -> tuple[int, str]:
        row = self._db.execute("SELECT seq, hash FROM ledger ORDER BY seq DESC LIMIT 1").fetchone()
        return (int(row[0]), str(row[1])) if row else (0, GENESIS)

    def _rows(self, where: str = "1", values: tuple[object, ...] = ()) -> Iterator[Row]:
        query = f"SELECT {_COLUMNS} FROM ledger WHERE {where} ORDER BY seq"  # noqa: S608 - where is ours
        return (Row(*row) for row in self._db.execute(query, values))

    def _spend(self, key: str) -> Spend | None:
        return spend_of(list(self._rows("key = ?", (key,))))

    def _spends(self, dataset: str, since: float, study: str | None) -> list[Spend]:
        keys: dict[str, list[Row]] = {}
        for row in self._rows("dataset = ?", (dataset,)):
            if study is None or row.study == study:
                keys.setdefault(row.key, []).append(row)
        return [s for rows in keys.values() if (s := spend_of(rows)) is not None and s.at >= since]

    def _year(self, spends: list[Spend], epsilon: float, delta: float) -> Budget:
        return Budget(epsilon=epsilon, delta=delta, spent=total_of(spends).cost)

    def _caught_up(self) -> Totals:
        """The sums with every row that this process or another has written since.

        Raises:
            BudgetExceeded: `budget.ledger` when the chain does not go on from where it was.
        """
        totals, last = self._totals, self._last()
        if last != (totals.seq, totals.head):
            for row in self._rows("seq > ?", (totals.seq,)):
                totals.add(row)
            if last != (totals.seq, totals.head):
                raise BudgetExceeded("budget.ledger", "the ledger lacks a row that it once had")
        return totals

    def _check_cost(self, key: str, dataset: str, study: str, cost: Curve | None, limits: Limits) -> None:
        """Refuse what does not fit beside everything else that was spent, this key's earlier reservation apart."""
        if cost is None:
            return
        totals = self._caught_up()
        recent = [s for s in totals.spends(dataset, time.time() - YEAR_S) if s.key != key]
        self._year(recent, limits.epsilon_per_year, limits.delta_per_year).require(cost, "365 days")
        own = [s for s in totals.spends(dataset, 0.0, study) if s.key != key]
        most = limits.epsilon if limits.epsilon is not None else 0.0
        Budget(epsilon=most, delta=limits.delta, spent=total_of(own).cost).require(cost, "study")

    def _check(self, dataset: str, study: str | None, size: int, limits: Limits) -> None:
        totals = self._caught_up()
        if totals.since(dataset, time.time() - YEAR_S) + size > limits.max_bytes_per_year:
            raise BudgetExceeded("budget.bytes", "the dataset's bytes of 365 days are spent")
        if study is not None and totals.of_study(dataset, study) + size > limits.max_bytes:
            raise BudgetExceeded("budget.bytes", "the study's bytes are spent")

    def _verify(self, remembered: str | None) -> int:
        seen = remembered in (None, GENESIS)
        head, count = GENESIS, 0
        for row in self._rows():
            count += 1
            if row.seq != count or row.prev != head or row.hash != row.computed():
                raise BudgetExceeded("budget.ledger", f"row {count} of the ledger is not as it was written")
            head = row.hash
            seen = seen or head == remembered
        for (dataset,) in self._db.execute("SELECT dataset FROM ledger UNION SELECT dataset FROM memories").fetchall():
            self._memory(str(dataset))
        if not seen:
            raise BudgetExceeded("budget.ledger", "the ledger lacks a row that it once had")
        self._verified = True
        return count


@contextmanager
def _ledger_errors() -> Iterator[None]:
    """As `named_errors`, but for damage: what is no ledger any more is no failure of the disk."""
    with named_errors():
        try:
            yield
        except sqlite3.Error as error:
            name = getattr(error, "sqlite_errorname", "")
            if name.startswith(("SQLITE_CORRUPT", "SQLITE_NOTADB")) or name == "SQLITE_ERROR":  # a table that is gone
                raise BudgetExceeded("budget.ledger", "the ledger's file is damaged") from error
            raise
        except (TypeError, ValueError) as error:  # a tampered column of another type
            raise BudgetExceeded("budget.ledger", "the ledger holds a value that it never wrote") from error
