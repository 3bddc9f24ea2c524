"""The egress gate on federated statistics: what a worker says of a table of sums is not believed."""

from __future__ import annotations

from dataclasses import replace
from io import BytesIO
from typing import Any

import numpy as np
import pandas as pd
import pytest

from edge.gate import EgressGate
from edge.policy import Effective
from edge.told import Told
from pipelines.features import statistics
from privacy.disclosure.traps import Traps
from protocol.errors import CorsiaError
from protocol.parcel import Item, ItemKind
from protocol.study import Study
from tests.agentkit import study
from tests.unit.test_aggregate import work

PLAN: list[dict[str, Any]] = [
    {"kind": "moments", "columns": ["score", "lab"], "by": {"column": "sex", "levels": ["F", "M"]}},
    {"kind": "histogram", "column": "age", "edges": [30.0, 50.0]},
    {"kind": "products", "columns": ["age", "score"], "origin": {"age": 45}},
    {"kind": "table", "rows": {"column": "arm", "levels": ["a"]}, "columns": {"column": "event", "levels": ["0"]}},
    {"kind": "survival", "time": "time", "event": "event", "grid": [60, 120], "by": {"column": "arm", "levels": ["a"]}},
]
ROLES = {"pid": "patient", "age": "value", "score": "value", "sex": "quasi", "lab": "value", "arm": "value"}
OUTPUT = {"statistic": "string", "column": "string", "group": "string", "bin": "string", "value": "float", "n": "int"}


def rows(n: int = 200) -> pd.DataFrame:
    draw = np.random.default_rng(3)
    frame = pd.DataFrame({"pid": [f"MRN{i:05d}" for i in range(n)], "age": draw.integers(20, 80, n)})
    frame = frame.assign(score=draw.normal(5, 1, n), lab=draw.normal(5, 1, n), sex=draw.choice(["F", "M"], n))
    frame.loc[:11, "lab"] = np.nan
    frame.loc[:1, "sex"] = "X"
    return frame.assign(arm=draw.choice(["a", "b"], n), time=draw.integers(1, 180, n), event=draw.integers(0, 2, n))


def asked(**changes: Any) -> Study:
    return study(
        lane="extract",
        dataset={"name": "cohort", "columns": ["age", "score", "sex", "lab", "arm"]},
        pipeline={"name": "aggregate", "parameters": {"statistics": PLAN}},
        output={"columns": [{"name": n, "dtype": t} for n, t in OUTPUT.items()]},
        **changes,
    )


EFFECTIVE = Effective(
    k=5, min_cohort=10, max_bytes=10**8, max_bytes_per_year=10**9, epsilon=None, traps=Traps(missing=4)
)
ROWS = rows()
MADE = statistics.compute(ROWS, statistics.plan_of({"statistics": PLAN}), minimum=5, person="pid", cohort=10)
TOLD = [Told(persons=persons, numbers={}) for persons in MADE.cohorts.values()]


def gate() -> EgressGate:
    return EgressGate(asked(), EFFECTIVE, roles=ROLES, table=ROWS)


def item(frame: pd.DataFrame, name: str = "statistics.parquet") -> Item:
    target = BytesIO()
    frame.to_parquet(target, index=False)
    return Item(kind=ItemKind.TABLE, name=name, data=target.getvalue(), persons=10**6, rows=10**6)


def changed(where: dict[str, Any], **values: Any) -> pd.DataFrame:
    """The honest table with one row changed."""
    frame = MADE.frame.copy()
    chosen = np.logical_and.reduce([frame[name] == value for name, value in where.items()])
    assert chosen.any()
    for name, value in values.items():
        frame.loc[frame.index[chosen][0], name] = value
    return frame


def code(check: EgressGate, frame: pd.DataFrame, told: list[Told] | None = None) -> str:
    try:
        check.check(item(frame))
        check.about(TOLD if told is None else told)
        check.finish()
    except CorsiaError as error:
        return error.code
    return ""


def test_an_honest_table_passes_with_its_hidden_cells() -> None:
    made = gate()
    assert MADE.hidden > 0
    assert code(made, MADE.frame) == ""
    assert made.passed.persons == 200
    assert made.release is not None
    assert made.release.minimum == 10
    assert made.release.numbers["score"] > 6
    assert set(made.release.cohorts["0"]) == {f"mrn{i:05d}" for i in range(200)}


HISTOGRAM = {"statistic": "histogram", "bin": "30.0,50.0"}
MISSING = {"statistic": "missing", "column": "lab", "group": ""}


@pytest.mark.parametrize(
    ("frame", "fired"),
    [
        (MADE.frame.assign(more=1.0), "gate.undeclared"),
        (MADE.frame.drop(columns="n"), "gate.undeclared"),
        (changed(HISTOGRAM, value=3.0, n=3), "gate.cells"),
        (changed(HISTOGRAM, value=3.0), "gate.cells"),
        (changed(HISTOGRAM, value=-7.0), "gate.cells"),
        (changed(HISTOGRAM, value=10.5), "gate.cells"),
        (changed(HISTOGRAM, value=1e6), "gate.cells"),
        (changed(HISTOGRAM, n=pd.NA), "gate.cells"),
        (changed(HISTOGRAM, value=np.inf), "gate.undeclared"),
        (changed(MISSING, value=3.0), "gate.cells"),
        (changed(MISSING, value=0.0), ""),
        (changed(MISSING, n=201), "gate.cohort"),
        (changed({"statistic": "missing", "column": "score", "group": "sex=F"}, n=17), "gate.cohort"),
        (changed({"statistic": "sum", "group": ""}, n=4), "gate.cells"),
        (changed(HISTOGRAM, bin="30.0,41.0"), "gate.undeclared"),
        (changed(HISTOGRAM, group="Rosetta Bardellini"), "gate.undeclared"),
        (changed(HISTOGRAM, column="name"), "gate.undeclared"),
        (changed(HISTOGRAM, statistic="row"), "gate.undeclared"),
        (pd.concat([MADE.frame] * 6), "gate.undeclared"),
        (pd.concat([MADE.frame] * 6000), "gate.cells"),
    ],
)
def test_a_table_that_no_honest_worker_makes(frame: pd.DataFrame, fired: str) -> None:
    assert code(gate(), frame) == fired


@pytest.mark.parametrize(
    "told",
    [
        [],
        [one for one in TOLD if len(one.persons) < 200],
        [replace(TOLD[0], persons=())],
        [TOLD[0]],  # the groups are not told
        [*TOLD, Told(persons=("MRN77777",), numbers={})],
        [replace(TOLD[0], persons=(*TOLD[0].persons[:-1], "MRN99999")), *TOLD[1:]],
        [replace(one, persons=(*one.persons[:-1], one.persons[0].lower())) for one in TOLD],
    ],
)
def test_a_worker_that_lies_about_whom_its_sums_are(told: list[Told]) -> None:
    assert code(gate(), MADE.frame, told) == "gate.cohort"


def test_a_second_table_and_rows_instead_of_sums() -> None:
    made = gate()
    made.check(item(MADE.frame))
    with pytest.raises(CorsiaError):
        made.check(item(MADE.frame, "other.parquet"))
    assert code(gate(), ROWS[["age"]]) == "gate.undeclared"
    empty = gate()
    assert empty.about(TOLD) == 0
    with pytest.raises(CorsiaError):
        empty.finish()


def test_the_lane_uses_the_sites_traps() -> None:
    from pipelines import aggregate
    from tests.unit.test_aggregate import STATISTICS, table
    from tests.unit.test_harvest import MemoryGate, MemorySource

    strict = replace(work(STATISTICS), traps=Traps(tab=200))
    with pytest.raises(CorsiaError) as refused:
        aggregate.run(strict, MemorySource(table(100, 5), []), MemoryGate())
    assert refused.value.code == "gate.cohort"


def test_noised_sums_may_count_anything_but_say_no_other_word() -> None:
    import pyarrow as pa

    from edge import sums
    from pipelines.features import noised

    bounds = {name: [0.0, 90.0] for name in ("score", "lab", "age")}
    wanted = asked(privacy={"dp": "sample", "epsilon": 1.0, "delta": 1e-6})
    parameters = dict(wanted.pipeline.parameters) | {"bounds": bounds}
    wanted = wanted.model_copy(update={"pipeline": wanted.pipeline.model_copy(update={"parameters": parameters})})
    plan = statistics.plan_of({"statistics": PLAN})
    made = noised.compute(ROWS.set_index("pid"), plan, noised.bounds_of(bounds, plan), multiplier=20.0)
    table = pa.Table.from_pandas(made, preserve_index=False)
    assert (made["n"] < 5).any()
    assert list(sums.faults(table, wanted, EFFECTIVE)) == []
    told = [Told(persons=tuple(ROWS["pid"]), numbers={})]
    assert list(sums.told_faults(told, table, {one.casefold() for one in ROWS["pid"]}, noised=True)) == []
    made.loc[0, "group"] = "MRN00001"
    assert list(sums.faults(pa.Table.from_pandas(made, preserve_index=False), wanted, EFFECTIVE))
