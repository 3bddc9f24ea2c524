"""FHIR R4 as data: the elements of each type, terminologies that say nothing of a person, extensions that may stay.

`schema.json` is made by `generate.py` from FHIR 4.0.1 (see NOTICE), `others.json` from STU3, R4B, R5.
Not here: what is done with any of it.

Source: HL7 FHIR R4 (4.0.1).
"""

from __future__ import annotations

import json
import re
from functools import lru_cache
from importlib.resources import files

__all__ = ["EDITION", "EXTENSIONS", "elements", "is_resource", "is_standard", "others"]

EDITION = "FHIR 4.0.1"
_BASE = "http://hl7.org/fhir/StructureDefinition/"
_US = "http://hl7.org/fhir/us/core/StructureDefinition/"
# Extension -> its nested parts that may stay. Everything else goes: an extension's meaning is known only to its maker.
EXTENSIONS: dict[str, frozenset[str]] = {
    _US + "us-core-race": frozenset({"ombCategory", "detailed"}),
    _US + "us-core-ethnicity": frozenset({"ombCategory", "detailed"}),
    _US + "us-core-birthsex": frozenset(),
    _US + "us-core-sex": frozenset(),
    _US + "us-core-genderIdentity": frozenset(),
    _BASE + "data-absent-reason": frozenset(),
    _BASE + "patient-genderIdentity": frozenset(),
    _BASE + "patient-interpreterRequired": frozenset(),
    _BASE + "condition-dueTo": frozenset(),
    _BASE + "event-basedOn": frozenset(),
    _BASE + "observation-bodyPosition": frozenset(),
    _BASE + "observation-delta": frozenset(),
    _BASE + "observation-specimenCode": frozenset(),
    "http://synthetichealth.github.io/synthea/disability-adjusted-life-years": frozenset(),
    "http://synthetichealth.github.io/synthea/quality-adjusted-life-years": frozenset(),
}
_STANDARD = re.compile(
    r"https?://(?:snomed\.info|loinc\.org|unitsofmeasure\.org|(?:[a-z]+\.)?hl7\.org|(?:www\.)?hl7\.it"
    r"|www\.nlm\.nih\.gov|nucc\.org|www\.ama-assn\.org|www\.whocc\.no|id\.who\.int|hl7\.org|ihe\.net"
    r"|dicom\.nema\.org|(?:bluebutton|www)\.cms\.gov|fdasis\.nlm\.nih\.gov|ncimeta\.nci\.nih\.gov"
    r"|spor\.ema\.europa\.eu|www\.genenames\.org|varnomen\.hgvs\.org)(?:/[A-Za-z0-9._~/#-]*)?"
    r"|urn:ietf:(?:bcp:(?:13|47)|rfc:3986)|urn:iso:std:iso:[0-9:-]+|urn:iso-astm:[A-Z0-9:.-]+|urn:dicom:uid"
    r"|urn:oid:(?:2\.16\.840\.1\.113883\.(?:5|6)\.[0-9.]+|1\.2\.840\.10008\.[0-9.]+)"
)


@lru_cache(maxsize=1)
def _schema() -> tuple[frozenset[str], dict[str, dict[str, tuple[str, frozenset[str]]]]]:
    raw = json.loads(files("privacy.deid.fhir_r4").joinpath("schema.json").read_text("utf-8"))
    types = {name: {element: _kind(kind) for element, kind in listed.items()} for name, listed in raw["types"].items()}
    return frozenset(raw["resources"]), types


def _kind(text: str) -> tuple[str, frozenset[str]]:
    kind, _, codes = text.partition("|")
    return kind, frozenset(codes.split())


def is_resource(name: object) -> bool:
    """Whether R4 has a resource of this name."""
    return isinstance(name, str) and name in _schema()[0]


def elements(kind: str) -> dict[str, tuple[str, frozenset[str]]]:
    """Element -> its type and, where R4 binds it to them, the only codes it may hold. Empty for an unknown type."""
    return _schema()[1].get(kind, {})


def others(kind: str) -> frozenset[str]:
    """Elements by which a resource of this type is told to be of another edition of FHIR."""
    return _others().get(kind, frozenset())


@lru_cache(maxsize=1)
def _others() -> dict[str, frozenset[str]]:
    raw = json.loads(files("privacy.deid.fhir_r4").joinpath("others.json").read_text("utf-8"))
    return {name: frozenset(listed.split()) for name, listed in raw.items()}


def is_standard(uri: object) -> bool:
    """Whether a URI is of a published terminology or specification, not of a hospital."""
    return isinstance(uri, str) and len(uri) <= 256 and _STANDARD.fullmatch(uri) is not None
