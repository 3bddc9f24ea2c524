"""`corsia deid fhir`: files and folders in, renamed files out, what is broken is not passed."""

from __future__ import annotations

import base64
import gzip
import json
import re
from datetime import date
from pathlib import Path
from typing import Any

import pytest
import typer
from typer.testing import CliRunner

from corsia.cli.deid_fhir import fhir
from privacy.deid.pseudonym import Pseudonymizer
from protocol.errors import InputError

KEY = bytes(range(32))


@pytest.fixture
def key(tmp_path: Path) -> Path:
    path = tmp_path / "site.key"
    path.write_bytes(KEY)
    path.chmod(0o600)
    return path


def test_folder_of_bundles_and_lines(tmp_path: Path, key: Path) -> None:
    source, target, report = tmp_path / "in", tmp_path / "out", tmp_path / "report.json"
    source.mkdir()
    mrn = [{"type": {"coding": [{"code": "MR"}]}, "value": "PAT-001"}]
    patient = {"resourceType": "Patient", "id": "7", "identifier": mrn, "name": [{"family": "Zorbelli"}]}
    seen = {"resourceType": "Observation", "subject": {"reference": "Patient/7"}, "valueString": "Zorbelli is well"}
    bundle = {"resourceType": "Bundle", "type": "collection", "entry": [{"resource": patient}]}
    (source / "Zorbelli.json.gz").write_bytes(gzip.compress(json.dumps(bundle).encode()))
    (source / "Observation.ndjson").write_text(json.dumps(seen) + "\n\n" + json.dumps(seen) + "\n")
    (source / "Patient.ndjson").write_text(json.dumps(patient) + "\n")
    (source / "broken.json").write_text("[" * 100_000)
    (source / "cut.json.gz").write_bytes(gzip.compress(json.dumps(bundle).encode())[:30])
    app = typer.Typer()
    app.command()(fhir)
    args = [str(source), str(target), "--key", str(key), "--lang", "en", "--report", str(report), "--json"]
    result = CliRunner().invoke(app, args)
    assert result.exit_code == 0, result.output
    value = json.loads(result.stdout)
    assert value == json.loads(report.read_text())
    assert (value["passed"], value["quarantined"], value["reasons"]) == (3, 2, {"input.fhir": 2})
    pseudonym = Pseudonymizer(KEY).pseudonym("PAT-001")
    assert {path.name for path in target.iterdir()} == {f"{pseudonym}.json", "Observation.ndjson", "Patient.ndjson"}
    lines = [json.loads(line) for line in (target / "Observation.ndjson").read_text().splitlines()]
    person = json.loads((target / "Patient.ndjson").read_text())
    assert [line["subject"]["reference"] for line in lines] == [f"Patient/{person['id']}"] * 2
    assert "Zorbelli" not in "".join(path.read_text() for path in target.iterdir())
    assert "is well" in lines[0]["valueString"]


def call(source: Path, target: Path, key: Path, *more: str) -> Any:
    app = typer.Typer()
    app.command()(fhir)
    return CliRunner().invoke(app, [str(source), str(target), "--key", str(key), "--lang", "en", "--json", *more])


def written(folder: Path) -> str:
    """All that stands in a folder, attachments opened, names of files too."""
    texts = [path.name + "\n" + path.read_text() for path in sorted(folder.rglob("*")) if path.is_file()]
    data = re.findall(r'"data": "([A-Za-z0-9+/=]+)"', "".join(texts))
    return "\n".join([*texts, *(base64.b64decode(one).decode() for one in data)])


NOTE = "Quarzoli Delfina of Via dei Tigli 12, tel 333 1234567, record PT-778812-ZK, seen by Aldovrando: stable"
PERSON = {
    "resourceType": "Patient",
    "id": "7",
    "identifier": [{"type": {"coding": [{"code": "MR"}]}, "system": "urn:x", "value": "PT-778812-ZK"}],
    "name": [{"family": "Quarzoli", "given": ["Delfina"]}],
    "telecom": [{"value": "+39 333 1234567"}],
    "address": [{"line": ["Via dei Tigli 12"]}],
}
HERS = {"reference": "Patient/7"}


def test_what_is_learned_from_one_file_goes_from_all(tmp_path: Path, key: Path) -> None:
    source, target = tmp_path / "in", tmp_path / "out"
    (source / "later").mkdir(parents=True)
    data = base64.b64encode(NOTE.encode()).decode()
    attachment = {"contentType": "text/plain", "data": data}
    files: dict[str, list[dict[str, Any]]] = {
        "A-notes.ndjson": [
            {"resourceType": "Observation", "subject": HERS, "note": [{"text": NOTE}], "valueString": NOTE},
            {"resourceType": "Observation", "subject": {"identifier": {"system": "urn:x", "value": "PT-778812-ZK"}},
             "effectiveDateTime": "2020-01-01", "valueString": NOTE},
            {"resourceType": "Condition", "subject": HERS, "text": {"div": f"<div><p>{NOTE}</p></div>"},
             "recordedDate": "2020-01-01"},
        ],
        "DocumentReference.ndjson": [
            {"resourceType": "DocumentReference", "subject": HERS, "content": [{"attachment": attachment}]},
            {"resourceType": "DocumentReference", "subject": {"reference": "Patient?identifier=urn:x%7CPT-778812-ZK"},
             "date": "2020-01-01T10:00:00Z", "content": [{"attachment": attachment}]},
        ],
        "Patient.ndjson": [PERSON, {**PERSON, "id": "8", "identifier": [], "name": [{"family": "Zorbelli"}]}],
        "Practitioner.ndjson": [{"resourceType": "Practitioner", "id": "p", "name": [{"family": "Aldovrando"}]}],
        "later/List.json": [{"resourceType": "List", "title": f"Zorbelli and {NOTE}", "note": [{"text": NOTE}]}],
    }  # fmt: skip
    for name, resources in files.items():
        (source / name).write_text("\n".join(json.dumps(one) for one in resources))
    result = call(source, target, key)
    assert result.exit_code == 0, result.output
    value = json.loads(result.stdout)
    assert (value["files"], value["passed"], value["quarantined"]) == (5, 5, 0)
    text = written(target)
    for one in ("quarzoli", "delfina", "tigli", "1234567", "778812", "aldovrando", "zorbelli", "notes"):
        assert one not in text.casefold()
    assert text.count(": stable") == 8
    moved = Pseudonymizer(KEY).shift_date(date(2020, 1, 1), "PT-778812-ZK").isoformat()
    assert text.count(moved) == 3
    assert text.count(Pseudonymizer(KEY).pseudonym("PT-778812-ZK")) == 4  # Patient (twice), two logical references


def test_what_fails_is_set_aside_and_still_learned(tmp_path: Path, key: Path) -> None:
    source, target, back = tmp_path / "in", tmp_path / "out", tmp_path / "back"
    source.mkdir()
    seen = {"resourceType": "Observation", "subject": HERS, "valueString": NOTE}
    (source / "Observation.ndjson").write_text(json.dumps(seen))
    (source / "Patient.ndjson").write_text(json.dumps(PERSON) + "\n{\n")
    (source / "new.json").write_text(json.dumps({"resourceType": "InventoryItem"}))
    (source / "Quarzoli.xml").write_text("<Patient/>")
    (source / "README.txt").write_text("Quarzoli")
    (source / "link.json").symlink_to(source / "new.json")
    report = tmp_path / "report.json"
    result = call(source, target, key, "--quarantine", str(back), "--report", str(report))
    assert result.exit_code == 0, result.output
    value = json.loads(result.stdout)
    assert value == json.loads(report.read_text())
    assert (value["files"], value["passed"], value["quarantined"], value["ignored"]) == (4, 1, 3, 2)
    assert value["reasons"] == {"input.fhir": 3}
    assert sum(value["kinds"].values()) == 3
    assert "1 passed, 3 quarantined" in result.stderr
    assert [path.name for path in target.iterdir()] == ["Observation.ndjson"]
    assert "Quarzoli" not in written(target) + result.output + report.read_text()
    names = sorted(path.name for path in back.iterdir())
    assert [name.split("-", 1)[1] for name in names] == ["input.fhir.ndjson", "input.fhir.xml", "input.fhir.json"]
    assert all(path.stat().st_mode & 0o077 == 0 for path in [*target.iterdir(), *back.iterdir()])


def test_a_second_run_over_the_output_is_refused_under_the_same_key(tmp_path: Path, key: Path) -> None:
    source = tmp_path / "in"
    source.mkdir()
    (source / "Patient.json").write_text(json.dumps(PERSON))
    assert json.loads(call(source, tmp_path / "one", key).stdout)["passed"] == 1
    again = json.loads(call(tmp_path / "one", tmp_path / "two", key).stdout)
    assert (again["passed"], again["reasons"]) == (0, {"input.deidentified": 1})


@pytest.mark.parametrize("place", ["in/out", ".", "in"])
def test_folders_within_each_other_are_refused(tmp_path: Path, key: Path, place: str) -> None:
    (tmp_path / "in").mkdir()
    result = call(tmp_path / "in", tmp_path / place, key)
    assert isinstance(result.exception, InputError)
    assert not (tmp_path / "in/out").exists()


def test_the_same_logical_id_of_two_patients_is_nobody_s(tmp_path: Path, key: Path) -> None:
    source = tmp_path / "in"
    source.mkdir()
    other = {**PERSON, "identifier": [{"type": {"coding": [{"code": "MR"}]}, "value": "PT-2"}]}
    for number, person in enumerate((PERSON, other)):
        seen = {"resourceType": "Observation", "subject": HERS, "effectiveDateTime": "2020-01-01"}
        bundle = {"resourceType": "Bundle", "type": "collection", "entry": [{"resource": person}, {"resource": seen}]}
        (source / f"{number}.json").write_text(json.dumps(bundle))
    (source / "alone.json").write_text(json.dumps({**seen, "effectiveDateTime": "2020-02-02"}))
    assert json.loads(call(source, tmp_path / "out", key).stdout)["passed"] == 3
    keys, text = Pseudonymizer(KEY), written(tmp_path / "out")
    for patient in ("PT-778812-ZK", "PT-2"):  # within its bundle it is clear whose it is
        assert keys.pseudonym(patient) + ".json" in text
        assert keys.shift_date(date(2020, 1, 1), patient).isoformat() in text
        assert keys.shift_date(date(2020, 2, 2), patient).isoformat() not in text
