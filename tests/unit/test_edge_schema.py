"""A site's databases across versions: forward with their rows, refused when newer, no step half done."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest

from edge.ledger import Ledger
from edge.schema import LEDGER, STATE, bring_forward
from edge.state import SiteState
from protocol.errors import StorageError

OLD_LEDGER = (  # as of 34df313, the first that was laid down
    "CREATE TABLE ledger (seq INTEGER PRIMARY KEY, at REAL NOT NULL, event TEXT NOT NULL, key TEXT NOT NULL,"
    " dataset TEXT NOT NULL, study TEXT NOT NULL, k INTEGER NOT NULL, cohort INTEGER NOT NULL, bytes INTEGER NOT NULL,"
    " epsilon TEXT NOT NULL, persons INTEGER NOT NULL, prev TEXT NOT NULL, hash TEXT NOT NULL)"
)


def version(path: Path, set_to: int | None = None) -> int:
    with closing(sqlite3.connect(path)) as database:
        if set_to is not None:
            database.execute(f"PRAGMA user_version = {set_to}")
        return int(database.execute("PRAGMA user_version").fetchone()[0])


def test_files_of_before_versions_were_counted_come_forward(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path / "made.db")
    spend = {"k": 5, "cohort": 20, "bytes": 100, "cost": None, "persons": 20}
    ledger.reserve("a", "lung", "s1", **spend)  # type: ignore[arg-type]
    rows = list(ledger._db.execute("SELECT seq, at, event, key, dataset, study, k, cohort, bytes, epsilon, persons,"
                                   " prev, hash FROM ledger"))  # fmt: skip
    with closing(sqlite3.connect(tmp_path / "ledger.db")) as old, old:
        old.execute(OLD_LEDGER)
        old.executemany(f"INSERT INTO ledger VALUES ({', '.join('?' * 13)})", rows)  # noqa: S608 - marks
    with closing(sqlite3.connect(tmp_path / "state.db")) as old, old:
        old.execute("CREATE TABLE models (name TEXT PRIMARY KEY, serial INTEGER NOT NULL)")
        old.execute("INSERT INTO models VALUES ('lung', 7)")
    forward = Ledger(tmp_path / "ledger.db")
    assert forward.verify() == 1
    assert forward.spends() == ledger.spends()
    state = SiteState(tmp_path / "state.db")
    assert [(model.name, model.alias, model.serial) for model in state.accepted()] == [("lung", "champion", 7)]
    assert (version(tmp_path / "ledger.db"), version(tmp_path / "state.db")) == (len(LEDGER), len(STATE))


@pytest.mark.parametrize("make", [Ledger, SiteState])
def test_a_newer_file_is_refused_and_not_touched(tmp_path: Path, make: Callable[[Path], object]) -> None:
    make(tmp_path / "x.db").close()  # type: ignore[attr-defined]
    version(tmp_path / "x.db", set_to=99)
    with pytest.raises(StorageError) as caught:
        make(tmp_path / "x.db")
    assert caught.value.code == "storage.newer"
    assert version(tmp_path / "x.db") == 99


def test_a_step_that_fails_is_not_half_done(tmp_path: Path) -> None:
    database = sqlite3.connect(tmp_path / "x.db", isolation_level=None)

    def first(db: sqlite3.Connection) -> None:
        db.execute("CREATE TABLE one (a)")

    def broken(db: sqlite3.Connection) -> None:
        db.execute("CREATE TABLE two (a)")
        db.execute("CREATE TABLE one (a)")

    def second(db: sqlite3.Connection) -> None:
        db.execute("ALTER TABLE one ADD COLUMN b")

    with pytest.raises(sqlite3.OperationalError):
        bring_forward(database, (first, broken))
    assert version(tmp_path / "x.db") == 1
    bring_forward(database, (first, second))
    bring_forward(database, (first, second))
    assert version(tmp_path / "x.db") == 2
    assert [row[0] for row in database.execute("SELECT name FROM sqlite_master")] == ["one"]
    database.close()
