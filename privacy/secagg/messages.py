"""What travels in a round of secure aggregation, and under which context it is signed.

Every signature covers the session (study, run, round, attempt, roster, threshold), so that nothing of one attempt is
of use in another. Messages are plain values with one canonical byte form.
"""

from __future__ import annotations

import hashlib
import json
from base64 import b64decode, b64encode
from binascii import Error as Base64Error
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from privacy.envelope.keys import PublicKey
from protocol.errors import InputError, IntegrityError
from protocol.parcel import canonical_json
from protocol.trust import Purpose

__all__ = ["MAX_ROSTER", "Advert", "Bundle", "Release", "Session", "Survivors", "check", "threshold_of"]

MAX_ROSTER = 64  # complete graph; a larger roster needs a sparse one, which is not offered
MIN_SURVIVORS = 3


def threshold_of(roster: int) -> int:
    """The smallest number above two thirds of the roster, at least 3.

    Above two thirds, two survivor sets of a round share an honest site, even if a third of the roster lies.
    """
    return max(MIN_SURVIVORS, 2 * roster // 3 + 1)


@dataclass(frozen=True, kw_only=True)
class Session:
    """One attempt of one round.

    Attributes:
        study: digest of the signed study.
        roster: site -> fingerprint of its identity key, from the signed study.
    """

    study: str
    run: str
    round: int
    attempt: int
    roster: Mapping[str, str]

    def __post_init__(self) -> None:
        if not MIN_SURVIVORS <= len(self.roster) <= MAX_ROSTER:
            raise InputError("input.study", f"secure aggregation: {MIN_SURVIVORS} to {MAX_ROSTER} sites")
        if len(set(self.roster.values())) != len(self.roster):
            raise InputError("input.study", "secure aggregation: two sites under one identity")

    @property
    def threshold(self) -> int:
        """Survivors without whom nothing is revealed."""
        return threshold_of(len(self.roster))

    @cached_property
    def points(self) -> dict[str, int]:
        """Each site's abscissa in Shamir's scheme."""
        return {site: i for i, site in enumerate(sorted(self.roster), 1)}

    @cached_property
    def digest(self) -> bytes:
        """SHA-256 over everything that makes this attempt what it is."""
        value = {
            "study": self.study, "run": self.run, "round": self.round, "attempt": self.attempt,
            "roster": dict(self.roster), "threshold": self.threshold,
        }  # fmt: skip
        return hashlib.sha256(b"corsia/v1/masks\x00" + canonical_json(value)).digest()

    def identity(self, site: str, raw: bytes) -> PublicKey:
        """The identity key of a roster member.

        Raises:
            IntegrityError: `masks.signature` for a key that is not the one in the signed study.
        """
        try:
            key = PublicKey.from_bytes(raw)
        except InputError:
            raise IntegrityError("masks.signature") from None
        if self.roster.get(site) != key.fingerprint:
            raise IntegrityError("masks.signature")
        return key


class _Message:
    """Canonical bytes by the fields' names; bytes travel as base64."""

    def to_bytes(self) -> bytes:
        """Canonical JSON."""
        return canonical_json({name: _plain(getattr(self, name)) for name in self.__dataclass_fields__})  # type: ignore[attr-defined]


@dataclass(frozen=True, slots=True, kw_only=True)
class Advert(_Message):
    """Step 1: a fresh key for this attempt, signed by the identity key.

    Attributes:
        identity, ephemeral: public keys as bytes.
        commitment: SHA-256 of session, site and self-mask seed.
    """

    site: str
    identity: bytes
    ephemeral: bytes
    commitment: bytes
    signature: bytes

    def signed(self, session: Session) -> bytes:
        """What the signature covers."""
        return b"advert" + session.digest + _framed(self.site.encode(), self.ephemeral, self.commitment)

    @classmethod
    def from_bytes(cls, raw: bytes) -> Advert:
        """Read it. Raises InputError: `input.message`."""
        v = _read(raw, cls)
        return cls(
            site=_text(v, "site"), **{n: _bytes(v, n) for n in ("identity", "ephemeral", "commitment", "signature")}
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Bundle(_Message):
    """Step 2: for each peer a sealed half of the pairwise secret and two shares; digests of the shares for all.

    Attributes:
        sealed: peer -> wrapped pair half and encrypted shares.
        digests: peer, and this site itself -> SHA-256 of its two shares (self-mask, root), 64 bytes.
    """

    site: str
    sealed: Mapping[str, bytes]
    digests: Mapping[str, bytes]
    signature: bytes

    def signed(self, session: Session) -> bytes:
        """What the signature covers."""
        at = sorted(self.digests)
        parts = [p for peer in at for p in (peer.encode(), self.sealed.get(peer, b""), self.digests[peer])]
        return b"bundle" + session.digest + _framed(self.site.encode(), *parts)

    @classmethod
    def from_bytes(cls, raw: bytes) -> Bundle:
        """Read it. Raises InputError: `input.message`."""
        v = _read(raw, cls)
        sealed, digests, site = _table(v, "sealed"), _table(v, "digests"), _text(v, "site")
        if sealed.keys() != digests.keys() - {site} or any(len(d) != 64 for d in digests.values()):
            raise InputError("input.message")
        return cls(site=site, sealed=sealed, digests=digests, signature=_bytes(v, "signature"))


@dataclass(frozen=True, slots=True, kw_only=True)
class Survivors(_Message):
    """Step 4: a site's word on whose masked vectors count in this attempt."""

    site: str
    survivors: tuple[str, ...]
    signature: bytes

    def signed(self, session: Session) -> bytes:
        """What the signature covers."""
        return b"survivors" + session.digest + _framed(*(s.encode() for s in self.survivors))

    @classmethod
    def from_bytes(cls, raw: bytes) -> Survivors:
        """Read it. Raises InputError: `input.message`."""
        v = _read(raw, cls)
        names = v["survivors"]
        if not isinstance(names, list) or not all(isinstance(n, str) for n in names) or len(names) > MAX_ROSTER:
            raise InputError("input.message")
        return cls(site=_text(v, "site"), survivors=tuple(names), signature=_bytes(v, "signature"))


@dataclass(frozen=True, slots=True, kw_only=True)
class Release(_Message):
    """Step 5: one share a peer: of the self-mask of a survivor, or of the root of one that dropped out."""

    site: str
    self_masks: Mapping[str, bytes]
    roots: Mapping[str, bytes]

    @classmethod
    def from_bytes(cls, raw: bytes) -> Release:
        """Read it. Raises InputError: `input.message`."""
        v = _read(raw, cls)
        return cls(site=_text(v, "site"), self_masks=_table(v, "self_masks"), roots=_table(v, "roots"))


def check(identity: PublicKey, message: bytes, signature: bytes) -> None:
    """Verify a signature of this protocol.

    Raises:
        IntegrityError: `masks.signature`.
    """
    try:
        identity.verify(Purpose.MASKS, message, signature)
    except IntegrityError:
        raise IntegrityError("masks.signature") from None


def _framed(*parts: bytes) -> bytes:
    return b"".join(len(part).to_bytes(4, "big") + part for part in parts)


def _plain(value: Any) -> Any:
    if isinstance(value, bytes):
        return b64encode(value).decode("ascii")
    if isinstance(value, Mapping):
        return {name: _plain(v) for name, v in value.items()}
    return list(value) if isinstance(value, tuple) else value


def _read(raw: bytes, kind: Any) -> dict[str, Any]:
    try:
        value = json.loads(raw)
    except (ValueError, RecursionError):
        raise InputError("input.message") from None
    if not isinstance(value, dict) or set(value) != set(kind.__dataclass_fields__):
        raise InputError("input.message")
    return value


def _text(value: Mapping[str, Any], name: str) -> str:
    if not isinstance(value[name], str) or not 0 < len(value[name]) <= 63:
        raise InputError("input.message")
    return str(value[name])


def _bytes(value: Mapping[str, Any], name: str) -> bytes:
    try:
        return b64decode(value[name], validate=True)
    except (TypeError, ValueError, Base64Error):
        raise InputError("input.message") from None


def _table(value: Mapping[str, Any], name: str) -> dict[str, bytes]:
    table = value[name]
    if not isinstance(table, dict) or len(table) > MAX_ROSTER:
        raise InputError("input.message")
    return {peer: _bytes(table, peer) for peer in table}
