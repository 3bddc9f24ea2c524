"""One identity for a person across DICOM, tables and text of one study, under one key.

Everything comes from HMAC-SHA256 under keys that HKDF derives per purpose from the study's 32-byte key at this site:
the same person gets the same pseudonym and the same date shift in every kind of data of one study, and unlinkable
ones in another. No plain hash of an identifier exists anywhere. Not here: the storage of the key, re-identification.

Source: RFC 2104 (HMAC), RFC 5869 (HKDF), RFC 9562 section 5.8 (UUID version 8), PS3.5 annex B.2 (UUID-derived UID).
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import unicodedata
from datetime import date, timedelta

from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

__all__ = ["MAX_SHIFT_DAYS", "Pseudonymizer", "normalise_id"]

KEY_BYTES = 32
MAX_SHIFT_DAYS = 365
_SALT = b"corsia/deid/v1"


def normalise_id(patient_id: str) -> str:
    """The form of a patient id under which DICOM and table agree: NFKC, no padding, case folded."""
    return unicodedata.normalize("NFKC", patient_id).strip(" \t\r\n\0").casefold()


class Pseudonymizer:
    """Keyed pseudonyms, UIDs and date shifts. Deterministic; holds no table and grows with nothing.

    Args:
        key: 32 bytes, of this study at this site alone.
    """

    def __init__(self, key: bytes) -> None:
        if len(key) != KEY_BYTES:
            raise ValueError("the key must be 32 bytes")
        self._patient = _derive(key, b"patient")
        self._uid = _derive(key, b"uid")
        self._date = _derive(key, b"date")
        self.key_id = _derive(key, b"key-id").hex()[:16]

    def pseudonym(self, patient_id: str) -> str:
        """`P` and 16 base32 characters (80 bits) for a patient id."""
        mac = _mac(self._patient, normalise_id(patient_id).encode())
        return "P" + base64.b32encode(mac[:10]).decode("ascii")

    def uid(self, original: str) -> str:
        """A valid UID (`2.25.` and at most 39 digits) for an original one."""
        mac = bytearray(_mac(self._uid, original.strip(" \0").encode())[:16])
        mac[6] = (mac[6] & 0x0F) | 0x80
        mac[8] = (mac[8] & 0x3F) | 0x80
        return "2.25." + str(int.from_bytes(mac, "big"))

    def shift_days(self, patient_id: str) -> int:
        """Whole days in [-365, 365] without 0, the same for all of a patient's dates."""
        mac = _mac(self._date, normalise_id(patient_id).encode())
        step = int.from_bytes(mac[:8], "big") % (2 * MAX_SHIFT_DAYS)
        return step - MAX_SHIFT_DAYS if step < MAX_SHIFT_DAYS else step - MAX_SHIFT_DAYS + 1

    def shift_date(self, value: date, patient_id: str) -> date:
        """The date moved by the patient's shift; intervals between a patient's dates are kept.

        Raises:
            OverflowError: the result lies outside years 1 to 9999.
        """
        return value + timedelta(days=self.shift_days(patient_id))


def _derive(key: bytes, purpose: bytes) -> bytes:
    return HKDF(algorithm=SHA256(), length=32, salt=_SALT, info=purpose).derive(key)


def _mac(key: bytes, message: bytes) -> bytes:
    return hmac.new(key, message, hashlib.sha256).digest()
