"""FHIR bundles for the demo's hospitals: the same invented persons as in table and images, with planted identities.

Every bundle is of one patient, with the resources that hospitals export: encounter, diagnosis, measurements,
medication, a letter as attachment, staff and institution. Nothing here is of any person.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping
from datetime import date, timedelta
from typing import Any

__all__ = ["patient_bundle"]

_MR = {"coding": [{"system": "http://terminology.hl7.org/CodeSystem/v2-0203", "code": "MR"}]}
_TAX = "http://hl7.it/sid/codiceFiscale"
_LOINC, _SNOMED, _ICD = "http://loinc.org", "http://snomed.info/sct", "http://hl7.org/fhir/sid/icd-10"
_MEASURED = (("718-7", "Hemoglobin [Mass/volume] in Blood", "g/dL"), ("29463-7", "Body weight", "kg"))


def patient_bundle(patient: Mapping[str, Any], planted: Mapping[str, str], values: Mapping[str, float]) -> bytes:
    """One patient's record.

    Args:
        patient: given, family, doctor, patient_id, fiscal_code, phone, address, birth_date, visit_date, note.
        planted: invented names: `relative`, `hospital`, `logical` (the id that this system gives the patient).
        values: LOINC code -> the patient's measurement.
    """
    visit = date.fromisoformat(str(patient["visit_date"]))
    me, doctor = f"Patient/{planted['logical']}", f"Practitioner/{planted['logical']}-d"
    subject = {"subject": {"reference": me, "display": patient["name"]}}
    resources: list[dict[str, Any]] = [
        {
            "resourceType": "Patient", "id": planted["logical"],
            "text": {"status": "generated", "div": f'<div xmlns="http://www.w3.org/1999/xhtml">{patient["name"]}</div>'},
            "identifier": [{"type": _MR, "value": patient["patient_id"]},
                           {"system": _TAX, "value": patient["fiscal_code"]}],
            "name": [{"family": patient["family"], "given": [patient["given"]]}],
            "telecom": [{"system": "phone", "value": patient["phone"]}],
            "gender": "male" if str(patient["sex"]).startswith("1") else "female", "birthDate": patient["birth_date"],
            "address": [{"line": [str(patient["address"])], "city": "Bologna", "country": "IT"}],
            "contact": [{"name": {"family": planted["relative"]}, "telecom": [{"value": patient["phone"]}]}],
            "managingOrganization": {"display": planted["hospital"]},
        },
        {"resourceType": "Practitioner", "id": f"{planted['logical']}-d", "name": [{"family": patient["doctor"]}]},
        {"resourceType": "Encounter", "id": "visita", "status": "finished", **subject,
         "class": {"system": "http://terminology.hl7.org/CodeSystem/v3-ActCode", "code": "AMB"},
         "period": {"start": visit.isoformat(), "end": (visit + timedelta(days=1)).isoformat()},
         "participant": [{"individual": {"reference": doctor, "display": f"dott. {patient['doctor']}"}}]},
        {"resourceType": "Condition", "id": "diagnosi", **subject, "onsetDateTime": visit.isoformat(),
         "code": {"coding": [{"system": _ICD, "code": "C34.9"}, {"system": _SNOMED, "code": "254637007"}],
                  "text": f"Carcinoma polmonare, seguito dal dott. {patient['doctor']}"}},
        {"resourceType": "MedicationRequest", "id": "terapia", "status": "active", "intent": "order", **subject,
         "medicationCodeableConcept": {"text": "Cisplatino"}, "authoredOn": visit.isoformat()},
        {"resourceType": "DocumentReference", "id": "lettera", "status": "current", **subject,
         "content": [{"attachment": {"contentType": "text/plain", "title": f"Lettera {patient['family']}",
                                     "data": base64.b64encode(str(patient["note"]).encode()).decode()}}]},
        *({"resourceType": "Observation", "id": f"misura-{code}", "status": "final", **subject,
           "code": {"coding": [{"system": _LOINC, "code": code, "display": shown}]},
           "effectiveDateTime": visit.isoformat(),
           "valueQuantity": {"value": values[code], "unit": unit, "system": "http://unitsofmeasure.org", "code": unit},
           "note": [{"text": f"Riferito da {planted['relative']} al dott. {patient['doctor']}"}]}
          for code, shown, unit in _MEASURED),
    ]  # fmt: skip
    entries = [{"fullUrl": f"urn:corsia-demo:{planted['logical']}:{n}", "resource": r} for n, r in enumerate(resources)]
    return json.dumps({"resourceType": "Bundle", "type": "collection", "entry": entries}, ensure_ascii=False).encode()
