"""Signed notes: a text, an empty line, and lines of signatures by anybody; the form of checkpoints.

Pure text: which signatures must be there and what they are over is for `checkpoint` and `witness`.

Source: C2SP `signed-note` (https://c2sp.org/signed-note).
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import re
from dataclasses import dataclass

from protocol.errors import IntegrityError

__all__ = ["MAX_SIGNATURES", "Note", "Signature", "key_id", "parse_note", "signature_line", "unbase64"]

_MAX_TEXT = 1 << 17
MAX_SIGNATURES = 16  # the fewest that a reader must take
_LINE = re.compile(r"— ([^\s+]{1,256}) ([A-Za-z0-9+/]+={0,2})")
_ID_BYTES = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class Signature:
    """One signature line: the signer's name, the id of its key (4 bytes), and the bytes after it."""

    name: str
    key: bytes
    raw: bytes

    @property
    def line(self) -> str:
        """As it stands in a note, with its LF."""
        return signature_line(self.name, self.key, self.raw)


@dataclass(frozen=True, slots=True, kw_only=True)
class Note:
    """A text (ending in LF) and its signatures, in order; nothing of it is verified."""

    text: str
    signatures: tuple[Signature, ...]

    def by(self, name: str, key: bytes) -> bytes | None:
        """What a signer of this name and key id signed; None when there is no such line."""
        return next((one.raw for one in self.signatures if (one.name, one.key) == (name, key)), None)

    def also(self, more: tuple[Signature, ...]) -> Note:
        """The note with further signatures; a signer who is there already is replaced."""
        new = {(one.name, one.key) for one in more}
        kept = tuple(one for one in self.signatures if (one.name, one.key) not in new)
        return Note(text=self.text, signatures=kept + more)

    def __str__(self) -> str:
        return self.text + "\n" + "".join(one.line for one in self.signatures)


def key_id(name: str, kind: bytes, public: bytes) -> bytes:
    """SHA-256(name || LF || signature type || public key), first four bytes."""
    return hashlib.sha256(name.encode() + b"\n" + kind + public).digest()[:_ID_BYTES]


def signature_line(name: str, key: bytes, raw: bytes) -> str:
    """A signature line with its LF."""
    return f"— {name} {base64.b64encode(key + raw).decode('ascii')}\n"


def parse_note(note: str) -> Note:
    """Divide a note at its last empty line.

    Raises:
        IntegrityError: `log.proof`: not a note, or too large.
    """
    text, empty, lines = note.rpartition("\n\n")
    control = any((c < " " and c != "\n") or "\ud800" <= c <= "\udfff" for c in set(note))  # nor what is no UTF-8
    if len(note) > _MAX_TEXT or control or not empty or not lines.endswith("\n"):
        raise IntegrityError("log.proof", "the checkpoint is malformed")
    found = [_LINE.fullmatch(line) for line in lines[:-1].split("\n")]
    if len(found) > MAX_SIGNATURES or not all(found):
        raise IntegrityError("log.proof", "a signature line is malformed")
    made = []
    for line in found:
        raw = unbase64(line[2]) if line else b""
        if line is None or len(raw) <= _ID_BYTES:
            raise IntegrityError("log.proof", "a signature line is malformed")
        made.append(Signature(name=line[1], key=raw[:_ID_BYTES], raw=raw[_ID_BYTES:]))
    return Note(text=text + "\n", signatures=tuple(made))


def unbase64(text: str) -> bytes:
    """Standard base64 (RFC 4648 section 4) with its padding, in its one form.

    Raises:
        IntegrityError: `log.proof`.
    """
    try:
        raw = base64.b64decode(text.encode("ascii"), validate=True)
    except (ValueError, binascii.Error):
        raise IntegrityError("log.proof", "not base64") from None
    if base64.b64encode(raw).decode("ascii") != text:
        raise IntegrityError("log.proof", "not base64")
    return raw
