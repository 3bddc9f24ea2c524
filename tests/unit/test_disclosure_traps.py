"""Each trap fires, each at its threshold, and says its rule; the known holes of others are closed."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields
from typing import Any

import numpy as np
import pandas as pd
import pytest

from privacy.disclosure import dominance, traps
from privacy.disclosure.traps import Traps
from protocol.errors import DisclosureRefused

T = Traps()
CASES: list[tuple[str, str, Callable[[], Any], Callable[[], Any]]] = [
    ("nfilter.tab", "gate.cells", lambda: traps.check_table([0, 3, 50], T), lambda: traps.check_table([2, 50], T)),
    ("missing", "gate.cells", lambda: traps.check_missing(3, T), lambda: traps.check_missing(2, T)),
    ("nfilter.subset", "gate.subset", lambda: traps.check_subset(3, 6, T), lambda: traps.check_subset(2, 60, T)),
    ("complement", "gate.subset", lambda: traps.check_subset(60, 60, T), lambda: traps.check_subset(58, 60, T)),
    ("nfilter.glm", "gate.parameters", lambda: traps.check_model(33, 100, T), lambda: traps.check_model(34, 100, T)),
    ("nfilter.string", "gate.text", lambda: traps.check_text("x" * 80, T), lambda: traps.check_text("x" * 81, T)),
    (
        "nfilter.stringShort",
        "gate.text",
        lambda: traps.check_text("x" * 20, T, short=True),
        lambda: traps.check_text("x" * 21, T, short=True),
    ),
    (
        "nfilter.kNN",
        "gate.neighbours",
        lambda: traps.check_neighbours(3, 9, T),
        lambda: traps.check_neighbours(2, 9, T),
    ),
    ("kNN, all", "gate.neighbours", lambda: traps.check_neighbours(6, 9, T), lambda: traps.check_neighbours(7, 9, T)),
    (
        "nfilter.levels.density",
        "gate.levels",
        lambda: traps.check_levels(dict.fromkeys(range(33), 3), 100, T),
        lambda: traps.check_levels(dict.fromkeys(range(34), 3), 100, T),
    ),
    (
        "nfilter.levels.max",
        "gate.levels",
        lambda: traps.check_levels(dict.fromkeys(range(40), 9), 360, T),
        lambda: traps.check_levels(dict.fromkeys(range(41), 9), 369, T),
    ),
    ("nfilter.noise", "gate.noise", lambda: traps.check_noise(0.25, T), lambda: traps.check_noise(0.24, T)),
    ("noise, nan", "gate.noise", lambda: traps.check_noise(1, T), lambda: traps.check_noise(float("nan"), T)),
    (
        "quantiles, low",
        "gate.quantile",
        lambda: traps.check_quantiles([0.05, 0.5, 0.95], 100, T),
        lambda: traps.check_quantiles([0.04], 100, T),
    ),
    (
        "quantiles, high",
        "gate.quantile",
        lambda: traps.check_quantiles([0.95], 100, T),
        lambda: traps.check_quantiles([0.5, 1.0], 100, T),
    ),
    (
        "quantiles, few",
        "gate.quantile",
        lambda: traps.check_quantiles([0.05], 60, T),
        lambda: traps.check_quantiles([0.05], 59, T),
    ),
]


@pytest.mark.parametrize(("rule", "code", "passes", "fires"), CASES, ids=[case[0] for case in CASES])
def test_each_trap_passes_at_its_threshold_and_fires_below(
    rule: str, code: str, passes: Callable[[], Any], fires: Callable[[], Any]
) -> None:
    passes()
    with pytest.raises(DisclosureRefused) as caught:
        fires()
    assert caught.value.code == code
    assert not rule.startswith("nfilter") or rule in caught.value.message
    assert caught.value.hint


def test_settings_are_read_under_the_names_of_others_and_checked() -> None:
    found = Traps.of({"nfilter.tab": 5, "nfilter.stringShort": 10, "nfilter.levels.density": 0.2, "nfilter.kNN": 4})
    assert (found.tab, found.string_short, found.levels_density, found.knn) == (5, 10, 0.2, 4)
    with pytest.raises(DisclosureRefused):
        traps.check_table([4], found)
    for wrong in ({"nfilter.typo": 1}, {"tab": 0}, {"glm": 2}, {"quantile_low": 0.99}, {"queries": 0}):
        with pytest.raises(ValueError):  # noqa: PT011
            Traps.of(wrong)
    assert {field.name for field in fields(Traps)} >= {"tab", "subset", "glm", "string", "string_short", "knn", "noise"}


def test_missing_values_are_a_cell_and_persons_count_not_rows() -> None:
    values = pd.Series(["a", "a", "b", "b", "b", None, None, "b"])
    persons = pd.Series([1, 2, 3, 3, 3, 4, 4, 3])
    assert traps.persons_by(values) == {"a": 2, "b": 4, None: 2}
    assert traps.persons_by(values, persons) == {"a": 2, "b": 1, None: 1}
    with pytest.raises(DisclosureRefused):
        traps.check_table(traps.persons_by(values, persons).values(), T)
    numbers = pd.Series([1.0, float("nan"), float("nan"), 1.0])
    assert traps.persons_by(numbers) == {1.0: 2, None: 2}


def test_a_vector_of_zeros_and_a_one_times_a_column_is_refused() -> None:
    """dsBase#250, and its disguise behind a constant."""
    rng = np.random.default_rng(0)
    column = rng.normal(50, 10, 200)
    one = np.zeros(200)
    one[7] = 1
    dominance.check_dominance(column, T)
    for trick in (one * column, 1000 + one * column, one, column.mean() + one * 1e9, np.where(one, column, np.nan)):
        with pytest.raises(DisclosureRefused) as caught:
            dominance.check_dominance(trick, T)
        assert caught.value.code in ("gate.dominance", "gate.cells")
    weights = column.copy()
    weights[7] *= 1e6
    with pytest.raises(DisclosureRefused, match=r"hold more than|known to within"):
        dominance.check_dominance(weights, T)


def test_doubled_rows_make_nobody_safe() -> None:
    """dsBase#251."""
    values, persons = np.repeat([5.0, 7.0], 50), pd.Series(np.repeat(["a", "b"], 50))
    dominance.check_dominance(np.arange(100.0), T)
    with pytest.raises(DisclosureRefused, match="fewer than 3 persons"):
        dominance.check_dominance(values, T, persons)
    assert dominance.contributions(values, persons).tolist() == [250, 350]


def test_a_value_that_few_lack_is_refused() -> None:
    values = np.arange(100.0)
    values[3] = np.nan
    with pytest.raises(DisclosureRefused, match="lack a value"):
        dominance.check_dominance(values, T)
    dominance.check_dominance(values, Traps(missing=1))


def test_p_percent_and_n_k() -> None:
    rest = [1.0] * 20
    dominance.check_dominance(np.array([30.0, 25.0, 20.0, *rest]), T)
    with pytest.raises(DisclosureRefused, match="2 persons hold"):
        dominance.check_dominance(np.array([500.0, 400.0, 20.0, *rest]), T)
    with pytest.raises(DisclosureRefused, match="to within"):
        dominance.check_dominance(np.array([500.0, 400.0, 20.0, *rest]), Traps(dominance_k=1.0))


def test_saturated_and_covariance_attacks_are_refused() -> None:
    rng = np.random.default_rng(1)
    frame = pd.DataFrame(rng.normal(size=(100, 34)), columns=[f"c{i}" for i in range(34)])
    with pytest.raises(DisclosureRefused, match=r"nfilter\.glm"):
        traps.check_columns(frame, T)
    few = frame[["c0", "c1"]].assign(odd=0.0)
    traps.check_columns(frame[["c0", "c1"]], T)
    few.loc[5, "odd"] = 1.0
    with pytest.raises(DisclosureRefused, match="one value"):
        traps.check_columns(few, T)
    persons = pd.Series(np.repeat(np.arange(5), 20))
    with pytest.raises(DisclosureRefused, match=r"nfilter\.glm"):
        traps.check_columns(frame[["c0", "c1"]], T, persons)


def test_a_range_tells_nobodys_value() -> None:
    rng = np.random.default_rng(2)
    values = rng.normal(100, 15, 500)
    low, high = traps.blurred_range(values, T)
    shifted = values.copy()
    shifted[values.argmax()] += 1000  # the extreme is not in it
    assert traps.blurred_range(shifted, T) == (low, high)
    inside = values.copy()
    inside[np.argsort(values)[30]] += 1e-3  # nor is any value near a quantile to be read off
    assert traps.blurred_range(inside, T) == (low, high)
    assert low < np.quantile(values, 0.05)
    assert high > np.quantile(values, 0.95)
    for few in (values[:59], np.ones(500), np.full(500, np.nan)):
        with pytest.raises(DisclosureRefused):
            traps.blurred_range(few, T)


def test_no_refusal_tells_a_value() -> None:
    with pytest.raises(DisclosureRefused) as caught:
        dominance.check_dominance(np.array([123456.789] + [1.0] * 30), T)
    assert "123" not in str(caught.value)
