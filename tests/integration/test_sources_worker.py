"""Folder and table -> source -> worker process -> gate, for lanes 1 and 3."""

from __future__ import annotations

from datetime import UTC, datetime
from io import BytesIO
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from corsia.synthetic import ct_series, rtstruct
from edge.config import Consent, DatasetConfig, Limits, Policy
from edge.gate import EgressGate
from edge.policy import Effective
from edge.sources import DatasetSource
from edge.worker import Worker
from pipelines import Job
from pipelines.features.radiomics import ALIASES
from protocol.parcel import Item
from protocol.study import Column, Dataset, Lane, Output, Pipeline, Privacy, Study

ROLES = {"id": "patient", "name": "identifier", "age": "value", "stage": "quasi"}
EFFECTIVE = Effective(k=2, min_cohort=3, max_bytes=10**8, max_bytes_per_year=10**9, epsilon=None)


@pytest.fixture(name="dataset")
def _dataset(tmp_path: Path) -> DatasetConfig:
    lines = ["id;name;age;stage;consent"]
    for at in range(6):
        folder = tmp_path / "dicom" / f"cognome{at}"
        folder.mkdir(parents=True)
        files = ct_series({"PatientID": f"pid-{at:06d}", "PatientName": f"Cognome{at}^Planted"}, seed=at)
        for number, data in enumerate([*files, rtstruct(files)]):
            (folder / f"cognome{at}-{number}.dcm").write_bytes(data)
        lines.append(
            f"PID-{at:06d};Cognome{at} Planted;{50 + at};{'II' if at % 2 else 'I'};{'no' if at == 5 else 'si'}"
        )
    (tmp_path / "t.csv").write_text("\n".join(lines), encoding="utf-8-sig")
    return DatasetConfig(
        table=tmp_path / "t.csv",
        dicom=tmp_path / "dicom",
        columns=ROLES,
        consent=Consent(column="consent", granted=("si",)),
        policy=Policy(),
    )


def study(lane: Lane, output: dict[str, str], *, images: bool) -> Study:
    return Study(
        schema=1,
        id="s",
        title="t",
        lane=lane,
        purpose="research",
        legal_basis="consent",
        controller="c",
        ethics_reference="e",
        expires=datetime(2040, 1, 1, tzinfo=UTC),
        sites=("a",),
        dataset=Dataset(name="d", columns=("id", "age", "stage"), images=images),
        pipeline=Pipeline(name=lane.value, parameters={"roi": "GTV"} if lane is Lane.EXTRACT else {}),
        output=Output.model_validate(
            {"columns": [Column(name=k, dtype=v).model_dump() for k, v in output.items()]}  # type: ignore[arg-type]
        ),
        privacy=Privacy(k=2, min_cohort=3),
    )


def work(tmp_path: Path, dataset: DatasetConfig, asked: Study) -> tuple[list[Item], dict[str, int], DatasetSource]:
    source = DatasetSource(dataset, asked)
    gate = EgressGate(asked, EFFECTIVE, roles=ROLES, table=source.table())
    passed: list[Item] = []
    worker = Worker(Limits(), tmp_path / "scratch")
    try:
        job = Job(study=asked, site="a", key=bytes(32), roles=ROLES)
        outcome = worker.run(job, source, lambda item: passed.append(gate.check(item)))
    finally:
        worker.close()
    gate.finish()
    return passed, outcome.withheld, source


def test_harvest(tmp_path: Path, dataset: DatasetConfig) -> None:
    asked = study(Lane.HARVEST, {"id": "string", "age": "int"}, images=False)
    passed, withheld, source = work(tmp_path, dataset, asked)
    table = pq.read_table(BytesIO(passed[0].data))
    assert table.column_names == ["id", "age"]
    assert table["age"].to_pylist() == [50, 51, 52, 53, 54]
    assert (withheld, source.withheld) == ({}, {"consent": 1})


def test_extract(tmp_path: Path, dataset: DatasetConfig) -> None:
    output = {"pseudonym": "string", "age": "float", "stage": "string", "original_*": "float"}
    passed, withheld, source = work(tmp_path, dataset, study(Lane.EXTRACT, output, images=True))
    table = pq.read_table(BytesIO(passed[0].data))
    assert table.shape == (5, 3 + len(ALIASES))
    assert table.column_names[0] == "pseudonym"
    assert (withheld, source.withheld) == ({}, {"consent": 1 + 13})
    assert not any(b"lanted" in item.data or b"pid-" in item.data.lower() for item in passed)
