"""The cheap question that the pollers ask: has the database changed?"""

from __future__ import annotations

from pathlib import Path

from sqlalchemy import create_engine

from central.store import Store
from central.store.changes import Changes


def test_a_commit_of_any_connection_is_seen_once(tmp_path: Path) -> None:
    mine, other = Store(tmp_path), Store(tmp_path)
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


def test_a_rollback_is_no_change_and_a_commit_after_it_is(tmp_path: Path) -> None:
    store = Store(tmp_path)
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
