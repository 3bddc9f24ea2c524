"""From profile, attribute types and dictionary to one rule a tag and place, made once and looked up ever after.

    book = Rulebook(profile)
    rules = book.at(sop_class, path)                 # a dict, filled as tags are met
    rule = rules.get(tag) or book.rule(rules, sop_class, path, tag)

The profile's action decides first; what the table does not name is decided by its value representation and never kept
on trust. Not here: elements, values, files.

Source: PS3.15 table E.1-1 and section E.3.
"""

from __future__ import annotations

from functools import lru_cache
from typing import NamedTuple

from privacy.deid import actions, elements
from privacy.deid.actions import Handler
from privacy.deid.profiles import Action, Profile
from privacy.deid.profiles.types import UNKNOWN, resolve, types_of

__all__ = ["Rule", "Rulebook", "names"]

_SPECIAL: dict[int, Handler] = {
    0x00080005: actions.character_set,
    0x00080100: actions.code_value,
    0x00080102: actions.scheme,
    0x00080201: actions.time_zone,
}
_BY_VR: dict[str, Handler] = {
    "SQ": actions.recurse,
    "UI": actions.remap,
    "PN": actions.dummy,
    "AE": actions.dummy,
    "CS": actions.code_string,
    "AS": actions.age,
    "DS": actions.number,
    "IS": actions.number,
}
_NEVER_GROUPS = frozenset({0x0000, 0x0002, 0x0004, 0xFFFC, 0xFFFE})
# Text that an option cleans although the table does not name it: Text Value of a content item.
_OPTION_TEXT = {0x0040A160: "clean-structured-content"}
_MAX_PLACES = 4096


class Rule(NamedTuple):
    """What happens to a tag.

    Attributes:
        handler: the action.
        vr: the dictionary's value representation.
        accepted: those a file may claim instead without harm.
        named: whether the table names the tag.
        limit: the most bytes a binary number may have; 0 for no limit.
        unsure: whether the attribute type would have decided, and is not known.
    """

    handler: Handler
    vr: str
    accepted: frozenset[str]
    named: bool
    limit: int
    unsure: bool


_REMOVE = Rule(actions.remove, "UN", frozenset(), False, 0, False)
Rules = dict[int, Rule]


class Rulebook:
    """Rules of one profile."""

    def __init__(self, profile: Profile) -> None:
        self._profile = profile
        self._places: dict[tuple[str, tuple[int, ...]], Rules] = {}
        self._anywhere: Rules = {}

    def at(self, sop_class: str, path: tuple[int, ...]) -> Rules:
        """The rules made so far for a path of sequences in a storage class."""
        rules = self._places.get((sop_class, path))
        if rules is None:
            if len(self._places) > _MAX_PLACES:  # a hostile file may nest without end
                self._places.clear()
            self._places[sop_class, path] = rules = {}
        return rules

    def rule(self, rules: Rules, sop_class: str, path: tuple[int, ...], tag: int) -> Rule:
        """Make the rule for a tag, and remember it."""
        rule = self._anywhere.get(tag) or self._make(tag)
        if rule is _REMOVE:  # private and unknown tags are not remembered: a hostile file could name millions
            return rule
        word = self._profile.words.get(tag)
        if word is not None:
            kind = types_of(sop_class).of(path, tag)
            handler = self._by_action(resolve(word, kind), tag, rule.vr)
            rule = rule._replace(handler=handler, unsure=kind == UNKNOWN and "/" in word)
        rules[tag] = rule
        return rule

    def _make(self, tag: int) -> Rule:
        from pydicom.datadict import DicomDictionary

        action, entry, group = self._profile.actions.get(tag), DicomDictionary.get(tag), tag >> 16
        if group & 1 or tag & 0xFFFF == 0 or group >> 8 in (0x50, 0x60) or group in _NEVER_GROUPS or entry is None:
            return _REMOVE
        allowed = entry[0].split(" or ")
        vr = allowed[0]
        family = elements.FAMILY.get(vr)
        accepted = frozenset(allowed) | {v for v, name in elements.FAMILY.items() if name == family}
        handler = self._by_action(action, tag, vr) if action else self._by_representation(tag, vr)
        limit = elements.limit(vr, entry[1]) if len(allowed) == 1 else 0
        rule = Rule(handler, vr, accepted, action is not None, limit, False)
        self._anywhere[tag] = rule
        return rule

    def _by_action(self, action: Action, tag: int, vr: str) -> Handler:
        if action in (Action.REMOVE, Action.EMPTY):
            return actions.remove if action is Action.REMOVE else actions.empty
        if action is Action.DUMMY:
            return {"SQ": actions.dummy_sequence, "UI": actions.remap}.get(vr, actions.dummy)
        if action is Action.REMAP:
            return {"SQ": actions.recurse, "UI": actions.remap}.get(vr, actions.dummy)
        if vr in elements.TEXT and tag not in _SPECIAL:
            return actions.describe if action is Action.CLEAN else actions.name_out
        if action is Action.CLEAN and vr == "CS":
            return actions.code_words
        if action is Action.KEEP and vr in ("UI", "PN", "AE"):
            return actions.keep_uid if vr == "UI" else actions.name_out
        return self._by_representation(tag, vr)

    def _by_representation(self, tag: int, vr: str) -> Handler:
        """The backstop, for what the table does not name and for what an option keeps."""
        if tag in _SPECIAL:
            return _SPECIAL[tag]
        if vr in elements.BULK:
            return actions.keep if tag >> 16 in elements.BULK_GROUPS else actions.remove
        if vr in elements.NUMBERS:
            return actions.keep
        if vr in elements.TEXT:
            return actions.describe if _OPTION_TEXT.get(tag) in self._profile.options else actions.words
        if vr in elements.DATES:
            if "retain-longitudinal-modified-dates" in self._profile.options:
                return actions.shift_dates
            full = "retain-longitudinal-full-dates" in self._profile.options
            return actions.keep_dates if full else actions.dummy
        return _BY_VR.get(vr, actions.remove)


@lru_cache(maxsize=1)
def names() -> frozenset[int]:
    """Tags that hold a person's name by the dictionary."""
    from pydicom.datadict import DicomDictionary

    return frozenset(tag for tag, entry in DicomDictionary.items() if entry[0] == "PN")
