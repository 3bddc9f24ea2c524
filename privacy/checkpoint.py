"""Checkpoints: the signed state of a log, as a note that anybody can carry about in a file.

Pure: text in, values out. The log's own signature is the hybrid one of all documents; those of witnesses are beside it
(`privacy/witness.py`).

Source: C2SP `tlog-checkpoint` (https://c2sp.org/tlog-checkpoint); `docs/spec/log.md` section 3.
"""

from __future__ import annotations

import base64
import re
from dataclasses import dataclass

from privacy.envelope.keys import PublicKey, SecretKey
from privacy.note import Note, Signature, key_id, parse_note, unbase64
from protocol.errors import InputError, IntegrityError
from protocol.trust import Purpose

__all__ = ["ORIGIN", "Checkpoint", "open_checkpoint", "read_checkpoint", "sign_checkpoint"]

ORIGIN = re.compile(r"[!-*,-~]{1,128}")  # printable ASCII without space and "+" (signed-note key names)
_NUMBER = r"(0|[1-9][0-9]{0,18})"
_BODY = re.compile(rf"({ORIGIN.pattern})\n{_NUMBER}\n([A-Za-z0-9+/]{{43}}=)\ntime {_NUMBER}\n")
_ALGORITHM = b"\xffcorsia ed25519+ml-dsa-65"  # signed-note type 0xff: named here


@dataclass(frozen=True, slots=True, kw_only=True)
class Checkpoint:
    """The state of a log: its name, number of leaves, root (32 bytes) and the time of signing (Unix seconds)."""

    origin: str
    size: int
    root: bytes
    time: int

    def body(self) -> str:
        """The signed text: origin, size, root in base64, time; a line each."""
        return f"{self.origin}\n{self.size}\n{base64.b64encode(self.root).decode('ascii')}\ntime {self.time}\n"


def sign_checkpoint(checkpoint: Checkpoint, key: SecretKey) -> str:
    """The text of a checkpoint with the log's signature line.

    Raises:
        InputError: `input.usage` for an origin with spaces, plus signs or more than 128 characters.
    """
    if not ORIGIN.fullmatch(checkpoint.origin):
        raise InputError("input.usage", "a log's origin is 1 to 128 printable ASCII characters without space and +")
    body = checkpoint.body()
    if _parse_body(body) != checkpoint:
        raise ValueError("not a valid checkpoint")
    raw = key.sign(Purpose.CHECKPOINT, body.encode("ascii"))
    mine = Signature(name=checkpoint.origin, key=_key_id(checkpoint.origin, key.public), raw=raw)
    return str(Note(text=body, signatures=(mine,)))


def read_checkpoint(text: str) -> tuple[Checkpoint, Note]:
    """A checkpoint and the note it stands in, no signature verified.

    Raises:
        IntegrityError: `log.proof` when it is malformed.
    """
    note = parse_note(text)
    return _parse_body(note.text), note


def open_checkpoint(text: str, public: PublicKey, origin: str) -> Checkpoint:
    """Read a checkpoint of a known log. Signatures of others (witnesses) may stand beside the log's own.

    Raises:
        IntegrityError: `log.proof` when it is malformed, of another log, or not signed by this key.
    """
    checkpoint, note = read_checkpoint(text)
    if checkpoint.origin != origin:
        raise IntegrityError("log.proof", "the checkpoint is of another log")
    raw = note.by(origin, _key_id(origin, public))
    if raw is None:
        raise IntegrityError("log.proof", "the checkpoint is not signed by the log's key")
    try:
        public.verify(Purpose.CHECKPOINT, note.text.encode("ascii"), raw)
    except IntegrityError:
        raise IntegrityError("log.proof", "the checkpoint's signature does not verify") from None
    return checkpoint


def _key_id(origin: str, public: PublicKey) -> bytes:
    return key_id(origin, _ALGORITHM, public.to_bytes())


def _parse_body(body: str) -> Checkpoint:
    found = _BODY.fullmatch(body)
    if found is None:
        raise IntegrityError("log.proof", "the checkpoint is malformed")
    origin, size, root, time = found.groups()
    return Checkpoint(origin=origin, size=int(size), root=unbase64(root), time=int(time))
