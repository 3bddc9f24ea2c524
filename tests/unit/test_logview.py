"""What a site keeps of the log: beside another process, after a crash, after a steward's decision."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from edge.journal import Journal
from edge.logview import LogView, View, forget
from edge.state import SiteState
from privacy.checkpoint import Checkpoint
from privacy.inclusion import LogNews, LogProof, Seen, verify_growth
from privacy.transparency import Tree
from protocol.errors import IntegrityError
from tests.unit.test_inclusion import KEY, ORIGIN, tree

LOG = tree(20)


def point(size: int, log: Tree = LOG) -> Checkpoint:
    return Checkpoint(origin=ORIGIN, size=size, root=log.root(size), time=7)


def seen(size: int, log: Tree = LOG) -> Seen:
    return Seen(size=size, root=log.root(size))


class Centre:
    """Proves what is asked of an honest log."""

    def prove(self, index: int, size: int, to: int = 0) -> LogProof:
        assert (index, size < to) == (0, True)
        return LogProof(checkpoint="", consistency=tuple(h.hex() for h in LOG.consistency(size, to)))


@pytest.fixture
def states(tmp_path: Path) -> Iterator[tuple[SiteState, SiteState]]:
    both = SiteState(tmp_path / "state.db"), SiteState(tmp_path / "state.db")
    yield both
    for state in both:
        state.close()


def test_a_command_beside_the_daemon_is_not_overwritten(states: tuple[SiteState, SiteState]) -> None:
    daemon = LogView(states[0], lambda: 0)
    daemon.note(point(5))
    daemon.keep()
    command = LogView(states[1])
    daemon.note(point(6))  # not written down yet
    command.extend(point(9), command.linked)
    daemon.keep()
    assert daemon.look() == View(seen(9), (seen(6),))
    assert LogView(states[1]).look() == daemon.look()
    daemon.link(Centre())
    assert daemon.look() == View(seen(9), ())
    assert command.look() == daemon.look()


def test_the_larger_linked_state_stays_and_the_other_is_to_be_linked(states: tuple[SiteState, SiteState]) -> None:
    daemon, command = LogView(states[0], lambda: 0), LogView(states[1])
    daemon.note(point(5))
    daemon.keep()
    before = command.look()
    daemon.learn(daemon.look(), seen(12))
    command.extend(point(9), before.linked)  # proved from 5, while the daemon went on to 12
    assert daemon.look() == command.look() == View(seen(12), (seen(9),))
    daemon.link(Centre())
    assert command.look() == View(seen(12), ())


def test_two_processes_that_are_shown_two_logs_find_it(states: tuple[SiteState, SiteState]) -> None:
    daemon, command = LogView(states[0], lambda: 0), LogView(states[1])
    daemon.note(point(5))
    daemon.keep()
    command.look()
    forged = tree(20, b"forged")
    command.extend(point(12, forged), command.linked)
    daemon.note(point(12))
    for call in (daemon.keep, daemon.look):  # and it stays found
        with pytest.raises(IntegrityError, match=r"log\.proof"):
            call()
    fresh = LogView(states[0])
    fresh.note(point(14))
    with pytest.raises(IntegrityError, match=r"log\.proof"):
        fresh.link(Centre())


def test_what_grew_meanwhile_is_linked_the_next_time(states: tuple[SiteState, SiteState]) -> None:
    view = LogView(states[0], lambda: 0)
    view.note(point(5))
    asked = view.look()
    view.note(point(7))
    view.extend(point(8), asked.linked)  # a model's proof came in between
    view.learn(asked, seen(10))
    assert view.look() == View(seen(8), (seen(7),))
    view.learn(view.look(), seen(10))
    assert view.look() == View(seen(10), ())


def test_one_size_and_two_roots(states: tuple[SiteState, SiteState]) -> None:
    view = LogView(states[0], lambda: 0)
    for size in (5, 7, 6):
        view.note(point(size))
        view.note(point(size))
    for size in (5, 6, 7):
        with pytest.raises(IntegrityError, match=r"log\.proof"):
            view.note(point(size, tree(20, b"forged")))
    assert view.look() == View(seen(5), (seen(6), seen(7)))


def test_a_steward_begins_anew_and_the_daemon_follows(states: tuple[SiteState, SiteState]) -> None:
    daemon = LogView(states[0], lambda: 0)
    daemon.note(point(5))
    daemon.keep()
    daemon.note(point(6))
    assert forget(states[1], 3) == seen(5)
    assert daemon.look() == View(None, ())
    assert forget(states[1], 3) is None
    other = tree(3, b"restored")
    daemon.learn(daemon.look(), seen(3, other))
    assert LogView(states[1]).linked == seen(3, other)


def test_receipts_of_the_journal_come_back_after_a_crash(states: tuple[SiteState, SiteState], tmp_path: Path) -> None:
    journal = Journal(tmp_path / "journal.jsonl")
    view = LogView(states[0], journal.count)
    assert view.fresh
    for size in range(1, 6):
        view.note(point(size))
        journal.append("parcel.delivered", index=size - 1, size=size, checkpoint=LOG.root(size).hex())
        if size == 3:
            view.keep()  # later ones are lost with the process
    again = LogView(states[1], journal.count)
    assert not again.fresh
    assert again.look().sizes == (1, 2, 3)
    journal.verify(each=again.recall)
    assert again.look().sizes == (1, 2, 3, 4, 5)
    journal.append("parcel.delivered", index=4, size=5, checkpoint="ab" * 32)
    with pytest.raises(IntegrityError, match=r"log\.proof"):
        journal.verify(each=again.recall)


def news(log: Tree, *asked: int, **changes: object) -> LogNews:
    from privacy.checkpoint import sign_checkpoint

    made = Checkpoint(origin=ORIGIN, size=log.size, root=log.root(), time=7)
    links = {size: tuple(log.consistency(size)) for size in asked}
    return LogNews(**{"size": log.size, "checkpoint": sign_checkpoint(made, KEY), "links": links} | changes)  # type: ignore[arg-type]


def test_growth() -> None:
    answer = news(LOG, 5, 7, 20)
    assert verify_growth(answer, seen(5), (seen(7), seen(20)), KEY.public, ORIGIN) == seen(20)
    assert verify_growth(news(LOG), None, (), KEY.public, ORIGIN) == seen(20)
    assert verify_growth(LogNews(size=20), seen(20), (), KEY.public, ORIGIN) == seen(20)
    assert verify_growth(LogNews(size=0), None, (), KEY.public, ORIGIN) is None
    forged = tree(20, b"forged")
    hostile = [
        (news(tree(4), 4), seen(5), ()),
        (LogNews(size=20), seen(5), ()),
        (LogNews(size=20), None, ()),
        (LogNews(size=20), seen(20), (seen(7),)),
        (news(LOG, 7), seen(5), ()),
        (news(LOG, 5), seen(5), (seen(7),)),
        (news(LOG, 5, 7), seen(5), (seen(7, forged),)),
        (news(LOG, 5), seen(5, forged), ()),
        (news(LOG), seen(20, forged), ()),
        (news(LOG, 5, size=21), seen(5), ()),
        (news(LOG, 5, checkpoint="x"), seen(5), ()),
        (LogNews(size=0), seen(5), ()),
    ]
    for answer, linked, others in hostile:
        with pytest.raises(IntegrityError, match=r"log\.proof"):
            verify_growth(answer, linked, others, KEY.public, ORIGIN)
