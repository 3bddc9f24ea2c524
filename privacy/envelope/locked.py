"""A secret under a passphrase: scrypt, then AES-256-GCM. What a locked key file holds.

Pure: bytes in, bytes out; where file and passphrase come from is `keyfile`'s affair. The format is
`docs/spec/keyfile.md`. All files that were locked together share one salt, so that a process pays for scrypt once,
while each file has a key of its own by HKDF. A lost passphrase cannot be replaced: there is no second way in.

Source: RFC 7914 (scrypt); RFC 5869; NIST SP 800-38D.
"""

from __future__ import annotations

import hashlib
import secrets
import struct
import threading
from collections import OrderedDict

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.kdf.scrypt import Scrypt

from privacy.envelope.keys import KEY_BYTES, derive
from protocol.errors import ConfigurationError

__all__ = ["HEADER_BYTES", "MAX_SECRET_BYTES", "is_locked", "lock", "unlock"]

MAX_SECRET_BYTES = 16_384
WORK = 17  # log2 N of what is locked here: 128 MiB and a third of a second
_MAGIC = b"corsiakf"
_VERSION = 1
_BLOCK, _LANES = 8, 1
_LEAST, _MOST = 14, 20  # log2 N that is read: less protects nothing, more would exhaust this machine
_MOST_BLOCK, _MOST_LANES = 8, 4
_HEADER = struct.Struct(">8s4B16s32s12s")
HEADER_BYTES = _HEADER.size
_TAG_BYTES = 16
_LABEL = "corsia/v1/keyfile"
_KEPT = 8


def is_locked(raw: bytes) -> bool:
    """Whether these bytes say that they are a locked secret; 32 raw bytes never do."""
    return len(raw) > KEY_BYTES and raw.startswith(_MAGIC)


def lock(secret: bytes, passphrase: bytes, *, work: int = WORK) -> bytes:
    """A secret of 1 to 16,384 bytes under a passphrase.

    Args:
        secret: a seed or a private key.
        passphrase: any bytes; their quality is all that protects a stolen file.
        work: log2 of scrypt's N, 14 to 20.
    """
    if not 1 <= len(secret) <= MAX_SECRET_BYTES or not _LEAST <= work <= _MOST:
        raise ValueError("size of the secret, or work")
    salt, own, nonce = _roots.salt(passphrase, work), secrets.token_bytes(32), secrets.token_bytes(12)
    header = _HEADER.pack(_MAGIC, _VERSION, work, _BLOCK, _LANES, salt, own, nonce)
    root = _roots.root(passphrase, salt, work, _BLOCK, _LANES)
    return header + AESGCM(derive(root, _LABEL, salt=own)).encrypt(nonce, secret, header)


def unlock(raw: bytes, passphrase: bytes) -> bytes:
    """The secret of a locked file.

    Raises:
        ConfigurationError: `config.passphrase` for another passphrase, a damaged file, or one of a later version.
    """
    if not HEADER_BYTES + _TAG_BYTES < len(raw) <= HEADER_BYTES + _TAG_BYTES + MAX_SECRET_BYTES:
        raise ConfigurationError("config.passphrase", "a locked key file is cut or too long")
    magic, version, work, block, lanes, salt, own, nonce = _HEADER.unpack_from(raw)
    if magic != _MAGIC or version != _VERSION:
        raise ConfigurationError("config.passphrase", "a key file is locked in a form that this version does not know")
    if not (_LEAST <= work <= _MOST and 1 <= block <= _MOST_BLOCK and 1 <= lanes <= _MOST_LANES):
        raise ConfigurationError("config.passphrase", "a locked key file asks for more, or less, work than is allowed")
    root = _roots.root(passphrase, salt, work, block, lanes)
    try:
        return AESGCM(derive(root, _LABEL, salt=own)).decrypt(nonce, raw[HEADER_BYTES:], raw[:HEADER_BYTES])
    except InvalidTag:
        raise ConfigurationError("config.passphrase", "the passphrase is another, or a key file is damaged") from None


class _Roots:
    """What scrypt made in this process, and the salt that new files of a passphrase get."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._made: OrderedDict[tuple[bytes, bytes, int, int, int], bytes] = OrderedDict()
        self._salts: OrderedDict[tuple[bytes, int], bytes] = OrderedDict()

    def salt(self, passphrase: bytes, work: int) -> bytes:
        with self._lock:
            return self._salts.setdefault((_digest(passphrase), work), secrets.token_bytes(16))

    def root(self, passphrase: bytes, salt: bytes, work: int, block: int, lanes: int) -> bytes:
        """Scrypt's 32 bytes. One at a time: each takes 128 MiB or more."""
        name = (_digest(passphrase), salt, work, block, lanes)
        with self._lock:
            root = self._made.get(name)
            if root is None:
                root = Scrypt(salt=salt, length=KEY_BYTES, n=1 << work, r=block, p=lanes).derive(passphrase)
                self._made[name] = root
                self._salts.setdefault((name[0], work), salt)  # a new file joins those that are read
            self._made.move_to_end(name)
            while len(self._made) > _KEPT:
                self._made.popitem(last=False)
            while len(self._salts) > _KEPT:
                self._salts.popitem(last=False)
            return root


def _digest(passphrase: bytes) -> bytes:
    return hashlib.sha256(passphrase).digest()


_roots = _Roots()
