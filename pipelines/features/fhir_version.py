"""Which version of FHIR a resource is of, as far as its elements tell: R4 is read, another is refused.

FHIR resources do not carry their version; the types and elements that R4 does not have tell it. R4B passes.

Source: HL7 FHIR DSTU2, STU3, R4 (4.0.1), R5: lists of resources and their differences.
"""

from __future__ import annotations

from typing import Any

from protocol.errors import InputError

__all__ = ["check_version"]

# Resource types and elements that R4 does not have.
_OTHER_TYPES = frozenset(
    "MedicationOrder DiagnosticOrder ProcedureRequest ReferralRequest ProcessRequest ProcessResponse Conformance"
    " EligibilityRequest EligibilityResponse ExpansionProfile ImagingManifest ImagingObjectSelection Sequence"
    " DataElement BodySite Order OrderResponse DeviceUseRequest NutritionIntake NutritionProduct Transport Requirements"
    " TestPlan Permission InventoryReport InventoryItem ImagingSelection GenomicStudy FormularyItem EncounterHistory"
    " DeviceDispense DeviceAssociation ActorDefinition ArtifactAssessment BiologicallyDerivedProductDispense".split()
)
_OTHER_KEYS = {
    "Patient": ("animal",),
    "Condition": ("patient", "assertedDate", "dateRecorded", "context", "participant"),
    "Observation": ("context", "related", "comment", "comments", "triggeredBy", "instantiatesCanonical"),
    "Encounter": ("indication", "actualPeriod", "plannedStartDate"),
    "MedicationRequest": ("context", "medication"),
    "MedicationStatement": ("taken", "wasNotTaken", "medication", "patient"),
    "MedicationAdministration": ("wasNotGiven", "notGiven", "medication", "occurenceDateTime", "patient"),
    "MedicationDispense": ("medication", "patient", "recorded"),
    "Procedure": ("notDone", "notPerformed", "context", "occurrenceDateTime", "occurrencePeriod", "recorded"),
    "Immunization": ("date", "notGiven", "wasNotGiven", "administeredProduct"),
    "AllergyIntolerance": ("substance", "assertedDate"),
    "DiagnosticReport": ("codedDiagnosis",),
}

_PROFILES = ("/STU3/", "/DSTU2/", "/R5/", "/fhir/5.0", "/fhir/3.0")


def check_version(resource: dict[str, Any]) -> None:
    """Refuse a resource that is of another FHIR version than R4, as far as its elements tell.

    Raises:
        InputError: `input.fhir`.
    """
    kind = str(resource.get("resourceType"))
    said = resource.get("fhirVersion")
    foreign = kind in _OTHER_TYPES or (isinstance(said, str) and not said.startswith(("4.0", "4.3", "R4")))
    foreign = foreign or any(key in resource for key in _OTHER_KEYS.get(kind, ()))
    if kind in ("Condition", "AllergyIntolerance"):
        foreign = foreign or any(isinstance(resource.get(key), str) for key in ("clinicalStatus", "verificationStatus"))
    if kind == "Encounter":
        foreign = foreign or isinstance(resource.get("class"), str | list)
    profiles = (resource.get("meta") or {}).get("profile") if isinstance(resource.get("meta"), dict) else None
    for profile in profiles if isinstance(profiles, list) else []:
        foreign = foreign or any(word in str(profile) for word in _PROFILES)
    if foreign:
        raise InputError("input.fhir", "a FHIR file is of another version than R4")
