"""Rule tables as data: one JSON file a profile and edition, made by `generate.py`, read once and resolved to actions.

Not here: what an action does to an element (`dicom.py`).

Source: PS3.15 table E.1-1 and section E.3 (options).
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from enum import StrEnum
from functools import lru_cache
from pathlib import Path

from protocol.errors import InputError

__all__ = ["EMPTY_DOCUMENTS", "METHOD_CODES", "OFFERED", "Action", "Profile", "load"]

_FILES = {"basic": "basic.json"}
# Offered options and the code that claims them (PS3.16 CID 7050). Clean Recognizable Visual Features (113102) is not
# offered: no known method keeps the use of an image of a face and hides whose it is.
METHOD_CODES: dict[str, tuple[str, str]] = {
    "basic": ("113100", "Basic Application Confidentiality Profile"),
    "clean-pixel-data": ("113101", "Clean Pixel Data Option"),
    "clean-graphics": ("113103", "Clean Graphics Option"),
    "clean-structured-content": ("113104", "Clean Structured Content Option"),
    "clean-descriptors": ("113105", "Clean Descriptors Option"),
    "retain-longitudinal-full-dates": ("113106", "Retain Longitudinal Temporal Information Full Dates Option"),
    "retain-longitudinal-modified-dates": (
        "113107",
        "Retain Longitudinal Temporal Information Modified Dates Option",
    ),
    "retain-patient-characteristics": ("113108", "Retain Patient Characteristics Option"),
    "retain-device-identity": ("113109", "Retain Device Identity Option"),
    "retain-uids": ("113110", "Retain UIDs Option"),
    "retain-safe-private": ("113111", "Retain Safe Private Option"),
    "retain-institution-identity": ("113112", "Retain Institution Identity Option"),
}
# Not of the standard, so without a code: a document inside an object is replaced by an empty one, else refused.
EMPTY_DOCUMENTS = "empty-documents"
OFFERED = frozenset(METHOD_CODES) - {"basic"} | {EMPTY_DOCUMENTS}
_CONFLICTS = ({"retain-longitudinal-full-dates", "retain-longitudinal-modified-dates"},)


class Action(StrEnum):
    """What is done to an attribute."""

    REMOVE = "X"
    EMPTY = "Z"
    DUMMY = "D"
    KEEP = "K"
    CLEAN = "C"
    REMAP = "U"


# Where attribute types are not known: the choice that leaves any object valid and holds nothing of the original.
_COMPOUND = {"X/Z": "Z", "X/D": "D", "Z/D": "D", "X/Z/D": "D", "X/Z/U*": "U"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Profile:
    """A profile with its options resolved: one action a tag.

    Attributes:
        edition: of the table, as it goes into reports and outputs.
        options: the options in force.
        actions: tag (int) -> Action, for every attribute the table names, where attribute types are not known.
        words: tag -> the table's word (`X/Z/D`, `X`), for those whose action the attribute type decides (`types.py`).
        safe_private: (creator, group, element within the block) -> VR that is kept.
    """

    name: str
    edition: str
    options: frozenset[str]
    actions: dict[int, Action]
    words: dict[int, str] = field(default_factory=dict)
    safe_private: dict[tuple[str, int, int], str] = field(default_factory=dict)

    @property
    def codes(self) -> list[tuple[str, str]]:
        """Codes (value, meaning) of what is in force, for the Method Code Sequence."""
        coded = [name for name in sorted(self.options) if name in METHOD_CODES]
        return [METHOD_CODES[self.name], *(METHOD_CODES[name] for name in coded)]


def load(name: str = "basic", options: frozenset[str] = frozenset()) -> Profile:
    """Read a profile and resolve options.

    Raises:
        InputError: `input.usage` for an unknown profile, an option that is not offered, or options that conflict.
    """
    if name not in _FILES:
        raise InputError("input.usage", f"no such profile: {name!r}; there is: {', '.join(_FILES)}")
    unknown = sorted(options - OFFERED)
    if unknown:
        raise InputError("input.usage", f"option not offered: {unknown[0]!r}; there is: {', '.join(sorted(OFFERED))}")
    for pair in _CONFLICTS:
        if pair <= options:
            raise InputError("input.usage", f"options exclude each other: {', '.join(sorted(pair))}")
    edition, rows = _table(name)
    actions: dict[int, Action] = {}
    words: dict[int, str] = {}
    for tag, basic, columns in rows:
        chosen = {columns[option] for option in options if option in columns}
        word = "K" if "K" in chosen else "C" if "C" in chosen else ""
        actions[tag] = Action(word or _COMPOUND.get(basic, basic))
        if not word and basic not in ("D", "U"):
            words[tag] = basic
    safe = _safe_private() if "retain-safe-private" in options else {}
    return Profile(name=name, edition=edition, options=options, actions=actions, words=words, safe_private=safe)


@lru_cache(maxsize=1)
def _safe_private() -> dict[tuple[str, int, int], str]:
    data = json.loads((Path(__file__).parent / "safe_private.json").read_text("utf-8"))
    return {(creator, int(group, 16), int(element, 16)): vr for creator, group, element, vr, _ in data["rows"]}


@lru_cache(maxsize=4)
def _table(name: str) -> tuple[str, list[tuple[int, str, dict[str, str]]]]:
    data = json.loads((Path(__file__).parent / _FILES[name]).read_text("utf-8"))
    return data["edition"], [(int(row[0], 16), row[2], row[3]) for row in data["rows"]]
