"""What a folder carries between a site without a line and the centre: parcels and signed notes there, receipts back.

The format of both sides (`docs/spec/medium.md`) and the careful way to read such a folder, which anybody may have
had in his hands. Who may land what, and what a receipt is worth, is decided elsewhere.
"""

from __future__ import annotations

import base64
import binascii
import errno
import json
import os
import re
import stat
from collections.abc import Iterator
from dataclasses import asdict, dataclass, fields
from io import BufferedReader
from pathlib import Path
from typing import Any

from protocol.errors import InputError
from protocol.parcel import Receipt, canonical_json

__all__ = ["Note", "SignedNote", "named", "open_plain", "read_document", "read_receipt", "receipt_json"]

MAX_DOCUMENT_BYTES = 64 << 10
_ID = re.compile(r"[0-9a-f]{32}")
_NUMBERS = ("sequence", "size_bytes")


@dataclass(frozen=True, slots=True, kw_only=True)
class Note:
    """What a site says of a parcel: ids as on the wire, `digest` the SHA-256 (hex) of the file of `size_bytes`.

    `sequence` is the site's own order.
    """

    site: str
    sequence: int
    parcel_id: str
    study_digest: str
    assignment_id: str
    content_type: str
    size_bytes: int
    digest: str

    def document(self) -> bytes:
        """The bytes that the site's identity key signs (context `Purpose.MEDIUM`)."""
        return canonical_json(asdict(self))


@dataclass(frozen=True, slots=True, kw_only=True)
class SignedNote:
    """A note with its signature, which nobody has verified yet."""

    note: Note
    signature: bytes

    def to_bytes(self) -> bytes:
        """The file's bytes."""
        return canonical_json({"note": asdict(self.note), "signature": base64.b64encode(self.signature).decode()})

    @classmethod
    def from_bytes(cls, raw: bytes) -> SignedNote:
        """Read a file.

        Raises:
            InputError: `input.medium` for anything but a well-formed note.
        """
        value = _object(raw)
        try:
            about = value["note"]
            if set(value) != {"note", "signature"} or set(about) != {field.name for field in fields(Note)}:
                raise ValueError("members")
            for name, content in about.items():
                if type(content) is not (int if name in _NUMBERS else str):
                    raise TypeError(name)
                if isinstance(content, str) and not (content.isascii() and content.isprintable()):
                    raise ValueError(name)  # no name of ours; half a pair or a NUL is none that a database takes
            if not _ID.fullmatch(about["parcel_id"]) or min(about["sequence"], about["size_bytes"]) < 0:
                raise ValueError("values")
            return cls(note=Note(**about), signature=base64.b64decode(value["signature"], validate=True))
        except (AttributeError, KeyError, TypeError, ValueError, binascii.Error):
            raise InputError("input.medium", "a note on the medium is malformed") from None


def named(folder: Path, suffix: str) -> Iterator[tuple[str, Path]]:
    """Parcel id and path of every file `ID.SUFFIX`, by id; other names are passed over.

    Raises:
        OSError: the folder cannot be read.
    """
    for name in sorted(os.listdir(folder)):
        parcel_id, dot, rest = name.partition(".")
        if dot and rest == suffix and _ID.fullmatch(parcel_id):
            yield parcel_id, folder / name


def open_plain(path: Path) -> BufferedReader:
    """Open a regular file for reading: no link is followed, no pipe or device waited for.

    Raises:
        OSError: it cannot be opened.
        InputError: `input.medium` when it is something else than a file.
    """
    try:
        handle = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        if error.errno == errno.ELOOP:
            raise InputError("input.medium", "what should be a file on the medium is a link") from None
        raise
    if not stat.S_ISREG(os.fstat(handle).st_mode):
        os.close(handle)
        raise InputError("input.medium", "what should be a file on the medium is none")
    return os.fdopen(handle, "rb")


def read_document(path: Path) -> bytes:
    """A note's or receipt's bytes.

    Raises:
        OSError: it cannot be read.
        InputError: `input.medium` when it is no file, or larger than such a document is.
    """
    with open_plain(path) as file:
        raw = file.read(MAX_DOCUMENT_BYTES + 1)
    if len(raw) > MAX_DOCUMENT_BYTES:
        raise InputError("input.medium", "a document on the medium is too large")
    return raw


def receipt_json(receipt: Receipt) -> bytes:
    """A receipt as a file's bytes."""
    return canonical_json(asdict(receipt))


def read_receipt(raw: bytes) -> Receipt:
    """A receipt back, unverified.

    Raises:
        InputError: `input.medium` for anything but a well-formed one.
    """
    value = _object(raw)
    try:
        if set(value) != {field.name for field in fields(Receipt)} or type(value["index"]) is not int:
            raise ValueError("members")
        proof = tuple(value["proof"])
        texts = (value["parcel_id"], value["digest"], value["checkpoint"], *proof)
        if not all(isinstance(text, str) for text in texts) or not _ID.fullmatch(value["parcel_id"]):
            raise ValueError("values")
        return Receipt(**{**value, "proof": proof})
    except (KeyError, TypeError, ValueError):
        raise InputError("input.medium", "a receipt on the medium is malformed") from None


def _object(raw: bytes) -> dict[str, Any]:
    try:
        value = json.loads(raw)
    except (ValueError, RecursionError):
        value = None
    if not isinstance(value, dict):
        raise InputError("input.medium", "a document on the medium is no JSON object")
    return value
