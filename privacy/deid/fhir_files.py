"""FHIR as bytes: one resource or bundle a file, or NDJSON line by line; file names that tell nothing.

Not here: what is done to a resource (`fhir.py`).

Source: HL7 FHIR R4 JSON (2.6.2); FHIR Bulk Data Access (NDJSON).
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator
from pathlib import PurePath
from typing import TYPE_CHECKING, Any

from privacy.deid.fhir_r4 import is_resource
from protocol.errors import InputError

if TYPE_CHECKING:
    from privacy.deid.fhir import FhirEngine, Known

__all__ = ["deidentify_lines", "parse", "render", "target_name"]

MAX_BYTES = 1 << 30


def parse(data: bytes | str) -> dict[str, Any]:
    """Read one resource.

    Raises:
        InputError: `input.usage` for anything but one JSON object with a resourceType. Nothing is quoted.
    """
    if len(data) > MAX_BYTES:
        raise InputError("input.usage", "the resource is too large")
    try:
        value = json.loads(data)
    except (ValueError, RecursionError):
        raise InputError("input.usage", "not JSON, or nested too deep") from None
    if not isinstance(value, dict) or not isinstance(value.get("resourceType"), str):
        raise InputError("input.usage", "not a FHIR resource: no resourceType")
    return value


def render(resource: dict[str, Any], indent: int | None = None) -> str:
    """Valid JSON, the same for the same resource."""
    return json.dumps(resource, ensure_ascii=False, allow_nan=False, indent=indent)


def deidentify_lines(lines: Iterable[bytes | str], engine: FhirEngine, known: Known = ()) -> Iterator[str]:
    """De-identify NDJSON, one resource a line, in constant memory; learn who is who first (`engine.learn`).

    Yields:
        One line for each that is not blank, without its line end.

    Raises:
        InputError: `input.usage` at the first line that is no resource.
        DisclosureRefused: `gate.residual`.
    """
    for line in lines:
        if line.strip():
            yield render(engine.deidentify(parse(line), known))


def target_name(name: str, engine: FhirEngine, resource: dict[str, Any] | None = None) -> str:
    """A name for the de-identified file: `Observation.ndjson` stays, a bundle is named by its patient's pseudonym."""
    path = PurePath(name)
    suffixes = [suffix.lower() for suffix in path.suffixes]
    suffix = ".ndjson" if ".ndjson" in suffixes else ".json"
    stem = path.name.split(".")[0]
    number = re.fullmatch(r"([A-Za-z]+)((?:[._-]?\d{1,6})?)", path.name.removesuffix(".gz").rpartition(".")[0])
    if number and is_resource(number[1]):
        return f"{number[1]}{number[2]}{suffix}"
    pseudonym = engine.pseudonym(resource) if resource is not None else None
    return f"{pseudonym or engine.label(stem)}{suffix}"
