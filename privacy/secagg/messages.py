"""What travels in a round of secure aggregation, and under which context it is signed.

Every signature covers the session (study, run, round, attempt, roster, threshold), so that nothing of one attempt is
of use in another. Messages are plain values with one canonical byte form.
"""

from __future__ import annotations

import hashlib
import json
from base64 import b64decode, b64encode
from binascii import Error as Base64Error
from collections.abc import Iterable, Mapping, Set
from dataclasses import dataclass
from typing import Any

from privacy.envelope.keys import PublicKey
from privacy.secagg.session import MAX_ROSTER, Session
from protocol.errors import InputError, IntegrityError
from protocol.parcel import canonical_json
from protocol.trust import Purpose

__all__ = [
    "SEED_BYTES", "Advert", "Bundle", "Letter", "Release", "Survivors", "Word", "admit", "check", "names_digest",
]  # fmt: skip

SEED_BYTES = 32


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
        seed: 32 bytes from which this site's neighbours are drawn; empty, and left out, in a complete graph.
    """

    site: str
    identity: bytes
    ephemeral: bytes
    commitment: bytes
    signature: bytes
    seed: bytes = b""

    def signed(self, session: Session) -> bytes:
        """What the signature covers."""
        parts = (self.site.encode(), self.ephemeral, self.commitment, *((self.seed,) if self.seed else ()))
        return b"advert" + session.digest + _framed(*parts)

    def to_bytes(self) -> bytes:
        """Canonical JSON."""
        fields = set(self.__dataclass_fields__) - (set() if self.seed else {"seed"})
        return canonical_json({name: _plain(getattr(self, name)) for name in fields})

    @classmethod
    def from_bytes(cls, raw: bytes) -> Advert:
        """Read it. Raises InputError: `input.message`."""
        v = _read(raw, cls, optional={"seed"})
        names = ("identity", "ephemeral", "commitment", "signature", *(("seed",) if "seed" in v else ()))
        return cls(site=_text(v, "site"), **{name: _bytes(v, name) for name in names})


@dataclass(frozen=True, slots=True, kw_only=True)
class Bundle(_Message):
    """Step 2: for each peer a sealed half of the pairwise secret and two shares; digests of the shares for all.

    In a graph that is not complete a receiver is given its own part alone, a `Letter`.

    Attributes:
        sealed: peer -> wrapped pair half and encrypted shares.
        digests: peer, and in a complete graph this site too -> SHA-256 of its two shares (self-mask, root), 64 bytes.
    """

    site: str
    sealed: Mapping[str, bytes]
    digests: Mapping[str, bytes]
    signature: bytes

    def signed(self, session: Session) -> bytes:
        """What the signature covers."""
        if session.graph is not None:
            return _letters(session, self.site, self._leaves())
        at = sorted(self.digests)
        parts = [p for peer in at for p in (peer.encode(), self.sealed.get(peer, b""), self.digests[peer])]
        return b"bundle" + session.digest + _framed(self.site.encode(), *parts)

    def letters(self) -> dict[str, Letter]:
        """Receiver -> what is for it, and enough to verify the signature over the whole."""
        leaves = self._leaves()
        return {
            peer: Letter(
                site=self.site, leaves=leaves, sealed=sealed, digest=self.digests[peer], signature=self.signature
            )
            for peer, sealed in self.sealed.items()
        }

    def _leaves(self) -> bytes:
        return b"".join(_leaf(peer, self.sealed[peer], self.digests[peer]) for peer in sorted(self.sealed))

    @classmethod
    def from_bytes(cls, raw: bytes) -> Bundle:
        """Read it. Raises InputError: `input.message`."""
        v = _read(raw, cls)
        sealed, digests, site = _table(v, "sealed"), _table(v, "digests"), _text(v, "site")
        if sealed.keys() != digests.keys() - {site} or any(len(d) != 64 for d in digests.values()):
            raise InputError("input.message")
        return cls(site=site, sealed=sealed, digests=digests, signature=_bytes(v, "signature"))


@dataclass(frozen=True, slots=True, kw_only=True)
class Letter(_Message):
    """One receiver's part of a bundle: the other parts are there as their SHA-256, in the order of receivers."""

    site: str
    leaves: bytes
    sealed: bytes
    digest: bytes
    signature: bytes

    def signed(self, session: Session) -> bytes:
        """What the signature covers: that of the bundle."""
        return _letters(session, self.site, self.leaves)

    def addressed(self, receiver: str) -> bool:
        """Whether this is the receiver's own part of what was signed."""
        leaf = _leaf(receiver, self.sealed, self.digest)
        return leaf in (self.leaves[at : at + len(leaf)] for at in range(0, len(self.leaves), len(leaf)))

    @classmethod
    def from_bytes(cls, raw: bytes) -> Letter:
        """Read it. Raises InputError: `input.message`."""
        v = _read(raw, cls)
        return cls(site=_text(v, "site"), **{n: _bytes(v, n) for n in ("leaves", "sealed", "digest", "signature")})


@dataclass(frozen=True, slots=True, kw_only=True)
class Word(_Message):
    """A site's word on sets that whoever verifies it knows: the list itself need not travel again.

    Attributes:
        about: `masked` (against whom of the sharers the vector is masked) or `survivors`.
        identity: public key as bytes; empty for a receiver that knows it from an advert.
    """

    about: str
    site: str
    identity: bytes
    signature: bytes

    def signed(self, session: Session, sharers: bytes, survivors: bytes = b"") -> bytes:
        """What the signature covers, from the `names_digest` of each set."""
        return b"word" + session.digest + _framed(self.about.encode(), self.site.encode(), sharers, survivors)

    @classmethod
    def from_bytes(cls, raw: bytes) -> Word:
        """Read it. Raises InputError: `input.message`."""
        v = _read(raw, cls)
        about = _text(v, "about")
        if about not in ("masked", "survivors"):
            raise InputError("input.message")
        return cls(about=about, site=_text(v, "site"), **{n: _bytes(v, n) for n in ("identity", "signature")})


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


def admit(session: Session, advert: Advert) -> PublicKey:
    """The identity of a roster member that signed this advert for this session.

    Raises:
        IntegrityError: `masks.signature`.
    """
    identity = session.identity(advert.site, advert.identity)
    check(identity, advert.signed(session), advert.signature)
    if len(advert.seed) != (0 if session.graph is None else SEED_BYTES):
        raise IntegrityError("masks.signature", "an advert for another kind of graph")
    return identity


def names_digest(names: Iterable[str]) -> bytes:
    """SHA-256 of a set of sites."""
    return hashlib.sha256(_framed(*(name.encode() for name in sorted(names)))).digest()


def check(identity: PublicKey, message: bytes, signature: bytes) -> None:
    """Verify a signature of this protocol.

    Raises:
        IntegrityError: `masks.signature`.
    """
    try:
        identity.verify(Purpose.MASKS, message, signature)
    except IntegrityError:
        raise IntegrityError("masks.signature") from None


def _letters(session: Session, site: str, leaves: bytes) -> bytes:
    return b"letters" + session.digest + _framed(site.encode(), leaves)


def _leaf(receiver: str, sealed: bytes, digest: bytes) -> bytes:
    return hashlib.sha256(_framed(receiver.encode(), sealed, digest)).digest()


def _framed(*parts: bytes) -> bytes:
    return b"".join(len(part).to_bytes(4, "big") + part for part in parts)


def _plain(value: Any) -> Any:
    if isinstance(value, bytes):
        return b64encode(value).decode("ascii")
    if isinstance(value, Mapping):
        return {name: _plain(v) for name, v in value.items()}
    return list(value) if isinstance(value, tuple) else value


def _read(raw: bytes, kind: Any, optional: Set[str] = frozenset()) -> dict[str, Any]:
    try:
        value = json.loads(raw)
    except (ValueError, RecursionError):
        raise InputError("input.message") from None
    if not isinstance(value, dict) or set(value) | optional != set(kind.__dataclass_fields__):
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
