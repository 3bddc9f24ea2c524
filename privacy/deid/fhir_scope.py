"""What holds for one resource: its patient, his days, what must go from its texts; and the second look at a result.

    scopes = Scopes(Pseudonymizer(key), TextEngine("it")); scopes.learn(resource)    # every resource of a batch first
    scope = scopes.of(resource, scopes.people(resource), known); scope.free("note")

What was learned of a person from one file of a batch goes from the texts of all. Texts lose the values of the patient
they are about and of all staff; where a resource does not say whom it is about, those of all patients. Not here: who is
who (`fhir_people`), the walk (`fhir`).
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from privacy.deid import fhir_values as values
from privacy.deid import residual
from privacy.deid.crowd import Crowd
from privacy.deid.deny import DenyList
from privacy.deid.fhir_people import People
from privacy.deid.pseudonym import Pseudonymizer
from privacy.deid.text import TextEngine, redact_lines

__all__ = ["Known", "Scope", "Scopes"]

Known = Iterable[str] | Callable[[str], Iterable[str]]
_GONE = "[...]"
# Elements that hold words of the standard and of published vocabularies alone.
_FIXED = frozenset({"resourceType", "system", "url", "type", "profile", "code", "status"})


@dataclass(frozen=True, slots=True, eq=False)
class Scope:
    """Of one resource.

    Attributes:
        pseudonym: of its patient; None when it is about none or several.
        days: by which its dates move.
        people: who is who.
        known: as the caller gave it.
        own: values of its patient.
        free: a text without what identifies somebody.
        tells: whether a code names somebody.
    """

    pseudonym: str | None
    days: int
    people: People
    known: Known
    own: DenyList
    free: Callable[[str], str]
    tells: Callable[[str], bool]


class Scopes:
    """Makes scopes for the resources of one batch.

    Args:
        keys: of the study.
        text: for everything written freely.
        patient_system: `Identifier.system` of the patient ids that DICOM and tables carry.
    """

    def __init__(self, keys: Pseudonymizer, text: TextEngine, patient_system: str | None) -> None:
        self._keys, self._text = keys, text
        self._learned = People(patient_system=patient_system)
        self._staff, self._patients = Crowd(), Crowd()
        self._deny = lru_cache(maxsize=256)(DenyList)
        self._redact = lru_cache(maxsize=4096)(self._redacted)

    def learn(self, resource: dict[str, Any]) -> None:
        """Take in who is who."""
        values.check_depth(resource)
        one = self.people(resource)
        self._learned.learn(resource)
        self._staff.add(one.others)
        for patient in one.values.maps[0]:
            self._patients.add([patient, *one.values[patient]])
        self._redact.cache_clear()

    def people(self, resource: dict[str, Any]) -> People:
        """Who is who in a resource and in all that was learned."""
        people = self._learned.child()
        people.learn(resource)
        return people

    def of(self, resource: dict[str, Any], people: People, known: Known) -> Scope:
        """The scope of a resource."""
        owner = people.owner(resource)
        about = [owner] if owner is not None else list(people.values.maps[0])
        found = [value for patient in about for value in (patient, *people.values.get(patient, ()))]
        found += _given(known, about)
        own = self._deny(tuple(dict.fromkeys(value for value in found if value)))
        beside = self._deny(tuple(value for value in people.others if value not in self._learned.others))
        days = self._keys.shift_days(owner or "")

        def free(text: str) -> str:
            return self._redact(text, own, beside, days, owner is None)

        def tells(code: str) -> bool:
            return bool(own.find(code) or beside.find(code) or self._deny(self._staff.near(code)).find(code))

        pseudonym = self._keys.pseudonym(owner) if owner else None
        return Scope(pseudonym, days, people, known, own, free, tells)

    def _redacted(self, text: str, own: DenyList, beside: DenyList, days: int, everybody: bool) -> str:
        for crowd in (self._staff, self._patients) if everybody else (self._staff,):
            text = self._deny(crowd.near(text)).replace(text, _GONE)
        return redact_lines(self._text, beside.replace(text, _GONE), deny=own, shift_days=days)[0]

    def is_left(self, result: dict[str, Any], resource: dict[str, Any], people: People, known: Known) -> bool:
        """The second look: whether a number, name or address of the resource's people is still in the result."""
        owner = people.owner(resource)
        about = dict.fromkeys([*people.near(), *([owner] if owner else [])])
        wanted = [value for patient in about for value in (patient, *people.values.get(patient, ()))]
        wanted += [*_given(known, list(about)), *(name for name in people.ids.maps[0] if "|" not in name)]
        return bool(residual.search_cells(list(_written(result)), residual.originals_of_row(wanted)))


def _given(known: Known, about: list[str]) -> list[str]:
    return [value for patient in about if patient for value in known(patient)] if callable(known) else list(known)


def _written(value: Any, key: str = "") -> Iterator[str]:
    """Strings of a result, texts of narratives and attachments as they read, but for fixed words."""
    if isinstance(value, str):
        if key == "div":
            yield values.text_of(value)
        elif key == "data":
            yield _decoded(value)
        elif key not in _FIXED:
            yield value
    elif isinstance(value, list):
        for item in value:
            yield from _written(item, key)
    elif isinstance(value, dict):
        for name, item in value.items():
            yield from _written(item, name)


def _decoded(data: str) -> str:
    try:
        return base64.b64decode(data, validate=True).decode("utf-8")
    except (binascii.Error, ValueError):
        return data
