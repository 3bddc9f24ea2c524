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

    def __init__(self, table: pd.DataFrame | None, files: list[bytes], fhir: dict[str, bytes] | None = None) -> None:
        self._table, self._files, self._fhir = table, files, fhir or {}
        self.items: list[Item] = []
        self.withheld: Counter[str] = Counter()

    def table(self) -> pd.DataFrame | None:
        return None if self._table is None else self._table.copy()

    def files(self) -> Iterator[SourceFile]:
        yield from (SourceFile(f"{n:08d}.dcm", data) for n, data in enumerate(self._files))

    def documents(self, kind: str) -> Iterator[SourceFile]:
        assert kind == "fhir"
        yield from (SourceFile(name, data) for name, data in self._fhir.items())

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
        ({"options": ["clean-recognizable-visual-features"]}, "input.usage"),
        ({"hierarchies": {"age": {"kind": "age"}}, "bands": {"age": 10}}, "input.usage"),
        ({"hierarchies": {"age": {"file": "../../etc/passwd"}}}, "input.usage"),
        ({"suppression_limit": 2}, "input.study"),
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


# -- FHIR, pixels, the lattice, the certificate


BOTH = {"dataset": {"name": "lung", "columns": [c for c in COLUMNS if c != "pseudonym"], "images": True, "fhir": True},
        "output": {"files": True, "documents": True,
                   "columns": [{"name": n, "dtype": d} for n, d in COLUMNS.items()]}}  # fmt: skip


def bundle(number: str, *, seen: str = "2020-01-10", text: str = "visto il 10/01/2020") -> dict[str, Any]:
    patient = {"resourceType": "Patient", "id": "a1", "birthDate": "1950-04-03",
               "identifier": [{"type": {"coding": [{"code": "MR"}]}, "value": number}],
               "name": [{"family": "Zanzotteraa", "given": ["Ugo"]}]}  # fmt: skip
    seen_then = {"resourceType": "Observation", "id": "o1", "status": "final", "code": {"text": "Hb"},
                 "subject": {"reference": "Patient/a1"}, "effectiveDateTime": seen,
                 "note": [{"text": f"Ugo Zanzotteraa {text}"}]}  # fmt: skip
    return {"resourceType": "Bundle", "type": "collection", "entry": [{"resource": patient}, {"resource": seen_then}]}


def encode(value: object) -> bytes:
    return json.dumps(value).encode()


def test_one_person_in_table_text_dicom_and_fhir_is_the_same_and_moved_alike() -> None:
    memory = Memory(frame(), files()[3:4], {"00000001.json": encode(bundle("PT-1000"))})
    run(job(**BOTH), memory, memory)
    keys = Pseudonymizer(b"k" * 32)
    who, then = keys.pseudonym("PT-1000"), keys.shift_date(date(2020, 1, 10), "PT-1000")
    table = pd.read_parquet(io.BytesIO(memory.of(ItemKind.TABLE)[0].data))
    image = dcmread(io.BytesIO(memory.of(ItemKind.DICOM)[0].data))
    (item,) = memory.of(ItemKind.DOCUMENT)
    person, seen = (entry["resource"] for entry in json.loads(item.data)["entry"])
    assert item.name == f"{who}.json"
    assert {table["pseudonym"][0], str(image.PatientID), person["identifier"][0]["value"]} == {who}
    assert {str(table["seen"][0]), seen["effectiveDateTime"]} == {then.isoformat()}
    assert image.StudyDate == then.strftime("%Y%m%d")
    assert f"{then:%d/%m/%Y}" in table["note"][0]
    assert f"{then:%d/%m/%Y}" in seen["note"][0]["text"]
    everything = b"".join(one.data for one in memory.items).lower()
    assert not [gone for gone in (b"zanzottera", b"pt-1000", b"1950-04", b"10/01/2020") if gone in everything]


def test_a_bad_document_is_withheld_alone_and_a_bad_line_too() -> None:
    again = Memory(None, [], {"00000001.json": encode(bundle("PT-1"))})
    run(job(**BOTH), again, again)
    (clean,) = again.of(ItemKind.DOCUMENT)
    patient = bundle("PT-2")["entry"][0]["resource"]
    lines = b"\n".join([encode(patient), b"{oops", b"", encode({"resourceType": "Nonsense"})])
    memory = Memory(None, [], {"00000001.json": b"[]", "00000002.json": clean.data, "00000003.ndjson": lines})
    run(job(**BOTH), memory, memory)
    (item,) = memory.of(ItemKind.DOCUMENT)
    assert len(item.data.splitlines()) == item.rows == 1
    assert item.name.endswith(".ndjson")
    assert memory.withheld == {"unreadable": 3, "deidentified-before": 1}
    (report,) = memory.of(ItemKind.REPORT)
    assert json.loads(report.data)["certificate"]["quarantine"] == {"deidentified-before": 1, "unreadable": 3}


def test_a_second_run_under_the_key_is_told_from_what_cannot_be_read() -> None:
    first = Memory(None, files()[3:4])
    run(job(), first, first)
    second = Memory(None, [first.of(ItemKind.DICOM)[0].data, b"junk"])
    run(job(), second, second)
    assert second.withheld == {"deidentified-before": 1, "unreadable": 1}


def test_writing_in_pictures_is_blanked_and_a_capture_stays() -> None:
    from corsia.synthetic import written_image

    box, data = written_image({"PatientID": "pt-1000"}, "ZANZOTTERAA UGO", seed=1)
    _, capture = written_image({"PatientID": "pt-1000"}, "ZANZOTTERAA UGO", seed=2, capture=True)
    memory = Memory(None, [data, capture])
    run(job(pipeline={"name": "anonymize", "parameters": {"options": ["clean-pixel-data"]}}), memory, memory)
    (item,) = memory.of(ItemKind.DICOM)
    x0, y0, x1, y1 = box
    before, after = (dcmread(io.BytesIO(raw)).pixel_array for raw in (data, item.data))
    assert len(set(before[y0:y1, x0:x1].ravel().tolist())) > 1
    assert len(set(after[y0:y1, x0:x1].ravel().tolist())) == 1
    assert memory.withheld == {"burned-in": 1}
    (report,) = memory.of(ItemKind.REPORT)
    certificate = json.loads(report.data)["certificate"]
    assert certificate["options"] == ["clean-pixel-data"]
    assert certificate["pixels"]["changed"] == 1
    assert certificate["pixels"]["refused-risky-class"] == 1


def test_an_option_that_did_not_run_is_not_attested() -> None:
    memory = Memory(None, files()[3:5])
    run(job(pipeline={"name": "anonymize", "parameters": {"options": ["clean-pixel-data"]}}), memory, memory)
    (report,) = memory.of(ItemKind.REPORT)
    certificate = json.loads(report.data)["certificate"]
    assert certificate["options"] == []
    assert certificate["key_id"] == Pseudonymizer(b"k" * 32).key_id
    assert certificate["second_look"]["hits"] == {}
    assert certificate["second_look"]["searched"] > 0
    assert certificate["second_look"]["exclusions"]


def test_the_lattice_holds_k_l_and_t_or_refuses() -> None:
    rows = pd.concat([frame()] * 3, ignore_index=True)
    rows["id"] = [f"PT-{n}" for n in range(len(rows))]
    rows["dose"] = [float(n % 4) for n in range(len(rows))]
    parameters: dict[str, Any] = {"hierarchies": {"age": {"kind": "age"}}, "suppression_limit": 0.2}
    pipeline = {"name": "anonymize", "parameters": parameters}
    privacy = {"k": 3, "l": 2, "t": 0.9, "sensitive": ["dose"]}
    memory = Memory(rows, [])
    run(job(pipeline=pipeline, privacy=privacy), memory, memory)
    (report,) = memory.of(ItemKind.REPORT)
    certificate = json.loads(report.data)["certificate"]
    assert certificate["k"]["achieved"] >= 3
    assert certificate["l"]["achieved"] >= 2
    assert certificate["t"]["achieved"] <= 0.9
    assert certificate["risk"]["prosecutor"]["max"] <= 1 / 3
    strict = Memory(rows, [])
    with pytest.raises(DisclosureRefused):
        run(job(pipeline=pipeline, privacy=privacy | {"l": 900}), strict, strict)
    assert strict.items == []
