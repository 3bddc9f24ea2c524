"""The ledger: spent once, spent when unsure, refused beyond the limits, and never quietly changed."""

from __future__ import annotations

import sqlite3
import stat
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from edge.ledger import GENESIS, YEAR_S, Ledger, Spend
from privacy.dp import accountant
from protocol.errors import BudgetExceeded, ConflictError, CorsiaError, StorageError

DELTA = 1e-6
COST = accountant.gaussian(accountant.scale_for(0.5, DELTA))  # epsilon 0.5
MORE = accountant.gaussian(accountant.scale_for(0.7, DELTA))


class Limits:
    def __init__(
        self, study: int = 10**9, year: int = 10**9, *, epsilon: float | None = 1.0, epsilon_per_year: float = 1.0
    ) -> None:
        self.max_bytes = study
        self.max_bytes_per_year = year
        self.epsilon = epsilon
        self.delta = DELTA
        self.epsilon_per_year = epsilon_per_year
        self.delta_per_year = DELTA


@pytest.fixture
def ledger(tmp_path: Path) -> Ledger:
    return Ledger(tmp_path / "ledger.db")


def spend(ledger: Ledger, key: str = "a", **changes: Any) -> Spend:
    value: dict[str, Any] = {
        "dataset": "lung",
        "study": "s1",
        "k": 5,
        "cohort": 20,
        "bytes": 100,
        "cost": None,
        "persons": 20,
    }
    return ledger.reserve(key, **{**value, **changes})


def refused(call: Callable[[], object], error: type[CorsiaError], code: str) -> None:
    with pytest.raises(error) as caught:
        call()
    assert caught.value.code == code


def test_reserved_and_committed_both_count(ledger: Ledger) -> None:
    assert spend(ledger).state == "reserved"
    spend(ledger, "b", bytes=50, cost=COST)
    assert ledger.commit("a", 80).state == "committed"
    total = ledger.total("lung", 0)
    assert (total.bytes, total.persons, total.releases, total.cost, total.unbounded) == (130, 40, 2, COST, 1)
    assert ledger.total("lung", time.time() + 1).releases == 0
    assert ledger.total("lung", study="other").releases == 0
    assert ledger.total("heart").bytes == 0
    assert [s.key for s in ledger.spends()] == ["a", "b"]


def test_a_key_spends_once(ledger: Ledger) -> None:
    first = spend(ledger)
    head = ledger.head()
    assert spend(ledger) == first
    assert spend(ledger, bytes=10, persons=1) == first
    assert ledger.head() == head
    assert spend(ledger, bytes=150).bytes == 150  # a run after a crash found more: the difference is spent
    assert ledger.total("lung").bytes == 150
    committed = ledger.commit("a", 140)
    assert ledger.commit("a", 140) == committed
    assert spend(ledger) == committed
    refused(lambda: ledger.commit("a", 139), ConflictError, "conflict.state")
    refused(lambda: spend(ledger, bytes=141), ConflictError, "conflict.state")
    refused(lambda: spend(ledger, study="s2"), ConflictError, "conflict.state")
    refused(lambda: spend(ledger, dataset="heart"), ConflictError, "conflict.state")
    assert ledger.verify() == 3


def test_losing_the_noise_spends_again(ledger: Ledger) -> None:
    spend(ledger, cost=COST)
    assert spend(ledger, cost=MORE).cost == MORE
    assert spend(ledger, cost=COST).cost == MORE
    assert ledger.verify() == 2
    assert spend(ledger, cost=None).cost is None
    assert spend(ledger, cost=MORE).cost is None


def test_a_year_and_a_study_have_a_budget_of_epsilon(ledger: Ledger) -> None:
    limits = Limits(epsilon=0.8, epsilon_per_year=1.0)
    spend(ledger, "a", cost=COST, limits=limits)
    assert spend(ledger, "a", cost=COST, limits=limits).state == "reserved"  # the same release spends once
    spend(ledger, "b", cost=COST, limits=limits)  # curves compose: two of 0.5 are less than 0.8
    head = ledger.head()
    refused(lambda: spend(ledger, "c", cost=COST, limits=limits), BudgetExceeded, "budget.epsilon")
    spend(ledger, "c", study="s2", cost=COST, limits=limits)
    refused(lambda: spend(ledger, "d", study="s3", cost=MORE, limits=limits), BudgetExceeded, "budget.epsilon")
    spend(ledger, "d", study="s3", dataset="heart", cost=MORE, limits=limits)
    spend(ledger, "e", study="s3", cost=None, limits=limits)  # policy decides about those without noise
    assert ledger.total("lung").cost == COST.times(3)
    assert head != ledger.head()


def test_a_study_without_a_limit_of_its_own_may_not_spend_epsilon(ledger: Ledger) -> None:
    refused(lambda: spend(ledger, cost=COST, limits=Limits(epsilon=None)), BudgetExceeded, "budget.epsilon")
    assert ledger.head() == GENESIS


def test_what_was_given_up_after_noise_stays_spent(ledger: Ledger) -> None:
    limits = Limits(epsilon=0.6)
    spend(ledger, cost=COST, limits=limits)
    assert ledger.commit("a", 0).cost == COST
    refused(lambda: spend(ledger, "b", cost=COST, limits=limits), BudgetExceeded, "budget.epsilon")


def test_epsilon_of_more_than_a_year_ago_is_free_again(ledger: Ledger, monkeypatch: pytest.MonkeyPatch) -> None:
    limits = Limits(epsilon=9.0, epsilon_per_year=0.6)
    now = time.time()
    monkeypatch.setattr(time, "time", lambda: now - YEAR_S - 120)
    spend(ledger, "old", study="s0", cost=COST, limits=limits)
    monkeypatch.setattr(time, "time", lambda: now - 60)
    spend(ledger, "new", cost=COST, limits=limits)
    monkeypatch.setattr(time, "time", lambda: now)
    refused(lambda: spend(ledger, "next", cost=COST, limits=limits), BudgetExceeded, "budget.epsilon")
    assert ledger.total("lung", now - YEAR_S).cost == COST


def test_nothing_is_committed_that_was_not_reserved(ledger: Ledger) -> None:
    refused(lambda: ledger.commit("a", 1), ConflictError, "conflict.state")
    spend(ledger)
    refused(lambda: ledger.commit("a", 101), BudgetExceeded, "budget.bytes")
    refused(lambda: ledger.commit("a", -1), BudgetExceeded, "budget.bytes")
    kept = ledger.spend("a")
    assert kept is not None
    assert kept.state == "reserved"


@pytest.mark.parametrize(
    "change",
    [
        {"bytes": -1},
        {"k": -1},
        {"persons": -1},
    ],
)
def test_a_spend_is_never_negative(ledger: Ledger, change: dict[str, Any]) -> None:
    with pytest.raises(AssertionError):
        spend(ledger, **change)
    assert ledger.head() == GENESIS


def test_limits(ledger: Ledger) -> None:
    limits = Limits(study=250, year=400)
    spend(ledger, "a", limits=limits)
    spend(ledger, "b", limits=limits)
    head = ledger.head()
    refused(lambda: spend(ledger, "c", limits=limits), BudgetExceeded, "budget.bytes")
    assert ledger.head() == head
    spend(ledger, "b", limits=limits)  # the same key needs no more
    spend(ledger, "b", bytes=150, limits=limits)
    refused(lambda: spend(ledger, "b", bytes=151, limits=limits), BudgetExceeded, "budget.bytes")
    spend(ledger, "c", study="s2", bytes=150, limits=limits)
    refused(lambda: spend(ledger, "d", study="s3", bytes=1, limits=limits), BudgetExceeded, "budget.bytes")
    refused(lambda: ledger.check("lung", 1, limits), BudgetExceeded, "budget.bytes")
    ledger.check("lung", 0, limits)
    ledger.check("heart", 400, limits)
    refused(lambda: ledger.check("heart", 251, limits, study="s1"), BudgetExceeded, "budget.bytes")


def test_a_year_later_the_budget_is_back(ledger: Ledger, monkeypatch: pytest.MonkeyPatch) -> None:
    limits = Limits(study=1000, year=100)
    now = time.time()
    monkeypatch.setattr(time, "time", lambda: now - YEAR_S - 10)
    spend(ledger, "old")
    monkeypatch.setattr(time, "time", lambda: now)
    ledger.check("lung", 100, limits)
    assert ledger.total("lung").bytes == 100
    refused(lambda: ledger.check("lung", 901, Limits(1000, 10**6), study="s1"), BudgetExceeded, "budget.bytes")


def test_a_clock_that_is_set_back_gives_nothing_back(ledger: Ledger, monkeypatch: pytest.MonkeyPatch) -> None:
    now, limits = time.time(), Limits(study=1000, year=250)
    spend(ledger, "a", limits=limits)
    monkeypatch.setattr(time, "time", lambda: now + YEAR_S + 60)
    spend(ledger, "b", study="s2", limits=limits)
    ledger.check("lung", 150, limits)  # "a" is more than a year ago
    monkeypatch.setattr(time, "time", lambda: now + 60)
    refused(lambda: ledger.check("lung", 51, limits), BudgetExceeded, "budget.bytes")
    ledger.check("lung", 50, limits)
    monkeypatch.setattr(time, "time", lambda: now + 2 * YEAR_S)
    ledger.check("lung", 150, limits)


def test_a_late_commit_counts_from_then_on(ledger: Ledger, monkeypatch: pytest.MonkeyPatch) -> None:
    now, limits = time.time(), Limits(study=1000, year=100)
    spend(ledger, "a", limits=limits)
    monkeypatch.setattr(time, "time", lambda: now + YEAR_S + 60)
    ledger.check("lung", 100, limits)
    ledger.commit("a", 80)
    ledger.check("lung", 20, limits)
    refused(lambda: ledger.check("lung", 21, limits), BudgetExceeded, "budget.bytes")


@pytest.mark.parametrize(
    "sql",
    [
        "DELETE FROM ledger WHERE seq = 3",
        "DELETE FROM ledger",
        "UPDATE ledger SET bytes = 1 WHERE seq = 3",
        "UPDATE ledger SET hash = prev WHERE seq = 3",
    ],
)
def test_rows_of_another_process_go_on_from_what_was_read(ledger: Ledger, tmp_path: Path, sql: str) -> None:
    limits, other = Limits(), Ledger(tmp_path / "ledger.db")
    spend(ledger, "a", limits=limits)
    spend(other, "b", limits=limits)
    ledger.check("lung", 10**9 - 200, limits)
    if "DELETE" in sql:
        spend(ledger, "c", limits=limits)
        ledger.check("lung", 0, limits)
    else:
        spend(other, "c", limits=limits)
    with sqlite3.connect(tmp_path / "ledger.db") as database:
        database.execute(sql)
    database.close()
    refused(lambda: spend(ledger, "d", limits=limits), BudgetExceeded, "budget.ledger")


def test_it_lies_durably_for_the_owner_alone(ledger: Ledger, tmp_path: Path) -> None:
    assert ledger._db.execute("PRAGMA synchronous").fetchone() == (2,)
    spend(ledger)
    for path in tmp_path.iterdir():
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
    again = Ledger(tmp_path / "ledger.db")
    assert again.head() == ledger.head()
    assert again.spends() == ledger.spends()
    assert again.verify(remembered=ledger.head()) == 1


@pytest.mark.parametrize(
    "sql",
    [
        "UPDATE ledger SET bytes = 1 WHERE seq = 2",
        "UPDATE ledger SET at = 0.0 WHERE seq = 2",
        "UPDATE ledger SET epsilon = '0.1' WHERE seq = 2",
        "UPDATE ledger SET bytes = 'many' WHERE seq = 2",
        "UPDATE ledger SET bytes = x'00' WHERE seq = 2",
        "UPDATE ledger SET prev = hash WHERE seq = 2",
        "UPDATE ledger SET key = 'z' WHERE seq = 2",
        "DELETE FROM ledger WHERE seq = 2",
        "DELETE FROM ledger WHERE seq = 1",
        "UPDATE ledger SET seq = 9 WHERE seq = 3",
        "DROP TABLE ledger",
    ],
)
def test_a_changed_ledger_spends_no_more(ledger: Ledger, tmp_path: Path, sql: str) -> None:
    for key in "abc":
        spend(ledger, key)
    head = ledger.head()
    ledger.close()
    database = sqlite3.connect(tmp_path / "ledger.db")
    with database:
        database.execute(sql)
    database.close()
    again = Ledger(tmp_path / "ledger.db")
    refused(lambda: again.verify(remembered=head), BudgetExceeded, "budget.ledger")
    if not sql.startswith("DROP"):
        refused(lambda: spend(again, "d"), BudgetExceeded, "budget.ledger")


def test_a_ledger_cut_short_or_restored_is_found_by_its_head(ledger: Ledger, tmp_path: Path) -> None:
    spend(ledger, "a")
    early = ledger.head()
    spend(ledger, "b")
    head = ledger.head()
    ledger.verify(remembered=early)
    ledger.close()
    database = sqlite3.connect(tmp_path / "ledger.db")
    with database:
        database.execute("DELETE FROM ledger WHERE seq = 2")
    database.close()
    again = Ledger(tmp_path / "ledger.db")
    assert again.verify() == 1  # by itself it looks sound
    refused(lambda: again.verify(remembered=head), BudgetExceeded, "budget.ledger")
    assert again.verify(remembered=early) == again.verify(remembered=GENESIS) == 1


def test_a_file_that_is_no_ledger(tmp_path: Path) -> None:
    (tmp_path / "x.db").write_bytes(b"not a database at all" * 100)
    refused(lambda: Ledger(tmp_path / "x.db"), BudgetExceeded, "budget.ledger")
    refused(lambda: Ledger(tmp_path / "none" / "x.db"), StorageError, "storage.failed")


def test_a_full_disk_spends_nothing(ledger: Ledger) -> None:
    spend(ledger, "a")
    pages = ledger._db.execute("PRAGMA page_count").fetchone()[0]
    ledger._db.execute(f"PRAGMA max_page_count = {pages}")
    refused(lambda: [spend(ledger, f"k{n}" * 100) for n in range(200)], StorageError, "storage.full")
    count = ledger.verify()
    assert len(ledger.spends()) == count
    ledger._db.execute("PRAGMA max_page_count = 1000000")
    spend(ledger, "later")
    assert ledger.verify() == count + 1


def test_threads_and_connections_spend_one_after_the_other(tmp_path: Path) -> None:
    ledgers = [Ledger(tmp_path / "ledger.db") for _ in range(2)]
    refusals: list[str] = []

    def run(number: int) -> None:
        for i in range(10):
            try:
                spend(ledgers[number % 2], f"{number}/{i}", limits=Limits(10**6, 2_000))
            except BudgetExceeded as error:
                refusals.append(error.code)

    threads = [threading.Thread(target=run, args=(n,)) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert refusals == ["budget.bytes"] * 20
    assert ledgers[0].verify() == 20
    assert ledgers[1].total("lung").bytes == 2_000


def test_a_whole_run_must_fit_beside_what_other_studies_have_spent(ledger: Ledger) -> None:
    limits = Limits(epsilon_per_year=0.8)
    ledger.afford("lung", "s1", COST, limits)
    spend(ledger, "a", study="s1", cost=COST)
    ledger.afford("lung", "s1", COST, limits)  # its own rounds are part of it
    ledger.afford("heart", "s2", COST, limits)
    refused(lambda: ledger.afford("lung", "s2", MORE, limits), BudgetExceeded, "budget.epsilon")
    refused(lambda: ledger.afford("lung", "s1", COST, Limits(epsilon=0.4)), BudgetExceeded, "budget.epsilon")
    assert len(ledger.spends()) == 1  # asking spends nothing
