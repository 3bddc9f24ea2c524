"""De-identified FHIR on its way out, read once more by nothing but the standard's JSON.

Used by the egress gate, and by nobody who made it. Nothing here decides or keeps a value.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

__all__ = ["Read", "read"]

# What the standard's words for them are in what leaves; written here anew, like all of the gate's reading.
PSEUDONYM_SYSTEM, KEY_SYSTEM = "urn:corsia:pseudonym", "urn:corsia:key"


@dataclass(frozen=True, slots=True, kw_only=True)
class Read:
    """One document: its text written anew, the pseudonyms it is about, how many resources it has."""

    data: bytes
    persons: frozenset[str]
    resources: int


def read(data: bytes) -> Read:
    """Read a resource, a bundle, or one of them a line.

    Raises:
        ValueError: it is not JSON, or one that does not say under which key it was de-identified.
    """
    try:
        try:
            found = [json.loads(data)]
            ends = ""
        except ValueError:
            found = [json.loads(line) for line in data.splitlines() if line.strip()]
            ends = "\n"
        text = "".join(json.dumps(one, ensure_ascii=False, allow_nan=False) + ends for one in found)
        persons, resources = _about(found)
        return Read(data=text.encode(), persons=frozenset(persons), resources=resources)
    except RecursionError:
        raise ValueError("nested too deep") from None


def _about(found: list[Any]) -> tuple[set[str], int]:
    persons: set[str] = set()
    resources = 0
    if not found or not all(isinstance(one, dict) and _key_of(one) for one in found):
        raise ValueError("not a de-identified resource")
    todo: list[Any] = list(found)
    while todo:
        value = todo.pop()
        if isinstance(value, list):
            todo += value
        elif isinstance(value, dict):
            resources += isinstance(value.get("resourceType"), str)
            if value.get("system") == PSEUDONYM_SYSTEM and isinstance(value.get("value"), str):
                persons.add(value["value"])
            todo += value.values()
    return persons, resources


def _key_of(resource: dict[str, Any]) -> bool:
    meta = resource.get("meta")
    tags = meta.get("tag") if isinstance(meta, dict) else None
    marked = isinstance(tags, list) and any(isinstance(t, dict) and t.get("system") == KEY_SYSTEM for t in tags)
    return marked and isinstance(resource.get("resourceType"), str)
