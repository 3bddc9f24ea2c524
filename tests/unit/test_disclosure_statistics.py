"""Federated statistics: sites' sums give what pooled rows give, and no small cell comes out."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import pytest

from pipelines.features import pooling, statistics
from privacy.disclosure.traps import Traps
from protocol.errors import CorsiaError, DisclosureRefused, InputError


def rows(n: int = 900, seed: int = 0) -> pd.DataFrame:
    rng = np.random.default_rng(seed)
    age = rng.normal(62, 9, n)
    frame = pd.DataFrame(
        {
            "pseudonym": [f"P{i}" for i in range(n)],
            "age": age,
            "bmi": 20 + 0.1 * age + rng.normal(0, 3, n),
            "sex": rng.choice(["F", "M"], n),
            "stage": rng.choice(["I", "II", "III"], n, p=[0.5, 0.3, 0.2]),
            "months": rng.exponential(30, n),
            "died": (rng.random(n) < 0.7).astype(float),
        }
    )
    frame.loc[rng.random(n) < 0.1, "bmi"] = np.nan
    return frame


def split(frame: pd.DataFrame, sites: int = 3) -> list[pd.DataFrame]:
    return [frame.iloc[np.arange(len(frame)) % sites == site] for site in range(sites)]


def pooled(frame: pd.DataFrame, *wanted: dict[str, Any], sites: int = 3, minimum: int = 5) -> pd.DataFrame:
    plan = statistics.plan_of({"statistics": list(wanted)})
    return pooling.pool([statistics.compute(part, plan, minimum=minimum).frame for part in split(frame, sites)])


SEX = {"column": "sex", "levels": ["F", "M"]}
STAGE = {"column": "stage", "levels": ["I", "II", "III"]}


@pytest.mark.parametrize("sites", [1, 2, 5])
def test_means_and_variances_are_those_of_all_rows(sites: int) -> None:
    frame = rows()
    origin = {"age": 60.0, "bmi": 26.0}
    found = pooling.moments(
        pooled(frame, {"kind": "moments", "columns": ["age", "bmi"], "by": SEX, "origin": origin}, sites=sites)
    )
    for name in ("age", "bmi"):
        for label, part in (("", frame), ("sex=F", frame[frame["sex"] == "F"]), ("sex=M", frame[frame["sex"] == "M"])):
            one = found.loc[(name, label)]
            assert one["n"] == part[name].count()
            assert one["missing"] == part[name].isna().sum()
            assert one["mean"] == pytest.approx(part[name].mean(), rel=1e-12)
            assert one["variance"] == pytest.approx(part[name].var(), rel=1e-10)


def test_a_far_origin_costs_digits_and_a_near_one_does_not() -> None:
    frame = rows()
    frame["age"] += 1e6
    near = pooling.moments(pooled(frame, {"kind": "moments", "columns": ["age"], "origin": {"age": 1e6}}))
    assert near.loc[("age", ""), "variance"] == pytest.approx(frame["age"].var(), rel=1e-10)


def test_correlation_and_covariance_are_those_of_complete_rows() -> None:
    frame = rows()
    made = pooled(frame, {"kind": "products", "columns": ["age", "bmi", "months"], "origin": {"age": 60.0}})
    columns = ["age", "bmi", "months"]
    complete = frame[columns].dropna()
    assert np.allclose(pooling.covariance(made, columns), complete.cov(), rtol=1e-9)
    assert np.allclose(pooling.correlation(made, columns), complete.corr(), rtol=1e-9)
    with pytest.raises(InputError):
        pooling.correlation(made, ["age", "months"])


def test_quantiles_are_right_to_a_bin() -> None:
    frame = rows()
    edges = list(range(45, 81, 5))
    made = pooled(frame, {"kind": "histogram", "column": "age", "edges": edges}, sites=2)
    for p, value in pooling.quantiles(made, "age", [0.25, 0.5, 0.75]).items():
        assert value == pytest.approx(frame["age"].quantile(p), abs=1)


def test_tables_are_cross_tabulations_with_their_missing_values() -> None:
    frame = rows()
    frame.loc[frame.index[:60], "stage"] = None
    made = pooled(frame, {"kind": "table", "rows": SEX, "columns": STAGE})
    expected = pd.crosstab(frame["sex"], frame["stage"].fillna(statistics.MISSING))
    found = pooling.table(made, "sex", "stage")
    assert (
        (found.loc[["F", "M"], ["I", "II", "III", statistics.MISSING]] == expected[found.columns].to_numpy())
        .all()
        .all()
    )


@pytest.mark.filterwarnings("ignore")
def test_survival_is_kaplan_meier_on_the_grid() -> None:
    from lifelines import KaplanMeierFitter

    frame = rows(2000)
    grid = [6.0, 12, 24, 36, 48]
    made = pooled(frame, {"kind": "survival", "time": "months", "event": "died", "grid": grid, "by": SEX}, sites=2)
    places = np.searchsorted(grid, frame["months"])
    moved = np.where(places < len(grid), np.array([*grid, 99.0])[places], 99.0)
    died = np.where(places < len(grid), frame["died"], 0)
    for label, mask in (("", np.ones(len(frame), bool)), ("sex=F", (frame["sex"] == "F").to_numpy())):
        fitted = KaplanMeierFitter().fit(moved[mask], died[mask])
        found = pooling.survival(made, "months", label)
        assert np.allclose(found["survival"], fitted.predict(grid), rtol=1e-12)
        table = fitted.event_table.loc[grid]
        assert found["at_risk"].tolist() == table["at_risk"].tolist()
        assert found["events"].tolist() == table["observed"].tolist()
        greenwood = np.cumsum(table["observed"] / table["at_risk"] / (table["at_risk"] - table["observed"]))
        assert np.allclose(found["error"], found["survival"] * np.sqrt(greenwood), rtol=1e-12)


def test_small_groups_are_hidden_with_another_so_that_the_whole_does_not_tell() -> None:
    frame = rows(90)
    frame["sex"] = ["F"] * 57 + ["M"] * 31 + ["X"] * 2
    plan = statistics.plan_of({"statistics": [{"kind": "moments", "columns": ["age"], "by": SEX}]})
    made = statistics.compute(frame, plan, minimum=5)
    shown = made.frame[made.frame["value"].notna()]["group"].unique().tolist()
    assert shown == ["", "sex=F"]  # the smaller of the two goes with the two others
    assert made.hidden == 6
    assert set(made.cohorts) == {"all", "sex=F"}
    assert len(made.cohorts["sex=F"]) == 57
    assert made.numbers == {"age": 6}
    assert not set(made.frame.astype(str).to_numpy().ravel()) & set(frame["pseudonym"])
    assert pooling.pool([made.frame])["hidden"].sum() == 6


def test_no_cell_of_any_statistic_is_small() -> None:
    frame = rows(60, seed=4)
    plan = statistics.plan_of(
        {
            "statistics": [
                {"kind": "histogram", "column": "age", "edges": [40, 50, 60, 70, 80]},
                {"kind": "table", "rows": SEX, "columns": STAGE},
            ]
        }
    )
    made = statistics.compute(frame, plan, minimum=5).frame
    counts = made["n"].dropna()
    assert ((counts == 0) | (counts >= 5)).all()
    assert made["n"].isna().any()


@pytest.mark.parametrize(
    ("change", "wanted", "code"),
    [
        (lambda f: f.iloc[:4], {"kind": "moments", "columns": ["age"]}, "gate.cohort"),
        (
            lambda f: f.assign(age=[1e9] + [1.0] * (len(f) - 1)),
            {"kind": "moments", "columns": ["age"]},
            "gate.dominance",
        ),
        (
            lambda f: f.assign(age=[np.nan] + [1.0] * (len(f) - 1)),
            {"kind": "moments", "columns": ["age"]},
            "gate.cells",
        ),
        (
            lambda f: f.assign(odd=[1.0] + [0.0] * (len(f) - 1)),
            {"kind": "products", "columns": ["age", "odd"]},
            "gate.dominance",
        ),
        (lambda f: f.iloc[:8], {"kind": "products", "columns": ["age", "months", "died"]}, "gate.parameters"),
        (
            lambda f: f.assign(months=f["months"].clip(lower=1).mask(f["pseudonym"] == "P7", 0.0005)),
            {"kind": "survival", "time": "months", "event": "died", "grid": [0.001, 20.0]},
            "gate.cells",
        ),
        (lambda f: pd.concat([f, f]), {"kind": "moments", "columns": ["age"]}, "input.rows"),
        (lambda f: f.drop(columns="age"), {"kind": "moments", "columns": ["age"]}, "input.column-missing"),
        (lambda f: f, {"kind": "moments", "columns": ["sex"]}, "input.table"),
    ],
)
def test_what_would_disclose_is_refused_whole(change: Any, wanted: dict[str, Any], code: str) -> None:
    plan = statistics.plan_of({"statistics": [wanted]})
    with pytest.raises(CorsiaError) as caught:
        statistics.compute(change(rows(200)), plan, minimum=5)
    assert caught.value.code == code


def test_levels_of_a_table_are_bounded() -> None:
    frame = rows(100)
    frame["stage"] = [str(i % 50) for i in range(100)]
    many = {"column": "stage", "levels": [str(i) for i in range(50)]}
    plan = statistics.plan_of({"statistics": [{"kind": "table", "rows": SEX, "columns": many}]})
    with pytest.raises(DisclosureRefused) as caught:
        statistics.compute(frame, plan, minimum=5, traps=Traps())
    assert caught.value.code == "gate.levels"


@pytest.mark.parametrize(
    "wrong",
    [
        [],
        [{"kind": "histogram", "column": "a", "edges": [2, 1]}],
        [
            {"kind": "histogram", "column": "a", "edges": [1, 2]},
            {"kind": "histogram", "column": "a", "edges": [1, 2.1]},
        ],
        [{"kind": "moments", "columns": ["a"], "by": {"column": "b", "levels": ["(other)"]}}],
        [{"kind": "survival", "time": "t", "event": "e", "grid": [0, 1]}],
        [{"kind": "mode", "columns": ["a"]}],
    ],
)
def test_plans_that_make_no_sense_or_cut_twice_are_refused(wrong: list[Any]) -> None:
    with pytest.raises(InputError) as caught:
        statistics.plan_of({"statistics": wrong})
    assert caught.value.code == "input.study"


def test_a_hidden_cell_of_one_site_makes_the_pooled_one_missing_and_foreign_frames_are_refused() -> None:
    big, small = rows(300), rows(40, seed=3).assign(sex=["F"] * 38 + ["M"] * 2)
    plan = statistics.plan_of({"statistics": [{"kind": "moments", "columns": ["age"], "by": SEX}]})
    frames = [statistics.compute(part, plan, minimum=5).frame for part in (big, small)]
    found = pooling.moments(pooling.pool(frames))
    assert np.isnan(found.loc[("age", "sex=M"), "mean"])
    assert found.loc[("age", ""), "n"] == 340
    for wrong in ([], [frames[0], frames[0].rename(columns={"n": "m"})], [pd.concat([frames[0], frames[0]])]):
        with pytest.raises(InputError):
            pooling.pool(wrong)
