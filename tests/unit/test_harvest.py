"""Lane 1: only what is declared, as it is declared, or nothing."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, date, datetime
from io import BytesIO
from typing import Any

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest

from corsia.synthetic import ct_series
from pipelines import Job, SourceFile, harvest
from pipelines.records import typed
from protocol.errors import InputError
from protocol.parcel import Item, ItemKind
from protocol.study import Column, Dataset, Lane, Output, Pipeline, Study


@dataclass
class MemorySource:
    rows: pd.DataFrame | None = None
    data: list[bytes] = field(default_factory=list)
    kinds: dict[str, list[SourceFile]] = field(default_factory=dict)

    def documents(self, kind: str) -> list[SourceFile]:
        return self.kinds.get(kind, [])

    def table(self) -> pd.DataFrame | None:
        return self.rows

    def files(self) -> Iterator[SourceFile]:
        for at, data in enumerate(self.data, 1):
            yield SourceFile(f"{at:08d}.dcm", data)


@dataclass
class MemoryGate:
    items: list[Item] = field(default_factory=list)
    withheld: Counter[str] = field(default_factory=Counter)
    cohorts: list[tuple[list[str], dict[str, int]]] = field(default_factory=list)

    def cohort(self, persons: Iterable[str], numbers: Mapping[str, int]) -> None:
        self.cohorts.append((list(persons), dict(numbers)))

    def put(self, item: Item) -> None:
        self.items.append(item)

    def withhold(self, reason: str, count: int = 1) -> None:
        self.withheld[reason] += count

    def progress(self, done: int, total: int) -> None:
        assert done >= 0
        assert total >= 0

    def tables(self) -> list[Any]:
        return [pq.read_table(BytesIO(i.data)) for i in self.items if i.kind is ItemKind.TABLE]


def job(columns: dict[str, Any], output: dict[str, Any], **more: Any) -> Job:
    study = Study(
        schema=1,
        id="s",
        title="t",
        lane=more.get("lane", Lane.HARVEST),
        purpose="research",
        legal_basis="consent",
        controller="c",
        ethics_reference="e",
        expires=datetime(2040, 1, 1, tzinfo=UTC),
        sites=("a",),
        dataset=Dataset(name="d", columns=tuple(columns), images=more.get("images", False)),
        pipeline=Pipeline(name=more.get("lane", "harvest"), parameters=more.get("parameters", {})),
        output=Output(
            columns=tuple(Column(name=k, dtype=v) for k, v in output.items()), files=more.get("files", False)
        ),
    )
    if "min_cohort" in more:
        privacy = study.privacy.model_copy(update={"min_cohort": more["min_cohort"]})
        study = study.model_copy(update={"privacy": privacy})
    return Job(study=study, site="a", key=bytes(range(32)), roles=columns)


ROWS = pd.DataFrame(
    {
        "id": ["p1", "p2", "P1 "],
        "age": [40, 50, 60],
        "score": [1.0, np.nan, 3.0],
        "flag": ["1", "0", np.nan],
        "seen": ["2020-01-31", "20200201", np.nan],
        "secret": ["x", "y", "z"],
    }
)
ROLES = dict.fromkeys(ROWS.columns, "value") | {"id": "patient"}
OUTPUT = {"id": "string", "age": "int", "score": "int", "flag": "bool", "seen": "date"}


def test_declared_columns_in_declared_types() -> None:
    gate = MemoryGate()
    harvest.run(job(ROLES, OUTPUT), MemorySource(ROWS), gate)
    table, report = gate.items
    (read,) = gate.tables()
    assert (table.name, table.rows, table.persons) == ("records.parquet", 3, 2)
    assert [(f.name, str(f.type)) for f in read.schema] == [
        ("id", "string"), ("age", "int64"), ("score", "int64"), ("flag", "bool"), ("seen", "date32[day]"),
    ]  # fmt: skip
    assert read.to_pylist()[1] == {"id": "p2", "age": 50, "score": None, "flag": False, "seen": date(2020, 2, 1)}
    assert report.kind is ItemKind.REPORT
    assert json.loads(report.data)["rows"] == 3
    assert b"secret" not in table.data


def test_parts() -> None:
    gate = MemoryGate()
    harvest.run(job(ROLES, OUTPUT, parameters={"rows_per_part": 2}), MemorySource(ROWS), gate)
    assert [(i.name, i.rows, i.persons) for i in gate.items[:-1]] == [
        ("records.parquet", 2, 2),
        ("records-2.parquet", 1, 1),
    ]
    assert sum(len(t) for t in gate.tables()) == 3


def test_equal_rows_give_equal_bytes() -> None:
    first, second = MemoryGate(), MemoryGate()
    for gate in (first, second):
        harvest.run(job(ROLES, OUTPUT), MemorySource(ROWS.copy()), gate)
    assert first.items == second.items


@pytest.mark.parametrize("parameters", [{"rows_per_part": 0}, {"rows_per_part": "9"}, {"code": "x"}])
def test_parameters_are_checked(parameters: dict[str, Any]) -> None:
    with pytest.raises(InputError, match=r"input\.study"):
        harvest.run(job(ROLES, OUTPUT, parameters=parameters), MemorySource(ROWS), MemoryGate())


def test_undeclared_or_absent_columns() -> None:
    with pytest.raises(InputError, match=r"input\.study"):
        harvest.run(job(ROLES, {"other": "int"}), MemorySource(ROWS), MemoryGate())
    with pytest.raises(InputError, match="'age'"):
        harvest.run(job(ROLES, {"age": "int"}), MemorySource(ROWS[["id"]]), MemoryGate())
    with pytest.raises(InputError, match="'age'"):
        harvest.run(job(ROLES, {"age": "int"}), MemorySource(None), MemoryGate())


@pytest.mark.parametrize(
    ("values", "dtype"),
    [
        (["SECRET"], "int"), ([1.5], "int"), (["1.0"], "int"), ([2**63], "int"), (["9" * 30], "int"),
        ([float("inf")], "int"), (["SECRET"], "float"), (["nan"], "float"), (["1_0"], "float"),
        ([float("inf")], "float"), (["yes"], "bool"), ([2], "bool"), (["31/01/2020"], "date"),
        (["2020-02-30"], "date"), (["2020-01-01 10:00"], "date"), ([20200101.5], "date"),
    ],
)  # fmt: skip
def test_what_does_not_convert_is_counted_not_shown(values: list[Any], dtype: str) -> None:
    gate = MemoryGate()
    frame = pd.DataFrame({"id": "p", "x": pd.Series([*values, None], dtype=object)})
    with pytest.raises(InputError, match="'x': 1 values") as error:
        harvest.run(job({"id": "patient", "x": "value"}, {"x": dtype}), MemorySource(frame), gate)
    assert "SECRET" not in str(error.value)
    assert gate.items == []


@pytest.mark.parametrize(
    ("values", "dtype", "expected"),
    [
        (pd.Series([1.0, None]), "string", ["1", None]),
        (pd.Series([1.5, None]), "string", ["1.5", None]),
        (pd.Series([1, 2]), "string", ["1", "2"]),
        (pd.Series([1, 2]), "float", [1.0, 2.0]),
        (pd.Series([" 7", ""]), "int", [7, None]),
        (pd.Series([True, None], dtype="boolean"), "bool", [True, None]),
        (pd.Series([True, False]), "string", ["true", "false"]),
        (pd.Series(["TRUE", "0"]), "bool", [True, False]),
        (pd.Series([], dtype="str"), "int", []),
        (pd.Series([datetime(2020, 1, 2), None]), "date", [date(2020, 1, 2), None]),  # noqa: DTZ001
    ],
)
def test_conversions(values: pd.Series[Any], dtype: Any, expected: list[Any]) -> None:
    assert typed(values, Column(name="x", dtype=dtype)).to_pylist() == expected


def test_files_only_when_declared_and_no_empty_shells() -> None:
    full = ct_series({"PatientID": "p"}, seed=1, size=8, slices=2)
    shell = full[0][: full[0].rindex(b"\xe0\x7f\x10\x00")]
    gate = MemoryGate()
    harvest.run(job({}, {}, files=True), MemorySource(None, [*full, shell, b"x"]), gate)
    assert [i.kind for i in gate.items] == [ItemKind.DICOM, ItemKind.DICOM, ItemKind.REPORT]
    assert [i.data for i in gate.items[:2]] == full
    assert gate.withheld == {"unreadable": 2}
    gate = MemoryGate()
    harvest.run(job(ROLES, OUTPUT, images=True), MemorySource(ROWS, full), gate)
    assert not any(i.kind is ItemKind.DICOM for i in gate.items)
