"""Every string path of every R4 resource holds what identifies its patient: none of it survives, at any path."""

from __future__ import annotations

import base64
import json
import os
import re
from functools import cache
from typing import Any

import pytest

from privacy.deid.fhir import FhirEngine
from privacy.deid.fhir_files import render
from privacy.deid.fhir_r4 import elements, is_resource
from privacy.deid.pseudonym import Pseudonymizer
from privacy.deid.text import TextEngine

NOTE = "Quarzoli Delfina (PT-778812-ZK) of Via dei Tigli 12, tel +39 333 1234567, d.quarzoli@posta.example, stable"
KNOWN = ("quarzoli", "delfina", "778812", "tigli", "1234567", "posta.example")
# What nobody has named elsewhere, at paths that say who or where by themselves.
SECRET = "Wrzlbrmpf"
WHO = {"HumanName", "ContactPoint", "Address", "Identifier", "Signature", "Meta", "BundleLink", "ContactDetail"}
PATIENT = {
    "resourceType": "Patient",
    "id": "pt-1",
    "identifier": [{"type": {"coding": [{"code": "MR"}]}, "value": "PT-778812-ZK"}],
    "name": [{"family": "Quarzoli", "given": ["Delfina"]}],
    "telecom": [{"value": "+39 333 1234567"}, {"value": "d.quarzoli@posta.example"}],
    "address": [{"line": ["Via dei Tigli 12"]}],
}
RESOURCES = sorted({name for name in map(str, elements("Bundle")) if is_resource(name)} | {
    "Account", "AllergyIntolerance", "Appointment", "AuditEvent", "Basic", "Binary", "BodyStructure", "CarePlan",
    "CareTeam", "Claim", "Communication", "Composition", "Condition", "Consent", "Coverage", "Device",
    "DiagnosticReport", "DocumentManifest", "DocumentReference", "Encounter", "EpisodeOfCare", "ExplanationOfBenefit",
    "FamilyMemberHistory", "Flag", "Goal", "Group", "ImagingStudy", "Immunization", "Library", "List", "Location",
    "Media", "Medication", "MedicationAdministration", "MedicationDispense", "MedicationRequest", "MedicationStatement",
    "MessageHeader", "MolecularSequence", "NutritionOrder", "Observation", "OperationOutcome", "Organization",
    "Parameters", "Patient", "Person", "Practitioner", "PractitionerRole", "Procedure", "Provenance", "Questionnaire",
    "QuestionnaireResponse", "RelatedPerson", "ResearchSubject", "RiskAssessment", "Schedule", "ServiceRequest", "Slot",
    "Specimen", "Substance", "SupplyDelivery", "Task", "ValueSet", "VisionPrescription",
})  # fmt: skip
ENGINE = FhirEngine(Pseudonymizer(b"p" * 32), TextEngine("en"), reference_year=2021)


def leaf(kind: str, parent: str, codes: frozenset[str]) -> Any:
    """A value of a primitive type that says who it is."""
    if kind in ("boolean", "integer", "positiveInt", "unsignedInt", "decimal"):
        return NOTE
    if kind in ("date", "dateTime", "instant", "time"):
        return f"2020-01-01 {SECRET}"
    if kind == "code" or codes:
        return SECRET if codes else "Quarzoli"
    if kind == "id":
        return f"PT-778812-ZK.{SECRET}"
    if kind in ("uri", "url", "canonical", "oid", "uuid"):
        return f"https://ospedale.example/{SECRET}/Quarzoli/PT-778812-ZK"
    if kind == "base64Binary":
        return base64.b64encode(NOTE.encode()).decode()
    if kind == "xhtml":
        return f'<div xmlns="http://www.w3.org/1999/xhtml" title="{SECRET}"><p>{NOTE}</p><!-- {SECRET} --></div>'
    return f"{NOTE} {SECRET}" if parent in WHO else NOTE


@cache
def planted(kind: str, depth: int, listed: bool) -> Any:
    """A value of a complex type with a leaf at every path down to a depth."""
    value: dict[str, Any] = {}
    for name, (its, codes) in elements(kind).items():
        if its[0].isupper():
            if depth > 0 and its != "Resource" and name != "contained":
                inner = planted(its, depth - (its != "Extension" or 2), not listed)
                value[name] = [inner] if listed else inner
        elif name == "reference":
            value[name] = f"https://ospedale.example/{SECRET}/Patient/PT-778812-ZK"
        else:
            one = leaf(its, kind, codes)
            value[name] = [one, one] if listed and name not in ("id", "contentType") else one
            value["_" + name] = {"id": SECRET, "extension": [{"url": f"http://{SECRET}.example", "valueString": NOTE}]}
    if kind == "Attachment":
        value["contentType"] = "text/plain; charset=utf-8"
    return value


def read(value: Any) -> str:
    """The result with its attachments opened."""
    whole = render(value)
    opened = [base64.b64decode(data).decode("latin-1") for data in re.findall(r'"data": "([A-Za-z0-9+/=]+)"', whole)]
    return "\n".join([whole, *opened]).casefold()


@pytest.mark.parametrize("kind", RESOURCES if os.environ.get("CORSIA_FULL") else RESOURCES[::6])
def test_nothing_survives_at_any_path(kind: str) -> None:
    for listed in (False, True):
        resource = {**planted(kind, 3, listed), "resourceType": kind}
        resource.pop("fhirVersion", None)
        if "subject" in resource:
            resource["subject"] = {"reference": "Patient/pt-1"}
        entries = [{"resource": PATIENT}, {"resource": resource}]
        bundle = {"resourceType": "Bundle", "type": "collection", "entry": entries}
        text = read(ENGINE.deidentify(json.loads(json.dumps(bundle))))
        assert [one for one in (*KNOWN, SECRET.casefold()) if one in text] == []
