"""One identity for a person across DICOM, tables, text and FHIR of one study, under one key.

    site key -- HKDF, study --> study key -- HKDF, purpose --> patient, UID, date keys -- HMAC --> pseudonym, UID, days

The same person gets the same pseudonym and the same date shift in every kind of data of one study, and unlinkable
ones in another. No plain hash of an identifier exists anywhere. A key is rotated by a `KeyRing`: new output is made
under the current key alone, output of a retired one is still recognised by its key id and found again by patient.
Not here: the storage of keys, re-identification.

Source: RFC 2104 (HMAC), RFC 5869 (HKDF), RFC 9562 section 5.8 (UUID version 8), PS3.5 annex B.2 (UUID-derived UID).
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import unicodedata
from collections.abc import Iterable
from datetime import date, timedelta

from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

__all__ = ["MAX_SHIFT_DAYS", "KeyRing", "Pseudonymizer", "normalise_id", "study_key"]

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


def study_key(site_key: bytes, study: str) -> bytes:
    """The key of one study at one site: 32 bytes that say nothing of the site's key or of another study's.

    Args:
        site_key: 32 random bytes, kept at the site.
        study: name or digest of the study; any other string gives an unrelated key.
    """
    if len(site_key) != KEY_BYTES:
        raise ValueError("the key must be 32 bytes")
    return _derive(site_key, b"study\0" + study.encode())


class KeyRing:
    """The current key and retired ones of the same site or study.

    Rotation: `ring = ring.rotated(new)`. From then on everything is made under the new key: pseudonyms, UIDs and shifts
    change, so data of one analysis must not mix keys. What was released before stays as it is; its key id tells which
    key made it, and `pseudonyms` gives the old ones of a patient, so that a withdrawal reaches old releases.
    Dropping a retired key makes its releases unlinkable for good.

    Args:
        current: 32 bytes.
        retired: newest first.
    """

    def __init__(self, current: bytes, retired: Iterable[bytes] = ()) -> None:
        raw = list(dict.fromkeys([current, *retired]))
        self._raw = raw
        self._all = [Pseudonymizer(key) for key in raw]
        self._by_id = {keys.key_id: keys for keys in self._all}

    @property
    def current(self) -> Pseudonymizer:
        """The one under which new output is made."""
        return self._all[0]

    @property
    def key_ids(self) -> tuple[str, ...]:
        """Ids of all keys, the current one first."""
        return tuple(keys.key_id for keys in self._all)

    def find(self, key_id: str) -> Pseudonymizer | None:
        """Who made an output that carries this key id; None when it is not from here."""
        return self._by_id.get(key_id)

    def pseudonyms(self, patient_id: str) -> dict[str, str]:
        """Key id -> the patient's pseudonym under that key, the current one first."""
        return {keys.key_id: keys.pseudonym(patient_id) for keys in self._all}

    def rotated(self, new: bytes) -> KeyRing:
        """A ring with a new current key, in which the present ones are retired.

        Raises:
            ValueError: the key is on the ring already, or has not 32 bytes.
        """
        if new in self._raw:
            raise ValueError("a key is never used again")
        return KeyRing(new, self._raw)

    def of_study(self, study: str) -> KeyRing:
        """The ring of one study, each key derived from the one of the site in the same place."""
        first, *rest = (study_key(key, study) for key in self._raw)
        return KeyRing(first, rest)

    def __repr__(self) -> str:
        return f"KeyRing({', '.join(self.key_ids)})"


def _derive(key: bytes, purpose: bytes) -> bytes:
    return HKDF(algorithm=SHA256(), length=32, salt=_SALT, info=purpose).derive(key)


def _mac(key: bytes, message: bytes) -> bytes:
    return hmac.new(key, message, hashlib.sha256).digest()
