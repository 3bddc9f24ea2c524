"""Lane 2 in memory: one identity over both kinds of data, bad files alone set aside, nothing left."""

from __future__ import annotations

import io
import json
from collections import Counter
from collections.abc import Iterator
from datetime import date
from pathlib import Path
from typing import Any

import pandas as pd
import pydicom
import pytest
from pydicom import dcmread
from pydicom.uid import ExplicitVRLittleEndian

from pipelines import Job, SourceFile
from pipelines.anonymize import run
from privacy.deid.pseudonym import Pseudonymizer
from protocol.errors import DisclosureRefused, InputError
from protocol.parcel import Item, ItemKind
from protocol.study import Study
from tests.unit.test_deid_dicom import basic
from tests.unit.test_deid_dicom_leaks import encoded
from tests.unit.test_deid_table import ROLES, frame

SHIPPED = Path(pydicom.__file__).parent / "data" / "test_files"
COLUMNS = {"pseudonym": "string", "born": "string", "seen": "date", "note": "string", "age": "string", "dose": "float"}


class Memory:
    """A source and a gate in memory."""

    def __init__(self, table: pd.DataFrame | None, files: list[bytes]) -> None:
        self._table, self._files = table, files
        self.items: list[Item] = []
        self.withheld: Counter[str] = Counter()

    def table(self) -> pd.DataFrame | None:
        return None if self._table is None else self._table.copy()

    def files(self) -> Iterator[SourceFile]:
        yield from (SourceFile(f"{n:08d}.dcm", data) for n, data in enumerate(self._files))

    def put(self, item: Item) -> None:
        self.items.append(item)

    def withhold(self, reason: str, count: int = 1) -> None:
        self.withheld[reason] += count

    def progress(self, done: int, total: int) -> None: ...

    def of(self, kind: ItemKind) -> list[Item]:
        return [item for item in self.items if item.kind is kind]


def study(**changes: Any) -> Study:
    value: dict[str, Any] = {
        "schema": 1, "id": "s", "title": "t", "lane": "anonymize", "purpose": "research",
        "legal_basis": "scientific-research", "controller": "c", "ethics_reference": "e",
        "expires": "2100-01-01T00:00:00Z", "sites": ["site-a"],
        "dataset": {"name": "lung", "columns": [c for c in COLUMNS if c != "pseudonym"], "images": True},
        "pipeline": {"name": "anonymize", "parameters": {"bands": {"age": 10}}},
        "output": {"files": True, "columns": [{"name": n, "dtype": d} for n, d in COLUMNS.items()]},
    }  # fmt: skip
    return Study.model_validate(value | changes)


def job(**changes: Any) -> Job:
    return Job(study=study(**changes), site="site-a", key=b"k" * 32, roles=ROLES)


def files() -> list[bytes]:
    mine = basic(PatientID="pt-1000", PatientName="Zanzotteraa^Ugo", StudyDate="20200110", Manufacturer="SIEMENS")
    real = [(SHIPPED / name).read_bytes() for name in ("CT_small.dcm", "rtplan.dcm", "liver_1frame.dcm")]
    bad = [b"junk", (SHIPPED / "SC_rgb_small_odd.dcm").read_bytes(), (SHIPPED / "CT_small.dcm").read_bytes()[:9000]]
    mine_encoded = encoded(mine, ExplicitVRLittleEndian)
    return [*bad, mine_encoded, *real, mine_encoded]


def test_one_identity_over_rows_and_files() -> None:
    memory = Memory(frame(), files())
    run(job(), memory, memory)
    table = pd.read_parquet(io.BytesIO(memory.of(ItemKind.TABLE)[0].data))
    keys = Pseudonymizer(b"k" * 32)
    assert table["pseudonym"][0] == keys.pseudonym("PT-1000")
    clean = [dcmread(io.BytesIO(item.data)) for item in memory.of(ItemKind.DICOM)]
    assert [item.name for item in memory.of(ItemKind.DICOM)] == [f"{d.SOPInstanceUID}.dcm" for d in clean]
    assert clean[0].PatientID == table["pseudonym"][0]
    assert clean[0].StudyDate == table["seen"][0].strftime("%Y%m%d")
    assert table["seen"][0] == keys.shift_date(date(2020, 1, 10), "PT-1000")
    assert memory.withheld == {"unreadable": 2, "burned-in": 1, "duplicate": 1}
    everything = b"".join(item.data for item in memory.of(ItemKind.DICOM)).lower() + table.to_csv().lower().encode()
    for gone in (b"zanzottera", b"pt-1000", b"1950-04", b"19500403", b"compressedsamples", b"20200110"):
        assert gone not in everything
    (report,) = memory.of(ItemKind.REPORT)
    value = json.loads(report.data)
    assert value["files"]["counts"] == {"unreadable": 2, "burned-in": 1, "released": 4, "duplicate": 1}
    assert value["table"]["k"]["achieved"] >= 5


def test_the_same_source_gives_the_same_bytes_and_another_key_others() -> None:
    outputs = []
    for key in (b"k" * 32, b"k" * 32, b"x" * 32):
        memory = Memory(frame(), files())
        run(Job(study=study(), site="site-a", key=key, roles=ROLES), memory, memory)
        outputs.append([(item.name, item.data) for item in memory.items])
    assert outputs[0] == outputs[1]
    names = [{name for name, _ in output if name.endswith(".dcm")} for output in outputs]
    assert not names[0] & names[2]


def test_files_without_a_table_and_a_table_without_files() -> None:
    memory = Memory(None, files()[3:4])
    run(job(), memory, memory)
    assert len(memory.of(ItemKind.DICOM)) == 1
    memory = Memory(frame(), files())
    run(job(dataset={"name": "lung", "columns": ["age"], "images": False}), memory, memory)
    assert not memory.of(ItemKind.DICOM)
    table = pd.read_parquet(io.BytesIO(memory.of(ItemKind.TABLE)[0].data))
    assert list(table.columns) == ["pseudonym", "age"]


@pytest.mark.parametrize(
    ("parameters", "code"),
    [
        ({"unknown": 1}, "input.study"),
        ({"text_language": "fr"}, "input.study"),
        ({"bands": {"age": "x"}}, "input.study"),
        ({"bands": {"dose": 5}}, "input.usage"),
        ({"options": ["clean-pixel-data"]}, "input.usage"),
    ],
)
def test_parameters_are_checked_before_anything_is_put(parameters: dict[str, Any], code: str) -> None:
    memory = Memory(frame(), files())
    with pytest.raises(InputError) as caught:
        run(job(pipeline={"name": "anonymize", "parameters": parameters}), memory, memory)
    assert caught.value.code == code
    assert memory.items == []


def test_an_undeclared_pseudonym_and_a_column_without_role_are_refused() -> None:
    memory = Memory(frame(), [])
    with pytest.raises(DisclosureRefused):
        run(job(output={"columns": [{"name": "age", "dtype": "string"}]}), memory, memory)
    columns = [{"name": n, "dtype": "string"} for n in ("pseudonym", "secret")]
    with pytest.raises(InputError) as caught:
        run(job(dataset={"name": "lung", "columns": ["secret"]}, output={"columns": columns}), memory, memory)
    assert caught.value.code == "input.column-missing"
    assert memory.items == []
