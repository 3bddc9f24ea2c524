"""Suppression that margins do not undo: exact bounds checked against every table that fits."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest

from privacy.disclosure.cells import bounds, suppress_counts, suppress_table
from protocol.errors import DisclosureRefused


def feasible(whole: np.ndarray, hidden: np.ndarray) -> dict[tuple[int, int], tuple[int, int]]:
    """Bounds of hidden cells by trying every table of the same shown cells, hidden ones being 1 or more."""
    places = [tuple(p) for p in np.argwhere(hidden[:-1, :-1]).tolist()]
    top = int(whole[:-1, :-1].sum(1).max())
    seen: dict[tuple[int, int], list[int]] = {tuple(p): [] for p in np.argwhere(hidden).tolist()}
    for values in product(range(1, top + 1), repeat=len(places)):
        inner = whole[:-1, :-1].copy()
        for place, value in zip(places, values, strict=True):
            inner[place] = value
        full = np.block([[inner, inner.sum(1, keepdims=True)], [inner.sum(0, keepdims=True), inner.sum()]])
        if (full == whole)[~hidden].all():
            for place, found in seen.items():
                found.append(int(full[place]))
    return {place: (min(found), max(found)) for place, found in seen.items()}


def margins(table: np.ndarray) -> np.ndarray:
    return np.block([[table, table.sum(1, keepdims=True)], [table.sum(0, keepdims=True), table.sum()]])


@pytest.mark.parametrize("seed", range(10))
def test_bounds_are_those_of_an_exhaustive_search(seed: int) -> None:
    rng = np.random.default_rng(seed)
    table = rng.integers(0, 5, (3, 3)).astype(np.int64)
    whole = margins(table)
    hidden = np.zeros_like(whole, dtype=bool)
    hidden[:-1, :-1] = (table > 0) & (rng.random((3, 3)) < 0.7)
    for place in np.argwhere(hidden)[4:]:  # the search tries everything
        hidden[tuple(place)] = False
    hidden[0, -1] = seed % 3 == 0  # a hidden margin too
    for place, (low, high) in feasible(whole, hidden).items():
        assert bounds(whole, hidden, place) == (low, high)


def test_a_single_small_cell_takes_others_with_it() -> None:
    table = np.array([[20, 30, 2], [25, 15, 10], [30, 20, 40]], dtype=np.int64)
    shown, hidden = suppress_table(table, 5)
    assert hidden[0, 2]
    assert hidden.sum() >= 4
    assert (shown[hidden] == -1).all()
    assert (shown[~hidden] == margins(table)[~hidden]).all()
    low, high = bounds(margins(table), hidden, (0, 2))
    assert low < high
    assert high >= 5


@pytest.mark.parametrize("seed", range(20))
def test_no_small_cell_can_be_bounded_below_the_minimum(seed: int) -> None:
    rng = np.random.default_rng(100 + seed)
    table = rng.choice([0, 1, 2, 6, 7, 20, 30], (4, 4)).astype(np.int64)
    whole = margins(table)
    _shown, hidden = suppress_table(table, 5)
    assert hidden[(whole > 0) & (whole < 5)].all()
    assert not hidden[whole == 0].any()
    for row, column in np.argwhere(hidden & (whole < 5)):
        low, high = bounds(whole, hidden, (int(row), int(column)))
        assert high >= 5
        assert low < high


def test_tables_without_small_cells_stay_whole_and_margins_may_be_left_out() -> None:
    table = np.array([[10, 0], [7, 9]], dtype=np.int64)
    shown, hidden = suppress_table(table, 5)
    assert not hidden.any()
    assert shown[-1, -1] == 26
    plain, hidden = suppress_table(np.array([[1, 9]], dtype=np.int64), 5, margins=False)
    assert plain.tolist() == [[-1, 9]]


def test_a_table_that_cannot_be_hidden_is_refused() -> None:
    for wrong in (np.full((200, 200), 9, dtype=np.int64), np.array([[-1, 5]], dtype=np.int64)):
        with pytest.raises(DisclosureRefused) as caught:
            suppress_table(wrong, 5)
        assert caught.value.code == "gate.cells"


@pytest.mark.parametrize(
    ("counts", "expected"),
    [
        ({"a": 50, "b": 40, "c": 1}, {"a": 50, "b": None, "c": None}),
        ({"a": 50, "b": 40, "c": 0}, {"a": 50, "b": 40, "c": 0}),
        ({"a": 50, "b": 1, "c": 1, "d": 30}, {"a": 50, "b": None, "c": None, "d": None}),
        ({"a": 50, "b": 4, "c": 4}, {"a": 50, "b": None, "c": None}),
        ({"(missing)": 1, "a": 9, "b": 80}, {"(missing)": None, "a": None, "b": 80}),
        ({"a": 2}, {"a": None}),
    ],
)
def test_one_way_tables_do_not_give_a_cell_back_by_their_total(
    counts: dict[str, int], expected: dict[str, int | None]
) -> None:
    assert suppress_counts(counts, 5) == expected


def test_without_a_known_total_only_the_small_go() -> None:
    assert suppress_counts({"a": 50, "b": 1}, 5, total_known=False) == {"a": 50, "b": None}
