"""Objects at rest under one symmetric key: what a lake keeps besides its tables.

The payload is cut into the same chunks as a parcel's (STREAM, AES-256-GCM), under a key that is derived for this one
object from the lake's key, a random salt and the object's place. An object that is moved, cut, reordered or put in
another's place does not open. This module stores no key and opens no file.

    magic (8) | salt (32) | chunks of 1 MiB + 16, the last one shorter

Source: `docs/spec/lake.md`; Hoang, Reyhanitabar, Rogaway, Vizár 2015 (STREAM); RFC 5869.
"""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Iterable, Iterator
from typing import BinaryIO

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from privacy.envelope.header import fill
from privacy.envelope.keys import derive
from privacy.envelope.stream import CHUNK_BYTES, TAG_BYTES, chunked, nonce
from protocol.errors import IntegrityError

__all__ = ["OBJECT_MAGIC", "keep", "read"]

OBJECT_MAGIC = b"CORSIAO\x01"
_SALT_BYTES = 32
_SEALED = CHUNK_BYTES + TAG_BYTES


def keep(chunks: Iterable[bytes], target: BinaryIO, *, key: bytes, place: str) -> None:
    """Write an object, given in pieces of any size, so that it opens only under this key and at this place.

    Args:
        chunks: read once, held one chunk at a time.
        target: neither flushed nor synced.
        key: 32 bytes, uniform.
        place: what the object is and where, as `study/batch/name`.
    """
    salt = secrets.token_bytes(_SALT_BYTES)
    cipher = AESGCM(_object_key(key, salt, place))
    target.write(OBJECT_MAGIC + salt)
    for index, (plain, last) in enumerate(chunked(chunks)):
        target.write(cipher.encrypt(nonce(index, last), plain, None))


def read(source: BinaryIO, *, key: bytes, place: str) -> Iterator[bytes]:
    """The pieces of an object; only when the last one has come was the object whole.

    Raises:
        IntegrityError: `lake.damaged`: another key or place, a changed, cut or lengthened object.
    """
    head = source.read(len(OBJECT_MAGIC) + _SALT_BYTES)
    if not head.startswith(OBJECT_MAGIC) or len(head) < len(OBJECT_MAGIC) + _SALT_BYTES:
        raise IntegrityError("lake.damaged")
    cipher = AESGCM(_object_key(key, head[len(OBJECT_MAGIC) :], place))
    window = memoryview(bytearray(_SEALED + 1))  # one byte more tells whether this chunk is the last
    held, index, last = fill(source, window), 0, False
    while not last:
        last = held <= _SEALED
        size = min(held, _SEALED)
        try:
            plain = cipher.decrypt(nonce(index, last), bytes(window[:size]), None)
        except (InvalidTag, ValueError):
            raise IntegrityError("lake.damaged") from None
        if not plain and index:
            raise IntegrityError("lake.damaged")
        yield plain
        if not last:
            window[0] = window[_SEALED]
            held = 1 + fill(source, window[1:])
            index += 1


def _object_key(key: bytes, salt: bytes, place: str) -> bytes:
    return derive(key, "corsia/v1/object", salt=salt + hashlib.sha256(place.encode()).digest())
