"""Sealing, verifying and opening a parcel, chunk by chunk in constant memory.

Payload chunks are AES-256-GCM in the STREAM construction; a signed trailer covers all before it. Nothing is released
before the trailer has been verified, and what is released is what was verified even if the file changes meanwhile.
This module stores no key and opens no file.

Source: `docs/spec/envelope.md` sections 3.2 to 6; Hoang, Reyhanitabar, Rogaway, Vizár 2015 (STREAM).
"""

from __future__ import annotations

import hashlib
import hmac
import secrets
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import BinaryIO

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from privacy.envelope.header import Header, ParcelInfo, encode_header, fill, read_head, wrap_info
from privacy.envelope.keys import KEY_BYTES, SIGNATURE_BYTES, PublicKey, SecretKey, derive
from protocol.errors import IntegrityError
from protocol.trust import Purpose

__all__ = [
    "CHUNK_BYTES",
    "TAG_BYTES",
    "TRAILER_BYTES",
    "Structure",
    "chunked",
    "inspect",
    "nonce",
    "seal",
    "unseal",
    "unseal_into",
    "verify",
]

CHUNK_BYTES = 1 << 20
TAG_BYTES = 16
MARKER = b"\r\nCOREND"
TRAILER_BYTES = len(MARKER) + 32 + SIGNATURE_BYTES
_SEALED = CHUNK_BYTES + TAG_BYTES
_MAX_CHUNKS = (1 << 32) - 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Structure:
    """What a whole parcel is made of, as far as one can tell without a key.

    Attributes:
        header: as written; not yet authentic.
        head: exact bytes of prefix and header.
        chunks: number of chunks; at least 1.
        plaintext_bytes: size of the payload once open.
        size_bytes: size of the whole parcel.
        sha256: hex digest of the whole parcel.
    """

    header: Header
    head: bytes
    chunks: int
    plaintext_bytes: int
    size_bytes: int
    sha256: str


@dataclass(frozen=True, slots=True)
class _Scan:
    structure: Structure
    digest: bytes
    signature: bytes


# -- sealing -----------------------------------------------------------------------------------------------------------


def seal(
    chunks: Iterable[bytes],
    target: BinaryIO,
    *,
    info: ParcelInfo,
    recipients: Sequence[PublicKey],
    signer: SecretKey,
) -> str:
    """Seal a payload, given in pieces of any size, to one or more recipients and sign it.

    A sealing that breaks off leaves an unusable target: discard it and seal anew under a fresh `parcel_id`.

    Args:
        chunks: the payload; read once, held one chunk at a time.
        target: where the parcel is written, from its current position; neither flushed nor synced.
        info: the readable header. `parcel_id` comes from `new_parcel_id()`, one for each sealing.
        recipients: 1 to 32 different keys.
        signer: the sending site's identity key.

    Returns:
        SHA-256 (hex) of all that was written.

    Raises:
        InputError: `input.usage` for values that the format does not allow; nothing was written.
    """
    info.check()
    file_key = secrets.token_bytes(KEY_BYTES)
    sender = signer.public.fingerprint
    head = encode_header(
        info,
        sender=sender,
        recipients=[
            (to.fingerprint, to.wrap(file_key, wrap_info(info, sender=sender, recipient=to.fingerprint)))
            for to in recipients
        ],
        commitment=_commitment(file_key),
    )
    hasher = hashlib.sha256(head)
    _write(target, head)
    cipher = AESGCM(_payload_key(file_key, head))
    out = memoryview(b"")
    for index, (plain, last) in enumerate(chunked(chunks)):
        if len(out) < len(plain) + TAG_BYTES:  # no more than there is to seal: most parcels are small
            out = memoryview(bytearray(len(plain) + TAG_BYTES))
        sealed = out[: len(plain) + TAG_BYTES]
        cipher.encrypt_into(nonce(index, last), plain, None, sealed)
        hasher.update(sealed)
        _write(target, sealed)
    digest = hasher.digest()
    trailer = MARKER + digest + signer.sign(Purpose.PARCEL, digest)
    hasher.update(trailer)
    _write(target, trailer)
    return hasher.hexdigest()


def chunked(pieces: Iterable[bytes]) -> Iterator[tuple[memoryview, bool]]:
    """Cut pieces into views of exactly CHUNK_BYTES, the last one shorter, empty only for an empty payload.

    A view is valid until the next one is asked for.
    """
    buffer = memoryview(bytearray(CHUNK_BYTES))
    held = 0
    for piece in pieces:
        rest = memoryview(piece).cast("B")
        while rest:
            if held == CHUNK_BYTES:
                yield buffer, False
                held = 0
            if held == 0 and len(rest) > CHUNK_BYTES:  # more follows: no need to copy
                yield rest[:CHUNK_BYTES], False
                rest = rest[CHUNK_BYTES:]
                continue
            count = min(CHUNK_BYTES - held, len(rest))
            buffer[held : held + count] = rest[:count]
            held += count
            rest = rest[count:]
    yield buffer[:held], True


# -- verifying ---------------------------------------------------------------------------------------------------------


def inspect(source: BinaryIO) -> Structure:
    """Check all that can be checked without a key: header, division into chunks, marker and digest.

    An accident is found, a forgery is not: anyone can compute the digest. `verify` is what tells who sent it.

    Raises:
        IntegrityError: `parcel.format`, `parcel.version`, `parcel.truncated` or `parcel.chunk`.
    """
    return _scan(source).structure


def verify(source: BinaryIO, *, sender: PublicKey, expect: ParcelInfo | None = None) -> Structure:
    """Check a whole parcel and who signed it, without opening it, in one pass from the current position to the end.

    Args:
        source: the parcel's bytes; need not be seekable.
        sender: whose signature must stand under it.
        expect: what the parcel must say that it is.

    Returns:
        What it is made of; header and digest are authentic now.

    Raises:
        IntegrityError: `parcel.*`, one code for each fault; the source is left anywhere.
    """
    return _verified(source, sender, expect, None)


def _verified(
    source: BinaryIO, sender: PublicKey, expect: ParcelInfo | None, seen: Callable[[memoryview], None] | None
) -> Structure:
    scan = _scan(source, sender, seen)
    sender.verify(Purpose.PARCEL, scan.digest, scan.signature)
    if expect is not None and scan.structure.header.info != expect:
        raise IntegrityError("parcel.context")
    return scan.structure


def _scan(source: BinaryIO, sender: PublicKey | None = None, seen: Callable[[memoryview], None] | None = None) -> _Scan:
    """Read head, chunks and trailer once. The window always holds back what may turn out to be the trailer."""
    header, head = read_head(source)
    if sender is not None and header.sender != sender.fingerprint:
        raise IntegrityError("parcel.signature", "the parcel is from another sender")
    hasher = hashlib.sha256(head)
    window = memoryview(bytearray(_SEALED + TRAILER_BYTES))
    chunks = payload = held = 0
    while True:
        held += fill(source, window[held:])
        size = _SEALED if held == len(window) else held - TRAILER_BYTES
        _check_chunk_size(size, chunks)
        if size:
            hasher.update(window[:size])
            if seen is not None:
                seen(window[:size])
            chunks += 1
            payload += size
            held -= size
            window[:held] = bytes(window[size : size + held])
        if size < _SEALED:
            break
    trailer = bytes(window[:TRAILER_BYTES])
    digest = hasher.digest()
    _check_trailer(trailer, digest)
    hasher.update(trailer)
    return _Scan(
        Structure(
            header=header,
            head=head,
            chunks=chunks,
            plaintext_bytes=payload - chunks * TAG_BYTES,
            size_bytes=len(head) + payload + TRAILER_BYTES,
            sha256=hasher.hexdigest(),
        ),
        digest,
        trailer[-SIGNATURE_BYTES:],
    )


def _check_chunk_size(size: int, before: int) -> None:
    """Refuse a chunk that cannot be: `size` bytes after `before` full ones. 0 after a full one is the end."""
    if size < 0 or 0 < size < TAG_BYTES or (size == 0 and before == 0):
        raise IntegrityError("parcel.truncated", "the parcel ends within its payload or trailer")
    if size == TAG_BYTES and before:
        raise IntegrityError("parcel.format", "an empty last chunk follows a full one")
    if before >= _MAX_CHUNKS and size:
        raise IntegrityError("parcel.format", "the parcel has too many chunks")


def _check_trailer(trailer: bytes, digest: bytes) -> None:
    if not trailer.startswith(MARKER):
        raise IntegrityError("parcel.truncated", "no trailer at the end: the parcel was cut, or something follows it")
    if not hmac.compare_digest(trailer[len(MARKER) : len(MARKER) + 32], digest):
        raise IntegrityError("parcel.chunk", "bytes of the parcel changed after it was sealed")


# -- opening -----------------------------------------------------------------------------------------------------------


def unseal(source: BinaryIO, *, key: SecretKey, sender: PublicKey, expect: ParcelInfo | None = None) -> Iterator[bytes]:
    """Verify a parcel whole, then give its payload piece by piece.

    Verification and unwrapping happen in this call, before the iterator is returned.

    Args:
        source: the parcel, seekable, from its current position to the end; read twice.
        key: one recipient's secret key.
        sender: whose signature must stand under it.
        expect: what the parcel must say that it is.

    Returns:
        Pieces of at most 1 MiB. A piece may raise `parcel.chunk` when the sender signed a chunk that does not open:
        then discard what came before.

    Raises:
        IntegrityError: `parcel.*`; nothing was released.
    """
    views = _opened(source, key, sender, expect)
    return (bytes(view) for view in views)


def unseal_into(
    source: BinaryIO, target: BinaryIO, *, key: SecretKey, sender: PublicKey, expect: ParcelInfo | None = None
) -> int:
    """As `unseal`, writing to `target`: the number of bytes. On an error discard the target."""
    total = 0
    for view in _opened(source, key, sender, expect):
        _write(target, view)
        total += len(view)
    return total


def _opened(source: BinaryIO, key: SecretKey, sender: PublicKey, expect: ParcelInfo | None) -> Iterator[memoryview]:
    start = source.tell()
    witness = _Witness()
    structure = _verified(source, sender, expect, witness.add)
    cipher = AESGCM(_payload_key(_file_key(structure.header, key), structure.head))
    source.seek(start + len(structure.head))
    return _decrypted(source, cipher, structure, witness)


def _decrypted(source: BinaryIO, cipher: AESGCM, structure: Structure, witness: _Witness) -> Iterator[memoryview]:
    left = structure.plaintext_bytes
    longest = min(left, CHUNK_BYTES)
    sealed, plain = memoryview(bytearray(longest + TAG_BYTES)), memoryview(bytearray(longest))
    for index in range(structure.chunks):
        size = min(left, CHUNK_BYTES)
        chunk = sealed[: size + TAG_BYTES]
        if fill(source, chunk) < len(chunk) or not witness.agrees(index, chunk):
            raise IntegrityError("parcel.chunk", "the file changed while it was being read")
        left -= size
        try:
            cipher.decrypt_into(nonce(index, left == 0), chunk, None, plain[:size])
        except InvalidTag:
            raise IntegrityError("parcel.chunk") from None
        yield plain[:size]


class _Witness:
    """Remembers each verified chunk by a 16-byte GMAC under a key of its own, which never leaves the process."""

    def __init__(self) -> None:
        self._mac = AESGCM(secrets.token_bytes(KEY_BYTES))
        self._tags = bytearray()

    def add(self, chunk: memoryview) -> None:
        self._tags += self._tag(len(self._tags) // TAG_BYTES, chunk)

    def agrees(self, index: int, chunk: memoryview) -> bool:
        known = self._tags[index * TAG_BYTES : (index + 1) * TAG_BYTES]
        return hmac.compare_digest(known, self._tag(index, chunk))

    def _tag(self, index: int, chunk: memoryview) -> bytes:
        return self._mac.encrypt(index.to_bytes(12, "big"), b"", chunk)


# -- keys of one parcel ------------------------------------------------------------------------------------------------


def _file_key(header: Header, key: SecretKey) -> bytes:
    mine = key.public.fingerprint
    sealed = dict(header.recipients).get(mine)
    if sealed is None:
        raise IntegrityError("parcel.key")
    file_key = key.unwrap(sealed, wrap_info(header.info, sender=header.sender, recipient=mine))
    if not hmac.compare_digest(_commitment(file_key), header.commitment):
        raise IntegrityError("parcel.key", "the file key is not the one that the header commits to")
    return file_key


def _commitment(file_key: bytes) -> str:
    return derive(file_key, "corsia/v1/commitment").hex()


def _payload_key(file_key: bytes, head: bytes) -> bytes:
    return derive(file_key, "corsia/v1/payload", salt=hashlib.sha256(head).digest())


def nonce(index: int, last: bool) -> bytes:
    """12 bytes for one chunk under a key that seals nothing else: its number and whether it is the last."""
    return index.to_bytes(11, "big") + (b"\x01" if last else b"\x00")


def _write(target: BinaryIO, data: bytes | memoryview) -> None:
    """Write all of it, also to a raw file that takes less at a time."""
    while data:
        count = target.write(data)
        if not count:
            raise BlockingIOError("the target takes no more bytes")
        data = data[count:]
