"""The readable part of a parcel: parsing and writing it, and nothing else.

The parser takes exactly the canonical bytes of a header with exactly the members of the format. It holds no key; what
a header says is only true once the trailer has been verified (`stream.py`).

Source: `docs/spec/envelope.md` section 3.
"""

from __future__ import annotations

import base64
import binascii
import json
import re
import secrets
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, BinaryIO

from privacy.envelope.keys import WRAPPED_BYTES
from protocol.errors import InputError, IntegrityError
from protocol.parcel import canonical_json

__all__ = [
    "MAGIC",
    "MAX_HEADER_BYTES",
    "MAX_RECIPIENTS",
    "SUITE",
    "VERSION",
    "Header",
    "ParcelInfo",
    "encode_header",
    "fill",
    "new_parcel_id",
    "parse_header",
    "read_head",
    "read_header",
    "wrap_info",
]

MAGIC = b"CORSIA"
VERSION = 1
SUITE = 1
MAX_HEADER_BYTES = 1 << 16
MAX_RECIPIENTS = 32
_PREFIX = struct.Struct(">6sBBI")
_HEX16 = re.compile(r"[0-9a-f]{32}")
_HEX32 = re.compile(r"[0-9a-f]{64}")
_FIELDS = {
    "parcel_id": ("parcel", _HEX16),
    "study": ("study", re.compile(r"[a-z0-9][a-z0-9-]{0,63}")),
    "site": ("site", re.compile(r"[a-z0-9][a-z0-9-]{0,62}")),
    "content_type": ("content_type", re.compile(r"[a-z][a-z0-9-]{0,31}")),
}
_MEMBERS = frozenset({"commitment", "content_type", "parcel", "recipients", "sender", "site", "study"})


@dataclass(frozen=True, slots=True, kw_only=True)
class ParcelInfo:
    """What a parcel is: its random id (32 hex digits), the study's digest (hex), the sending site, its kind."""

    parcel_id: str
    study: str
    site: str
    content_type: str

    def check(self) -> None:
        """Refuse values that a header cannot carry.

        Raises:
            InputError: `input.usage`, naming the field.
        """
        for name, (_, pattern) in _FIELDS.items():
            if not pattern.fullmatch(getattr(self, name)):
                raise InputError("input.usage", f"{name}: must match {pattern.pattern}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Header:
    """A parsed header. `recipients` are (fingerprint, sealed file key), ascending; `commitment` is 64 hex digits."""

    version: int
    info: ParcelInfo
    sender: str
    recipients: tuple[tuple[str, bytes], ...]
    commitment: str


def new_parcel_id() -> str:
    """16 random bytes in hex."""
    return secrets.token_hex(16)


def wrap_info(info: ParcelInfo, *, sender: str, recipient: str) -> bytes:
    """The HPKE `info` that ties a sealed file key to its place: suite, study, site, parcel, kind, sender, recipient."""
    return canonical_json(
        {
            "content_type": info.content_type,
            "context": "corsia/v1/wrap",
            "parcel": info.parcel_id,
            "recipient": recipient,
            "sender": sender,
            "site": info.site,
            "study": info.study,
            "suite": SUITE,
        }
    )


def encode_header(info: ParcelInfo, *, sender: str, recipients: Sequence[tuple[str, bytes]], commitment: str) -> bytes:
    """Prefix and header as they stand in the file.

    Raises:
        InputError: `input.usage` for values that the format does not allow.
    """
    info.check()
    ordered = sorted(recipients)
    if not 1 <= len(ordered) <= MAX_RECIPIENTS or len({name for name, _ in ordered}) != len(ordered):
        raise InputError("input.usage", f"a parcel has 1 to {MAX_RECIPIENTS} different recipients")
    raw = canonical_json(
        {
            "commitment": commitment,
            "content_type": info.content_type,
            "parcel": info.parcel_id,
            "recipients": [
                {"fingerprint": name, "key": base64.b64encode(key).decode("ascii")} for name, key in ordered
            ],
            "sender": sender,
            "site": info.site,
            "study": info.study,
        }
    )
    return _PREFIX.pack(MAGIC, VERSION, SUITE, len(raw)) + raw


def fill(source: BinaryIO, view: memoryview) -> int:
    """Read until the view is full or the source ends; how many bytes were read."""
    at = 0
    while at < len(view):
        count = source.readinto(view[at:])  # type: ignore[attr-defined]
        if not count:
            break
        at += count
    return at


def read_head(source: BinaryIO) -> tuple[Header, bytes]:
    """Read prefix and header: what they say, and their exact bytes. Reads not a byte further.

    Raises:
        IntegrityError: `parcel.format`, `parcel.version` or `parcel.truncated`.
    """
    prefix = bytearray(_PREFIX.size)
    count = fill(source, memoryview(prefix))
    if prefix[: min(count, len(MAGIC))] != MAGIC[:count]:
        raise IntegrityError("parcel.format", "not a parcel: the magic bytes are missing")
    if count < len(prefix):
        raise IntegrityError("parcel.truncated", "the parcel ends within its first bytes")
    _, version, suite, size = _PREFIX.unpack(prefix)
    if (version, suite) != (VERSION, SUITE):
        raise IntegrityError("parcel.version", f"version {version}, suite {suite} is not supported here")
    if not 1 <= size <= MAX_HEADER_BYTES:
        raise IntegrityError("parcel.format", f"a header of {size} bytes is not allowed")
    raw = bytearray(size)
    if fill(source, memoryview(raw)) < size:
        raise IntegrityError("parcel.truncated", "the parcel ends within its header")
    return parse_header(bytes(raw)), bytes(prefix + raw)


def read_header(source: BinaryIO) -> Header:
    """Read who sent what to whom, without any key. True only if the trailer verifies.

    Raises:
        IntegrityError: `parcel.format`, `parcel.version` or `parcel.truncated`.
    """
    return read_head(source)[0]


def parse_header(raw: bytes) -> Header:
    """Parse the canonical JSON of a header.

    Raises:
        IntegrityError: `parcel.format`, for anything but the canonical bytes of a valid header.
    """
    try:
        value = json.loads(raw)
        if not isinstance(value, dict) or value.keys() != _MEMBERS:
            raise ValueError("members")
        header = Header(
            version=VERSION,
            info=ParcelInfo(**{name: _text(value[key], rule) for name, (key, rule) in _FIELDS.items()}),
            sender=_text(value["sender"], _HEX32),
            recipients=_recipients(value["recipients"]),
            commitment=_text(value["commitment"], _HEX32),
        )
        if canonical_json(value) != raw:
            raise ValueError("not canonical")
    except (ValueError, TypeError, RecursionError) as error:
        raise IntegrityError("parcel.format", f"the header is malformed: {type(error).__name__}") from None
    return header


def _text(value: Any, pattern: re.Pattern[str]) -> str:
    if not isinstance(value, str) or not pattern.fullmatch(value):
        raise ValueError("value")
    return value


def _recipients(value: Any) -> tuple[tuple[str, bytes], ...]:
    if not isinstance(value, list) or not 1 <= len(value) <= MAX_RECIPIENTS:
        raise ValueError("recipients")
    found = []
    for entry in value:
        if not isinstance(entry, dict) or entry.keys() != {"fingerprint", "key"} or not isinstance(entry["key"], str):
            raise ValueError("recipient")
        found.append((_text(entry["fingerprint"], _HEX32), _unbase64(entry["key"])))
    names = [name for name, _ in found]
    if any(a >= b for a, b in pairwise(names)):
        raise ValueError("order")
    return tuple(found)


def _unbase64(text: str) -> bytes:
    try:
        raw = base64.b64decode(text.encode("ascii"), validate=True)
    except binascii.Error:
        raise ValueError("base64") from None
    if len(raw) != WRAPPED_BYTES or base64.b64encode(raw).decode("ascii") != text:
        raise ValueError("base64")
    return raw
