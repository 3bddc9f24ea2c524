"""What the spool knows of a parcel: its ids, order, digest and size, kept as one JSON beside the parcel.

Place in the flow: written by `edge/spool.py` before a parcel is visible, read by whoever lists the spool, handed to
the uplink. Nothing here opens a seal.
"""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from protocol.errors import InputError
from protocol.parcel import canonical_json

__all__ = ["ParcelMeta", "SpoolEntry", "check_meta", "damage_of", "entry_json", "entry_of"]

_ID = re.compile(r"^[A-Za-z0-9][A-Za-z0-9._:-]{0,63}\Z")
_HEX64 = re.compile(r"^[0-9a-f]{64}\Z")
_HEX32 = re.compile(r"^[0-9a-f]{32}\Z")
_TEXTS = ("parcel_id", "assignment_id", "study_digest", "content_type", "digest")
_KEPT = (*_TEXTS, "sequence", "size_bytes")


@dataclass(frozen=True, slots=True, kw_only=True)
class ParcelMeta:
    """What is known of a parcel before it is sealed. `parcel_id` is 32 hex digits, `study_digest` 64."""

    parcel_id: str
    assignment_id: str
    study_digest: str
    content_type: str


@dataclass(frozen=True, slots=True, kw_only=True)
class SpoolEntry:
    """A parcel in the spool. `digest` is the SHA-256 (hex) of the whole file, `path` where it lay when listed."""

    parcel_id: str
    sequence: int
    assignment_id: str
    study_digest: str
    content_type: str
    digest: str
    size_bytes: int
    path: Path


def check_meta(meta: ParcelMeta) -> None:
    """Refuse ids that are none: they become file names.

    Raises:
        InputError: `input.message`.
    """
    if not (_HEX32.match(meta.parcel_id) and _HEX64.match(meta.study_digest) and _ID.match(meta.assignment_id)):
        raise InputError("input.message", "malformed parcel, study or assignment id")


def entry_json(entry: SpoolEntry, **more: Any) -> bytes:
    """An entry without its path, with what else is to be kept, as canonical JSON."""
    return canonical_json({**{name: getattr(entry, name) for name in _KEPT}, **more})


def entry_of(value: dict[str, Any], path: Path) -> SpoolEntry:
    """Read an entry back.

    Raises:
        KeyError, TypeError, ValueError: it is damaged.
    """
    texts = {name: str(value[name]) for name in _TEXTS}
    sequence, size = value["sequence"], value["size_bytes"]
    if type(sequence) is not int or type(size) is not int:
        raise TypeError("integers")
    return SpoolEntry(**texts, sequence=sequence, size_bytes=size, path=path)


def damage_of(entry: SpoolEntry) -> str | None:
    """Hash the parcel's file: None when it is what was written, else a code."""
    digest = hashlib.sha256()
    size = 0
    try:
        with entry.path.open("rb") as source:
            while block := source.read(1 << 20):
                digest.update(block)
                size += len(block)
    except OSError:
        return "storage.failed"
    if size != entry.size_bytes:
        return "parcel.truncated"
    return None if digest.hexdigest() == entry.digest else "parcel.chunk"
