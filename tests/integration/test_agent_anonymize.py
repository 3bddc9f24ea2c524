"""Lane 2 through the daemon: table, notes, images with writing, FHIR; and workers that lie."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from io import BytesIO
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import tomli_w
from pydicom import dcmread

from corsia.leaks import leaks_in
from corsia.synthetic import ct_series, written_image
from edge.config import EdgeConfig, load
from edge.lane import LaneRun
from edge.policy import decide
from edge.preview import preview
from edge.worker import Worker
from pipelines.registry import INSTALLED
from protocol.assignment import State
from protocol.errors import CorsiaError
from protocol.parcel import Item, ItemKind
from protocol.study import Study, dump_study, study_digest
from tests.agentkit import enrolled, running, site_config, study
from tests.integration.test_agent import key_of
from tests.unit.test_sources_documents import bundle, lines, observation, patient
from tests.unit.test_worker import make  # noqa: F401 - a fixture

ROWS = 24
COLUMNS = [("pseudonym", "string"), ("age", "string"), ("sex", "string"), ("note", "string"), ("score", "float"),
           ("status", "int")]  # fmt: skip
OPTIONS = ["retain-longitudinal-modified-dates", "clean-pixel-data"]
PLANTED = ["Bardellini0000 Rosetta", "MRN0000000", "Vanzettini", "vanzettini@example.org"]


def hospital(folder: Path, **policy: Any) -> EdgeConfig:
    """The kit's table (every eighth row without consent), and images and FHIR of its patients 0 and 7."""
    config = site_config(folder, rows=ROWS, **policy)
    images, records = folder / "data" / "dicom", folder / "data" / "fhir"
    images.mkdir()
    records.mkdir()
    for at in (0, 7):
        who = {"PatientID": f"MRN{at:07d}", "PatientName": f"Bardellini{at:04d}^Rosetta", "StudyDate": "20240531"}
        for number, data in enumerate(ct_series(who, seed=at, size=16, slices=2)):
            (images / f"Rosetta{at}-{number}.dcm").write_bytes(data)
        for capture in (False, True):
            (images / f"US{at}{capture}.dcm").write_bytes(
                written_image(who, "VANZETTINI ROSA", seed=at, capture=capture)[1]
            )
        person = patient(f"MRN{at:07d}", f"p{at}", name=[{"family": "Vanzettini", "given": ["Rosetta"]}],
                         telecom=[{"value": "vanzettini@example.org"}])  # fmt: skip
        record = bundle(person, observation(f"Patient/p{at}", effectiveDateTime="2024-05-31",
                                            note=[{"text": "la sig.ra Vanzettini, vista il 31/05/2024"}]))  # fmt: skip
        (records / f"Vanzettini{at}.json").write_text(json.dumps(record))
    value = json.loads(config.model_dump_json(exclude_none=True))
    value["datasets"]["cohort"] |= {"dicom": "data/dicom", "fhir": "data/fhir"}
    (folder / "edge.toml").write_text(tomli_w.dumps(value))
    return load(folder / "edge.toml")


def lane_two(**changes: Any) -> Study:
    asked: dict[str, Any] = {
        "lane": "anonymize",
        "dataset": {"name": "cohort", "columns": [n for n, _ in COLUMNS if n != "pseudonym"], "images": True,
                    "fhir": True},
        "pipeline": {"name": "anonymize", "parameters": {
            "options": OPTIONS, "hierarchies": {"age": {"kind": "age"}, "sex": {"kind": "suppress"}},
            "suppression_limit": 0.2}},
        "output": {"files": True, "documents": True, "columns": [{"name": n, "dtype": t} for n, t in COLUMNS]},
        "privacy": {"k": 2, "l": 2, "t": 0.9, "sensitive": ["status"], "min_cohort": 5},
    }  # fmt: skip
    return study(**(asked | changes))


def test_all_kinds_leave_clean_under_one_pseudonym_and_shift(tmp_path: Path) -> None:
    config = hospital(tmp_path)
    office = enrolled(config)
    with running(config, office):
        asked = office.submit(lane_two())
        said = office.wait(asked, timeout_s=120)
    assert (said.state, said.code) == (State.DONE, "")
    (batch,) = office.opened(asked, key_of(config))
    by_kind = {kind: [item for item in batch.items if item.kind is kind] for kind in ItemKind}
    table = pd.read_parquet(BytesIO(by_kind[ItemKind.TABLE][0].data))
    images = [dcmread(BytesIO(item.data)) for item in by_kind[ItemKind.DICOM]]
    (record,) = by_kind[ItemKind.DOCUMENT]
    person, seen = (entry["resource"] for entry in json.loads(record.data)["entry"])
    who = person["identifier"][0]["value"]
    assert len(images) == 3
    assert {str(image.PatientID) for image in images} == {who}
    assert who in set(table["pseudonym"])
    assert len(table) == 21
    (day,) = {str(image.StudyDate) for image in images}
    assert seen["effectiveDateTime"].replace("-", "") == day != "20240531"
    assert re.search(r"(\d\d)/(\d\d)/(\d{4})", seen["note"][0]["text"])
    assert not [leaks_in(item.data, PLANTED) for item in batch.items if leaks_in(item.data, PLANTED)]
    # Rows, CT slices and pictures, and FHIR resources of persons without consent; the screenshot of the other.
    assert batch.withheld == {"consent": 3 + 4 + 2, "burned-in": 1}
    (report,) = by_kind[ItemKind.REPORT]
    certificate = json.loads(report.data)["certificate"]
    assert certificate["options"] == sorted(OPTIONS)
    assert certificate["quarantine"] == {"burned-in": 1}
    assert certificate["k"]["achieved"] >= 2
    assert certificate["l"]["achieved"] == 2


def test_preview_shows_documents_and_what_was_done(tmp_path: Path) -> None:
    config = hospital(tmp_path, min_l=2, max_t=0.95, sensitive=["status"])
    shown = preview(config, dump_study(lane_two(privacy={"k": 2, "min_cohort": 5})))
    assert (shown.allowed, shown.code, shown.documents, shown.files) == (True, "", 1, 3)
    assert {"k", "l", "t", "documents", "residual"} <= {check.rule for check in shown.gate}
    assert {rule.name: rule.effective for rule in shown.rules if rule.name in ("l", "t")} == {"l": "2.0", "t": "0.95"}
    assert shown.report["certificate"]["quarantine"] == {"burned-in": 1}
    assert "Vanzettini" not in json.dumps(shown.to_json())


@pytest.mark.parametrize(
    ("policy", "code"),
    [({"min_l": 3, "sensitive": ["status"]}, "gate.k"), ({"min_k": 22}, "gate.k"), ({"fhir": None}, "policy.dataset")],
)
def test_the_stricter_side_wins(tmp_path: Path, policy: dict[str, Any], code: str) -> None:
    config = hospital(tmp_path, **{k: v for k, v in policy.items() if k != "fhir"})
    if "fhir" in policy:
        bare = config.datasets["cohort"].model_copy(update={"fhir": None})
        config = config.model_copy(update={"datasets": {"cohort": bare}})
    shown = preview(config, dump_study(lane_two()))
    assert (shown.allowed, shown.code) == (False, code)


LIE = """
import io
import pyarrow as pa
import pyarrow.parquet as pq

def run(job, source, gate):
    table = source.table()
    list(source.files())
    documents = list(source.documents("fhir"))
    {body}

def put(gate, kind, name, data):
    from protocol.parcel import Item, ItemKind
    gate.put(Item(kind=ItemKind(kind), name=name, data=data, persons=99, rows=99))

def rows(**columns):
    target = io.BytesIO()
    pq.write_table(pa.table(columns), target)
    return target.getvalue()

MARK = b'{"resourceType": "Patient", "meta": {"tag": [{"system": "urn:corsia:key", "code": "0"}]}, '
from edge.confined import main
main(load=lambda name: run)
"""


@pytest.mark.parametrize(
    ("body", "code"),
    [
        ("put(gate, 'document', 'P1.json', documents[0].data)", "gate.undeclared"),
        ("put(gate, 'document', 'P1.json', MARK + b'\"x\": \"la Rosetta Vanzettini\"}')", "gate.residual"),
        ("put(gate, 'document', 'P1.json', MARK + b'\"x\": \"vanzettini@example.org\"}')", "gate.residual"),
        ("put(gate, 'document', 'MRN0000000.json', MARK + b'\"x\": 1}')", "gate.residual"),
        ("n = len(table); put(gate, 'table', 'records.parquet', rows(pseudonym=[f'P{i}' for i in range(n)],"
         " sex=['F'] * n, age=['40'] * n, status=[1] * n))", "gate.diversity"),
        ("n = len(table); put(gate, 'table', 'records.parquet', rows(pseudonym=[f'P{i}' for i in range(n)],"
         " sex=['F' if i else 'M' for i in range(n)], age=['40'] * n, status=[i % 2 for i in range(n)]))", "gate.k"),
    ],
)  # fmt: skip
def test_a_worker_that_lies_is_refused_by_the_gate(tmp_path: Path, body: str, code: str) -> None:
    import sys

    config = hospital(tmp_path)
    config.state_dir.mkdir(mode=0o700)
    raw = dump_study(lane_two())
    asked = lane_two()
    lane = LaneRun.prepare(asked, study_digest(raw), config, decide(asked, config, INSTALLED))
    script = tmp_path / "lie.py"
    script.write_text(LIE.replace("{body}", body))
    worker = Worker(config.limits, tmp_path / "w", argv=[sys.executable, "-I", "-W", "ignore", str(script)])
    source = lane.source()
    emitted: list[Item] = []
    with pytest.raises(CorsiaError) as caught:
        lane.run(worker, source, lane.gate(source), emitted.append)
    assert caught.value.code == code
    assert emitted == []
    assert not worker.alive
    shutil.rmtree(tmp_path / "w", ignore_errors=True)


def test_a_piped_source_serves_each_kind(tmp_path: Path, make: Callable[..., Worker]) -> None:  # noqa: F811
    """Names, order and refusals are the same on both sides of the pipe."""
    folder = tmp_path / "g"
    folder.mkdir()
    for name in ("Rossi.bed", "Rossi.bim", "Rossi.fam"):
        (folder / name).write_bytes(name.encode())
    (tmp_path / "p.ndjson").write_bytes(lines(patient("MRN0000000")))
    config = site_config(tmp_path)
    dataset = config.datasets["cohort"].model_copy(update={"genotypes": folder, "fhir": tmp_path / "p.ndjson"})
    config = config.model_copy(update={"datasets": {"cohort": dataset}})
    config.state_dir.mkdir(mode=0o700)
    asked = study(dataset={"name": "cohort", "columns": ["age"], "genotypes": True, "fhir": True},
                  output={"columns": [{"name": "age", "dtype": "int"}]})  # fmt: skip
    lane = LaneRun.prepare(asked, "0" * 64, config, decide(asked, config, INSTALLED))
    worker = make(
        "names = [f.name for f in source.documents('genotypes')]\n"
        "assert names == ['00000001.bed', '00000001.bim', '00000001.fam'], names\n"
        "assert [f.name for f in source.documents('fhir')] == ['00000001.ndjson']\n"
        "assert list(source.documents('omop')) == [] and job.patient_system is None\n"
        "list(source.documents('nothing'))"
    )
    with pytest.raises(CorsiaError) as caught:
        worker.run(lane.job, lane.source(), lambda _item: None)
    assert caught.value.code == "input.usage"
