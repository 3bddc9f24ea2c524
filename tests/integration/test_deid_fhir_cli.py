"""`corsia deid fhir`: files and folders in, renamed files out, what is broken is not passed."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from corsia.cli.deid_fhir import fhir
from privacy.deid.pseudonym import Pseudonymizer

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
    assert (value["passed"], value["quarantined"], value["reasons"]) == (3, 2, {"input.usage": 2})
    pseudonym = Pseudonymizer(KEY).pseudonym("PAT-001")
    assert {path.name for path in target.iterdir()} == {f"{pseudonym}.json", "Observation.ndjson", "Patient.ndjson"}
    lines = [json.loads(line) for line in (target / "Observation.ndjson").read_text().splitlines()]
    person = json.loads((target / "Patient.ndjson").read_text())
    assert [line["subject"]["reference"] for line in lines] == [f"Patient/{person['id']}"] * 2
    assert "Zorbelli" not in "".join(path.read_text() for path in target.iterdir())
    assert "is well" in lines[0]["valueString"]
