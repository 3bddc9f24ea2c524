"""Lane 3 without rows: what the sites' sums give is what pooled rows give; small cells and small cohorts stay."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pandas as pd
import pytest

from pipelines import Job, aggregate
from pipelines.features import pooling
from protocol.errors import CorsiaError
from protocol.study import Lane
from tests.unit.test_harvest import MemoryGate, MemorySource, job

STATISTICS = [
    {"kind": "moments", "columns": ["age", "score"], "by": {"column": "sex", "levels": ["f", "m"]}},
    {"kind": "histogram", "column": "age", "edges": [20, 40, 60, 80]},
    {"kind": "products", "columns": ["age", "score"]},
]


def table(n: int, seed: int) -> pd.DataFrame:
    draw = np.random.default_rng(seed)
    age = draw.integers(20, 80, n)
    return pd.DataFrame(
        {
            "id": [f"S{seed}P{i}" for i in range(n)],
            "age": age,
            "score": age * 0.1 + draw.normal(size=n),
            "sex": draw.choice(["f", "m"], n),
        }
    )


def work(statistics: list[dict[str, Any]], output: dict[str, str] | None = None, **more: Any) -> Job:
    roles = {"id": "patient", "age": "value", "score": "value", "sex": "quasi"}
    declared = dict(aggregate.OUTPUT) | {"age": "float", "score": "float", "sex": "string"}
    made = job(
        roles, output or declared, lane=Lane.EXTRACT, parameters={"statistics": statistics, **more}, min_cohort=20
    )
    return made


def sums(frame: pd.DataFrame, made: Job) -> tuple[pd.DataFrame, MemoryGate]:
    gate = MemoryGate()
    aggregate.run(made, MemorySource(frame, []), gate)
    return aggregate.read(gate.tables()[0].to_pandas()), gate


def test_sums_of_the_sites_give_the_pooled_values() -> None:
    tables = [table(300, 1), table(180, 2), table(90, 3)]
    made = [sums(frame, work(STATISTICS)) for frame in tables]
    pooled, whole = pooling.pool([frame for frame, _ in made]), pd.concat(tables)
    moments = pooling.moments(pooled)
    assert moments.loc[("age", ""), "mean"] == pytest.approx(whole["age"].mean(), rel=1e-12)
    assert moments.loc[("score", "sex=f"), "sd"] == pytest.approx(whole[whole.sex == "f"]["score"].std(), rel=1e-9)
    correlation = pooling.correlation(pooled, ["age", "score"])
    assert correlation.loc["age", "score"] == pytest.approx(whole[["age", "score"]].corr().iloc[0, 1], rel=1e-9)
    assert pooling.quantiles(pooled, "age", [0.5])[0.5] == pytest.approx(whole["age"].median(), abs=20)


def test_the_gate_learns_about_whom_each_sum_is_and_nothing_else_does() -> None:
    frame = table(100, 5)
    _, gate = sums(frame, work(STATISTICS))
    assert set(gate.cohorts[0][0]) == set(frame["id"])
    assert {frozenset(persons) for persons, _ in gate.cohorts} >= {
        frozenset(frame["id"][frame.sex == level]) for level in ("f", "m")
    }
    assert gate.cohorts[0][1]["age"] > 3
    assert all(b"S5P" not in item.data for item in gate.items)
    report = json.loads(gate.items[1].data)
    assert (report["persons"], report["hidden"]) == (100, 0)


def test_small_groups_are_hidden_with_what_would_give_them_back() -> None:
    frame = table(100, 5)
    frame["sex"] = ["f"] * 97 + ["m"] * 3
    made, _ = sums(frame, work(STATISTICS[:1]))
    hidden = made[made["group"].isin(["sex=f", "sex=m"])]
    assert hidden["value"].isna().all()


@pytest.mark.parametrize(
    ("frame", "made", "code"),
    [
        (table(10, 1), work(STATISTICS), "gate.cohort"),
        (table(50, 1), work([]), "input.study"),
        (table(50, 1), work([{"kind": "moments", "columns": ["none"]}]), "input.column-missing"),
        (table(50, 1), work(STATISTICS, {"statistic": "string"}), "gate.undeclared"),
        (table(50, 1).assign(score=[0.0] * 49 + [1e6]), work(STATISTICS[:1]), "gate.dominance"),
        (table(50, 1), work(STATISTICS, other=1), "input.study"),
    ],
)
def test_what_would_tell_of_one_person_is_refused(frame: pd.DataFrame, made: Job, code: str) -> None:
    gate = MemoryGate()
    with pytest.raises(CorsiaError) as refused:
        aggregate.run(made, MemorySource(frame, []), gate)
    assert refused.value.code == code
    assert gate.items == []
