"""The memory of cohorts in the ledger: with the spend or not at all, once a release, and readable by nobody else."""

from __future__ import annotations

import sqlite3
from dataclasses import replace
from pathlib import Path

import pytest

from edge.ledger import Ledger
from edge.memory import KEY_FILE, Release, admitted, look
from privacy.disclosure.traps import Traps
from protocol.errors import BudgetExceeded, CorsiaError, DisclosureRefused

EVERYBODY = tuple(f"MRN{i:05d}" for i in range(60))
WHOLE = Release(cohorts={"all": EVERYBODY}, numbers={"score": 3}, minimum=10, traps=Traps())


@pytest.fixture
def ledger(tmp_path: Path) -> Ledger:
    return Ledger(tmp_path / "ledger.db")


def reserve(ledger: Ledger, folder: Path, name: str, release: Release = WHOLE, size: int = 10) -> None:
    memory = admitted(folder, name, release)
    ledger.reserve(name, "cohort", "s", k=5, cohort=10, bytes=size, cost=None, persons=60, memory=memory)


def test_a_refusal_spends_and_remembers_nothing(ledger: Ledger, tmp_path: Path) -> None:
    reserve(ledger, tmp_path, "a")
    head, memory = ledger.head(), ledger.memory("cohort")
    for release, code in (
        (replace(WHOLE, cohorts={"all": EVERYBODY[2:]}), "gate.differencing"),
        (replace(WHOLE, cohorts={"all": EVERYBODY[:9]}), "gate.cohort"),
        (replace(WHOLE, numbers={"score": 4}, traps=Traps(queries=0.1)), "gate.queries"),
        (replace(WHOLE, cohorts={"one": EVERYBODY[:25], "two": EVERYBODY[25:58]}), "gate.differencing"),
    ):
        for attempt in (
            lambda r=release: reserve(ledger, tmp_path, "b", r),
            lambda r=release: look(tmp_path, memory, r),
        ):
            with pytest.raises(DisclosureRefused) as refused:
                attempt()
            assert refused.value.code == code
    assert (ledger.head(), ledger.memory("cohort")) == (head, memory)
    assert [spend.key for spend in ledger.spends()] == ["a"]
    reserve(ledger, tmp_path, "b")
    assert ledger.verify() == 2


def test_the_same_release_is_remembered_once_and_another_under_its_name_again(ledger: Ledger, tmp_path: Path) -> None:
    for _ in range(5):
        reserve(ledger, tmp_path, "a")
    assert ledger.verify() == 1
    reserve(ledger, tmp_path, "a", replace(WHOLE, cohorts={"all": EVERYBODY[:30]}))
    assert ledger.verify() == 2
    with pytest.raises(DisclosureRefused):  # what the first try would have told counts
        reserve(ledger, tmp_path, "a", replace(WHOLE, cohorts={"all": EVERYBODY[:28]}))


def test_other_datasets_have_memories_of_their_own(ledger: Ledger, tmp_path: Path) -> None:
    reserve(ledger, tmp_path, "a")
    release = replace(WHOLE, cohorts={"all": EVERYBODY[2:]})
    ledger.reserve(
        "b", "other", "s", k=5, cohort=10, bytes=1, cost=None, persons=58, memory=admitted(tmp_path, "b", release)
    )
    assert ledger.memory("none") is None
    assert b"MRN" not in (tmp_path / "ledger.db").read_bytes()


@pytest.mark.parametrize(
    "sql",
    ["DELETE FROM memories", "UPDATE memories SET data = x'7b7d'", "UPDATE ledger SET memory = ''",
     "INSERT INTO memories VALUES ('other', x'00')"],
)  # fmt: skip
def test_a_changed_memory_is_a_broken_ledger(ledger: Ledger, tmp_path: Path, sql: str) -> None:
    reserve(ledger, tmp_path, "a")
    with sqlite3.connect(tmp_path / "ledger.db") as db:
        db.execute(sql)
    with pytest.raises(BudgetExceeded) as broken:
        ledger.verify()
    assert broken.value.code == "budget.ledger"
    with pytest.raises(BudgetExceeded):
        reserve(Ledger(tmp_path / "ledger.db"), tmp_path, "b")


def test_a_lost_or_other_key_is_a_broken_ledger(ledger: Ledger, tmp_path: Path) -> None:
    reserve(ledger, tmp_path, "a")
    key = tmp_path / KEY_FILE
    for content in (b"x" * 32, b"short", None):
        key.unlink() if content is None else key.write_bytes(content)
        with pytest.raises(CorsiaError) as broken:
            reserve(ledger, tmp_path, "b")
        assert broken.value.code == "budget.ledger"


def test_a_ledger_from_before_there_was_a_memory(tmp_path: Path) -> None:
    first = Ledger(tmp_path / "ledger.db")
    first.reserve("a", "cohort", "s", k=5, cohort=10, bytes=1, cost=None, persons=1)
    head = first.head()
    first.close()
    with sqlite3.connect(tmp_path / "ledger.db") as db:
        db.execute("ALTER TABLE ledger DROP COLUMN memory")
        db.execute("DROP TABLE memories")
        db.execute("PRAGMA user_version = 0")
    later = Ledger(tmp_path / "ledger.db")
    assert later.verify(head) == 1
    reserve(later, tmp_path, "b")
    assert later.verify(head) == 2
