"""Standard analyses at the centre: equal to the libraries on pooled rows, silent about small groups."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from central.vault.standard import analyse
from protocol.errors import CorsiaError

LEAST = 5


@pytest.fixture(scope="module")
def lung() -> pd.DataFrame:
    from lifelines.datasets import load_lung

    frame = load_lung()
    frame["dead"] = frame["status"].astype(int)
    frame["sex"] = (
        frame["sex"].map({1: "m", 2: "f", 0: "m"}) if frame["sex"].max() > 1 else frame["sex"].map({0: "m", 1: "f"})
    )
    frame["site"] = np.where(np.arange(len(frame)) % 2, "site-a", "site-b")
    return frame


def test_table_one_is_that_of_pandas(lung: pd.DataFrame) -> None:
    made = analyse(lung, {"kind": "table1", "columns": ["age", "sex", "meal.cal"], "by": "site"}, LEAST)
    assert made["groups"] == {"all": 228, "site-a": 114, "site-b": 114}
    age, sex, meal = made["rows"]
    assert age["groups"]["site-a"]["mean"] == pytest.approx(lung.loc[lung.site == "site-a", "age"].mean())
    assert 0 < age["p"] < 1
    assert sex["groups"]["all"]["levels"] == lung["sex"].value_counts().to_dict()
    assert meal["groups"]["all"]["missing"] == 47


def test_table_one_hides_small_groups_and_what_would_reveal_them() -> None:
    frame = pd.DataFrame({"g": ["a"] * 20 + ["b"] * 3, "c": ["x"] * 12 + ["y"] * 7 + ["x"] + ["y"] * 3})
    made = analyse(frame, {"kind": "table1", "columns": ["c"], "by": "g"}, LEAST)
    assert set(made["groups"]) == {"all", "a"}
    frame = pd.DataFrame({"c": ["x"] * 12 + ["y"] * 7 + ["z"] * 3, "d": [0, 1] * 11})
    (row,) = analyse(frame, {"kind": "table1", "columns": ["c"]}, LEAST)["rows"]
    assert row["groups"]["all"]["levels"] == {"x": 12, "y": 7}
    frame = pd.DataFrame({"g": ["a"] * 15 + ["b"] * 15, "c": ["x"] * 13 + ["y"] * 2 + ["x"] * 8 + ["y"] * 7})
    (row,) = analyse(frame, {"kind": "table1", "columns": ["c"], "by": "g"}, LEAST)["rows"]
    assert row["groups"]["a"]["levels"] == {"x": None, "y": None}


def test_kaplan_meier_is_that_of_lifelines(lung: pd.DataFrame) -> None:
    from lifelines import KaplanMeierFitter

    made = analyse(lung, {"kind": "kaplan-meier", "time": "time", "event": "dead", "by": "sex"}, LEAST)
    assert (made["rows"], made["hidden"]) == (228, 0)
    assert made["logrank_p"] == pytest.approx(0.0013, abs=2e-4)
    curve = next(c for c in made["curves"] if c["group"] == "m")
    rows = lung[lung.sex == "m"]
    fitted = KaplanMeierFitter().fit(rows["time"], rows["dead"])
    assert curve["median"] == fitted.median_survival_time_
    for time, survival in zip(curve["time"], curve["survival"], strict=True):
        assert survival == pytest.approx(float(fitted.predict(time)))
    assert min(curve["at_risk"]) >= LEAST


def test_cox_is_that_of_lifelines_and_takes_strata(lung: pd.DataFrame) -> None:
    from lifelines import CoxPHFitter

    asked = {"kind": "cox", "time": "time", "event": "dead", "covariates": ["age", "sex"]}
    made = analyse(lung, asked, LEAST)
    age, sex = made["terms"]
    assert (age["term"], sex["term"]) == ("age", "sex=f")
    rows = lung[["time", "dead", "age"]].assign(female=(lung["sex"] == "f").astype(float))
    oracle = CoxPHFitter().fit(rows, "time", "dead").summary
    assert age["coefficient"] == pytest.approx(oracle.loc["age", "coef"], rel=1e-6)
    assert sex["upper"] == pytest.approx(oracle.loc["female", "exp(coef) upper 95%"], rel=1e-6)
    assert made["events"] == 165
    stratified = analyse(lung, asked | {"strata": ["site"]}, LEAST)
    assert stratified["terms"][0]["coefficient"] != pytest.approx(age["coefficient"], rel=1e-6)


def test_logistic_recovers_what_made_the_data() -> None:
    rng = np.random.default_rng(3)
    x, z = rng.normal(size=4000), rng.choice(["u", "v"], 4000)
    p = 1 / (1 + np.exp(-(-0.5 + 1.2 * x + 0.8 * (z == "v"))))
    frame = pd.DataFrame({"x": x, "z": z, "y": (rng.random(4000) < p).astype(int)})
    frame.loc[:9, "x"] = np.nan
    made = analyse(frame, {"kind": "logistic", "outcome": "y", "covariates": ["x", "z"]}, LEAST)
    found = {t["term"]: t["coefficient"] for t in made["terms"]}
    reference = next(iter(name for name in found if name.startswith("z=")))
    assert found["x"] == pytest.approx(1.2, abs=0.15)
    assert abs(found[reference]) == pytest.approx(0.8, abs=0.2)
    assert made["dropped"] == 10
    assert 0.7 < made["auc"] < 0.9


@pytest.mark.parametrize(
    ("request_", "code"),
    [
        ({"kind": "nothing"}, "input.usage"),
        ({"kind": "cox", "time": "time", "event": "dead", "covariates": []}, "input.usage"),
        ({"kind": "cox", "time": "time", "event": "dead", "covariates": ["none"]}, "input.column-missing"),
        ({"kind": "cox", "time": "time", "event": "age", "covariates": ["sex"]}, "input.rows"),
        ({"kind": "logistic", "outcome": "dead", "covariates": ["same"]}, "input.rows"),
        ({"kind": "logistic", "outcome": "dead", "covariates": ["dead"]}, "input.rows"),
        ({"kind": "logistic", "outcome": "dead", "covariates": ["rare"]}, "gate.cohort"),
        ({"kind": "kaplan-meier", "time": "empty", "event": "dead"}, "gate.cohort"),
        ({"kind": "table1", "columns": ["age"], "query": "x"}, "input.usage"),
    ],
)
def test_bad_requests_are_refused_by_name(lung: pd.DataFrame, request_: dict[str, object], code: str) -> None:
    frame = lung.assign(same=1, rare=["q"] * 3 + ["r"] * 225, empty=np.nan)
    with pytest.raises(CorsiaError) as refused:
        analyse(frame, request_, LEAST)
    assert refused.value.code == code


def test_more_parameters_than_rows_bear_are_refused() -> None:
    rng = np.random.default_rng(0)
    frame = pd.DataFrame(rng.normal(size=(30, 12)), columns=[f"c{i}" for i in range(12)])
    frame["y"] = np.arange(30) % 2
    with pytest.raises(CorsiaError) as refused:
        analyse(frame, {"kind": "logistic", "outcome": "y", "covariates": [f"c{i}" for i in range(12)]}, LEAST)
    assert refused.value.code == "gate.cohort"
