"""The survival learner: sums over sites are sums over rows, training is deterministic and learns, scores are right."""

from __future__ import annotations

from itertools import product

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipelines.learners import for_study
from pipelines.learners.followup import concordance, edges_at, labels
from pipelines.learners.survival import Survival
from protocol.errors import InputError
from tests.federation_hospital import SITES, frame, study


def learner(**parameters: object) -> Survival:
    return Survival(features=("x0", "x1"), settings=parameters, steps=30, learning_rate=0.05, seed=1)


def fitted(made: Survival, table: pd.DataFrame):
    rows = made.rows(table)
    sums = made.sums(rows, 1)
    preprocessing = made.agree(sums)
    model = made.initial(sums, preprocessing)
    return made.fit(model, preprocessing, rows, 3), preprocessing, rows, model


def test_summed_sums_are_the_sums_of_all_rows() -> None:
    made = learner()
    parts = [made.sums(made.rows(frame(site)), 1) for site in SITES]
    whole = made.sums(made.rows(pd.concat([frame(s) for s in SITES], ignore_index=True)), 1)
    for name, (dtype, shape) in made.preparation().items():
        assert whole[name].dtype == dtype
        assert whole[name].shape == shape
        np.testing.assert_allclose(sum(p[name] for p in parts), whole[name], rtol=1e-12)
    assert all(made.plausible(part, 40) for part in parts)
    preprocessing = made.agree(whole)
    everyone = pd.concat([frame(s) for s in SITES])
    np.testing.assert_allclose(preprocessing["mean"], everyone[["x0", "x1"]].mean(), rtol=1e-9)
    np.testing.assert_allclose(preprocessing["scale"], everyone[["x0", "x1"]].std(ddof=0), rtol=1e-9)
    assert (np.diff(preprocessing["edges"]) > 0).all()


def test_sums_hold_no_raw_time_and_no_statistic_of_few_values() -> None:
    table = frame("site-a")
    table.loc[2:, "x1"] = np.nan
    sums = learner().sums(learner().rows(table), least=5)
    assert (sums["count"][1], sums["sum"][1], sums["square"][1]) == (0, 0, 0)
    assert set(np.unique(sums["times"] - np.floor(sums["times"]))) == {0.0}


@pytest.mark.parametrize(
    ("name", "change"),
    [("rows", 1), ("count", -100), ("count", 0.5), ("square", -1e9), ("status", 3), ("times", -1)],
)
def test_sums_that_do_not_fit_are_told(name: str, change: float) -> None:
    made = learner()
    sums = made.sums(made.rows(frame("site-a")), 1)
    sums[name].flat[0] += change
    assert not made.plausible(sums, 40)


def test_a_site_with_one_event_tells_of_nobody_and_takes_part() -> None:
    """Neither the time of its event nor his place among the others leaves; the others agree, and it trains."""
    plan = study()
    assert plan.privacy.k == 5
    made = for_study(plan)
    lone = frame("site-a").assign(status=[2] + [1] * 39)
    mine, others = made.rows(lone), [made.rows(frame(site)) for site in SITES[1:]]
    told = made.sums(mine, 5)
    assert told["status"].tolist() == [0, 39, 0]
    assert not told["times"][1].any()
    assert all(count == 0 or count >= 5 for count in told["times"].ravel())
    assert made.plausible(told, 40)
    sums = [told, *(made.sums(rows, 5) for rows in others)]
    summed = {name: sum(one[name] for one in sums) for name in told}
    preprocessing = made.agree(summed)
    assert preprocessing["event"].tolist() == [2]
    model = made.fit(made.initial(summed, preprocessing), preprocessing, mine, 1)
    scores = made.score(model, preprocessing, mine)
    assert scores["comparable"].tolist() == [0]
    assert scores["rows"].tolist() == [40]
    assert made.score(model, preprocessing, others[0])["comparable"][0] > 0


def test_a_site_whose_codes_contradict_the_agreed_ones_says_so_itself() -> None:
    made = for_study(study())
    hidden = made.rows(frame("site-a").assign(status=[2] + [1] * 39))  # its one event is not counted
    preprocessing = made.agree({**made.sums(hidden, 5)})
    assert preprocessing["event"].tolist() == [1]  # what the sums alone look like
    with pytest.raises(InputError) as error:
        made.fit(made.initial(made.sums(hidden, 5), preprocessing), preprocessing, hidden, 1)
    assert error.value.code == "input.table"


def test_training_learns_and_gives_the_same_bytes() -> None:
    made = learner()
    table = pd.concat([frame(s, 150) for s in SITES], ignore_index=True)
    model, preprocessing, rows, before = fitted(made, table)
    again, *_ = fitted(made, table)
    assert {k: v.tobytes() for k, v in model.items()} == {k: v.tobytes() for k, v in again.items()}
    assert {k: (v.dtype, v.shape) for k, v in model.items()} == {k: (v.dtype, v.shape) for k, v in before.items()}
    old, new = (made.metrics(made.score(m, preprocessing, rows)) for m in (before, model))
    assert new["loss"] < old["loss"]
    assert new["c-index"] > 0.6
    assert model["risk.weight"][0, 0] > 0.3  # x0 raises the hazard


def test_hidden_layers_train_and_predict_alike() -> None:
    made = learner(hidden=[8, 4])
    model, preprocessing, rows, _ = fitted(made, frame("site-a", 120))
    assert model["hidden.0.weight"].shape == (8, 2)
    predicted = made.predict(model, preprocessing, frame("site-a", 120))
    assert list(predicted.columns) == ["risk", "survival", "horizon"]
    assert predicted["survival"].between(0, 1).all()
    score = made.metrics(made.score(model, preprocessing, rows))
    assert score["c-index"] > 0.5


def test_a_higher_risk_is_a_lower_survival_and_missing_values_are_average() -> None:
    made = learner()
    model, preprocessing, *_ = fitted(made, frame("site-a", 200))
    asked = pd.DataFrame({"x0": [-2.0, 0.0, 2.0, np.nan], "x1": [900.0, 900.0, 900.0, np.inf]}, index=list("abcd"))
    predicted = made.predict(model, preprocessing, asked)
    assert predicted.loc["a", "survival"] > predicted.loc["b", "survival"] > predicted.loc["c", "survival"]
    assert predicted.loc["d", "risk"] == 0.0
    assert list(predicted.index) == list("abcd")


def test_both_codings_of_the_status_are_told_apart_by_sums() -> None:
    table = frame("site-a", 100)
    zero_one = table.assign(status=table["status"] - 1)
    one, two = (fitted(learner(), t) for t in (zero_one, table))
    explicit = fitted(learner(event=2, censored=1), table)
    assert one[1]["event"] == 1
    assert two[1]["event"] == 2
    assert one[0]["risk.weight"].tobytes() == two[0]["risk.weight"].tobytes() == explicit[0]["risk.weight"].tobytes()


def test_contradicting_codings_are_refused_not_guessed() -> None:
    made = learner()
    a = made.sums(made.rows(frame("site-a").assign(status=lambda t: t["status"] - 1)), 1)
    b = made.sums(made.rows(frame("site-b")), 1)
    with pytest.raises(InputError, match="event"):
        made.agree({k: a[k] + b[k] for k in a})
    with pytest.raises(InputError, match="0 and 2"):
        made.rows(frame("site-a").assign(status=lambda t: (t["status"] - 1) * 2))


def test_bad_rows_are_dropped_and_counted_bad_columns_refused() -> None:
    table = frame("site-a").astype({"time": float, "status": float})
    table.loc[[0, 1, 2, 3], "time"] = [np.nan, -1.0, np.inf, 0.0]
    table.loc[4, "status"] = 9
    table.loc[5, "status"] = np.nan
    rows = learner().rows(table)
    assert (rows.count, rows.dropped) == (34, 6)
    with pytest.raises(InputError) as missing:
        learner().rows(table.drop(columns="x1"))
    assert missing.value.code == "input.column-missing"
    with pytest.raises(InputError) as words:
        learner().rows(table.assign(x1="many"))
    assert words.value.code == "input.table"
    assert "many" not in str(words.value)


def test_no_event_anywhere_is_an_error() -> None:
    made = learner(event=2, censored=1)
    sums = made.sums(made.rows(frame("site-a").assign(status=1)), 1)
    with pytest.raises(InputError) as error:
        made.agree(sums)
    assert error.value.code == "input.rows"


@pytest.mark.parametrize(
    "parameters",
    [
        {"hiden": [3]},
        {"hidden": [0]},
        {"edges": [3, 2]},
        {"event": 1},
        {"event": 1, "censored": 1},
        {"l2": float("nan")},
    ],
)
def test_settings_are_checked(parameters: dict[str, object]) -> None:
    with pytest.raises(InputError) as error:
        learner(**parameters)
    assert error.value.code == "input.study"


def test_an_unknown_learner_is_refused() -> None:
    with pytest.raises(InputError):
        for_study(study(learner="magic"))


def test_labels_follow_the_paper() -> None:
    edges = np.array([10.0, 20.0, 30.0])
    event, times = np.array([True, True, False, False, True]), np.array([5.0, 20.0, 14.0, 16.0, 99.0])
    happened, at_risk = labels(event, times, edges)
    assert happened.tolist() == [[1, 0, 0], [0, 1, 0], [0, 0, 0], [0, 0, 0], [0, 0, 0]]
    assert at_risk.tolist() == [[1, 0, 0], [1, 1, 0], [1, 0, 0], [1, 1, 0], [1, 1, 1]]


@given(st.lists(st.tuples(st.integers(0, 3), st.integers(1, 5), st.booleans()), min_size=1, max_size=12))
def test_concordance_is_that_of_the_definition(people: list[tuple[int, int, bool]]) -> None:
    risk, times, event = (np.array([p[i] for p in people]) for i in range(3))
    right = comparable = 0.0
    for i, j in product(range(len(people)), repeat=2):
        if event[i] and (times[i] < times[j] or (times[i] == times[j] and not event[j] and i != j)):
            comparable += 1
            right += 1.0 if risk[i] > risk[j] else 0.5 if risk[i] == risk[j] else 0.0
    assert concordance(risk.astype(float), times.astype(float), event) == (right, comparable)


@settings(max_examples=50)
@given(st.lists(st.integers(0, 20), min_size=64, max_size=64).filter(any), st.integers(2, 20))
def test_edges_rise_and_are_finite(counts: list[int], intervals: int) -> None:
    edges = edges_at(np.array(counts, float), intervals)
    assert 2 <= len(edges) <= intervals
    assert np.isfinite(edges).all()
    assert edges[0] > 0
    assert (np.diff(edges) > 0).all()
