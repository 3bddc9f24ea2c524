"""A certificate's standing is asked of the database once a change, and each change holds for the next call."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import event

from central.gateway.register import Peer, Register
from central.store import Store
from central.store.models import CertificateRow, SiteRow
from protocol.errors import AuthenticationError

PEER = Peer(site="site-a", serial="a1", not_after=time.time() + 3600)


class Place:
    def __init__(self, folder: Path) -> None:
        self.writer, self.store = Store(folder), Store(folder)
        with self.writer.begin() as session:
            session.add(SiteRow(name="site-a", identity="k", enrolled_at=0.0))
            session.flush()
            session.add(CertificateRow(serial="a1", site="site-a", not_after=PEER.not_after))
        self.register = Register(self.store)
        self.asked = 0
        event.listen(self.store.engine, "before_cursor_execute", self._count)

    def _count(self, _connection: Any, _cursor: Any, statement: str, *_rest: Any) -> None:
        self.asked += statement.startswith("SELECT")

    def revoke(self, row: type[Any] = CertificateRow, key: str = "a1") -> None:
        with self.writer.begin() as session:
            session.get_one(row, key).revoked = True


@pytest.fixture
def place(state_folder: Path) -> Place:
    return Place(state_folder)


def test_calls_without_a_change_cost_one_question(tmp_path: Path) -> None:
    """Where the database tells of every commit: SQLite."""
    place = Place(tmp_path)
    for _ in range(50):
        place.register.check(PEER)
        assert place.register.revoked({"a1"}) == set()
    assert place.asked == 2
    with place.writer.begin() as session:
        place.writer.emit(session, "site.invited", site="other")
    place.register.check(PEER)
    assert place.asked == 3


@pytest.mark.parametrize(("row", "key"), [(CertificateRow, "a1"), (SiteRow, "site-a")])
def test_a_revocation_holds_for_the_next_call(place: Place, row: type[Any], key: str) -> None:
    place.register.check(PEER)
    assert place.register.revoked({"a1"}) == set()
    place.revoke(row, key)
    assert place.register.revoked({"a1"}) == {"a1"}
    assert place.register.revoked({"a1"}) == {"a1"}, "for as long as it is asked"
    with pytest.raises(AuthenticationError, match=r"auth\.revoked"):
        place.register.check(PEER)


def test_who_is_not_registered_or_ran_out_is_refused_from_memory_too(place: Place) -> None:
    stranger = Peer(site="site-b", serial="a1", not_after=PEER.not_after)
    late = Peer(site="site-a", serial="a1", not_after=time.time() - 1)
    for _ in range(2):
        with pytest.raises(AuthenticationError, match=r"auth\.certificate"):
            place.register.check(stranger)
        with pytest.raises(AuthenticationError, match=r"auth\.expired"):
            place.register.check(late)
        assert place.register.revoked({"a1", "b2"}) == {"b2"}


def test_a_revocation_that_comes_between_the_question_and_its_answer_is_not_forgotten(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another thread notices the change first: the old answer must not be kept as the new one."""
    rows = place.store.rows

    def slow(*args: Any, **values: Any) -> Any:
        found = rows(*args, **values)
        monkeypatch.setattr(place.store, "rows", rows)
        place.revoke()
        with suppress(AuthenticationError):
            meanwhile()
        return found

    checks: list[Callable[[], object]] = [lambda: place.register.check(PEER), lambda: place.register.revoked({"a1"})]
    meanwhile = lambda: place.register.check(Peer(site="other", serial="c3", not_after=PEER.not_after))  # noqa: E731
    monkeypatch.setattr(place.store, "rows", slow)
    checks[0]()  # this call was admitted before
    with pytest.raises(AuthenticationError, match=r"auth\.revoked"):
        checks[0]()
    assert checks[1]() == {"a1"}
