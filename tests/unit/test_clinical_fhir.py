"""FHIR R4 into events: references, statuses, duplicates, versions, quirks of files."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import pytest

from pipelines import SourceFile
from pipelines.features import fhir, history

DATA = Path(__file__).parents[2] / ".." / "shared" / "data" / "fhir_synthea_hiv"
LOINC, ICD = "http://loinc.org", "http://hl7.org/fhir/sid/icd-10-cm"


def bundle(*resources: dict[str, Any], kind: str = "collection") -> bytes:
    entries = [{"fullUrl": r.pop("_url", f"urn:uuid:{i}"), "resource": r} for i, r in enumerate(resources)]
    return json.dumps({"resourceType": "Bundle", "type": kind, "entry": entries}).encode()


def patient(id_: str = "p1", **more: Any) -> dict[str, Any]:
    return {"resourceType": "Patient", "id": id_, "gender": "female", "birthDate": "1960-02-29", **more}


def observation(value: float | None, reference: str = "Patient/p1", **more: Any) -> dict[str, Any]:
    made: dict[str, Any] = {
        "resourceType": "Observation",
        "status": "final",
        "code": {"coding": [{"system": LOINC, "code": "2345-7"}]},
        "subject": {"reference": reference},
        "effectiveDateTime": "2020-05-01",
    }
    if value is not None:
        made["valueQuantity"] = {
            "value": value,
            "code": "mg/dL",
            "system": "http://unitsofmeasure.org",
            "unit": "wrong",
        }
    return made | more


def condition(code: str, reference: str = "Patient/p1", **more: Any) -> dict[str, Any]:
    coding = {"coding": [{"system": ICD, "code": code}]}
    return {"resourceType": "Condition", "code": coding, "subject": {"reference": reference}, **more}


def read(*files: bytes) -> Any:
    return fhir.read([SourceFile(f"{i:08d}.json", data) for i, data in enumerate(files)])


def test_references_by_uuid_relative_and_absolute_reach_their_patient() -> None:
    events = read(
        bundle(
            patient("p1", _url="urn:uuid:aaaa"),
            observation(100, "urn:uuid:aaaa"),
            observation(110, "Patient/p1"),
            observation(120, "https://hospital.example/fhir/Patient/p1"),
            observation(130, "Patient/p1/_history/3"),
            observation(140, "urn:uuid:nobody"),
            observation(150, "Group/p1"),
        )
    )
    assert sorted(events.rows["value"]) == [100, 110, 120, 130]
    assert set(events.rows["person"]) == {"p1"}
    assert events.findings.counts["no-patient"] == 2
    assert events.rows["unit"].unique().tolist() == ["mg/dL"]


def test_patient_and_events_may_be_in_different_files_and_the_pseudonym_is_taken() -> None:
    files = [json.dumps(observation(100)).encode(), json.dumps(patient()).encode()]
    made = [SourceFile(f"{i}.json", data) for i, data in enumerate(files)]
    events = fhir.read(made, person=lambda p: "PSEUDO-" + p)
    assert events.persons["person"].tolist() == ["PSEUDO-p1"]
    assert events.rows["person"].tolist() == ["PSEUDO-p1"]


def test_what_did_not_happen_is_left_out_and_counted() -> None:
    def verified(code: str) -> dict[str, Any]:
        return {"verificationStatus": {"coding": [{"code": code}]}}

    events = read(
        bundle(
            patient(),
            observation(100, status="entered-in-error"),
            observation(100, status="cancelled"),
            observation(105, status="amended"),
            condition("I21", **verified("refuted")),
            condition("I22", **verified("entered-in-error")),
            condition("E11", **verified("confirmed")),
            condition("E10"),
            {
                "resourceType": "MedicationRequest",
                "status": "active",
                "doNotPerform": True,
                "subject": {"reference": "Patient/p1"},
                "medicationCodeableConcept": {"coding": [{"system": "http://www.whocc.no/atc", "code": "C10AA01"}]},
            },
            {
                "resourceType": "Immunization",
                "status": "not-done",
                "vaccineCode": {"coding": [{"code": "1"}]},
                "patient": {"reference": "Patient/p1"},
            },
        )
    )
    assert sorted(events.rows["code"]) == ["2345-7", "E10", "E11"]
    assert events.findings.counts["status"] == 6


def test_a_resource_seen_twice_counts_once_in_its_newest_version() -> None:
    old = observation(100, id="o1", meta={"lastUpdated": "2020-01-01T00:00:00Z"})
    new = observation(111, id="o1", meta={"lastUpdated": "2021-01-01T00:00:00Z"})
    same = observation(90)
    events = read(bundle(patient(), new, same), bundle(patient(), old, dict(same)))
    values = sorted(events.rows["value"])
    assert 111 in values
    assert 100 not in values
    assert events.findings.counts["duplicate"] >= 2  # the patient too


def test_equal_ids_of_two_patients_are_two_records() -> None:
    events = read(
        bundle(patient("p1"), observation(100, "Patient/p1", id="o1")),
        bundle(patient("p2"), observation(101, "Patient/p2", id="o1")),
    )
    assert sorted(events.rows["value"]) == [100, 101]


@pytest.mark.parametrize(
    "foreign",
    [
        {"resourceType": "MedicationOrder"},
        {"resourceType": "Condition", "clinicalStatus": "active", "subject": {"reference": "Patient/p9"}},
        {"resourceType": "Observation", "status": "final", "context": {"reference": "Encounter/1"}},
        {"resourceType": "MedicationRequest", "medication": {"concept": {}}},
        {"resourceType": "Encounter", "class": [{"coding": []}], "status": "completed"},
        {"resourceType": "CapabilityStatement", "fhirVersion": "3.0.2"},
        {"resourceType": "Patient", "id": "p9", "meta": {"profile": ["http://hl7.org/fhir/STU3/x"]}},
    ],
)
def test_another_version_is_one_error_under_the_opaque_name_and_the_rest_goes_on(foreign: dict[str, Any]) -> None:
    events = read(bundle(patient("p9"), foreign), bundle(patient(), observation(100)))
    assert events.findings.errors == [("00000000.json", "input.fhir", "fhir-version")]
    assert events.rows["value"].tolist() == [100]
    assert events.persons["person"].tolist() == ["p1"]


@pytest.mark.parametrize("data", [b"", b"no json", b"[1,2]", b"{}", b"\x1f\x8bbroken", b"<Bundle/>", b"\xff\xfe\x00"])
def test_what_is_no_fhir_is_one_error_and_the_rest_goes_on(data: bytes) -> None:
    events = read(data, bundle(patient(), observation(100)))
    assert events.findings.errors == [("00000000.json", "input.fhir", "unreadable")]
    assert len(events.rows) == 1


def test_ndjson_gzip_and_a_byte_order_mark_are_read_and_bad_lines_counted() -> None:
    lines = [json.dumps(patient()), json.dumps(observation(1)), "{broken", json.dumps(observation(2)), ""]
    data = gzip.compress(b"\xef\xbb\xbf" + "\r\n".join(lines).encode())
    events = read(data)
    assert sorted(events.rows["value"]) == [1, 2]
    assert events.findings.counts["line"] == 1


def test_components_comparators_and_partial_dates() -> None:
    part = {"code": {"coding": [{"system": LOINC, "code": "8480-6"}]}, "valueQuantity": {"value": 120, "unit": "mmHg"}}
    panel = observation(None, component=[part])
    below = observation(5, effectiveDateTime="2020")
    below["valueQuantity"]["comparator"] = "<"
    events = read(bundle(patient(), panel, below))
    assert events.rows.loc[events.rows["code"] == "8480-6", "value"].tolist() == [120]
    assert events.findings.counts["comparator"] == 1
    assert events.findings.counts["date-partial"] == 1
    assert events.rows["value"].notna().sum() == 1


def test_medications_by_reference_and_lengths() -> None:
    atc = {"coding": [{"system": "http://www.whocc.no/atc", "code": "C10AA01"}]}
    dispense = {
        "resourceType": "MedicationDispense",
        "status": "completed",
        "subject": {"reference": "Patient/p1"},
        "medicationReference": {"reference": "#m"},
        "contained": [{"resourceType": "Medication", "id": "m", "code": atc}],
        "whenHandedOver": "2020-01-01",
        "daysSupply": {"value": 30, "code": "d"},
    }
    statement = {
        "resourceType": "MedicationStatement",
        "status": "active",
        "subject": {"reference": "Patient/p1"},
        "medicationReference": {"reference": "Medication/x"},
        "effectivePeriod": {"start": "2020-02-01", "end": "2020-02-10"},
    }
    events = read(bundle(patient(), dispense, statement, {"resourceType": "Medication", "id": "x", "code": atc}))
    assert events.rows["code"].tolist() == ["C10AA01", "C10AA01"]
    assert events.rows["days"].tolist() == [30, 10]


@pytest.mark.skipif(not DATA.is_dir(), reason="the FHIR sample is not there")
def test_the_sample_gives_what_a_plain_count_gives() -> None:
    files = sorted(DATA.glob("*.gz"))
    events = fhir.read([SourceFile(f"{i:08d}.json", path.read_bytes()) for i, path in enumerate(files)])
    expected: dict[str, list[tuple[str, float]]] = {}
    for path in files:
        whole = json.loads(gzip.decompress(path.read_bytes()))
        who = next(e["resource"]["id"] for e in whole["entry"] if e["resource"]["resourceType"] == "Patient")
        for entry in whole["entry"]:
            one = entry["resource"]
            if one["resourceType"] == "Observation" and one["code"]["coding"][0]["code"].startswith("5089A"):
                expected.setdefault(who, []).append((one["effectiveDateTime"], one["valueQuantity"]["value"]))
    parameters = history.parameters_of(
        {
            "features": [
                {
                    "kind": "measurement",
                    "name": "weight",
                    "of": {"system": "loinc", "prefixes": ["5089A"]},
                    "unit": "kg",
                    "analyte": "weight",
                    "statistics": ["last", "count", "mean"],
                },
                {"kind": "sex"},
            ]
        }
    )
    frame = history.extract(events, parameters)
    assert len(frame) == len(files) == 4
    for who, found in expected.items():
        assert frame.loc[who, "weight_last"] == sorted(found)[-1][1]
        assert frame.loc[who, "weight_count"] == len(found)
    assert not events.findings.counts
