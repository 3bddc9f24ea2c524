"""Who is who in FHIR resources: which patient a resource is about, and what in it says who somebody is.

    people = People(); people.learn(bundle); people.owner(observation) -> patient id as in DICOM and tables

The patient id is the identifier of the system that the site names, else the one typed MR (medical record number), else
the resource's id: under it the pseudonym and the date shift are those of the same person's DICOM files and table rows.
Not here: rewriting.

Source: HL7 FHIR R4, references (2.3.0) and Bundle (2.36.4).
"""

from __future__ import annotations

import re
from collections import ChainMap
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import unquote

__all__ = ["MAX_DEPTH", "People", "Target", "parse_reference", "resources_of"]

MAX_DEPTH = 64
_REFERENCE = re.compile(
    r"(?P<base>https?://[^\s?#|]+?/)?(?P<type>[A-Z][A-Za-z]{2,40})"
    r"(?:/(?P<id>[A-Za-z0-9\-.]{1,64})(?:/_history(?:/[^/]*)?)?|\?(?P<query>.*))?",
    re.DOTALL,
)
_PERSONS = frozenset({"Practitioner", "RelatedPerson", "Person", "PractitionerRole"})
_PLACES = frozenset(
    {"Organization", "Location", "HealthcareService", "Device", "Endpoint", "CareTeam", "InsurancePlan"}
)
# Elements that point to somebody even where the reference does not say to what.
_AGENTS = frozenset(
    "author asserter attester beneficiary contact custodian enterer facility generalPractitioner individual insurer"
    " location managingOrganization onBehalfOf owner party patient payee payor performer policyHolder provider recorder"
    " requester requestor responsible sender serviceProvider source subject subscriber who actor informationSource"
    " participant receiver recipient assigner verifier witness member organization practitioner partOf".split()
)
_FIRST = ("subject", "patient", "beneficiary", "for", "individual", "subscriber")
# Words in the names of institutions that stand in every note.
_GENERIC = frozenset(
    "medical center centre clinic hospital health healthcare care general university group associates services system"
    " inc llc corporation company practice physicians primary family community regional memorial department unit ward"
    " policlinico clinica istituto centro azienda sanitaria unita reparto servizio generale universitaria laboratory"
    " laboratorio radiology radiologia location device pump scanner monitor insurance room ambulatorio urgent emergency"
    " home nursing rehabilitation children women public private dental vision plan network dual eligible".split()
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """What a literal reference points at."""

    kind: str
    id: str = ""
    base: str = ""
    query: str | None = None


def parse_reference(text: str) -> Target | None:
    """Read `Type/id`, an absolute URL of one, or `Type?search`; a version is left out. None for anything else."""
    match = _REFERENCE.fullmatch(text.strip())
    if match is None:
        return None
    return Target(kind=match["type"], id=match["id"] or "", base=match["base"] or "", query=match["query"])


def resources_of(resource: dict[str, Any], depth: int = 0) -> Iterator[tuple[dict[str, Any], str]]:
    """A resource, what it contains and what a Bundle or Parameters carries, each with its full URL or ''."""
    yield resource, ""
    if depth > 8:
        return
    for inner in _list(resource.get("contained")):
        if isinstance(inner, dict):
            yield from resources_of(inner, depth + 1)
    for part in [*_list(resource.get("entry")), *_list(resource.get("parameter"))]:
        inner = part.get("resource") if isinstance(part, dict) else None
        if isinstance(inner, dict):
            url = part.get("fullUrl")
            found = resources_of(inner, depth + 1)
            yield next(found)[0], url if isinstance(url, str) else ""
            yield from found


@dataclass
class People:
    """What was learned from resources.

    Attributes:
        patient_system: `Identifier.system` of the ids under which DICOM and tables know patients.
        ids: logical id, full URL or `system|value` of a Patient -> patient id; '' when it is of several.
        values: patient id -> what says who he is.
        others: names, numbers and addresses of staff; of institutions without everyday words.
        kinds: full URL -> resource type.
    """

    patient_system: str | None = None
    ids: ChainMap[str, str] = field(default_factory=ChainMap)
    values: ChainMap[str, dict[str, None]] = field(default_factory=ChainMap)
    others: dict[str, None] = field(default_factory=dict)
    kinds: ChainMap[str, str] = field(default_factory=ChainMap)

    def child(self) -> People:
        """What one more resource adds, over what is known already; this one is not changed by it."""
        return People(
            patient_system=self.patient_system,
            ids=self.ids.new_child(),
            values=self.values.new_child(),
            kinds=self.kinds.new_child(),
        )

    def near(self) -> list[str]:
        """Patients that this resource holds, or names in words."""
        return [patient for patient in dict.fromkeys([*self.values.maps[0], *self.ids.maps[0].values()]) if patient]

    def learn(self, resource: dict[str, Any]) -> None:
        """Take in a resource and all within it."""
        for one, url in resources_of(resource):
            kind = one.get("resourceType")
            if url:
                self.kinds[url] = str(kind)
            if kind == "Patient":
                self._learn_patient(one, url)
            elif kind in _PERSONS:
                self.others.update(dict.fromkeys(_identity(one)))
            elif kind in _PLACES:
                self.others.update(dict.fromkeys(filter(None, map(_specific, _identity(one)))))
        for display, where in _displays(resource, ""):
            self._learn_display(display, where)

    def _learn_patient(self, patient: dict[str, Any], url: str) -> None:
        known = self.patient_id(patient) or url
        logical = patient.get("id")
        numbers = [
            f"{system}|{identifier.get('value')}"
            for identifier in _list(patient.get("identifier"))
            if isinstance(identifier, dict)
            for system in (identifier.get("system", ""), "")
        ]
        for name in {name: None for name in (logical, url, known, *numbers) if isinstance(name, str)}:
            if name:
                self.ids[name] = known if self.ids.maps[0].get(name, known) == known else ""
        found = [*_identity(patient), *([logical] if isinstance(logical, str) else []), url.rpartition(":")[2]]
        self._say(known, (v for v in found if v))

    def _say(self, patient: str, found: Iterable[str]) -> None:
        self.values[patient] = self.values.get(patient, {}) | dict.fromkeys(found)

    def _learn_display(self, reference: dict[str, Any], where: str) -> None:
        display = reference["display"]
        target = reference.get("reference")
        kind = ""
        if isinstance(target, str):
            parsed = parse_reference(target)
            kind = self.kinds.get(target, parsed.kind if parsed else "")
        if kind == "Patient" and isinstance(target, str):
            self._say(self.patient_of(target) or "", [display])
        elif kind in _PERSONS or (not kind and where in _AGENTS):
            self.others[display] = None
        elif kind in _PLACES and (name := _specific(display)):
            self.others[name] = None

    def patient_id(self, patient: dict[str, Any]) -> str:
        """The id under which DICOM and tables know a patient."""
        identifiers = [i for i in _list(patient.get("identifier")) if isinstance(i, dict)]
        named = [i for i in identifiers if self.patient_system and i.get("system") == self.patient_system]
        for identifier in [*named, *filter(_is_record_number, identifiers)]:
            if isinstance(value := identifier.get("value"), str) and value.strip():
                return value
        logical = patient.get("id")
        return logical if isinstance(logical, str) else ""

    def patient_of(self, reference: str) -> str | None:
        """The patient id a literal reference points at, None when it points at something else."""
        for name in (reference, reference.removeprefix("#")):
            if name in self.ids:
                return self.ids[name] or None
        target = parse_reference(reference)
        if target is None or target.kind != "Patient":
            return None
        if target.query is not None:
            return self._numbered(*unquote(target.query).rpartition("=")[2].rpartition("|")[::2])
        return self.ids.get(target.id, target.id) or None

    def _numbered(self, system: str, value: str) -> str | None:
        """The patient of an identifier; the value itself when it is of none that was learned."""
        return self.ids.get(f"{system}|{value}", self.ids.get(value, value)) or None

    def owner(self, resource: dict[str, Any]) -> str | None:
        """The patient a resource is about; the only patient there is when it does not say."""
        if resource.get("resourceType") == "Patient":
            return self.patient_id(resource) or self._sole()
        ordered = [resource.get(key) for key in _FIRST] + list(resource.values())
        for value in ordered:
            for reference in _references(value, 0):
                if (found := self._of(reference)) is not None:
                    return found
        return self._sole()

    def _of(self, reference: dict[str, Any]) -> str | None:
        literal = reference.get("reference")
        if isinstance(literal, str) and (found := self.patient_of(literal)) is not None:
            return found
        identifier = reference.get("identifier")
        if not isinstance(identifier, dict) or not isinstance(value := identifier.get("value"), str):
            return None
        system = identifier.get("system", "")
        own = bool(self.patient_system) and system == self.patient_system
        if own or _is_record_number(identifier) or f"{system}|{value}" in self.ids:
            return self._numbered(str(system), value)
        return None

    def _sole(self) -> str | None:
        """The only patient of this resource; of all that was learned when it holds none."""
        for level in self.ids.maps:
            if people := set(level.values()):
                return people.pop() or None if len(people) == 1 else None
        return None


def _is_record_number(identifier: dict[str, Any]) -> bool:
    kind = identifier.get("type")
    codings = _list(kind.get("coding")) if isinstance(kind, dict) else []
    return any(isinstance(c, dict) and c.get("code") == "MR" for c in codings)


def _identity(resource: dict[str, Any]) -> list[str]:
    """Strings of a person's or institution's resource that say who it is."""
    found: list[str] = []
    for key in ("name", "alias", "contact", "telecom", "address", "identifier", "deviceName", "serialNumber",
                "distinctIdentifier", "extension", "birthDate"):  # fmt: skip
        _leaves(resource.get(key), key, found, 0)
    return found


_QUIET = frozenset(
    "use system prefix suffix type url code period relationship gender country assigner coding unit display".split()
)


def _leaves(value: Any, key: str, found: list[str], depth: int) -> None:
    if isinstance(value, str):
        if value.strip() and key not in _QUIET:
            found.append(value)
    elif isinstance(value, list) and depth < MAX_DEPTH:
        for item in value:
            _leaves(item, key, found, depth + 1)
    elif isinstance(value, dict) and depth < MAX_DEPTH and not _is_race(value):
        for name, item in value.items():
            if name not in _QUIET:
                _leaves(item, name, found, depth + 1)


def _is_race(value: dict[str, Any]) -> bool:
    url = value.get("url")
    return isinstance(url, str) and url.endswith(("-race", "-ethnicity", "-birthsex"))


def _specific(name: str) -> str:
    """A name of an institution without the words that every institution has."""
    return " ".join(word for word in re.findall(r"[\w.@+-]+", name) if word.casefold().strip(".-") not in _GENERIC)


def _displays(value: Any, where: str, depth: int = 0) -> Iterator[tuple[dict[str, Any], str]]:
    """References with a display, and the element they stand in."""
    if depth > 2 * MAX_DEPTH:
        return
    if isinstance(value, list):
        for item in value:
            yield from _displays(item, where, depth + 1)
    elif isinstance(value, dict):
        display = value.get("display")
        if isinstance(display, str) and display.strip() and "code" not in value and "system" not in value:
            yield value, where
        for key, item in value.items():
            if isinstance(item, list | dict):
                yield from _displays(item, key, depth + 1)


def _references(value: Any, depth: int) -> Iterator[dict[str, Any]]:
    if depth > 12:
        return
    if isinstance(value, list):
        for item in value:
            yield from _references(item, depth + 1)
    elif isinstance(value, dict):
        if "reference" in value or "identifier" in value:
            yield value
        for key, item in value.items():
            if key not in ("contained", "resource") and isinstance(item, list | dict):
                yield from _references(item, depth + 1)


def _list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []
