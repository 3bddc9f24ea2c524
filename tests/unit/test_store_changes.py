"""The cheap question that the pollers ask: has the database changed?"""

from __future__ import annotations

import threading
import time
from pathlib import Path

import pytest
from sqlalchemy import create_engine

from central.store import Store
from central.store.changes import Changes


def test_a_commit_of_any_connection_is_seen_once(state_folder: Path) -> None:
    mine, other = Store(state_folder), Store(state_folder)
    changes = Changes(mine.engine)
    assert changes.seen(), "the first time everything is new"
    assert not changes.seen()
    for store in (mine, other):
        with store.begin() as session:
            store.emit(session, "site.invited", site="a")
        assert changes.seen()
        assert not changes.seen()
    with other.read() as session:
        assert session.connection() is not None
    assert not changes.seen(), "reading changes nothing"


def test_a_rollback_is_no_change_and_a_commit_after_it_is(state_folder: Path) -> None:
    store = Store(state_folder)
    changes = Changes(store.engine)
    changes.seen()
    try:
        with store.begin() as session:
            store.emit(session, "site.invited", site="a")
            session.flush()
            raise RuntimeError
    except RuntimeError:
        pass
    assert not changes.seen()
    with store.begin() as session:
        store.emit(session, "site.invited", site="b")
    assert changes.seen()


def test_what_cannot_be_asked_counts_as_changed(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    changes = Changes(create_engine(f"sqlite:///{tmp_path / 'folder'}"))
    assert changes.seen()
    assert changes.seen()


def test_a_wait_ends_with_the_commit_of_another_thread(state_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("central.store.changes.LOOK_S", 60.0)  # only the wake-up itself can end it
    store = Store(state_folder)
    changes = Changes(store.engine)
    changes.seen()

    def commit() -> None:
        with store.begin() as session:
            store.emit(session, "site.invited", site="a")

    timer = threading.Timer(0.3, commit)
    timer.start()
    assert changes.wait(50.0)
    timer.join()
    assert not changes.wait(0.0)


def test_a_wait_without_a_commit_ends_in_time(state_folder: Path) -> None:
    changes = Changes(Store(state_folder).engine)
    changes.seen()
    used = time.process_time()
    assert not changes.wait(0.3)
    assert time.process_time() - used < 0.2, "it sleeps"


def test_a_database_that_tells_of_no_commits_is_polled() -> None:
    changes = Changes(create_engine("sqlite://"))  # in memory: the same as any other than a SQLite file
    assert changes.wait(0.01)
    assert changes.wait(0.01)
