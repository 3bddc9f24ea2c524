"""The FHIR engine: R4 resources and bundles by the schema, every element known or gone.

    engine = FhirEngine(Pseudonymizer(key), TextEngine("it"))
    clean = engine.deidentify(bundle)

Elements the schema does not list go, and so do extensions off the allow-list; codes must be of their binding; texts run
the text engine with what the record says of its people; ids, UIDs, identifiers and references are renamed together, so
that references still resolve; dates move by the patient's days. A resource of a type that R4 has not, or with elements
of STU3, R4B or R5, is refused. A second look refuses output in which a known value is still found. Not here: what is
learned of people (`fhir_scope`), files and folders (`fhir_files`).

Source: HL7 FHIR R4 (4.0.1); HIPAA 45 CFR 164.514(b)(2).
"""

from __future__ import annotations

import base64
import binascii
from collections import Counter
from collections.abc import Iterable
from datetime import UTC, datetime
from typing import Any

from privacy.deid import fhir_values as values
from privacy.deid.dates import parse_date
from privacy.deid.fhir_people import People
from privacy.deid.fhir_r4 import EDITION, EXTENSIONS, elements, is_resource, is_standard, others
from privacy.deid.fhir_scope import Known, Scope, Scopes
from privacy.deid.fhir_values import PSEUDONYM_SYSTEM, Names
from privacy.deid.pseudonym import Pseudonymizer
from privacy.deid.text import TextEngine
from protocol.errors import DisclosureRefused, InputError

__all__ = ["FhirEngine"]

# Types that say who, where or by what address: nothing of them stays.
_GONE_TYPES = frozenset({"ContactPoint", "HumanName", "Signature", "BundleLink", "DeviceUdiCarrier", "LocationPosition",
                         "AuditEventAgentNetwork", "ContactDetail", "DeviceDeviceName"})  # fmt: skip
_GONE = frozenset(
    "photo serialNumber lotNumber batchNumber distinctIdentifier manufacturer modelNumber partNumber publisher"
    " copyright authorString subscriberId dependent alias versionId etag ifMatch ifNoneMatch implicitRules hash query"
    " deviceIdentifier carrierHRF bornPeriod".split()
)
# Strings that name a thing: they get a name under the key, so that the same thing stays the same.
_LABELS = frozenset("name preAuthRef referenceNumber division department expression".split())
_BIRTHS = frozenset({"birthDate", "bornDate"})
_QUANTITIES = frozenset({"Quantity", "Age", "Duration", "Distance", "Count", "SimpleQuantity"})


class FhirEngine:
    """De-identifies resources of one study.

    Args:
        pseudonymizer: of the study at this site.
        text: for everything written freely.
        patient_system: `Identifier.system` of the patient ids that DICOM and tables carry; else those typed MR.
        reference_year: in which ages over 89 are counted; the current one when None.
        extensions: extension URLs that may stay besides the engine's own list.

    Attributes:
        counts: what was done, by kind, over all calls. No values.
    """

    def __init__(
        self,
        pseudonymizer: Pseudonymizer,
        text: TextEngine,
        *,
        patient_system: str | None = None,
        reference_year: int | None = None,
        extensions: Iterable[str] = (),
    ) -> None:
        self._keys = pseudonymizer
        self._names = Names(pseudonymizer)
        self._oldest = (reference_year or datetime.now(UTC).year) - values.MAX_AGE_YEARS
        self._extensions = EXTENSIONS | dict.fromkeys(extensions, frozenset())
        self._scopes = Scopes(pseudonymizer, text, patient_system)
        self.counts: Counter[str] = Counter()

    def learn(self, resource: dict[str, Any]) -> None:
        """Take in who is who in all resources of a batch, before the first is de-identified."""
        self._scopes.learn(resource)

    def pseudonym(self, resource: dict[str, Any]) -> str | None:
        """The pseudonym of the patient a resource or bundle is about, None when it is about none or several."""
        owner = self._scopes.people(resource).owner(resource)
        return self._keys.pseudonym(owner) if owner else None

    def label(self, original: str) -> str:
        """A name under the key for something that is named otherwise, a file."""
        return self._names.label(original)

    def deidentify(self, resource: dict[str, Any], known: Known = ()) -> dict[str, Any]:
        """De-identify one resource or bundle; the argument is not changed.

        Args:
            resource: parsed JSON.
            known: values that identify its people from elsewhere, or a function that gives them for a patient id.

        Raises:
            InputError: `input.fhir` when it is no resource of R4, or is nested too deep; `input.deidentified` when it
                was made under this key.
            DisclosureRefused: `gate.residual` when a known value is still found in the result.
        """
        if not isinstance(resource, dict) or not isinstance(resource.get("resourceType"), str):
            raise InputError("input.fhir", "no resourceType")
        values.check_depth(resource)
        if values.key_of(resource) == self._keys.key_id:
            raise InputError("input.deidentified", "made under this key")
        people = self._scopes.people(resource)
        result = self._resource(resource, people, known)
        if self._scopes.is_left(result, resource, people, known):
            raise DisclosureRefused("gate.residual")
        return values.marked(result, self._keys.key_id)

    # -- the walk

    def _resource(self, resource: dict[str, Any], people: People, known: Known) -> dict[str, Any]:
        kind = resource.get("resourceType")
        if not isinstance(kind, str) or not is_resource(kind):
            raise InputError("input.fhir", "a resource of a type that R4 has not")
        if others(kind) & resource.keys() or "4.0" not in str(resource.get("fhirVersion", EDITION)):
            raise InputError("input.fhir", "a resource of another version than R4")
        scope = self._scopes.of(resource, people, known)
        out: dict[str, Any] = {"resourceType": kind}
        body = {key: value for key, value in resource.items() if key != "resourceType"}
        inner = {key: body.pop(key) for key in ("contained",) if key in body}
        walked = self._object(body, kind, scope)
        if kind == "Binary":
            walked |= self._attachment(body, scope) or {}
        if contained := [self._resource(r, people, known) for r in values.dicts(inner.get("contained"))]:
            walked["contained"] = contained
        self.counts["resources"] += 1
        return out | (self._patient(walked, resource, scope) if kind == "Patient" else walked)

    def _patient(self, walked: dict[str, Any], original: dict[str, Any], scope: Scope) -> dict[str, Any]:
        for key in ("name", "identifier", "birthDate"):
            walked.pop(key, None)
        if scope.pseudonym:
            walked["identifier"] = [{"system": PSEUDONYM_SYSTEM, "value": scope.pseudonym}]
            walked["name"] = [{"use": "anonymous", "text": scope.pseudonym}]
        born = original.get("birthDate")
        year = values.shift(born, 0) if isinstance(born, str) else None
        if year and int(year[:4]) >= self._oldest:
            walked["birthDate"] = year[:4]
        return walked

    def _object(self, value: dict[str, Any], kind: str, scope: Scope) -> dict[str, Any]:
        listed = elements(kind)
        out: dict[str, Any] = {}
        for key, item in value.items():
            if key.startswith("_") and key[1:] in listed:
                if isinstance(item, dict) and (kept := self._object(item, "Element", scope)):
                    out[key] = kept
            elif key not in listed or key in _GONE or key == "modifierExtension":
                self.counts["dropped-element"] += 1
            else:
                element, codes = listed[key]
                new = self._element(item, key, element, codes, (kind, scope))
                if new is not None:
                    out[key] = new
        return out

    def _element(self, value: Any, key: str, kind: str, codes: frozenset[str], where: tuple[str, Scope]) -> Any:
        if isinstance(value, list):
            kept = [self._element(item, key, kind, codes, where) for item in value if not isinstance(item, list)]
            return [item for item in kept if item is not None] or None
        parent, scope = where
        if kind in _GONE_TYPES:
            self.counts["dropped-identity"] += 1
            return None
        if kind[0].isupper():
            if not isinstance(value, dict):
                return None
            return self._complex(value, kind, where) or None
        if kind in values.NUMBERS:
            return value if values.is_number(value, kind) else None
        if not isinstance(value, str):
            return None
        return self._string(value, key, kind, codes, (parent, scope))

    def _complex(self, value: dict[str, Any], kind: str, where: tuple[str, Scope]) -> dict[str, Any] | None:
        parent, scope = where
        if kind == "Resource":
            return self._resource(value, scope.people, scope.known)
        if kind == "Extension":
            return self._extension(value, where)
        if kind == "Address":
            country = value.get("country")
            return (
                {"country": country} if isinstance(country, str) and len(country) <= 3 and country.isalpha() else None
            )
        if kind == "Attachment":
            return self._attachment(value, scope)
        if kind == "Coding":
            return self._coding(value, parent, scope)
        if kind == "Narrative":
            return self._narrative(value, scope)
        if kind == "Reference":
            return self._reference(value, scope)
        if kind == "Identifier":
            return self._identifier(value, scope)
        if kind == "CodeableConcept":
            return self._concept(value, scope)
        out = self._object(value, kind, scope)
        return values.cap_age(out) if kind in _QUANTITIES else out

    # -- datatypes

    def _extension(self, value: dict[str, Any], where: tuple[str, Scope]) -> dict[str, Any] | None:
        _parent, scope = where
        url = value.get("url")
        if not isinstance(url, str) or url not in self._extensions:
            self.counts["dropped-extension"] += 1
            return None
        out = {"url": url} | self._object({k: v for k, v in value.items() if k not in ("url", "extension")},
                                          "Extension", scope)  # fmt: skip
        parts = []
        for part in values.dicts(value.get("extension")):
            if isinstance(part.get("url"), str) and part["url"] in self._extensions[url]:
                inner = {k: v for k, v in part.items() if k not in ("url", "extension")}
                parts.append({"url": part["url"]} | self._object(inner, "Extension", scope))
        if parts:
            out["extension"] = parts
        return out if len(out) > 1 else None

    def _attachment(self, value: dict[str, Any], scope: Scope) -> dict[str, Any] | None:
        """Plain text runs the text engine; anything else keeps only its type."""
        content, data = value.get("contentType"), value.get("data")
        out: dict[str, Any] = {}
        if isinstance(content, str) and len(content) <= 64 and scope.free(content) == content:
            out["contentType"] = content
        if isinstance(value.get("title"), str):
            out["title"] = scope.free(value["title"])
        if isinstance(content, str) and content.split(";")[0].strip().lower() == "text/plain" and isinstance(data, str):
            try:
                text = base64.b64decode(data, validate=True).decode("utf-8")
            except (binascii.Error, ValueError):
                self.counts["dropped-attachment"] += 1
            else:
                out["data"] = base64.b64encode(scope.free(text).encode()).decode()
        elif data is not None or "url" in value:
            self.counts["dropped-attachment"] += 1
        return out or None

    def _narrative(self, value: dict[str, Any], scope: Scope) -> dict[str, Any] | None:
        if not isinstance(value.get("div"), str):
            return None
        status = value.get("status")
        codes = elements("Narrative")["status"][1]
        text = scope.free(values.text_of(value["div"]))
        return {"status": status if status in codes else "additional", "div": values.div(text)}

    def _reference(self, value: dict[str, Any], scope: Scope) -> dict[str, Any] | None:
        out = self._object({k: v for k, v in value.items() if k in ("identifier", "extension")},
                           "Reference", scope)  # fmt: skip
        if is_resource(value.get("type")):
            out["type"] = value["type"]
        literal = value.get("reference")
        if isinstance(literal, str) and (new := self._url(literal, scope)) is not None:
            out["reference"] = new
        return out or None

    def _url(self, literal: str, scope: Scope) -> str | None:
        patient = scope.people.patient_of(literal)
        return self._names.reference(literal, scope.people.kinds, self._keys.pseudonym(patient) if patient else None)

    def _identifier(self, value: dict[str, Any], scope: Scope) -> dict[str, Any]:
        rest = {k: v for k, v in value.items() if k not in ("system", "value", "assigner")}
        out = self._object(rest, "Identifier", scope)
        system, number = value.get("system"), value.get("value")
        if isinstance(number, str) and number in scope.people.values:
            return out | {"system": PSEUDONYM_SYSTEM, "value": self._keys.pseudonym(number)}
        if isinstance(system, str):
            out["system"] = self._names.uri(system)
        if isinstance(number, str):
            out["value"] = self._names.value(number)
        return out

    def _concept(self, value: dict[str, Any], scope: Scope) -> dict[str, Any]:
        out = self._object({k: v for k, v in value.items() if k != "text"}, "CodeableConcept", scope)
        text = value.get("text")
        if isinstance(text, str):
            shown = {
                coding.get("display") for coding in values.dicts(out.get("coding")) if is_standard(coding.get("system"))
            }
            out["text"] = text if text in shown else scope.free(text)
        return out

    # -- strings

    def _string(self, value: str, key: str, kind: str, codes: frozenset[str], where: tuple[str, Scope]) -> str | None:
        parent, scope = where
        if kind in ("date", "dateTime", "instant"):
            # A birth date elsewhere goes too: moved, it would tell by how many days all others were.
            return None if key in _BIRTHS or parse_date(value) in scope.own.dates else values.shift(value, scope.days)
        if kind == "time":
            return value if values.is_time(value) else None
        if kind == "code" or codes:
            return value if self._is_code(value, codes, scope) else None
        if kind == "id":
            if key == "id":  # of an element inside a resource it says nothing to anybody
                return self._names.id(value) if is_resource(parent) else None
            return self._keys.uid(value) if key == "uid" else self._names.id(value)
        if kind in ("uri", "url", "canonical", "oid", "uuid"):
            return self._uri(value, key, kind, parent, scope)
        if kind in ("string", "markdown"):
            return self._written(value, key, parent, scope)
        self.counts["dropped-element"] += 1  # base64Binary outside attachments, xhtml outside narratives
        return None

    def _is_code(self, value: str, codes: frozenset[str], scope: Scope) -> bool:
        if codes:
            return value in codes
        return values.is_code(value) and not scope.own.find(value)

    def _uri(self, value: str, key: str, kind: str, parent: str, scope: Scope) -> str | None:
        if key == "system":
            return self._names.uri(value)
        if parent.startswith("Bundle"):
            return (
                self._names.uri(value) if value in scope.people.kinds and "/" not in value else self._url(value, scope)
            )
        if kind in ("oid", "uuid") or value.lower().startswith(("urn:uuid:", "urn:oid:")):
            return self._names.uri(value)
        return value if is_standard(value) and not scope.own.find(value) else None

    def _written(self, value: str, key: str, parent: str, scope: Scope) -> str | None:
        if parent == "BundleEntryRequest" and key == "ifNoneExist":
            patient = (
                scope.people.patient_of(f"Patient?{value}") if value.rpartition("|")[2] in scope.people.ids else None
            )
            return self._names.query(value, self._keys.pseudonym(patient) if patient else None)
        if (parent, key) == ("SampledData", "data") and values.is_samples(value):
            return value
        if key in _LABELS or (parent == "CoverageClass" and key == "value"):
            return self._names.label(value)
        return scope.free(value)

    def _coding(self, value: dict[str, Any], where: str, scope: Scope) -> dict[str, Any] | None:
        rest = {k: v for k, v in value.items() if k != "display"}
        out = self._object(rest, "Coding", scope)
        display, code = value.get("display"), out.get("code")
        if not is_standard(value.get("system")):
            if where == "Meta" or (isinstance(code, str) and scope.tells(code)):
                return None  # a label of the hospital's own
            display = scope.free(display) if isinstance(display, str) else None
        if isinstance(display, str) and not scope.own.find(display):
            out["display"] = display
        return out
