"""What goes between daemon and node: chunks under AES-256-GCM with a counter, one key a job, one direction each.

    4 bytes big-endian length of what follows | ciphertext and tag of up to 256 KiB

The nonce is the direction (1 byte) and the number of the chunk, so that none can be left out, repeated, reordered or
sent back. The first byte of a chunk is its kind: data, a sign of life, or the last chunk, after which its writer waits
for the other end to hang up: a cluster that is told to end a job throws away what is still on its way. Whatever is
wrong ends the channel: the worker is then gone, as if it had died.

Source: NIST SP 800-38D (GCM); the key is used for one job and at most 2^32 chunks.
"""

from __future__ import annotations

import os
import select
import struct
import threading
from collections.abc import Callable

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from protocol.errors import IntegrityError

__all__ = ["KEY_BYTES", "LIFE_S", "Reader", "Writer", "between"]

KEY_BYTES = 32
CHUNK_BYTES = 1 << 18
_DATA, _LIFE, _LAST = b"\0", b"\1", b"\2"  # kinds of a chunk
LIFE_S = 5.0  # how often an end says that it lives
SILENCE_S = 300.0  # after which the other end counts as dead: a machine that is gone says nothing, not even that
_LENGTH, _NONCE = struct.Struct(">I"), struct.Struct(">B3xQ")
_TAG_BYTES, _MOST_CHUNKS = 16, 1 << 32


class Writer:
    """Seals what is written. Safe for several threads.

    Args:
        handle: descriptor of the way out.
        direction: 0 from the daemon, 1 from the node.
    """

    def __init__(self, handle: int, key: bytes, direction: int) -> None:
        self._handle, self._cipher, self._direction = handle, AESGCM(key), direction
        self._lock, self._count = threading.Lock(), 0

    def write(self, data: bytes) -> None:
        """Send up to `CHUNK_BYTES`; nothing says only that this end lives. Raises: OSError."""
        self._send((_DATA if data else _LIFE) + data)

    def last(self) -> None:
        """Say that nothing more comes. Raises: OSError."""
        self._send(_LAST)

    def _send(self, plain: bytes) -> None:
        with self._lock:
            if self._count >= _MOST_CHUNKS:
                raise OSError("the channel's key is used up")
            nonce = _NONCE.pack(self._direction, self._count)
            self._count += 1
            sealed = self._cipher.encrypt(nonce, plain, None)
            view = memoryview(_LENGTH.pack(len(sealed)) + sealed)
            while view:
                view = view[os.write(self._handle, view) :]


class Reader:
    """Opens what comes. For one thread.

    Args:
        first_s: how long the other end may take to say anything: a busy cluster starts it in its own time.
    """

    def __init__(self, handle: int, key: bytes, direction: int, *, first_s: float = SILENCE_S) -> None:
        self._handle, self._cipher, self._direction = handle, AESGCM(key), direction
        self._count, self._first_s = 0, first_s

    def read(self) -> bytes | None:
        """The next data, empty where the other end only says that it lives; None at the end.

        Raises:
            IntegrityError: `parcel.chunk`: a chunk is not the next one of this key.
            TimeoutError: the other end has been silent for too long.
        """
        head = self._exactly(_LENGTH.size)
        if head is None:
            return None
        (size,) = _LENGTH.unpack(head)
        if not 1 + _TAG_BYTES <= size <= 1 + CHUNK_BYTES + _TAG_BYTES:
            raise IntegrityError("parcel.chunk")
        sealed = self._exactly(size)
        if sealed is None:
            raise IntegrityError("parcel.chunk")
        try:
            plain = self._cipher.decrypt(_NONCE.pack(self._direction, self._count), sealed, None)
        except InvalidTag:
            raise IntegrityError("parcel.chunk") from None
        self._count += 1
        if plain[:1] not in (_DATA, _LIFE):
            return None
        return plain[1:]

    def _exactly(self, size: int) -> bytes | None:
        parts = bytearray()
        while len(parts) < size:
            patience = SILENCE_S if self._count else self._first_s
            if not select.select([self._handle], [], [], patience)[0]:
                raise TimeoutError
            part = os.read(self._handle, size - len(parts))
            if not part:
                return None
            parts += part
        return bytes(parts)


def between(plain_in: int, plain_out: int, writer: Writer, reader: Reader, ended: Callable[[], None]) -> None:
    """Carry both directions until the other end is gone or has said its last; then call `ended` and return.

    Where this machine's side ends first, the other end has everything before it hangs up.

    Args:
        plain_in, plain_out: descriptors of the pipes on this machine.
    """
    done = threading.Event()
    for work in (lambda: _outward(plain_in, writer, done), lambda: _inward(plain_out, reader)):
        threading.Thread(target=_until_gone, args=(work, done), daemon=True).start()
    while not done.wait(LIFE_S):
        try:
            writer.write(b"")
        except OSError:
            break
    ended()


def _until_gone(work: Callable[[], None], done: threading.Event) -> None:
    try:
        work()
    except (OSError, IntegrityError):  # a silence is an OSError too
        pass
    finally:
        done.set()


def _outward(plain_in: int, writer: Writer, done: threading.Event) -> None:
    while data := os.read(plain_in, CHUNK_BYTES):
        writer.write(data)
    writer.last()
    done.wait()


def _inward(plain_out: int, reader: Reader) -> None:
    while (data := reader.read()) is not None:
        view = memoryview(data)
        while view:
            view = view[os.write(plain_out, view) :]
