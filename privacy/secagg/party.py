"""What a site is in one attempt, whoever its neighbours are: its secrets, its order of steps, what it holds of others.

`Member` (every site is every other one's neighbour) and `Neighbour` (a drawn graph) are built on it.
"""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Iterable
from dataclasses import replace
from typing import Protocol, TypeVar

from privacy.envelope.keys import PublicKey, SecretKey
from privacy.secagg import shamir
from privacy.secagg.masks import Root, Shares, commitment, share_digests
from privacy.secagg.messages import Advert, Bundle, Release, Survivors, admit
from privacy.secagg.session import Session
from protocol.errors import ConflictError, IntegrityError, StudyRefused
from protocol.trust import Purpose

__all__ = ["Guard", "MemoryGuard", "Party"]

_Signed = TypeVar("_Signed", Advert, Bundle, Survivors)


class Guard(Protocol):
    """A site's memory of what it has released; it outlives the process."""

    def claim(self, study: str, phase: str, round_: int, attempt: int, survivors: bytes) -> bool:
        """Durably bind a study's round and phase to one attempt and survivor set; False when it is bound to another."""
        ...

    def claimed(self, study: str, phase: str, round_: int) -> int | None:
        """The attempt to which a round is bound, or None."""
        ...


class MemoryGuard:
    """A `Guard` of this process alone: for tests and simulation."""

    def __init__(self) -> None:
        self._claims: dict[tuple[str, str, int], tuple[int, bytes]] = {}

    def claim(self, study: str, phase: str, round_: int, attempt: int, survivors: bytes) -> bool:
        """See `Guard`."""
        return self._claims.setdefault((study, phase, round_), (attempt, survivors)) == (attempt, survivors)

    def claimed(self, study: str, phase: str, round_: int) -> int | None:
        """See `Guard`."""
        known = self._claims.get((study, phase, round_))
        return known[0] if known else None


class Party:
    """One site's secrets and what it knows of others.

    Args:
        identity: the site's long-term key, whose fingerprint the signed study's roster names.
    """

    def __init__(self, session: Session, site: str, identity: SecretKey, guard: Guard) -> None:
        if session.roster.get(site) != identity.public.fingerprint:
            raise StudyRefused("study.signature", "the roster names another identity for this site")
        self._session, self._site, self._identity, self._guard = session, site, identity, guard
        self._root_bytes, self._self_mask = secrets.token_bytes(32), secrets.token_bytes(32)
        self._root = Root(self._root_bytes, site, session)
        self._step = 0
        self._peers: dict[str, PublicKey] = {}  # ephemeral keys
        self._identities: dict[str, PublicKey] = {}
        self._held: dict[str, Shares] = {}
        self._own = Shares(self_mask=b"", root=b"")  # what this site holds of its own secrets

    def _advert(self, seed: bytes = b"") -> Advert:
        self._advance(1)
        advert = Advert(
            site=self._site,
            identity=self._identity.public.to_bytes(),
            ephemeral=self._root.key.public.to_bytes(),
            commitment=commitment(self._session, self._site, self._self_mask),
            signature=b"",
            seed=seed,
        )
        return self._signed(advert)

    def _admit(self, adverts: Iterable[Advert]) -> dict[str, Advert]:
        """The peers' adverts, all verified; their keys are known from now on."""
        seen: dict[str, Advert] = {}
        for advert in adverts:
            identity = admit(self._session, advert)
            if advert.site in seen:
                raise IntegrityError("masks.signature", "two adverts of one site")
            seen[advert.site] = advert
            self._identities[advert.site] = identity
        mine = seen.pop(self._site, None)
        if mine is None or mine.ephemeral != self._root.key.public.to_bytes():
            raise IntegrityError("masks.signature", "this site's own advert is missing or changed")
        self._peers = {site: PublicKey.from_bytes(advert.ephemeral) for site, advert in seen.items()}
        if len({key.fingerprint for key in self._peers.values()}) != len(self._peers):
            raise IntegrityError("masks.signature", "two sites under one key")
        return seen

    def _bundle(self, receivers: list[str], threshold: int) -> Bundle:
        """Shares of both secrets for these sites, sealed; this site's own, if it is among them, is kept."""
        points = self._session.points
        at = [points[site] for site in receivers]
        self_masks = shamir.split(self._self_mask, threshold, at)
        roots = shamir.split(self._root_bytes, threshold, at)
        shares = {s: Shares(self_mask=self_masks[points[s]], root=roots[points[s]]) for s in receivers}
        digests = {site: share_digests(share) for site, share in shares.items()}
        self._own = shares.pop(self._site, self._own)
        sealed = {peer: self._root.seal(peer, self._peers[peer], share) for peer, share in shares.items()}
        return self._signed(Bundle(site=self._site, sealed=sealed, digests=digests, signature=b""))

    def _open(self, peer: str, sealed: bytes, digests: bytes) -> bytes:
        """Keep the shares that a peer gave this site; returns its half of the pair's seed."""
        half, shares = self._root.unseal(peer, sealed)
        if share_digests(shares) != digests:
            raise IntegrityError("masks.share")
        self._held[peer] = shares
        return half

    def _claim(self, survivors: tuple[str, ...]) -> None:
        """Bind this round, for ever and before anything is said, to this attempt and these survivors."""
        session = self._session
        digest = hashlib.sha256(session.digest + "\x00".join(survivors).encode()).digest()
        if not self._guard.claim(session.study, session.place, session.round, session.attempt, digest):
            raise ConflictError("conflict.round")

    def _shares(self, survivors: Iterable[str]) -> Release:
        """One share a peer: of the self-mask of a survivor, of the root of a site that dropped out."""
        alive = set(survivors)
        return Release(
            site=self._site,
            self_masks={peer: held.self_mask for peer, held in self._held.items() if peer in alive},
            roots={peer: held.root for peer, held in self._held.items() if peer not in alive},
        )

    def _signed(self, message: _Signed) -> _Signed:
        return replace(message, signature=self._identity.sign(Purpose.MASKS, message.signed(self._session)))

    def _advance(self, step: int) -> None:
        if self._step != step - 1:
            raise IntegrityError("masks.replay", "a step of secure aggregation out of order, or twice")
        self._step = step
