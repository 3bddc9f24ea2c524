"""Rule tables as data: one JSON file a profile and edition, made by `generate.py`, read once and resolved to actions.

Not here: what an action does to an element (`dicom.py`).

Source: PS3.15 table E.1-1 and section E.3 (options).
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from enum import StrEnum
from functools import lru_cache
from pathlib import Path

from protocol.errors import InputError

__all__ = ["METHOD_CODES", "OFFERED", "Action", "Profile", "load"]

_FILES = {"basic": "basic.json"}
# Offered options and the code that claims them (PS3.16 CID 7050); the others are refused until they are built.
METHOD_CODES: dict[str, tuple[str, str]] = {
    "basic": ("113100", "Basic Application Confidentiality Profile"),
    "clean-descriptors": ("113105", "Clean Descriptors Option"),
    "retain-longitudinal-full-dates": ("113106", "Retain Longitudinal Temporal Information Full Dates Option"),
    "retain-longitudinal-modified-dates": (
        "113107",
        "Retain Longitudinal Temporal Information Modified Dates Option",
    ),
    "retain-patient-characteristics": ("113108", "Retain Patient Characteristics Option"),
    "retain-device-identity": ("113109", "Retain Device Identity Option"),
    "retain-uids": ("113110", "Retain UIDs Option"),
    "retain-institution-identity": ("113112", "Retain Institution Identity Option"),
}
OFFERED = frozenset(METHOD_CODES) - {"basic"}
_CONFLICTS = ({"retain-longitudinal-full-dates", "retain-longitudinal-modified-dates"},)


class Action(StrEnum):
    """What is done to an attribute."""

    REMOVE = "X"
    EMPTY = "Z"
    DUMMY = "D"
    KEEP = "K"
    CLEAN = "C"
    REMAP = "U"


# Until attribute types are known: the choice that leaves any object valid and holds nothing of the original.
_COMPOUND = {"X/Z": "Z", "X/D": "D", "Z/D": "D", "X/Z/D": "D", "X/Z/U*": "U"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Profile:
    """A profile with its options resolved: one action a tag.

    Attributes:
        edition: of the table, as it goes into reports and outputs.
        options: the options in force.
        actions: tag (int) -> Action, for every attribute the table names.
    """

    name: str
    edition: str
    options: frozenset[str]
    actions: dict[int, Action]

    @property
    def codes(self) -> list[tuple[str, str]]:
        """Codes (value, meaning) of what runs, for the Method Code Sequence."""
        return [METHOD_CODES[self.name], *(METHOD_CODES[name] for name in sorted(self.options))]


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
    actions = {}
    for tag, basic, columns in rows:
        chosen = {columns[option] for option in options if option in columns}
        word = "K" if "K" in chosen else "C" if "C" in chosen else _COMPOUND.get(basic, basic)
        actions[tag] = Action(word)
    return Profile(name=name, edition=edition, options=options, actions=actions)


@lru_cache(maxsize=4)
def _table(name: str) -> tuple[str, list[tuple[int, str, dict[str, str]]]]:
    data = json.loads((Path(__file__).parent / _FILES[name]).read_text("utf-8"))
    return data["edition"], [(int(row[0], 16), row[2], row[3]) for row in data["rows"]]
