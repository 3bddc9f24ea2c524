"""Keys: one 32-byte seed, four halves; hybrid signatures and hybrid wrapping of a file key.

Each half is derived under its own label, so a key file is any 32 raw bytes. A signature is always Ed25519 and
ML-DSA-65 together, and a wrapped key always opens with X25519 and ML-KEM-768 together. This module knows neither
headers nor chunks, and opens no file (`keyfile` does).

Source: `docs/spec/envelope.md` section 2; RFC 5869, RFC 8032, FIPS 203, FIPS 204, RFC 9180.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import secrets
from functools import lru_cache

from cryptography.exceptions import InvalidSignature, InvalidTag
from cryptography.hazmat.primitives import hpke
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.mldsa import MLDSA65PrivateKey, MLDSA65PublicKey
from cryptography.hazmat.primitives.asymmetric.mlkem import MLKEM768PrivateKey, MLKEM768PublicKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from protocol.errors import ConfigurationError, InputError, IntegrityError

__all__ = [
    "KEY_BYTES",
    "PUBLIC_BYTES",
    "SIGNATURE_BYTES",
    "WRAPPED_BYTES",
    "PublicKey",
    "SecretKey",
    "derive",
]

KEY_BYTES = 32
SIGNATURE_BYTES = 64 + 3309
PUBLIC_BYTES = 1 + 32 + 1952 + 32 + 1184
WRAPPED_BYTES = 1120 + KEY_BYTES + 16
_VERSION = 1
_ED25519_END = 1 + 32
_MLDSA_END = _ED25519_END + 1952
_X25519_END = _MLDSA_END + 32
_SUITE = hpke.Suite(hpke.KEM.MLKEM768_X25519, hpke.KDF.HKDF_SHA256, hpke.AEAD.AES_256_GCM)


def derive(key: bytes, label: str, size: int = KEY_BYTES, *, salt: bytes = b"") -> bytes:
    """HKDF-SHA256 of a uniform key under a label: `size` bytes that say nothing about other labels' bytes.

    Source: RFC 5869.
    """
    return HKDF(algorithm=SHA256(), length=size, salt=salt or None, info=label.encode("ascii")).derive(key)


def _framed(context: bytes, message: bytes) -> bytes:
    if not 1 <= len(context) <= 255:
        raise ValueError("a signature context is 1 to 255 bytes")
    return b"corsia/v1/signature\x00" + bytes((len(context),)) + context + message


class PublicKey:
    """The public halves of a `SecretKey`. Equal when all halves are; hashable."""

    __slots__ = ("_ed25519", "_kem", "_mldsa", "_raw", "fingerprint")

    fingerprint: str

    def __init__(self, raw: bytes) -> None:
        self._raw = raw
        self._ed25519 = Ed25519PublicKey.from_public_bytes(raw[1:_ED25519_END])
        self._mldsa = MLDSA65PublicKey.from_public_bytes(raw[_ED25519_END:_MLDSA_END])
        self._kem = hpke.MLKEM768X25519PublicKey(
            MLKEM768PublicKey.from_public_bytes(raw[_X25519_END:]),
            X25519PublicKey.from_public_bytes(raw[_MLDSA_END:_X25519_END]),
        )
        self.fingerprint = hashlib.sha256(raw).hexdigest()

    @classmethod
    def from_bytes(cls, raw: bytes) -> PublicKey:
        """Read the 3,201 public bytes.

        Raises:
            InputError: `input.message` for anything else.
        """
        if len(raw) != PUBLIC_BYTES or raw[0] != _VERSION:
            raise InputError("input.message", "not a public key of this version")
        try:
            return cls(bytes(raw))
        except ValueError:
            raise InputError("input.message", "not a valid public key") from None

    def to_bytes(self) -> bytes:
        """Version byte, Ed25519, ML-DSA-65, X25519, ML-KEM-768: 3,201 bytes."""
        return self._raw

    @classmethod
    def from_base64(cls, text: str) -> PublicKey:
        """Read the canonical base64 of the public bytes.

        Raises:
            InputError: `input.message`.
        """
        return _from_base64(text)

    def to_base64(self) -> str:
        """Base64 of the public bytes, on one line."""
        return base64.b64encode(self._raw).decode("ascii")

    def verify(self, context: bytes, message: bytes, signature: bytes) -> None:
        """Check a signature made for one purpose; both halves must verify.

        Raises:
            IntegrityError: `parcel.signature`.
        """
        framed = _framed(context, message)
        if len(signature) != SIGNATURE_BYTES:
            raise IntegrityError("parcel.signature")
        try:
            self._ed25519.verify(signature[:64], framed)
            self._mldsa.verify(signature[64:], framed, context)
        except InvalidSignature:
            raise IntegrityError("parcel.signature") from None

    def wrap(self, key: bytes, info: bytes) -> bytes:
        """Seal a key of 32 bytes to this public key, bound to `info`: 1,168 bytes.

        Raises:
            InputError: `input.message` when the public key is a degenerate point.
        """
        if len(key) != KEY_BYTES:
            raise ValueError("a wrapped key is 32 bytes")
        try:
            return _SUITE.encrypt(key, self._kem, info)
        except ValueError:
            raise InputError("input.message", "a recipient's public key is degenerate") from None

    def __eq__(self, other: object) -> bool:
        return isinstance(other, PublicKey) and other._raw == self._raw

    def __hash__(self) -> int:
        return hash(self._raw)

    def __repr__(self) -> str:
        return f"PublicKey({self.fingerprint[:16]})"


@lru_cache(maxsize=256)  # the same few keys verify and wrap again and again
def _from_base64(text: str) -> PublicKey:
    try:
        raw = base64.b64decode(text.encode("ascii"), validate=True)
    except (ValueError, binascii.Error):
        raise InputError("input.message", "a public key is not base64") from None
    key = PublicKey.from_bytes(raw)
    if key.to_base64() != text:
        raise InputError("input.message", "a public key is not canonical base64")
    return key


class SecretKey:
    """A 32-byte seed and what is derived from it. Never shows the seed in its representation, never pickles."""

    __slots__ = ("_ed25519", "_kem", "_mldsa", "_seed", "public")

    public: PublicKey

    def __init__(self, seed: bytes) -> None:
        self._seed = seed
        self._ed25519 = Ed25519PrivateKey.from_private_bytes(derive(seed, "corsia/v1/key/ed25519"))
        self._mldsa = MLDSA65PrivateKey.from_seed_bytes(derive(seed, "corsia/v1/key/ml-dsa-65"))
        x25519 = X25519PrivateKey.from_private_bytes(derive(seed, "corsia/v1/key/x25519"))
        mlkem = MLKEM768PrivateKey.from_seed_bytes(derive(seed, "corsia/v1/key/ml-kem-768", 64))
        self._kem = hpke.MLKEM768X25519PrivateKey(mlkem, x25519)
        self.public = PublicKey(
            bytes((_VERSION,))
            + self._ed25519.public_key().public_bytes_raw()
            + self._mldsa.public_key().public_bytes_raw()
            + x25519.public_key().public_bytes_raw()
            + mlkem.public_key().public_bytes_raw()
        )

    @classmethod
    def generate(cls) -> SecretKey:
        """A fresh key from the operating system's randomness."""
        return cls(secrets.token_bytes(KEY_BYTES))

    @classmethod
    def from_bytes(cls, raw: bytes) -> SecretKey:
        """The key of a seed: any 32 bytes.

        Raises:
            ConfigurationError: `config.key-mode` for another length.
        """
        if len(raw) != KEY_BYTES:
            raise ConfigurationError("config.key-mode", f"a key is exactly {KEY_BYTES} raw bytes, not {len(raw)}")
        return cls(bytes(raw))

    def to_bytes(self) -> bytes:
        """The seed, 32 bytes."""
        return self._seed

    def sign(self, context: bytes, message: bytes) -> bytes:
        """Sign a message for one purpose (`protocol.trust.Purpose`): Ed25519 then ML-DSA-65, 3,373 bytes."""
        framed = _framed(context, message)
        return self._ed25519.sign(framed) + self._mldsa.sign(framed, context)

    def unwrap(self, sealed: bytes, info: bytes) -> bytes:
        """Open a key that was wrapped to this key with the same `info`.

        Raises:
            IntegrityError: `parcel.key` when it was not, or was changed.
        """
        try:
            key = _SUITE.decrypt(sealed, self._kem, info)
        except (InvalidTag, ValueError):
            raise IntegrityError("parcel.key") from None
        if len(key) != KEY_BYTES:
            raise IntegrityError("parcel.key")
        return key

    def __reduce__(self) -> str:
        raise TypeError("a secret key is not serialised but by to_bytes()")

    def __repr__(self) -> str:
        return f"SecretKey(public={self.public!r})"
