"""FHIR files of a hospital: who each resource is about, and so whether it may pass.

A folder is read twice: first for its Patient resources (bulk exports keep them in a file of their own), then resource
by resource. One passes when every patient whom it names, at any depth, passes; one that names none passes only inside
the bundle of a single patient, or when its type is never about a patient. Nothing is rewritten: a bundle loses entries,
NDJSON loses lines.

Source: HL7 FHIR R4, references (2.3.0), Bundle (2.36.4); FHIR Bulk Data Access (NDJSON).
"""

from __future__ import annotations

import gzip
import json
import zlib
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

from edge.sources.consent import UNSELECTED
from edge.sources.documents import find
from edge.sources.folder import open_inside
from pipelines import SourceFile
from privacy.deid.fhir_people import People, parse_reference, resources_of

__all__ = ["MAX_JSON_BYTES", "PART_BYTES", "Records"]

MAX_JSON_BYTES = 1 << 28  # one resource or bundle, uncompressed
PART_BYTES = 1 << 26  # NDJSON goes on in parts of about this size
_UNKNOWN = "no-patient"
_SUBJECTS = frozenset("subject patient beneficiary individual for".split())
# Types that have no reference to a patient in R4.
_NEUTRAL = frozenset(
    "Organization Practitioner PractitionerRole Location HealthcareService Endpoint OrganizationAffiliation Medication"
    " MedicationKnowledge Substance SubstanceSpecification InsurancePlan CodeSystem ValueSet ConceptMap NamingSystem"
    " StructureDefinition SearchParameter OperationDefinition CapabilityStatement Questionnaire PlanDefinition"
    " ActivityDefinition ObservationDefinition SpecimenDefinition Library Measure".split()
)
_BROKEN = (OSError, EOFError, zlib.error, ValueError, RecursionError)


class Records:
    """The resources of one folder or file.

    Args:
        root: file or folder.
        verdict: for a patient id "" (may pass), a reason to withhold, or `UNSELECTED`; None lets all pass.
        system: `Identifier.system` of the patient ids that the table carries; else those typed MR are taken.
    """

    def __init__(self, root: Path, verdict: Callable[[str], str] | None, system: str | None) -> None:
        self._root, self._verdict, self._system = root, verdict, system
        self._people = People(patient_system=system)
        self._doubtful: set[str] = set()  # names that stand for two patients, in all files and in the present one
        self._doubtful_here: set[str] = set()

    def files(self, withheld: Counter[str]) -> Iterator[SourceFile]:
        """What may pass, under counters; withheld resources and unreadable files are counted by reason.

        Raises:
            InputError, StorageError: as `documents.find`.
        """
        found = [
            (path, suffix.removesuffix(".gz").replace(".jsonl", ".ndjson"))
            for path, suffix in find("fhir", self._root, withheld)
        ]
        for path, suffix in found:
            self._index(path, suffix)
        number = 0
        for path, suffix in found:
            parts = self._lines(path, withheld) if suffix == ".ndjson" else self._whole(path, withheld)
            for data in parts:
                number += 1
                yield SourceFile(f"{number:08d}{suffix}", data)

    # --- reading

    def _pieces(self, path: Path, suffix: str) -> Iterator[bytes]:
        """The file, or its lines, unpacked. Raises one of `_BROKEN`."""
        with open_inside(self._root if self._root.is_dir() else self._root.parent, path) as raw:
            if raw is None:
                raise OSError("not a file of the folder")
            with gzip.open(raw) if path.name.lower().endswith(".gz") else raw as file:
                take = file.readline if suffix == ".ndjson" else file.read
                while data := take(MAX_JSON_BYTES + 1):
                    if len(data) > MAX_JSON_BYTES:
                        raise ValueError("too large")
                    yield data

    def _index(self, path: Path, suffix: str) -> None:
        """Learn the Patients of a file; what cannot be read is counted in the second pass."""
        with suppress(*_BROKEN):
            for data in self._pieces(path, suffix):
                if b'"Patient"' in data:
                    with suppress(*_BROKEN):  # one line: the others are learnt from
                        self._learn(_parsed(data), self._people)

    def _learn(self, resource: dict[str, Any], into: People) -> None:
        for one, url in resources_of(resource):
            if one.get("resourceType") == "Patient":
                learned = People(patient_system=self._system)
                learned.learn({"resourceType": "Bundle", "entry": [{"fullUrl": url, "resource": one}]})
                doubtful = self._doubtful if into is self._people else self._doubtful_here
                for name, patient in learned.ids.items():
                    if into.ids.maps[0].get(name, patient) != patient:
                        doubtful.add(name)
                    into.ids[name] = patient

    # --- passing

    def _whole(self, path: Path, withheld: Counter[str]) -> Iterator[bytes]:
        try:
            data = b"".join(self._pieces(path, ".json"))
            resource = _parsed(data)
            kept = self._kept(resource, self._own(resource), withheld)
        except _BROKEN:
            withheld["unreadable"] += 1
            return
        if kept is not None:
            yield data if kept is resource else json.dumps(kept, ensure_ascii=False).encode("utf-8", "replace")

    def _lines(self, path: Path, withheld: Counter[str]) -> Iterator[bytes]:
        part: list[bytes] = []
        size = 0
        try:
            for line in self._pieces(path, ".ndjson"):
                if not line.strip():
                    continue
                for kept in self._line(line, withheld):
                    part.append(kept)
                    size += len(kept)
                if size >= PART_BYTES:
                    yield b"".join(part)
                    part, size = [], 0
        except _BROKEN:
            withheld["unreadable"] += 1
        if part:
            yield b"".join(part)

    def _line(self, line: bytes, withheld: Counter[str]) -> Iterator[bytes]:
        try:
            resource = _parsed(line)
            kept = self._kept(resource, self._own(resource), withheld)
        except _BROKEN:
            withheld["unreadable"] += 1
            return
        if kept is not None:
            yield json.dumps(kept, ensure_ascii=False).encode("utf-8", "replace") + b"\n"

    def _own(self, resource: dict[str, Any]) -> People:
        """Who is who in one file: its own Patients, over those of the others."""
        own, self._doubtful_here = self._people.child(), set()
        if resource.get("resourceType") == "Bundle":
            for one, url in resources_of(resource):
                if url:
                    own.kinds[url] = str(one.get("resourceType"))
        self._learn(resource, own)
        return own

    def _kept(self, resource: dict[str, Any], people: People, withheld: Counter[str]) -> dict[str, Any] | None:
        """The resource, a bundle of those entries that pass, or None."""
        if self._verdict is None:
            return resource
        if resource.get("resourceType") != "Bundle":
            reason = self._reason(resource, people)
            if reason and reason != UNSELECTED:
                withheld[reason] += 1
            return None if reason else resource
        listed = resource.get("entry")
        entries: list[Any] = listed if isinstance(listed, list) else []
        passing = []
        for entry in entries:
            inner = entry.get("resource") if isinstance(entry, dict) else None
            if not isinstance(inner, dict):
                withheld[_UNKNOWN] += 1
                continue
            kept = self._kept(inner, people, withheld)
            if kept is not None:
                passing.append(entry if kept is inner else entry | {"resource": kept})
        if not passing:
            return None
        same = len(passing) == len(entries) and all(a is b for a, b in zip(passing, entries, strict=True))
        return resource if same else resource | {"entry": passing}

    def _reason(self, resource: dict[str, Any], people: People) -> str:
        """Why a resource may not pass; "" when it may."""
        named = self._patients(resource, people)
        if named is None or self._verdict is None:
            return _UNKNOWN
        persons = named
        if not persons:
            if resource.get("resourceType") in _NEUTRAL:
                return ""
            persons = set(people.ids.maps[0].values())
            if len(persons) != 1:
                return _UNKNOWN
        reasons = {self._verdict(person) for person in persons} - {""}
        return min(reasons - {UNSELECTED}, default=UNSELECTED) if reasons else ""

    def _patients(self, resource: dict[str, Any], people: People) -> set[str] | None:
        """Ids of all patients whom a resource names at any depth; None when one of them cannot be told."""
        found: set[str | None] = set()
        todo: list[tuple[Any, str]] = [(resource, "")]
        while todo:
            value, where = todo.pop()
            if isinstance(value, list):
                todo += [(item, where) for item in value]
            elif isinstance(value, dict):
                if value.get("resourceType") == "Patient":
                    found.add(people.patient_id(value) or None)
                found |= self._named(value, where, people)
                todo += [(item, key) for key, item in value.items() if isinstance(item, list | dict)]
        return None if None in found else {person for person in found if person}

    def _named(self, value: dict[str, Any], where: str, people: People) -> set[str | None]:
        """The patient a reference points at; None when it may be one and cannot be told."""
        literal = value.get("reference")
        if not isinstance(literal, str):
            identifier = value.get("identifier")
            subject = value.get("type") == "Patient" or where in _SUBJECTS
            if not subject or not isinstance(identifier, dict):
                return set()
            number = identifier.get("value")
            return {number if isinstance(number, str) and number else None}
        target = parse_reference(literal)
        name = target.id if target is not None and target.kind == "Patient" else literal.removeprefix("#")
        if name in self._doubtful_here or (name in self._doubtful and name not in people.ids.maps[0]):
            return {None}
        patient = people.patient_of(literal)
        if patient is not None:
            return {patient}
        kind = people.kinds.get(literal, target.kind if target is not None else "")
        unknown = where in _SUBJECTS and not literal.startswith("#") and kind in ("", "Group", "Patient")
        return {None} if unknown else set()


def _parsed(data: bytes) -> dict[str, Any]:
    """Raises ValueError, RecursionError."""
    value = json.loads(data.decode("utf-8-sig"))
    if not isinstance(value, dict) or not isinstance(value.get("resourceType"), str):
        raise ValueError("not a resource")
    return value
