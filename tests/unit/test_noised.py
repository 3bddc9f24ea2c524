"""Noised statistics: without noise they are the sums; one person moves no block by more than its noise is made for."""

from __future__ import annotations

import hashlib
import math
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipelines import aggregate
from pipelines.features import noised, pooling, statistics
from privacy.dp import accountant
from privacy.dp.stream import Stream
from protocol.errors import InputError
from tests.unit.test_aggregate import work

SEX = {"column": "sex", "levels": ["f", "m"]}
PLAN = statistics.plan_of(
    {
        "statistics": [
            {"kind": "moments", "columns": ["age", "score"], "by": SEX},
            {"kind": "histogram", "column": "age", "edges": [20, 40, 60, 80]},
            {"kind": "products", "columns": ["age", "score", "time"]},
            {"kind": "table", "rows": SEX, "columns": {"column": "stage", "levels": ["1", "2"]}},
            {"kind": "survival", "time": "time", "event": "event", "grid": [10, 20, 40], "by": SEX},
        ]
    }
)
BOUNDS = noised.bounds_of({"age": [0, 110], "score": [-5, 15], "time": [0, 100]}, PLAN)
BLOCKS = 3 * 2 * 2 + 1 + 3 + 1 + 2


def people(n: int, seed: int = 0) -> pd.DataFrame:
    draw = np.random.default_rng(seed)
    return pd.DataFrame(
        {
            "age": draw.integers(20, 90, n).astype(float),
            "score": draw.normal(5, 2, n),
            "sex": draw.choice(["f", "m"], n),
            "stage": draw.integers(1, 4, n),
            "time": draw.uniform(0, 90, n),
            "event": draw.integers(0, 2, n),
        },
        index=[f"P{i}" for i in range(n)],
    )


def stream(name: str) -> Stream:
    return Stream(hashlib.sha256(name.encode()).digest())


def test_with_next_to_no_noise_they_are_the_sums() -> None:
    frame = people(3000)
    pooled = pooling.pool([noised.compute(frame, PLAN, BOUNDS, multiplier=1e-6, stream=stream("a"))])
    found = pooling.moments(pooled)
    assert found.loc[("age", ""), "mean"] == pytest.approx(frame["age"].mean(), abs=0.05)
    assert found.loc[("score", "sex=f"), "sd"] == pytest.approx(frame["score"][frame.sex == "f"].std(), rel=0.01)
    names = ["age", "score", "time"]
    np.testing.assert_allclose(pooling.correlation(pooled, names), frame[names].corr(), atol=0.005)
    assert pooling.table(pooled, "sex", "stage").loc["f", "2"] == pytest.approx(
        ((frame.sex == "f") & (frame.stage == 2)).sum(), abs=4
    )
    curve = pooling.survival(pooled, "time")["survival"]
    exact = pooling.survival(
        pooling.pool([statistics.compute(frame.rename_axis("pseudonym").reset_index(), PLAN, minimum=1).frame]), "time"
    )["survival"]
    np.testing.assert_allclose(curve, exact, atol=0.01)


VALUES = st.one_of(st.floats(allow_nan=True), st.sampled_from([1, 2, "1", "x", None, True, "f", "m", "2.0", 1e300]))
PERSON = st.fixed_dictionaries({name: VALUES for name in ("age", "score", "sex", "stage", "time", "event")})


@given(PERSON, st.integers(0, 40))
@settings(deadline=None, max_examples=60)
def test_one_person_moves_no_block_beyond_its_sensitivity(person: dict[str, Any], n: int) -> None:
    frame = people(n).astype(object)
    more = pd.concat([frame, pd.DataFrame([person], index=["new"], dtype=object)])
    before, after = (list(blocks(one)) for one in (frame, more))
    assert len(before) == len(after) == BLOCKS
    for old, new in zip(before, after, strict=True):
        assert (old.square, old.step) == (new.square, new.step)
        moved = (new.totals - old.totals).astype(object)
        assert int((moved * moved).sum()) <= old.square


def blocks(frame: pd.DataFrame) -> Any:
    for one in PLAN.statistics:
        for part in {
            "moments": noised._moments, "histogram": noised._histogram, "products": noised._products,
            "table": noised._table, "survival": noised._survival,
        }[one.kind](frame, one, BOUNDS):  # type: ignore[operator]  # fmt: skip
            yield from part.blocks


def test_the_rows_follow_from_the_plan_alone() -> None:
    frames = [people(50), people(0), people(7).assign(sex="x", age=math.nan, stage="7", time=-1.0)]
    labels = [noised.compute(one, PLAN, BOUNDS, multiplier=2.0)[list(statistics.COLUMNS[:4])] for one in frames]
    for other in labels[1:]:
        pd.testing.assert_frame_equal(labels[0], other)
    made = noised.compute(frames[1], PLAN, BOUNDS, multiplier=2.0)
    assert made["value"].notna().all()
    assert (made["value"] < 0).any()  # counts of nobody, noised, are below 0 as often as above


def test_an_odd_value_of_one_person_names_no_other_anew() -> None:
    frame = people(40)
    frame.loc["P0", "stage"] = 1
    odd = frame.astype({"stage": object})
    odd["stage"] = [str(value) + ".0" for value in odd["stage"]]  # as when a reader takes the column for text
    odd.loc["P0", "stage"] = "unclear"
    one, other = (list(blocks(each))[16].totals for each in (frame, odd))
    assert np.abs(one - other).sum() == 2  # P0 alone has moved


@pytest.mark.slow
def test_the_whole_costs_what_it_is_said_to_cost() -> None:
    frame = people(100)
    wanted = 5.0
    counts = [
        noised.compute(frame, PLAN, BOUNDS, multiplier=wanted, stream=stream(str(i)))
        .query("statistic == 'histogram'")["value"].to_numpy()
        for i in range(120)
    ]  # fmt: skip
    spread = float(np.std(np.array(counts), axis=0).mean())
    assert spread == pytest.approx(wanted * math.sqrt(BLOCKS), rel=0.1)
    together = accountant.gaussian(wanted * math.sqrt(BLOCKS)).times(BLOCKS)
    assert together.epsilon(1e-5) == pytest.approx(accountant.gaussian(wanted).epsilon(1e-5))


def test_pooled_noise_gives_no_result_without_meaning() -> None:
    made = [noised.compute(people(5, i), PLAN, BOUNDS, multiplier=3.0, stream=stream(str(i))) for i in range(3)]
    pooled = pooling.pool(made)
    found = pooling.moments(pooled)
    assert found["mean"][found["n"] < 1].isna().all()
    assert np.isfinite(found["mean"][found["n"] >= 1]).all()
    assert pooling.survival(pooled, "time")["survival"].between(0, 1).all()


@pytest.mark.parametrize(
    ("more", "privacy"),
    [
        ({}, {}),
        ({"bounds": {"age": [0, 110]}}, {}),
        ({"bounds": {"age": [0, 110], "score": [5, 5]}}, {}),
        ({"bounds": {"age": [0, 110], "score": [0, math.inf]}}, {}),
        ({"bounds": 3}, {}),
        ({"bounds": {"age": [0, 110], "score": [0, 20]}, "matrix": {"sets": "a\tb\tc"}}, {}),
        ({"bounds": {"age": [0, 110], "score": [0, 20]}}, {"dp": "central"}),
    ],
)
def test_what_cannot_be_noised_is_refused_before_a_row_is_read(more: dict[str, Any], privacy: dict[str, Any]) -> None:
    made = work([{"kind": "moments", "columns": ["age", "score"]}], **more).study
    promised = made.privacy.model_copy(update={"dp": "sample", "epsilon": 1.0, "delta": 1e-5} | privacy)
    with pytest.raises(InputError) as refused:
        aggregate.cost(made.model_copy(update={"privacy": promised}))
    assert refused.value.code == "input.study"
