"""Primitive values of FHIR: partial dates moved, ages capped, ids and URIs renamed under the key.

A full date moves by the patient's days and keeps its time and zone. A date without a day moves as the 15th of its
month, one without a month as 2 July of its year, and each keeps its precision. Not here: which element is what.

Source: HL7 FHIR R4 datatypes (2.24.0); HIPAA 45 CFR 164.514(b)(2)(i)(C).
"""

from __future__ import annotations

import base64
import hashlib
import math
import re
import uuid
from collections.abc import Mapping
from datetime import date, timedelta
from html import escape
from html.parser import HTMLParser
from typing import Any

from privacy.deid.fhir_people import MAX_DEPTH, parse_reference
from privacy.deid.fhir_r4 import is_resource, is_standard
from privacy.deid.pseudonym import Pseudonymizer
from protocol.errors import InputError

__all__ = [
    "KEY_SYSTEM",
    "NUMBERS",
    "PSEUDONYM_SYSTEM",
    "Names",
    "cap_age",
    "check_depth",
    "dicts",
    "div",
    "is_code",
    "is_number",
    "is_samples",
    "is_time",
    "key_of",
    "marked",
    "shift",
    "text_of",
]

PSEUDONYM_SYSTEM = "urn:corsia:pseudonym"
# A tag of the whole result names the key it was made under (`KeyRing.find`).
KEY_SYSTEM = "urn:corsia:key"
_PSEUDONYMOUS = {"system": "http://terminology.hl7.org/CodeSystem/v3-ObservationValue", "code": "PSEUDED"}
MAX_AGE_YEARS = 89
NUMBERS: dict[str, Any] = {
    "boolean": bool,
    "integer": int,
    "positiveInt": int,
    "unsignedInt": int,
    "decimal": (int, float),
}
_DATE = re.compile(
    r"(\d{4})(?:-(\d\d)(?:-(\d\d)(T\d\d:\d\d(?::\d\d(?:\.\d{1,9})?)?(?:Z|[+-]\d\d:\d\d)?)?)?)?", re.ASCII
)
_TIME = re.compile(r"\d\d:\d\d(?::\d\d(?:\.\d{1,9})?)?", re.ASCII)
_SAMPLES = re.compile(r"(?:[EUL]|-?\d+(?:\.\d+)?)(?: (?:[EUL]|-?\d+(?:\.\d+)?))*", re.ASCII)
_CODE = re.compile(r"[!-~]{1,64}")
_UUID = re.compile(r"[0-9a-fA-F]{8}(?:-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}")
_YEARS_IN = {"a": 1.0, "year": 1.0, "years": 1.0, "yr": 1.0, "yrs": 1.0, "y": 1.0, "anni": 1.0, "anno": 1.0,
             "mo": 12.0, "month": 12.0, "months": 12.0, "mesi": 12.0, "wk": 52.18, "week": 52.18, "weeks": 52.18,
             "d": 365.25, "day": 365.25, "days": 365.25, "giorni": 365.25}  # fmt: skip


def shift(text: str, days: int) -> str | None:
    """Move a FHIR date, dateTime or instant; None when it is none, or leaves the years 1 to 9999.

    Example:
        >>> shift("2021-03-12T10:00:00+01:00", 20), shift("2021-03", 20), shift("2021", 20)
        ('2021-04-01T10:00:00+01:00', '2021-04', '2021')
    """
    match = _DATE.fullmatch(text)
    if match is None:
        return None
    year, month, day, time = match.groups()
    try:
        middle = date(int(year), int(month or 7), int(day or (15 if month else 2)))
        moved = middle + timedelta(days=days)
    except (ValueError, OverflowError):
        return None
    precision = 10 if day else 7 if month else 4
    return moved.isoformat()[:precision] + (time or "")


def is_time(text: str) -> bool:
    """Whether a string is a FHIR time."""
    return _TIME.fullmatch(text) is not None


def is_samples(text: str) -> bool:
    """Whether a string is a series of measured values (SampledData.data)."""
    return _SAMPLES.fullmatch(text) is not None


def is_code(text: str) -> bool:
    """Whether a string is one code: printable ASCII without spaces, at most 64 characters."""
    return _CODE.fullmatch(text) is not None


def cap_age(quantity: dict[str, Any]) -> dict[str, Any]:
    """A Quantity in units of time of more than 89 years becomes `>= 90` years."""
    units = [str(quantity.get(key, "")).strip().casefold() for key in ("code", "unit")]
    scale = next((_YEARS_IN[unit] for unit in units if unit in _YEARS_IN), None)
    value = quantity.get("value")
    if scale is None or not isinstance(value, int | float) or value / scale < MAX_AGE_YEARS + 1:
        return quantity
    capped = {"value": MAX_AGE_YEARS + 1, "comparator": ">=", "unit": "a"}
    return capped | {"system": "http://unitsofmeasure.org", "code": "a"}


class _Text(HTMLParser):
    """The text of a narrative: blocks on lines of their own, no attribute, no comment, no script."""

    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.parts: list[str] = []
        self._hidden = 0

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self._hidden += tag in ("script", "style")
        self.parts.append("\n" if tag in ("p", "div", "br", "tr", "li", "table", "h1", "h2", "h3") else " ")

    def handle_endtag(self, tag: str) -> None:
        self._hidden -= tag in ("script", "style") and self._hidden > 0
        self.parts.append(" ")

    def handle_data(self, data: str) -> None:
        if not self._hidden:
            self.parts.append(data)


def text_of(xhtml: str) -> str:
    """What a narrative says, as plain lines."""
    parser = _Text()
    parser.feed(xhtml)
    parser.close()
    lines = (" ".join(line.split()) for line in "".join(parser.parts).split("\n"))
    return "\n".join(line for line in lines if line)


def div(text: str) -> str:
    """A narrative that says `text`, and nothing else."""
    lines = "".join(f"<p>{escape(line)}</p>" for line in text.split("\n") if line.strip())
    return f'<div xmlns="http://www.w3.org/1999/xhtml">{lines or "<p>-</p>"}</div>'


class Names:
    """New names of things under one key: the same for the same original, wherever it is named.

    Args:
        keys: of the study.
    """

    def __init__(self, keys: Pseudonymizer) -> None:
        self._keys = keys

    def id(self, original: str) -> str:
        """A logical id: a UUID for a UUID, else `i` and 24 hex digits."""
        if _UUID.fullmatch(original):
            return self.uuid(original)
        return "i" + self._digest(original).hex()[:24]

    def uuid(self, original: str) -> str:
        """A UUID (version 8) for one."""
        return str(uuid.UUID(int=int(self._keys.uid("urn:uuid:" + original.lower()).removeprefix("2.25."))))

    def label(self, original: str) -> str:
        """A name of an institution, a device, an account number: `X` and 16 base32 characters."""
        return "X" + base64.b32encode(self._digest(" ".join(original.split()).casefold())[:10]).decode()

    def uri(self, original: str) -> str:
        """A URI: published ones stay, UUIDs and UIDs keep their form, an address of a hospital is hidden."""
        if is_standard(original) or original == PSEUDONYM_SYSTEM:
            return original
        low = original.lower()
        if low.startswith("urn:uuid:"):
            return "urn:uuid:" + self.uuid(original[9:])
        if low.startswith("urn:oid:"):
            return "urn:oid:" + self._keys.uid(original[8:])
        return "urn:uuid:" + self.uuid(original)

    def base(self, original: str) -> str:
        """The base of a server's addresses."""
        return f"https://{self._digest(original.lower()).hex()[:16]}.invalid/"

    def value(self, original: str) -> str:
        """A value of an identifier."""
        low = original.lower()
        if low.startswith(("urn:uuid:", "urn:oid:")):
            return self.uri(original)
        return self.id(original) if _UUID.fullmatch(original) else self.label(original)

    def reference(self, text: str, kind_of: Mapping[str, str], patient: str | None) -> str | None:
        """A literal reference or a request's URL, None when it cannot be read for certain.

        Args:
            text: the original.
            kind_of: full URL -> resource type, of the bundle.
            patient: pseudonym when it points at a patient by search.
        """
        if text.startswith("#"):
            return "#" + self.id(text[1:]) if len(text) > 1 else text
        if text.lower().startswith(("urn:uuid:", "urn:oid:")):
            return self.uri(text)
        target = parse_reference(text)
        if target is None or not is_resource(target.kind):
            return self.uri(text) if text in kind_of else None
        if target.query is not None:
            return f"{target.kind}?{self.query(target.query, patient)}"
        base = self.base(target.base) if target.base else ""
        return f"{base}{target.kind}" + (f"/{self.id(target.id)}" if target.id else "")

    def query(self, text: str, patient: str | None = None) -> str:
        """A search: by identifier with its value renamed, otherwise by nothing that it said."""
        name, _, value = text.partition("=")
        if name != "identifier" or "&" in value:
            return f"identifier={self.label(text)}"
        system, bar, code = value.rpartition("|")
        if patient is not None:
            return f"identifier={PSEUDONYM_SYSTEM}|{patient}"
        return f"identifier={self.uri(system) if system else ''}{bar}{self.value(code)}"

    def _digest(self, original: str) -> bytes:
        # The UID map is the keyed function that every kind of data shares; a plain hash only shortens what it gives.
        return hashlib.sha256(self._keys.uid("fhir:" + original).encode()).digest()


def is_number(value: Any, kind: str) -> bool:
    """Whether a JSON value is of a numeric or boolean type."""
    if isinstance(value, bool):
        return kind == "boolean"
    if kind == "boolean" or not isinstance(value, NUMBERS[kind]):
        return False
    return isinstance(value, int) or math.isfinite(value)


def dicts(value: Any) -> list[dict[str, Any]]:
    """The objects of a list; nothing for anything else."""
    return [item for item in value if isinstance(item, dict)] if isinstance(value, list) else []


def check_depth(value: Any) -> None:
    """Refuse what is nested deeper than any resource.

    Raises:
        InputError: `input.fhir`.
    """
    stack = [(value, 0)]
    while stack:
        item, depth = stack.pop()
        if depth > MAX_DEPTH:
            raise InputError("input.fhir", "nested too deep")
        if isinstance(item, dict):
            stack.extend((inner, depth + 1) for inner in item.values())
        elif isinstance(item, list):
            stack.extend((inner, depth + 1) for inner in item)


def marked(result: dict[str, Any], key_id: str) -> dict[str, Any]:
    """The result with the standard's label for pseudonymised data and the id of the key it was made under."""
    meta = dict(result.get("meta", {}))
    meta["security"] = [*meta.get("security", []), _PSEUDONYMOUS]
    meta["tag"] = [*meta.get("tag", []), {"system": KEY_SYSTEM, "code": key_id}]
    rest = {name: item for name, item in result.items() if name not in ("resourceType", "meta")}
    return {"resourceType": result["resourceType"], "meta": meta} | rest


def key_of(resource: dict[str, Any]) -> str | None:
    """The id of the key under which a result was made; None for what was not made here."""
    meta = resource.get("meta")
    tags = dicts(meta.get("tag")) if isinstance(meta, dict) else []
    code = next((tag.get("code") for tag in tags if tag.get("system") == KEY_SYSTEM), None)
    return code if isinstance(code, str) else None
