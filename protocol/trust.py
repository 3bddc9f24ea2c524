"""How a hospital comes to trust a centre, and what each signature is for.

A join code carries the CA's and the study-signing key's fingerprints and a one-time secret: nothing is trusted on
first use. The trust bundle that enrolment returns is signed by the study-signing key whose fingerprint it pins.
"""

from __future__ import annotations

import base64
import binascii
import json
import struct
from dataclasses import dataclass

from protocol.errors import InputError
from protocol.parcel import canonical_json

__all__ = ["JoinCode", "Purpose", "TrustBundle", "site_of_uri", "site_uri"]

_URI = "corsia:site:"


class Purpose:
    """Signature contexts: a signature for one purpose never verifies for another."""

    STUDY = b"corsia/v1/study"
    ROUND = b"corsia/v1/round"
    TRUST = b"corsia/v1/trust"
    ENROL = b"corsia/v1/enrol"
    RENEW = b"corsia/v1/renew"
    CHECKPOINT = b"corsia/v1/checkpoint"
    MANIFEST = b"corsia/v1/manifest"
    PARCEL = b"corsia/v1/parcel"
    MASKS = b"corsia/v1/masks"
    DECISION = b"corsia/v1/decision"
    MEDIUM = b"corsia/v1/medium"
    JOURNAL = b"corsia/v1/journal"


def site_uri(site: str) -> str:
    """The URI SAN of a site's certificate."""
    return _URI + site


def site_of_uri(uri: str) -> str | None:
    """The site a URI SAN names, or None for a foreign URI."""
    return uri[len(_URI) :] if uri.startswith(_URI) and len(uri) > len(_URI) else None


@dataclass(frozen=True, slots=True, kw_only=True)
class JoinCode:
    """What `corsia central invite SITE` prints: one line, to be given to the site over a trusted channel.

    Attributes:
        ca: SHA-256 of the CA certificate's DER, 32 bytes.
        study_key: SHA-256 of the study-signing public key, 32 bytes.
        secret: one-time secret, 24 bytes (192 bits).
        enrolment: `host:port` of the enrolment port.
        fleet: `host:port` of the mutual-TLS port.
    """

    site: str
    ca: bytes
    study_key: bytes
    secret: bytes
    enrolment: str
    fleet: str

    def encode(self) -> str:
        """One line of URL-safe base64 with a check value."""
        text = "\n".join((self.site, self.enrolment, self.fleet)).encode()
        raw = b"\x01" + self.ca + self.study_key + self.secret + text
        return "corsia1-" + base64.urlsafe_b64encode(raw + struct.pack(">I", binascii.crc32(raw))).decode().rstrip("=")

    @classmethod
    def decode(cls, code: str) -> JoinCode:
        """Read a join code.

        Raises:
            InputError: `input.usage` when it is mistyped or cut.
        """
        try:
            prefix, _, body = code.strip().partition("-")
            raw = base64.urlsafe_b64decode(body + "=" * (-len(body) % 4))
            raw, check = raw[:-4], raw[-4:]
            if prefix != "corsia1" or raw[:1] != b"\x01" or struct.pack(">I", binascii.crc32(raw)) != check:
                raise ValueError("check value")
            site, enrolment, fleet = raw[89:].decode().split("\n")
            return cls(
                site=site,
                ca=raw[1:33],
                study_key=raw[33:65],
                secret=raw[65:89],
                enrolment=enrolment,
                fleet=fleet,
            )
        except (ValueError, binascii.Error):
            raise InputError("input.usage", "the join code is mistyped or cut: copy it again, whole") from None


@dataclass(frozen=True, slots=True, kw_only=True)
class TrustBundle:
    """The centre's public keys (base64 of `privacy.envelope` public bytes) and its CA, as signed canonical JSON."""

    ca_pem: str
    study_key: str
    publication_key: str
    log_key: str
    log_origin: str

    def to_bytes(self) -> bytes:
        """The bytes that the study-signing key signs (context `Purpose.TRUST`)."""
        return canonical_json({name: getattr(self, name) for name in self.__slots__})

    @classmethod
    def from_bytes(cls, raw: bytes) -> TrustBundle:
        """Read a bundle; the caller has verified its signature.

        Raises:
            InputError: `input.message`.
        """
        try:
            value = json.loads(raw)
            fields = {name: value[name] for name in cls.__slots__}
            if not all(isinstance(text, str) for text in fields.values()):
                raise TypeError("text")
            return cls(**fields)
        except (ValueError, KeyError, TypeError, RecursionError):
            raise InputError("input.message", "malformed trust bundle") from None
