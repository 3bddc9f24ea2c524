"""The secrets of one site in one attempt, and those it shares with a peer.

All of a site's secrets of an attempt follow from one random root: its ephemeral key pair, and for each peer its half
of the pair's seed. A pair's seed is made of both halves; each half travels wrapped to the peer's ephemeral key by
ML-KEM-768 and X25519 together, so that a recording made today does not open in the years to come. Whoever rebuilds
the root of a site that dropped out can rebuild all its pairwise seeds: the own halves from the root, the peers'
halves by unwrapping. The self-mask has a seed of its own, which the root says nothing about.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from privacy.envelope.keys import WRAPPED_BYTES, PublicKey, SecretKey, derive
from privacy.secagg.session import Session
from privacy.secagg.shamir import SHARE_BYTES
from protocol.errors import IntegrityError

__all__ = ["Root", "Shares", "commitment", "pair_seed", "share_digests"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Shares:
    """What one site holds of a peer's secrets."""

    self_mask: bytes
    root: bytes


class Root:
    """One site's secrets of one attempt, from 32 random bytes."""

    def __init__(self, raw: bytes, site: str, session: Session) -> None:
        self._raw, self._site, self._session = raw, site, session
        self.key = SecretKey(derive(raw, "corsia/v1/masks/ephemeral", salt=session.digest))

    def half(self, peer: str) -> bytes:
        """This site's half of the seed shared with `peer`, 32 bytes."""
        return derive(self._raw, f"corsia/v1/masks/half/{peer}", salt=self._session.digest)

    def seal(self, peer: str, key: PublicKey, shares: Shares) -> bytes:
        """The half and the peer's shares, sealed to the peer's ephemeral key."""
        half = self.half(peer)
        wrapped = key.wrap(half, self._info(self._site, peer))
        body = AESGCM(derive(half, "corsia/v1/masks/shares")).encrypt(
            bytes(12), shares.self_mask + shares.root, self._info(self._site, peer)
        )  # the key is used once
        return wrapped + body

    def unseal_half(self, peer: str, sealed: bytes) -> bytes:
        """The peer's half of the seed, from what it sealed to this site.

        Raises:
            IntegrityError: `masks.share`.
        """
        try:
            return self.key.unwrap(sealed[:WRAPPED_BYTES], self._info(peer, self._site))
        except IntegrityError:
            raise IntegrityError("masks.share") from None

    def unseal(self, peer: str, sealed: bytes) -> tuple[bytes, Shares]:
        """The peer's half and the shares it gave this site.

        Raises:
            IntegrityError: `masks.share`.
        """
        half = self.unseal_half(peer, sealed)
        try:
            body = AESGCM(derive(half, "corsia/v1/masks/shares")).decrypt(
                bytes(12), sealed[WRAPPED_BYTES:], self._info(peer, self._site)
            )
        except InvalidTag:
            raise IntegrityError("masks.share") from None
        if len(body) != 2 * SHARE_BYTES:
            raise IntegrityError("masks.share")
        return half, Shares(self_mask=body[:SHARE_BYTES], root=body[SHARE_BYTES:])

    def _info(self, sender: str, receiver: str) -> bytes:
        return b"corsia/v1/masks/pair\x00" + self._session.digest + f"{sender}\x00{receiver}".encode()


def pair_seed(session: Session, site: str, half: bytes, peer: str, peers_half: bytes) -> tuple[bytes, bool]:
    """The seed of a pair's mask, and whether `site` subtracts it."""
    first, second = (half, peers_half) if site < peer else (peers_half, half)
    names = "\x00".join(sorted((site, peer))).encode()
    seed = hashlib.sha256(b"corsia/v1/masks/seed\x00" + session.digest + first + second + names).digest()
    return seed, site > peer


def commitment(session: Session, site: str, self_mask: bytes) -> bytes:
    """What an advert says of the self-mask's seed, which is uniform."""
    return hashlib.sha256(b"corsia/v1/masks/self\x00" + session.digest + site.encode() + b"\x00" + self_mask).digest()


def share_digests(shares: Shares) -> bytes:
    """SHA-256 of each share, by which a changed one is known. Shares are 521 uniform bits: a digest tells nothing."""
    return hashlib.sha256(shares.self_mask).digest() + hashlib.sha256(shares.root).digest()
