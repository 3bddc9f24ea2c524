"""Attribute types of an object's IOD, read from `types.json`, and what compound actions of table E.1-1 mean then.

`dicom.py` asks once per tag and place of a storage class. Where the type is not known, the answer is the action that
leaves any object valid and holds nothing of the original. Not here: which options are in force.

Source: PS3.15 section E.1.1 (X/Z, X/D, Z/D, X/Z/D, X/Z/U*); PS3.5 section 7.4 (types); PS3.3 (IODs).
"""

from __future__ import annotations

import json
from functools import lru_cache
from pathlib import Path
from typing import Any

from privacy.deid.profiles import Action

__all__ = ["UNKNOWN", "Types", "resolve", "types_of"]

UNKNOWN = ""
_STRICTEST = ("1", "1C", "2", "2C", "3", UNKNOWN)
# action -> what it becomes for a type that must have a value, one that must be there, and an unknown one.
_COMPOUND: dict[str, tuple[str, str, str]] = {
    "X/Z": ("D", "Z", "Z"),
    "X/D": ("D", "Z", "D"),
    "Z/D": ("D", "Z", "D"),
    "X/Z/D": ("D", "Z", "D"),
    "X/Z/U*": ("U", "U", "U"),
    "Z": ("D", "Z", "Z"),
    "X": ("D", "Z", "X"),
}
_DIGITS = 8  # hex digits of a tag


class Types:
    """Types of one storage class.

    Args:
        exact: (path of sequences, tag) -> type, of this IOD.
        near: (innermost sequence, tag) -> strictest type, of this IOD, then of all.
        known: whether the IOD is one of the standard's.
    """

    def __init__(
        self,
        exact: dict[tuple[tuple[int, ...], int], str],
        near: list[dict[tuple[int, int], str]],
        known: bool,
    ) -> None:
        self._exact, self._near, self._known = exact, near, known

    def of(self, path: tuple[int, ...], tag: int) -> str:
        """`1`, `1C`, `2`, `2C`, `3` or UNKNOWN, for a tag inside a path of sequences."""
        found = self._exact.get((path, tag))
        if found is not None:
            return found
        if not path:  # at top level the tables name all that is required
            return "3" if self._known else UNKNOWN
        for table in self._near:
            found = table.get((path[-1], tag))
            if found is not None:
                return found
        return UNKNOWN


def resolve(word: str, kind: str) -> Action:
    """The action of a (compound) word of the table for an attribute type."""
    choices = _COMPOUND.get(word)
    if choices is None:
        return Action(word)
    if word == "X/Z/U*":
        # References with their UIDs remapped: Common Instance Reference is invalid where they are gone or empty.
        return Action.REMAP
    if kind == "3":
        return Action(word[0])
    if kind in ("1", "1C"):
        # The table's plain X goes before a condition that may not hold.
        return Action.REMOVE if (word, kind) == ("X", "1C") else Action(choices[0])
    return Action(choices[1] if kind in ("2", "2C") else choices[2])


@lru_cache(maxsize=256)
def types_of(sop_class: str) -> Types:
    """Types of a storage class; of one the tables do not know, only what holds for its nested sequences anywhere."""
    data = _table()
    modules = data["iods"].get(sop_class)
    if modules is None:
        return Types({}, [_everywhere()], known=False)
    exact: dict[tuple[tuple[int, ...], int], str] = {}
    for number in modules:
        _collect(exact, number)
    return Types(exact, [_innermost(exact), _everywhere()], known=True)


def _collect(into: dict[tuple[tuple[int, ...], int], str], number: int) -> None:
    data = _table()
    for path, kinds in data["modules"][number][1]:
        above = _tags(data["paths"][path])
        for kind, tags in kinds.items():
            for tag in _tags(tags):
                _keep_strictest(into, (above, tag), kind)


def _keep_strictest(into: dict[Any, str], key: Any, kind: str) -> None:
    if _STRICTEST.index(kind) < _STRICTEST.index(into.get(key, UNKNOWN)):
        into[key] = kind


def _innermost(exact: dict[tuple[tuple[int, ...], int], str]) -> dict[tuple[int, int], str]:
    near: dict[tuple[int, int], str] = {}
    for (path, tag), kind in exact.items():
        if path:
            _keep_strictest(near, (path[-1], tag), kind)
    return near


@lru_cache(maxsize=1)
def _everywhere() -> dict[tuple[int, int], str]:
    exact: dict[tuple[tuple[int, ...], int], str] = {}
    for number in range(len(_table()["modules"])):
        _collect(exact, number)
    return _innermost(exact)


@lru_cache(maxsize=1)
def _table() -> dict[str, Any]:
    data: dict[str, Any] = json.loads((Path(__file__).parent / "types.json").read_text("utf-8"))
    return data


def _tags(text: str) -> tuple[int, ...]:
    return tuple(int(text[at : at + _DIGITS], 16) for at in range(0, len(text), _DIGITS))
