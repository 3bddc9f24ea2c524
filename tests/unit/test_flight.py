"""What goes together, what waits for what, and what happens when one fails."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edge.entry import SpoolEntry
from edge.flight import SMALL_BYTES, Leg, fly, legs_of
from protocol.errors import IntegrityError, Paused, UnavailableError


def entry(sequence: int, study: str = "a", size: int = 10) -> SpoolEntry:
    return SpoolEntry(
        parcel_id=f"{sequence:032x}", sequence=sequence, assignment_id="x", study_digest=study * 64,
        content_type="features", digest="0" * 64, size_bytes=size, path=Path("x"),
    )  # fmt: skip


def go() -> bool:
    return False


SIZES = st.one_of(st.integers(1, SMALL_BYTES), st.integers(SMALL_BYTES + 1, 10 * SMALL_BYTES))


@settings(deadline=None)
@given(st.lists(st.tuples(st.sampled_from("abc"), SIZES), max_size=300))
def test_each_study_keeps_its_order_and_only_small_ones_go_together(parcels: list[tuple[str, int]]) -> None:
    entries = [entry(number, *parcel) for number, parcel in enumerate(parcels)]
    legs = legs_of(entries)
    assert sorted(e.sequence for leg in legs for e in leg.entries) == list(range(len(entries)))
    for study in "abc":
        mine = [leg for leg in legs if leg.entries[0].study_digest == study * 64]
        numbers = [e.sequence for leg in mine for e in leg.entries]
        assert numbers == sorted(numbers)
        assert [leg.before for leg in mine] == [None, *mine[:-1]][: len(mine)]
    for leg in legs:
        assert len({e.study_digest for e in leg.entries}) == 1
        assert len(leg.entries) == 1 or all(e.size_bytes <= SMALL_BYTES for e in leg.entries)
        assert sum(e.size_bytes for e in leg.entries) <= 2 << 20 or len(leg.entries) == 1
        assert len(leg.entries) <= 128


def test_large_parcels_are_under_way_together_and_committed_in_order() -> None:
    legs = legs_of([entry(number, size=SMALL_BYTES + 1) for number in range(6)])
    sending = threading.Barrier(4, timeout=10)  # so many are under way at once, or this breaks
    committed: list[int] = []

    def deliver(leg: Leg) -> None:
        if leg.entries[0].sequence < 4:
            sending.wait()
        leg.turn(go)
        committed.append(leg.entries[0].sequence)

    fly(legs, deliver, go)
    assert committed == list(range(6))


@pytest.mark.parametrize("error", [UnavailableError("unavailable.centre"), Paused("paused.site")])
def test_nothing_overtakes_a_parcel_that_did_not_go(error: Exception) -> None:
    legs = legs_of([entry(number, size=SMALL_BYTES + 1) for number in range(6)])
    committed: list[int] = []

    def deliver(leg: Leg) -> None:
        leg.turn(go)
        if leg.entries[0].sequence == 2:
            raise error
        committed.append(leg.entries[0].sequence)

    with pytest.raises(type(error)):
        fly(legs, deliver, go)
    assert committed == [0, 1]


def test_the_reason_is_told_and_not_that_others_were_held_back() -> None:
    legs = legs_of([entry(0, size=SMALL_BYTES + 1), entry(1, size=SMALL_BYTES + 1)])

    def deliver(leg: Leg) -> None:
        leg.turn(go)
        raise UnavailableError("unavailable.centre")

    with pytest.raises(UnavailableError):
        fly(legs, deliver, go)


def test_a_fault_of_ours_is_not_swallowed_and_holds_back_what_follows() -> None:
    legs = legs_of([entry(number, size=SMALL_BYTES + 1) for number in range(3)])

    def deliver(leg: Leg) -> None:
        leg.turn(go)
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fly(legs, deliver, go)
    assert all(leg.failed and leg.over.is_set() for leg in legs)


def test_told_to_stop_nothing_is_begun() -> None:
    legs = legs_of([entry(0), entry(1, "b"), entry(2, "c")])
    begun: list[Leg] = []
    fly(legs, begun.append, lambda: True)
    assert begun == []


def test_other_studies_go_on_while_one_waits() -> None:
    held = threading.Event()
    done: list[str] = []

    def deliver(leg: Leg) -> None:
        if leg.entries[0].study_digest[0] == "a":
            assert held.wait(10)
        else:
            held.set()
        done.append(leg.entries[0].study_digest[0])

    fly(legs_of([entry(0, "a"), entry(1, "b")]), deliver, go)
    assert done == ["b", "a"]


def test_an_error_of_the_parcel_itself_is_an_error() -> None:
    def deliver(_leg: Leg) -> None:
        raise IntegrityError("parcel.chunk")

    with pytest.raises(IntegrityError):
        fly(legs_of([entry(0)]), deliver, go)
