"""One identity: the same person in DICOM, table, text and FHIR of one study, nobody in another; keys rotate."""

from __future__ import annotations

import io
from datetime import date
from pathlib import Path

import pandas as pd
import pytest
import typer
from pydicom import dcmread
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian
from typer.testing import CliRunner

from corsia.cli.deid_link import link
from privacy.deid.dicom import DicomEngine
from privacy.deid.fhir import FhirEngine
from privacy.deid.profiles import load
from privacy.deid.pseudonym import KeyRing, Pseudonymizer, study_key
from privacy.deid.table import TableEngine, TableSpec
from privacy.deid.text import TextEngine
from protocol.errors import ConfigurationError, ConflictError

SITE = b"s" * 32
DAY = date(2020, 1, 15)


def dicom(keys: Pseudonymizer) -> tuple[str, date, str]:
    dataset = Dataset()
    dataset.SOPClassUID, dataset.SOPInstanceUID = "1.2.840.10008.5.1.4.1.1.2", "1.2.3.4.5"
    dataset.StudyInstanceUID, dataset.PatientID, dataset.PatientName = "1.2.840.1", "PAT-001", "Zorbelli^Ada"
    dataset.StudyDate, dataset.Modality = DAY.strftime("%Y%m%d"), "CT"
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    dataset.file_meta.MediaStorageSOPClassUID = dataset.SOPClassUID
    dataset.file_meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID
    buffer = io.BytesIO()
    dataset.save_as(buffer, enforce_file_format=True)
    profile = load("basic", frozenset({"retain-longitudinal-modified-dates"}))
    result = DicomEngine(keys, profile=profile, text=TextEngine("it")).deidentify(buffer.getvalue())
    out = dcmread(io.BytesIO(result.data))
    shifted = date.fromisoformat(f"{out.StudyDate[:4]}-{out.StudyDate[4:6]}-{out.StudyDate[6:]}")
    return str(out.PatientID), shifted, str(out.StudyInstanceUID)


def table(keys: Pseudonymizer) -> tuple[str, date, str]:
    spec = TableSpec(roles={"id": "patient", "day": "date", "note": "text"}, k=1)
    frame = pd.DataFrame({"id": ["pat-001 "], "day": [DAY.isoformat()], "note": ["visita del 15/01/2020"]})
    row = TableEngine(spec, keys, TextEngine("it")).deidentify(frame).frame.iloc[0]
    return row["pseudonym"], row["day"], row["note"]


def fhir(keys: Pseudonymizer) -> tuple[str, date, str]:
    mrn = {"type": {"coding": [{"code": "MR"}]}, "value": "PAT-001"}
    image = {"resourceType": "ImagingStudy", "subject": {"reference": "Patient/1"}, "started": DAY.isoformat()}
    image["identifier"] = [{"system": "urn:dicom:uid", "value": "urn:oid:1.2.840.1"}]
    patient = {"resourceType": "Patient", "id": "1", "identifier": [mrn]}
    bundle = {"resourceType": "Bundle", "type": "collection", "entry": [{"resource": patient}, {"resource": image}]}
    one, two = (entry["resource"] for entry in FhirEngine(keys, TextEngine("it")).deidentify(bundle)["entry"])
    return one["identifier"][0]["value"], date.fromisoformat(two["started"]), two["identifier"][0]["value"]


def test_one_person_is_one_in_all_kinds_of_data_and_nobody_in_another_study() -> None:
    seen = []
    for study in ("lung", "heart"):
        keys = Pseudonymizer(study_key(SITE, study))
        from_dicom, from_table, from_fhir = dicom(keys), table(keys), fhir(keys)
        assert {from_dicom[0], from_table[0], from_fhir[0]} == {keys.pseudonym("PAT-001")}
        moved = keys.shift_date(DAY, "PAT-001")
        assert {from_dicom[1], from_table[1], from_fhir[1]} == {moved}
        assert moved.strftime("%d/%m/%Y") in from_table[2]
        assert "urn:oid:" + from_dicom[2] == from_fhir[2]
        seen.append((from_dicom[0], moved, from_dicom[2]))
    assert all(a != b for a, b in zip(*seen, strict=True))


def test_study_keys_are_unrelated_and_stable() -> None:
    keys = {study_key(SITE, str(number)) for number in range(200)} | {study_key(b"t" * 32, "0"), SITE}
    assert len(keys) == 202
    assert study_key(SITE, "a") == study_key(SITE, "a")
    with pytest.raises(ValueError, match="32"):
        study_key(b"short", "a")


def test_rotation_recognises_the_old_and_makes_the_new() -> None:
    ring = KeyRing(b"1" * 32)
    old = fhir(ring.current)
    old_id = ring.current.key_id
    turned = ring.rotated(b"2" * 32).rotated(b"3" * 32)
    assert turned.key_ids[0] == turned.current.key_id != old_id
    found = turned.find(old_id)
    assert found is not None
    assert found.pseudonym("PAT-001") == old[0]
    assert turned.find("0" * 16) is None
    assert fhir(turned.current)[0] != old[0]
    names = turned.pseudonyms("PAT-001")
    assert list(names) == list(turned.key_ids)
    assert len(set(names.values())) == 3
    assert names[old_id] == old[0]
    with pytest.raises(ValueError, match="again"):
        turned.rotated(b"1" * 32)


def test_ring_of_a_study_rotates_with_the_sites() -> None:
    before, after = KeyRing(b"1" * 32).of_study("x"), KeyRing(b"2" * 32, [b"1" * 32]).of_study("x")
    assert after.find(before.current.key_id) is not None
    assert before.find(after.current.key_id) is None
    assert "1111" not in repr(after)


def test_link_writes_the_pseudonyms_under_all_keys_for_the_site_alone(tmp_path: Path) -> None:
    for name, letter in (("new", b"2"), ("old", b"1")):
        (tmp_path / name).write_bytes(letter * 32)
        (tmp_path / name).chmod(0o600)
    (tmp_path / "ids").write_text("PAT-001\n\npat-002 \n")
    app = typer.Typer()
    app.command()(link)
    keys = ["--key", str(tmp_path / "new"), "--retired", str(tmp_path / "old")]
    for more, ring in (([], KeyRing(b"2" * 32, [b"1" * 32])), (["--study", "x"], KeyRing(b"2" * 32, [b"1" * 32]))):
        ring = ring.of_study("x") if more else ring
        out = tmp_path / f"link{len(more)}.csv"
        result = CliRunner().invoke(app, [str(tmp_path / "ids"), str(out), *keys, *more])
        assert result.exit_code == 0, result.output
        rows = [line.split(",") for line in out.read_text().splitlines()]
        assert rows == [list(ring.key_ids), *(list(ring.pseudonyms(one).values()) for one in ("PAT-001", "PAT-002"))]
        assert out.stat().st_mode & 0o077 == 0
        again = CliRunner().invoke(app, [str(tmp_path / "ids"), str(out), *keys, *more])
        assert isinstance(again.exception, ConflictError)
    (tmp_path / "old").chmod(0o640)
    refused = CliRunner().invoke(app, [str(tmp_path / "ids"), str(tmp_path / "no.csv"), *keys])
    assert isinstance(refused.exception, ConfigurationError)
    assert not (tmp_path / "no.csv").exists()
