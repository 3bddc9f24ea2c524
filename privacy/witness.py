"""Witnesses: parties that watch a log grow and put their signature beside the log's, so that it cannot fork unseen.

A witness signs a checkpoint only when it extends the last one it signed. Who trusts a log asks for signatures of a
quorum of witnesses whose keys he has pinned. Pure: keeping what was last signed is the caller's work.

Source: C2SP `tlog-cosignature`, Ed25519 `cosignature/v1`, and `signed-note` (verifier keys); `docs/spec/log.md`.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Sequence
from dataclasses import dataclass

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from privacy.checkpoint import read_checkpoint
from privacy.envelope.keys import derive
from privacy.note import Note, Signature, key_id
from protocol.errors import InputError, IntegrityError

__all__ = ["WitnessKey", "WitnessSecret", "check_quorum", "witnessed_by"]

_KIND = b"\x04"  # signed-note type: timestamped Ed25519 witness cosignature
_NAME = re.compile(r"[^\s+\x00-\x20]{1,128}")
_TIME_BYTES = 8
_COSIGNATURE_BYTES = _TIME_BYTES + 64


def _message(time: int, text: str) -> bytes:
    return f"cosignature/v1\ntime {time}\n{text}".encode()


@dataclass(frozen=True, slots=True)
class WitnessKey:
    """A witness's public key: a name, and the 32 bytes of Ed25519."""

    name: str
    public: bytes

    @property
    def key_id(self) -> bytes:
        """Its id in signature lines."""
        return key_id(self.name, _KIND, self.public)

    @property
    def vkey(self) -> str:
        """`NAME+ID+KEY`, as it is handed on and pinned."""
        return f"{self.name}+{self.key_id.hex()}+{base64.b64encode(_KIND + self.public).decode('ascii')}"

    @classmethod
    def from_vkey(cls, text: str) -> WitnessKey:
        """Read a key as `vkey` writes it.

        Raises:
            InputError: `input.usage`: malformed, of another kind, or with an id that is not its own.
        """
        name, _, rest = text.strip().partition("+")
        try:
            raw = base64.b64decode(rest.partition("+")[2].encode("ascii"), validate=True)
        except ValueError:
            raw = b""
        made = cls(name, raw[1:])
        if not _NAME.fullmatch(name) or raw[:1] != _KIND or len(raw) != 33 or made.vkey != text.strip():
            raise InputError("input.usage", "not a witness's key (NAME+ID+KEY, `corsia log witness --show-key`)")
        return made

    def signed_at(self, note: Note) -> int | None:
        """When this witness signed a note (Unix seconds); None when it did not.

        Raises:
            IntegrityError: `log.witness` when there is a line of this key that does not verify.
        """
        raw = note.by(self.name, self.key_id)
        if raw is None:
            return None
        time = int.from_bytes(raw[:_TIME_BYTES], "big")
        try:
            if len(raw) != _COSIGNATURE_BYTES or time >= 1 << 63:
                raise InvalidSignature
            Ed25519PublicKey.from_public_bytes(self.public).verify(raw[_TIME_BYTES:], _message(time, note.text))
        except (InvalidSignature, ValueError):
            raise IntegrityError("log.witness", "a witness's signature does not verify") from None
        return time


class WitnessSecret:
    """A witness's signing key, derived from a key file's seed under its own label.

    Args:
        name: as it stands in signature lines: no blanks and no plus; a URL without scheme is usual.
        seed: 32 bytes.

    Raises:
        InputError: `input.usage` for another name.
    """

    def __init__(self, name: str, seed: bytes) -> None:
        if not _NAME.fullmatch(name):
            raise InputError("input.usage", "a witness's name is 1 to 128 characters without blanks and +")
        self._key = Ed25519PrivateKey.from_private_bytes(derive(seed, "corsia/v1/key/witness"))
        self.public = WitnessKey(name, self._key.public_key().public_bytes_raw())

    def cosign(self, text: str, time: int) -> str:
        """A checkpoint's text with this witness's signature at its end. The caller has judged the checkpoint.

        Args:
            time: of signing, Unix seconds.
        """
        _checkpoint, note = read_checkpoint(text)
        raw = time.to_bytes(_TIME_BYTES, "big") + self._key.sign(_message(time, note.text))
        return str(note.also((Signature(name=self.public.name, key=self.public.key_id, raw=raw),)))


def witnessed_by(text: str, witnesses: Sequence[WitnessKey]) -> list[WitnessKey]:
    """Those of the witnesses that signed a checkpoint.

    Raises:
        IntegrityError: `log.proof` when the text is no checkpoint, `log.witness` for a forged line.
    """
    _checkpoint, note = read_checkpoint(text)
    return [one for one in witnesses if one.signed_at(note) is not None]


def check_quorum(text: str, witnesses: Sequence[WitnessKey], quorum: int) -> None:
    """Ask for so many of the witnesses' signatures on a checkpoint; one key counts once, whatever its names.

    Raises:
        IntegrityError: `log.witness` when there are fewer; else as `witnessed_by`.
    """
    found = {one.public for one in witnessed_by(text, witnesses)}
    if len(found) < quorum:
        raise IntegrityError("log.witness", f"{len(found)} of the {quorum} witnesses asked for have signed")
