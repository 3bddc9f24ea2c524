"""FHIR: nothing that says who it is survives, references resolve, dates keep precision, what is unknown goes."""

from __future__ import annotations

import base64
import gzip
import json
import os
import re
from collections import Counter
from datetime import date
from functools import lru_cache
from pathlib import Path
from typing import Any

import pytest

from privacy.deid.fhir import FhirEngine
from privacy.deid.fhir_files import deidentify_lines, parse, render, target_name
from privacy.deid.fhir_people import parse_reference
from privacy.deid.fhir_values import cap_age, shift
from privacy.deid.pseudonym import Pseudonymizer
from privacy.deid.text import TextEngine
from protocol.errors import DisclosureRefused, InputError

SYNTHEA = Path(__file__).parents[2] / ".." / "shared/data/fhir_synthea_hiv"
KEYS = Pseudonymizer(b"k" * 32)
_UUID = re.compile(r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}")


@lru_cache
def text(lang: str = "en") -> TextEngine:
    return TextEngine(lang)  # type: ignore[arg-type]


def engine(**options: Any) -> FhirEngine:
    return FhirEngine(KEYS, text(), reference_year=2021, **options)


def patient(**more: Any) -> dict[str, Any]:
    return {
        "resourceType": "Patient",
        "id": "abc-1",
        "identifier": [
            {"type": {"coding": [{"code": "MR"}]}, "system": "http://ospedale.example/mrn", "value": "PAT-001"}
        ],
        "name": [{"family": "Quarzoli", "given": ["Delfina"]}],
        "telecom": [{"system": "phone", "value": "+39 333 1234567"}],
        "address": [{"line": ["Via dei Tigli 12"], "city": "Borgolungo", "postalCode": "40131", "country": "IT"}],
        "birthDate": "1950-04-03",
        "gender": "female",
    } | more


def observation(**more: Any) -> dict[str, Any]:
    code = {"coding": [{"system": "http://loinc.org", "code": "29463-7", "display": "Body weight"}]}
    subject = {"reference": "Patient/abc-1", "display": "Delfina Quarzoli"}
    return {
        "resourceType": "Observation",
        "id": "o1",
        "status": "final",
        "code": code,
        "subject": subject,
    } | more


def bundle(*resources: dict[str, Any]) -> dict[str, Any]:
    return {"resourceType": "Bundle", "type": "collection", "entry": [{"resource": r} for r in resources]}


# -- real-shaped bundles


def _originals(resources: list[dict[str, Any]]) -> set[str]:
    """Every string that says who it is, read off the originals by paths of this test alone."""
    found: set[str] = set()
    for one in resources:
        found |= {one["id"]} if _UUID.fullmatch(one.get("id", "")) else set()
        found |= {i["value"].removeprefix("urn:uuid:") for i in one.get("identifier", [])}
        if one["resourceType"] == "Patient":
            for name in one["name"]:
                found |= {name["family"], *name["given"]}
            found |= {t["value"] for t in one["telecom"]} | {one["birthDate"]}
            for address in one["address"]:
                found |= {*address["line"], address["city"], address.get("postalCode", "")}
            for extension in one["extension"]:
                if "valueString" in extension:
                    found |= set(extension["valueString"].split())
                if "valueAddress" in extension:
                    found.add(extension["valueAddress"]["city"])
    whole = json.dumps(resources)
    found |= set(_UUID.findall(whole)) | set(re.findall(r"us-npi\|(\d+)", whole)) | set(re.findall(r"PCP\d+", whole))
    found |= {part for name in re.findall(r"Dr\. ([\w ]+\d)", whole) for part in name.split()}
    return {value for value in found if len(value) >= 4}


def _readable(value: Any) -> str:
    """The JSON with its plain-text attachments opened."""
    whole = json.dumps(value, ensure_ascii=False)
    data = re.findall(r'"data": "([A-Za-z0-9+/=]+)"', whole)
    return whole + "".join(base64.b64decode(d).decode() for d in data)


@pytest.mark.slow
@pytest.mark.skipif(not SYNTHEA.is_dir(), reason="no ../shared/data/fhir_synthea_hiv")
def test_synthea_bundles_hold_nobody_and_still_hang_together() -> None:
    paths = sorted(SYNTHEA.glob("*.json.gz"))
    assert paths
    paths = paths if os.environ.get("CORSIA_FULL") else paths[:2]
    for path in paths:
        original = json.loads(gzip.decompress(path.read_bytes()))
        clean = json.loads(render(engine().deidentify(original)))
        resources = [entry["resource"] for entry in original["entry"]]
        readable = _readable(clean).casefold()
        assert [v for v in _originals(resources) if v.casefold() in readable] == []
        assert path.name.split("_")[0].casefold() not in target_name(path.name, engine(), original).casefold()
        assert [e["resource"]["resourceType"] for e in clean["entry"]] == [r["resourceType"] for r in resources]
        targets = {entry["fullUrl"] for entry in clean["entry"]}
        references = re.findall(r'"reference": "(urn:[^"]+)"', json.dumps(clean))
        assert len(references) == len(re.findall(r'"reference": "(urn:[^"]+)"', json.dumps(original)))
        assert set(references) <= targets
        conditional = r'"reference": "(\w+\?identifier=[^"]+)"'
        before, after = (Counter(re.findall(conditional, json.dumps(value))) for value in (original, clean))
        assert sorted(before.values()) == sorted(after.values())
        for entry in clean["entry"]:
            assert entry["fullUrl"] == "urn:uuid:" + entry["resource"]["id"]
            for contained in entry["resource"].get("contained", []):
                assert f'"#{contained["id"]}"' in json.dumps(entry["resource"])
        codes = re.compile(r'"code": "([^"]+)", "display": "([^"]+)"')
        kept = {pair for pair in codes.findall(json.dumps(clean)) if pair[0] != KEYS.key_id}
        assert len(kept) >= 0.9 * len(set(codes.findall(json.dumps(original))))


@pytest.mark.skipif(not SYNTHEA.is_dir(), reason="no ../shared/data/fhir_synthea_hiv")
def test_synthea_is_deterministic_and_keys_separate() -> None:
    original = json.loads(gzip.decompress(sorted(SYNTHEA.glob("*.json.gz"))[0].read_bytes()))
    original["entry"] = original["entry"][:40]
    before = json.dumps(original)
    first, second = engine().deidentify(original), engine().deidentify(original)
    assert render(first) == render(second)
    assert json.dumps(original) == before
    other = FhirEngine(Pseudonymizer(b"o" * 32), text(), reference_year=2021).deidentify(original)
    shared = set(_UUID.findall(render(first))) & set(_UUID.findall(render(other)))
    assert shared == set()


# -- persons


def test_patient_keeps_a_pseudonym_a_year_and_a_country() -> None:
    clean = engine().deidentify(patient())
    assert clean["identifier"] == [{"system": "urn:corsia:pseudonym", "value": KEYS.pseudonym("PAT-001")}]
    assert clean["name"] == [{"use": "anonymous", "text": KEYS.pseudonym("PAT-001")}]
    assert clean["address"] == [{"country": "IT"}]
    assert clean["birthDate"] == "1950"
    assert clean["gender"] == "female"
    assert "telecom" not in clean
    assert {"system": "urn:corsia:key", "code": KEYS.key_id} in clean["meta"]["tag"]
    with pytest.raises(InputError, match="deidentified"):
        engine().deidentify(clean)


def test_ages_over_89_are_one_class() -> None:
    assert "birthDate" not in engine().deidentify(patient(birthDate="1931-12-31"))
    assert engine().deidentify(patient(birthDate="1932-01-01"))["birthDate"] == "1932"
    assert cap_age({"value": 93, "unit": "anni"})["value"] == 90
    assert cap_age({"value": 1200, "code": "mo"})["comparator"] == ">="
    assert cap_age({"value": 89.5, "code": "a"})["value"] == 89.5
    assert cap_age({"value": 93, "unit": "kg"})["value"] == 93
    condition = {
        "resourceType": "Condition",
        "subject": {"reference": "Patient/x"},
        "onsetAge": {"value": 95, "code": "a"},
    }
    assert engine().deidentify(condition)["onsetAge"]["value"] == 90


def test_dates_move_by_the_patients_days_and_keep_precision() -> None:
    days = KEYS.shift_days("PAT-001")
    whole = bundle(
        patient(), observation(effectiveDateTime="2020-02-29T10:11:12.5+01:00", issued="2020-03-01T00:00:00Z")
    )
    clean = engine().deidentify(whole)["entry"][1]["resource"]
    moved = KEYS.shift_date(date(2020, 2, 29), "PAT-001").isoformat()
    assert clean["effectiveDateTime"] == moved + "T10:11:12.5+01:00"
    assert clean["issued"] == KEYS.shift_date(date(2020, 3, 1), "PAT-001").isoformat() + "T00:00:00Z"
    assert shift("2020-02", days) == KEYS.shift_date(date(2020, 2, 15), "PAT-001").isoformat()[:7]
    assert shift("2020", days) == KEYS.shift_date(date(2020, 7, 2), "PAT-001").isoformat()[:4]
    for bad in ("2020-13", "2020-02-30", "Rossi", "2020-02-01T10", "9999-12-31", ""):
        assert shift(bad, 1) is None


def test_a_birth_date_among_the_others_does_not_tell_the_shift() -> None:
    hers = {"reference": "Patient/abc-1"}
    items = [{"linkId": "1", "answer": [{"valueDate": "1950-04-03"}, {"valueString": "3/4/1950"}]}]
    answers = {"resourceType": "QuestionnaireResponse", "subject": hers, "authored": "1950-04-03T10:00Z", "item": items}
    relative = {"resourceType": "FamilyMemberHistory", "patient": hers, "bornDate": "1920-01-02", "bornPeriod": {}}
    clean = render(engine().deidentify(bundle(patient(), answers, relative)))
    assert KEYS.shift_date(date(1950, 4, 3), "PAT-001").isoformat() not in clean
    assert not re.search(r"authored|valueDate|born|19(?!50\")\d\d", clean)


def test_resources_apart_agree_with_the_bundle() -> None:
    together = engine().deidentify(bundle(patient(), observation(effectiveDateTime="2020-01-01")))["entry"]
    apart = engine()
    lines = [json.dumps(patient()), "", json.dumps(observation(effectiveDateTime="2020-01-01"))]
    for line in filter(None, lines):
        apart.learn(parse(line))
    person, seen = (json.loads(line) for line in deidentify_lines(lines, apart))
    assert person["id"] == together[0]["resource"]["id"]
    assert seen["subject"] == together[1]["resource"]["subject"] == {"reference": f"Patient/{person['id']}"}
    assert seen["effectiveDateTime"] == together[1]["resource"]["effectiveDateTime"]


def test_site_may_name_the_system_of_its_patient_ids() -> None:
    both = [{"system": "urn:x", "value": "A-1"}, *patient()["identifier"]]
    clean = engine(patient_system="urn:x").deidentify(patient(identifier=both))
    assert clean["identifier"][0]["value"] == KEYS.pseudonym("A-1")


def test_texts_lose_the_people_of_the_record() -> None:
    note = "Quarzoli Delfina, seen by Dr. Aldovrando on 12/03/2020, lives in Via dei Tigli 12, tel 333 1234567"
    data = base64.b64encode(note.encode()).decode()
    whole = bundle(
        patient(text={"status": "generated", "div": f"<div><b>Delfina</b> <i title='Quarzoli'>{note}</i></div>"}),
        observation(note=[{"text": note, "authorString": "Aldovrando"}], valueString=note),
        {
            "resourceType": "DocumentReference",
            "id": "d",
            "status": "current",
            "content": [
                {"attachment": {"contentType": "text/plain", "data": data, "title": "Quarzoli.txt", "hash": "eA=="}},
                {"attachment": {"contentType": "application/pdf", "data": data, "url": "http://ospedale.example/1"}},
            ],
            "author": [{"display": "Aldovrando"}],
        },
    )
    clean = engine().deidentify(whole)
    for value in ("Quarzoli", "Delfina", "Aldovrando", "Tigli", "1234567", "12/03/2020", "ospedale"):
        assert value.casefold() not in _readable(clean).casefold()
    content = clean["entry"][2]["resource"]["content"]
    assert base64.b64decode(content[0]["attachment"]["data"]).decode().count("seen by") == 1
    assert content[1]["attachment"] == {"contentType": "application/pdf"}
    assert "seen by" in clean["entry"][0]["resource"]["text"]["div"]


def test_staff_institutions_and_devices_go_too() -> None:
    whole = bundle(
        {"resourceType": "Practitioner", "id": "p", "name": [{"family": "Aldovrando"}], "birthDate": "1970-01-01"},
        {"resourceType": "Organization", "id": "g", "name": "Policlinico Zanfretti", "alias": ["Zanfretti"]},
        {"resourceType": "Location", "id": "l", "name": "Zanfretti 3", "position": {"latitude": 44.49}},
        {"resourceType": "Device", "id": "v", "serialNumber": "SN-778812", "udiCarrier": [{"deviceIdentifier": "0880"}],
         "deviceName": [{"name": "Zanfretti pump", "type": "udi-label-name"}], "status": "active"},
        observation(valueString="Zanfretti called Aldovrando, device SN-778812"),
    )  # fmt: skip
    clean = engine().deidentify(whole)
    whole_text = render(clean)
    for value in ("Aldovrando", "Zanfretti", "778812", "0880", "44.49", "1970"):
        assert value not in whole_text
    assert clean["entry"][1]["resource"]["name"].startswith("X")
    assert clean["entry"][3]["resource"]["status"] == "active"


def test_unknown_things_go() -> None:
    strange = observation(
        codiceSegreto="Quarzoli",
        status="Quarzoli",
        extension=[{"url": "http://ospedale.example/x", "valueString": "Quarzoli"}],
        _status={"extension": [{"url": "urn:x", "valueString": "Quarzoli"}]},
        valueQuantity={"value": "Quarzoli", "unit": "kg"},
    )
    assert "Quarzoli" not in render(engine().deidentify(strange))


@pytest.mark.parametrize(
    "strange",
    [
        {"resourceType": "Quarzoli", "id": "7"},
        {"resourceType": "InventoryItem", "status": "active"},  # R5
        {"resourceType": "Encounter", "actualPeriod": {"start": "2020-01-01"}},  # R5
        {"resourceType": "Evidence", "assertion": "x"},  # R4B
        {"resourceType": "Observation", "comment": "x"},  # STU3
        {"resourceType": "CapabilityStatement", "fhirVersion": "3.0.1"},
    ],
)
def test_other_versions_and_types_are_refused_wherever_they_stand(strange: dict[str, Any]) -> None:
    for one in (strange, bundle(patient(), strange), observation(contained=[strange])):
        with pytest.raises(InputError) as caught:
            engine().deidentify(one)
        assert caught.value.code == "input.fhir"
        assert "Quarzoli" not in caught.value.message


@pytest.mark.parametrize(
    ("original", "pattern"),
    [
        ("Patient/abc-1", r"Patient/i[0-9a-f]{24}"),
        ("Patient/abc-1/_history/3", r"Patient/i[0-9a-f]{24}"),
        ("https://ospedale.example/fhir/Patient/abc-1", r"https://[0-9a-f]{16}\.invalid/Patient/i[0-9a-f]{24}"),
        ("Patient?identifier=urn:x|PAT-001", r"Patient\?identifier=urn:corsia:pseudonym\|P[A-Z2-7]{16}"),
        (
            "Practitioner?identifier=http://hl7.org/fhir/sid/us-npi|99",
            r"Practitioner\?identifier=http://hl7[^|]+\|X\w{16}",
        ),
        ("Location?name=Rossi", r"Location\?identifier=X\w{16}"),
        ("urn:oid:1.2.3.4", r"urn:oid:2\.25\.\d+"),
        ("#p", r"#i[0-9a-f]{24}"),
    ],
)
def test_references_of_every_kind(original: str, pattern: str) -> None:
    clean = engine().deidentify(bundle(patient(), observation(subject={"reference": original})))
    assert re.fullmatch(pattern, clean["entry"][1]["resource"]["subject"]["reference"])


def test_reference_that_is_no_reference_goes() -> None:
    assert "subject" not in engine().deidentify(observation(subject={"reference": "il signor Rossi"}))
    assert parse_reference("Patient/") is None


def test_dicom_uids_are_those_of_the_dicom_engine() -> None:
    study = {
        "resourceType": "ImagingStudy",
        "status": "available",
        "identifier": [{"system": "urn:dicom:uid", "value": "urn:oid:1.2.840.1"}],
        "subject": {"reference": "Patient/x"},
        "series": [
            {"uid": "1.2.840.2", "modality": {"code": "CT", "system": "http://dicom.nema.org/resources/ontology/DCM"}}
        ],
    }
    clean = engine().deidentify(study)
    assert clean["identifier"] == [{"system": "urn:dicom:uid", "value": "urn:oid:" + KEYS.uid("1.2.840.1")}]
    assert clean["series"][0]["uid"] == KEYS.uid("1.2.840.2")


@pytest.mark.parametrize("data", [b"", b"[]", b"{", b"null", b"{}", b'{"resourceType": 1}', b"\xff", b"[" * 100_000])
def test_what_is_no_resource_is_refused(data: bytes) -> None:
    with pytest.raises(InputError):
        parse(data)


def test_hostile_depth_is_refused_and_the_limit_is_not_reached_by_fhir() -> None:
    deep: Any = "x"
    for _ in range(400):
        deep = {"item": [deep]}
    for refuse in (engine().deidentify, engine().learn):
        with pytest.raises(InputError, match="deep"):
            refuse({"resourceType": "Questionnaire"} | deep)


def test_second_look_refuses_what_the_walk_kept() -> None:
    with pytest.raises(DisclosureRefused):
        engine().deidentify(patient(), ["female"])
    assert "Zebrano" not in render(engine().deidentify(observation(valueString="Zebrano"), ["Zebrano"]))
    assert "Zebrano" not in render(engine().deidentify(observation(valueString="Zebrano"), lambda _id: ["Zebrano"]))


def test_file_names_tell_nothing() -> None:
    one = engine()
    assert target_name("Observation.ndjson", one) == "Observation.ndjson"
    assert target_name("Observation.000.ndjson.gz", one) == "Observation.000.ndjson"
    assert re.fullmatch(r"X[A-Z2-7]{16}\.json", target_name("Patient-778.json", one))
    assert target_name("Rossi_Mario.json.gz", one, patient()) == KEYS.pseudonym("PAT-001") + ".json"
    assert re.fullmatch(r"X[A-Z2-7]{16}\.ndjson", target_name("Rossi.ndjson", one))


def test_labels_of_the_hospital_and_codes_that_name_somebody_go() -> None:
    meta = {
        "versionId": "3",
        "source": "http://ospedale.example/his",
        "lastUpdated": "2020-01-01T00:00:00Z",
        "profile": ["http://hl7.org/fhir/StructureDefinition/vitalsigns", "http://ospedale.example/Profile"],
        "tag": [{"system": "http://ospedale.example/tags", "code": "REP-3B", "display": "Reparto 3B"}],
        "security": [{"system": "http://terminology.hl7.org/CodeSystem/v3-Confidentiality", "code": "N"}],
    }
    local = {"system": "http://ospedale.example/codes"}
    code = {"coding": [local | {"code": "EMO-12"}, local | {"code": "QUARZOLI"}, local | {"code": "Aldovrando.1"}]}
    staff = {"resourceType": "Practitioner", "id": "p", "name": [{"family": "Aldovrando"}]}
    clean = engine().deidentify(bundle(patient(), staff, observation(meta=meta, code=code)))["entry"][2]["resource"]
    assert set(clean["meta"]) == {"lastUpdated", "profile", "security"}
    assert clean["meta"]["profile"] == meta["profile"][:1]
    assert [coding.get("code") for coding in clean["code"]["coding"]] == ["EMO-12", None]
    assert "ospedale" not in render(clean)


def test_sampled_values_stay_and_words_among_them_do_not() -> None:
    data = {"origin": {"value": 0}, "period": 10, "dimensions": 1, "data": "2041 -2043.5 E U L 20410211"}
    assert engine().deidentify(observation(valueSampledData=data))["valueSampledData"]["data"] == data["data"]
    named = data | {"data": "2041 Quarzoli 2043"}
    assert "Quarzoli" not in render(engine().deidentify(bundle(patient(), observation(valueSampledData=named))))


def test_a_patient_is_found_by_any_of_his_identifiers() -> None:
    both = [*patient()["identifier"], {"system": "urn:cf", "value": "QRZDFN50D43A944X"}]
    one = engine()
    one.learn(patient(identifier=both))
    days = KEYS.shift_date(date(2020, 1, 1), "PAT-001").isoformat()
    for subject in (
        {"identifier": {"system": "urn:cf", "value": "QRZDFN50D43A944X"}},
        {"reference": "Patient?identifier=urn:cf%7CQRZDFN50D43A944X"},
        {"reference": "Patient?identifier=QRZDFN50D43A944X"},
        {"reference": "http://ospedale.example/fhir/Patient/abc-1/_history/2"},
    ):
        clean = render(one.deidentify(observation(subject=subject, effectiveDateTime="2020-01-01")))
        assert days in clean
        assert "QRZDFN" not in clean
