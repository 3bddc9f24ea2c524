"""FHIR R4 as clinical events: bundles, single resources and NDJSON, gzip or plain.

Place: bytes with opaque names -> `read` -> `Events`. A file of another FHIR version, or one that does not parse, is
one error under its opaque name and the others go on. Statuses that say it did not happen are left out and counted;
a resource seen twice counts once. Text, names and attachments are never looked at.

Source: HL7 FHIR R4 (4.0.1): Bundle, references (2.3.0), resource status; R3 and R5 for what tells them apart.
"""

from __future__ import annotations

import gzip
import hashlib
import json
import zlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from io import BytesIO
from typing import Any

from pipelines import SourceFile
from pipelines.features import events
from pipelines.features.events import Builder, Events, When
from pipelines.features.fhir_version import check_version
from privacy.deid.fhir_files import parse
from privacy.deid.fhir_people import People, resources_of
from protocol.errors import InputError

__all__ = ["MAX_BYTES", "read"]

MAX_BYTES = 1 << 30
ORDINAL = ("http://hl7.org/fhir/StructureDefinition/ordinalValue", "http://hl7.org/fhir/StructureDefinition/itemWeight")
_REFUTED = ("refuted", "entered-in-error")


@dataclass(frozen=True, slots=True)
class _Kind:
    """How a resource type becomes an event."""

    kind: str
    codes: tuple[str, ...]
    times: tuple[str, ...]
    out: tuple[str, ...] = ("entered-in-error",)
    days: str = ""


_KINDS = {
    "Condition": _Kind("condition", ("code",), ("onsetDateTime", "onsetPeriod", "recordedDate")),
    "Observation": _Kind(
        "measurement",
        ("code",),
        ("effectiveDateTime", "effectivePeriod", "effectiveInstant"),
        ("entered-in-error", "cancelled", "registered"),
    ),
    "Procedure": _Kind(
        "procedure",
        ("code",),
        ("performedDateTime", "performedPeriod"),
        ("entered-in-error", "not-done", "preparation"),
    ),
    "MedicationRequest": _Kind(
        "drug", ("medicationCodeableConcept",), ("authoredOn",), ("entered-in-error", "cancelled", "draft"), "request"
    ),
    "MedicationStatement": _Kind(
        "drug",
        ("medicationCodeableConcept",),
        ("effectiveDateTime", "effectivePeriod", "dateAsserted"),
        ("entered-in-error", "not-taken", "intended"),
        "effectivePeriod",
    ),
    "MedicationAdministration": _Kind(
        "drug",
        ("medicationCodeableConcept",),
        ("effectiveDateTime", "effectivePeriod"),
        ("entered-in-error", "not-done"),
        "effectivePeriod",
    ),
    "MedicationDispense": _Kind(
        "drug",
        ("medicationCodeableConcept",),
        ("whenHandedOver", "whenPrepared"),
        ("entered-in-error", "cancelled", "declined", "preparation"),
        "daysSupply",
    ),
    "Immunization": _Kind("immunization", ("vaccineCode",), ("occurrenceDateTime",), ("entered-in-error", "not-done")),
    "AllergyIntolerance": _Kind("allergy", ("code",), ("onsetDateTime", "onsetPeriod", "recordedDate")),
    "Encounter": _Kind("visit", ("type", "class"), ("period",), ("entered-in-error", "cancelled", "planned")),
}


def read(
    files: Iterable[SourceFile], *, person: Callable[[str], str] = str, patient_system: str | None = None
) -> Events:
    """Read FHIR files of a dataset into events.

    Args:
        files: `.json` or `.ndjson`, either gzipped or not; told apart by their content. Read twice: once to learn the
            patients, once for the rest; give a list, not an iterator.
        person: what makes the patient's id into the id of the result (a pseudonym).
        patient_system: `Identifier.system` of the ids under which tables and DICOM know patients.

    Returns:
        Events; `findings.errors` holds a file's opaque name with `input.fhir`, and `findings.counts` the reasons
        `fhir-version`, `unreadable`, `line`, `duplicate`, `status`, `no-patient`, `no-code`, `date-missing`,
        `date-partial`, `comparator`.
    """
    kept = list(files)
    builder, people = Builder(), People(patient_system=patient_system)
    sound: list[SourceFile] = []
    for file in kept:
        try:
            patients = []
            for one, url in _resources(file.data, builder, quiet=True):
                check_version(one)
                if one.get("resourceType") == "Patient":
                    patients.append({"fullUrl": url, "resource": one})
            people.learn({"resourceType": "Bundle", "entry": patients})
            sound.append(file)
        except InputError as error:
            builder.findings.fail(file.name, error, "fhir-version" if "version" in error.message else "unreadable")
    reader = _Reader(builder, people, person)
    for number, file in enumerate(sound):
        for one, url in _resources(file.data, builder, quiet=False):
            reader.add(one, url, number)
    reader.settle()
    return builder.build()


def _resources(data: bytes, builder: Builder, *, quiet: bool) -> Iterator[tuple[dict[str, Any], str]]:
    text = _plain(data)
    try:
        whole: dict[str, Any] | None = parse(text)
    except InputError:
        whole = None
    if whole is not None:
        yield from resources_of(whole)
        return
    lines = [line for line in text.split(b"\n") if line.strip()]
    parsed, bad = [], 0
    for line in lines:
        try:
            parsed.append(parse(line))
        except InputError:
            bad += 1
    if not parsed or len(lines) == 1:
        raise InputError("input.fhir", "a file is not FHIR JSON")
    if not quiet:
        builder.findings.count("line", bad)
    for one in parsed:
        yield from resources_of(one)


def _plain(data: bytes) -> bytes:
    if data[:2] == b"\x1f\x8b":
        try:
            with gzip.GzipFile(fileobj=BytesIO(data)) as packed:
                data = packed.read(MAX_BYTES + 1)
        except (OSError, EOFError, zlib.error):
            raise InputError("input.fhir", "a gzip file is damaged") from None
    if len(data) > MAX_BYTES:
        raise InputError("input.fhir", "a file is larger than 1 GiB")
    return data.removeprefix(b"\xef\xbb\xbf")


class _Reader:
    """Holds each resource once, in its newest version, then makes events of them."""

    def __init__(self, builder: Builder, people: People, person: Callable[[str], str]) -> None:
        self._builder, self._people, self._person = builder, people, person
        self._known = frozenset(people.ids.values())
        self._held: dict[tuple[str, str, str], tuple[str, dict[str, Any]]] = {}
        self._medications: dict[tuple[int, str], dict[str, Any]] = {}
        self._files: dict[tuple[str, str, str], int] = {}

    def add(self, resource: dict[str, Any], url: str, file: int) -> None:
        """Take one resource, or the version of it that is newer."""
        kind = resource.get("resourceType")
        if kind == "Medication":
            for name in (url, f"Medication/{resource.get('id')}", f"#{resource.get('id')}"):
                self._medications[(file, name)] = resource
            return
        if kind == "Patient":
            owner: str | None = self._people.patient_id(resource) or self._people.patient_of(url)
        elif kind in _KINDS or kind == "QuestionnaireResponse":
            owner = self._owner(resource)
        else:
            return
        if not owner:
            self._builder.findings.count("no-patient")
            return
        logical = resource.get("id")
        name = logical if isinstance(logical, str) and logical else url or _digest(resource)
        key = (str(kind), owner if kind == "Patient" else name, owner)
        meta = resource.get("meta")
        stamp = str(meta.get("lastUpdated") or "") if isinstance(meta, dict) else ""
        if key in self._held:
            self._builder.findings.count("duplicate")
            if stamp < self._held[key][0]:
                return
        self._held[key] = (stamp, resource)
        self._files[key] = file

    def _owner(self, resource: dict[str, Any]) -> str | None:
        for key in ("subject", "patient"):
            reference = resource.get(key)
            literal = reference.get("reference") if isinstance(reference, dict) else None
            if isinstance(literal, str) and (found := self._people.patient_of(literal)) is not None:
                return found
            logical = reference.get("identifier") if isinstance(reference, dict) else None
            value = logical.get("value") if isinstance(logical, dict) else None
            if isinstance(value, str) and value in self._known:
                return value
        return None

    def settle(self) -> None:
        """Make persons and events of all that is held."""
        for key, (_stamp, resource) in self._held.items():
            who = self._person(key[2])
            if key[0] == "Patient":
                born = events.when(resource.get("birthDate"))
                self._builder.person(who, events.sex(str(resource.get("gender"))), born)
            elif key[0] == "QuestionnaireResponse":
                self._answers(resource, who)
            else:
                self._event(resource, _KINDS[key[0]], who, self._files[key])

    def _event(self, resource: dict[str, Any], kind: _Kind, who: str, file: int) -> None:
        if _excluded(resource, kind):
            self._builder.findings.count("status")
            return
        moment = _moment(resource, kind.times)
        codings = [c for name in kind.codes for c in _codings(resource.get(name))]
        if kind.kind == "drug":
            codings += self._medication(resource, file)
        if kind.kind == "measurement":
            self._measurements(resource, codings, moment, who)
        elif not codings:
            self._builder.findings.count("no-code")
        else:
            self._builder.event(who, kind.kind, codings, moment=moment, days=_days(resource, kind.days))

    def _medication(self, resource: dict[str, Any], file: int) -> list[tuple[str, str]]:
        reference = resource.get("medicationReference")
        literal = reference.get("reference") if isinstance(reference, dict) else None
        if not isinstance(literal, str):
            return []
        for one in _list(resource.get("contained")):
            if isinstance(one, dict) and literal == f"#{one.get('id')}":
                return _codings(one.get("code"))
        tail = "/".join(literal.split("/")[-2:]) if "/" in literal else literal
        medication = next((m for (_f, name), m in self._medications.items() if name in (literal, tail)), None)
        if (file, literal) in self._medications or (file, tail) in self._medications:
            medication = self._medications.get((file, literal)) or self._medications[(file, tail)]
        return _codings(medication.get("code")) if medication else []

    def _measurements(
        self, resource: dict[str, Any], codings: list[tuple[str, str]], moment: When | None, who: str
    ) -> None:
        """The observation itself and each of its components, each a measurement of its own."""
        parts = [(codings, resource)]
        for part in _list(resource.get("component")):
            if isinstance(part, dict):
                parts.append((_codings(part.get("code")), part))
        for names, part in parts:
            if not names:
                self._builder.findings.count("no-code")
                continue
            value, unit = _quantity(part)
            if isinstance(part.get("valueQuantity"), dict) and part["valueQuantity"].get("comparator"):
                self._builder.findings.count("comparator")
                value = None
            self._builder.event(who, "measurement", names, moment=moment, value=value, unit=unit)

    def _answers(self, resource: dict[str, Any], who: str) -> None:
        if str(resource.get("status")) in ("entered-in-error", "in-progress", "stopped"):
            self._builder.findings.count("status")
            return
        name = str(resource.get("questionnaire") or "").rpartition("/")[2].partition("|")[0]
        moment = events.when(resource.get("authored"))
        todo = list(_list(resource.get("item")))
        while todo:
            item = todo.pop()
            if not isinstance(item, dict):
                continue
            todo += _list(item.get("item"))
            for answer in _list(item.get("answer")):
                value = _ordinal(answer) if isinstance(answer, dict) else None
                if value is not None and isinstance(item.get("linkId"), str):
                    code = [("questionnaire:" + name, item["linkId"])]
                    self._builder.event(who, "answer", code, moment=moment, value=value, unit="{score}")


def _digest(resource: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(resource, sort_keys=True).encode()).hexdigest()


def _excluded(resource: dict[str, Any], kind: _Kind) -> bool:
    if str(resource.get("status")) in kind.out or resource.get("doNotPerform") is True:
        return True
    return any(code in _REFUTED for _system, code in _codings(resource.get("verificationStatus"), plain=True))


def _codings(concept: Any, *, plain: bool = False) -> list[tuple[str, str]]:
    """(system, code) of a CodeableConcept, a list of them, or a Coding; a code without a system has the system ''."""
    if isinstance(concept, list):
        return [found for one in concept for found in _codings(one, plain=plain)]
    if not isinstance(concept, dict):
        return []
    inner = concept.get("coding")
    found = []
    for coding in inner if isinstance(inner, list) else [concept]:
        code = coding.get("code") if isinstance(coding, dict) else None
        if isinstance(code, str) and code.strip():
            named = coding.get("system")
            found.append(("" if plain or not isinstance(named, str) else events.system(named), code.strip()))
    return found


def _moment(resource: dict[str, Any], names: tuple[str, ...]) -> When | None:
    for name in names:
        value = resource.get(name)
        moment = events.when(value.get("start") if isinstance(value, dict) else value)
        if moment is not None:
            return moment
    return None


def _quantity(part: dict[str, Any]) -> tuple[float | None, str]:
    quantity = part.get("valueQuantity")
    if isinstance(quantity, dict):
        ucum = str(quantity.get("system") or "").rstrip("/").endswith("unitsofmeasure.org")
        names = (quantity.get("code"), quantity.get("unit")) if ucum else (quantity.get("unit"), quantity.get("code"))
        return events.number(quantity.get("value")), str(next((n for n in names if n), ""))
    return events.number(part.get("valueInteger")), "1" if part.get("valueInteger") is not None else ""


def _days(resource: dict[str, Any], where: str) -> float | None:
    """Length of an exposure in days, where the resource says it."""
    if where == "effectivePeriod" and isinstance(resource.get(where), dict):
        start, end = (events.when(resource[where].get(name)) for name in ("start", "end"))
        if start and end and start.day is not None and end.day is not None and end.day >= start.day:
            return float(end.day - start.day + 1)
        return None
    dispensed = resource.get("dispenseRequest")
    quantity = resource.get("daysSupply") if where == "daysSupply" else None
    if where == "request" and isinstance(dispensed, dict):
        quantity = dispensed.get("expectedSupplyDuration")
    if not isinstance(quantity, dict):
        return None
    found = events.number(quantity.get("value"))
    factor = {"d": 1.0, "day": 1.0, "days": 1.0, "wk": 7.0, "": 1.0}.get(str(quantity.get("code") or "").casefold())
    return found * factor if found is not None and factor is not None and found > 0 else None


def _list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []


def _ordinal(answer: dict[str, Any]) -> float | None:
    for name in ("valueInteger", "valueDecimal"):
        if (found := events.number(answer.get(name))) is not None:
            return found
    coding = answer.get("valueCoding")
    for extension in _list(coding.get("extension")) if isinstance(coding, dict) else ():
        if isinstance(extension, dict) and extension.get("url") in ORDINAL:
            return events.number(extension.get("valueDecimal"))
    return None
