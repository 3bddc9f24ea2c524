"""Consent withdrawn after rows have left: who it is, by the study's pseudonyms, inside a sealed and signed parcel.

A site sends one item of kind `withdrawal`; raw rows and files carry one of kind `subjects` beside them, so that they
are found again. Neither ever names a patient by an id that the hospital uses.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass

from protocol.errors import IntegrityError
from protocol.parcel import Batch, Item, ItemKind, canonical_json

__all__ = ["PREFIX", "SUBJECTS", "Withdrawal", "read_subjects", "subjects_item"]

PREFIX = "withdrawal-"  # with its parcel's id, the assignment under which such a parcel goes: it answers none
SUBJECTS = "subjects.json"
_MAX_SUBJECTS = 1_000_000
_PSEUDONYM = re.compile(r"P[A-Z2-7]{16}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Withdrawal:
    """Persons of one study at one site; nobody where nothing about single persons has left (training, sums)."""

    subjects: frozenset[str]

    def item(self) -> Item:
        """What the parcel carries."""
        data = canonical_json({"subjects": sorted(self.subjects)})
        return Item(kind=ItemKind.WITHDRAWAL, name="withdrawal.json", data=data)

    @classmethod
    def of(cls, batch: Batch) -> Withdrawal:
        """Read one.

        Raises:
            IntegrityError: `parcel.payload` for anything but exactly one well-formed item.
        """
        if [item.kind for item in batch.items] != [ItemKind.WITHDRAWAL]:
            raise IntegrityError("parcel.payload")
        return cls.from_bytes(batch.items[0].data)

    @classmethod
    def from_bytes(cls, data: bytes) -> Withdrawal:
        """Read an item's data. Raises as `of`."""
        try:
            value = json.loads(data)
            subjects = value["subjects"]
            if set(value) != {"subjects"} or not isinstance(subjects, list) or len(subjects) > _MAX_SUBJECTS:
                raise ValueError("subjects")
            return cls(subjects=frozenset(map(_pseudonym, subjects)))
        except (ValueError, KeyError, TypeError, RecursionError):
            raise IntegrityError("parcel.payload") from None


def subjects_item(subjects: Mapping[str, str | list[str]]) -> Item:
    """Who each row of a table (in order), and each file, is about: by the name of the item."""
    return Item(kind=ItemKind.SUBJECTS, name=SUBJECTS, data=canonical_json(dict(subjects)))


def read_subjects(data: bytes) -> dict[str, str | list[str]]:
    """Read what `subjects_item` made; whether it fits the other items is the reader's to check.

    Raises:
        IntegrityError: `parcel.payload`.
    """
    try:
        value = json.loads(data)
        return {str(name): _who(found) for name, found in value.items()}
    except (ValueError, TypeError, AttributeError, RecursionError):
        raise IntegrityError("parcel.payload") from None


def _who(found: object) -> str | list[str]:
    return [_pseudonym(one) for one in found] if isinstance(found, list) else _pseudonym(found)


def _pseudonym(value: object) -> str:
    if not isinstance(value, str) or not _PSEUDONYM.fullmatch(value):
        raise ValueError("pseudonym")
    return value
