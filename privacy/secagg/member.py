"""A site in one attempt: what it says in each step, and what it refuses.

The steps are called in order; a step out of order, or a second time, is refused. Before shares are released, the
`Guard` (durable at a real site) claims the round: no other attempt of it, and no other survivor set, is ever answered.
"""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Iterable
from dataclasses import replace
from typing import Protocol, TypeVar

from privacy.envelope.keys import PublicKey, SecretKey
from privacy.secagg import shamir
from privacy.secagg.masks import Root, Shares, commitment, pair_seed, share_digests
from privacy.secagg.messages import Advert, Bundle, Release, Session, Survivors, check
from privacy.secagg.ring import Ring, add_mask
from protocol.errors import ConflictError, IntegrityError, StudyRefused, UnavailableError
from protocol.trust import Purpose

__all__ = ["Guard", "Member", "MemoryGuard"]

_Signed = TypeVar("_Signed", Advert, Bundle, Survivors)


class Guard(Protocol):
    """A site's memory of what it has released; it outlives the process."""

    def claim(self, study: str, run: str, round_: int, attempt: int, survivors: bytes) -> bool:
        """Durably bind a round to one attempt and survivor set; False when it is bound to another already."""
        ...

    def claimed(self, study: str, run: str, round_: int) -> int | None:
        """The attempt to which a round is bound, or None."""
        ...


class MemoryGuard:
    """A `Guard` of this process alone: for tests and simulation."""

    def __init__(self) -> None:
        self._claims: dict[tuple[str, str, int], tuple[int, bytes]] = {}

    def claim(self, study: str, run: str, round_: int, attempt: int, survivors: bytes) -> bool:
        """See `Guard`."""
        return self._claims.setdefault((study, run, round_), (attempt, survivors)) == (attempt, survivors)

    def claimed(self, study: str, run: str, round_: int) -> int | None:
        """See `Guard`."""
        known = self._claims.get((study, run, round_))
        return known[0] if known else None


class Member:
    """One site's part.

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
        self._word: Survivors | None = None
        self._own = Shares(self_mask=b"", root=b"")  # what this site holds of its own secrets

    def advertise(self) -> Advert:
        """Step 1: a fresh key and a commitment to the self-mask, signed."""
        self._advance(1)
        advert = Advert(
            site=self._site,
            identity=self._identity.public.to_bytes(),
            ephemeral=self._root.key.public.to_bytes(),
            commitment=commitment(self._session, self._site, self._self_mask),
            signature=b"",
        )
        return _signed(advert, self._identity, self._session)

    def share(self, adverts: Iterable[Advert]) -> Bundle:
        """Step 2: shares of both secrets and a half of each pair's seed, sealed to each peer.

        Args:
            adverts: of all sites that take part, this one's among them.

        Raises:
            IntegrityError: `masks.signature` for a key that the site of that name did not sign.
            UnavailableError: `unavailable.survivors` for fewer than the threshold.
        """
        self._advance(2)
        seen: dict[str, Advert] = {}
        for advert in adverts:
            identity = self._session.identity(advert.site, advert.identity)
            check(identity, advert.signed(self._session), advert.signature)
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
        if len(seen) + 1 < self._session.threshold:
            raise UnavailableError("unavailable.survivors")
        return self._bundle()

    def mask(self, bundles: Iterable[Bundle], vector: Ring) -> Ring:
        """Step 3: the masked vector.

        Args:
            bundles: of all sites whose shares the centre has; only these are masked against.
            vector: uint64 [n], encoded; changed in place and returned.

        Raises:
            IntegrityError: `masks.signature`, `masks.share`.
            UnavailableError: `unavailable.survivors`.
        """
        self._advance(3)
        seeds = []
        for bundle in bundles:
            if bundle.site == self._site:
                continue
            if bundle.site not in self._peers or bundle.site in self._held:
                raise IntegrityError("masks.signature", "shares of a site that did not advertise, or twice")
            check(self._identities[bundle.site], bundle.signed(self._session), bundle.signature)
            if self._site not in bundle.sealed or self._site not in bundle.digests:
                raise IntegrityError("masks.share")
            peers_half, shares = self._root.unseal(bundle.site, bundle.sealed[self._site])
            if share_digests(shares) != bundle.digests[self._site]:
                raise IntegrityError("masks.share")
            self._held[bundle.site] = shares
            half = self._root.half(bundle.site)
            seeds.append(pair_seed(self._session, self._site, half, bundle.site, peers_half))
        if len(self._held) + 1 < self._session.threshold:
            raise UnavailableError("unavailable.survivors")
        self._held[self._site] = self._own
        for seed, subtract in seeds:
            add_mask(vector, seed, subtract=subtract)
        add_mask(vector, self._self_mask)
        return vector

    def sign(self, survivors: Iterable[str]) -> Survivors:
        """Step 4: this site's word on the survivor set; a second set is refused.

        Raises:
            IntegrityError: `masks.replay` for a set that cannot be, or a second one.
            UnavailableError: `unavailable.survivors` for fewer than the threshold.
        """
        names = tuple(sorted(survivors))
        if self._word is not None and names == self._word.survivors:
            return self._word  # the same question again has the same answer
        self._advance(4)
        if len(set(names)) != len(names) or self._site not in names or not set(names) <= set(self._held):
            raise IntegrityError("masks.replay", "not a set of survivors of this attempt")
        if len(names) < self._session.threshold:
            raise UnavailableError("unavailable.survivors")
        self._word = _signed(Survivors(site=self._site, survivors=names, signature=b""), self._identity, self._session)
        return self._word

    def release(self, words: Iterable[Survivors]) -> Release:
        """Step 5: one share a peer, once a threshold of survivors has signed the same set.

        Raises:
            IntegrityError: `masks.signature`, `masks.replay`.
            ConflictError: `conflict.round` when another attempt of this round was answered before.
        """
        self._advance(5)
        survivors = self._word.survivors if self._word else ()
        signers = set()
        for word in words:
            if word.survivors != survivors or word.site not in survivors:
                raise IntegrityError("masks.replay", "another survivor set than the one this site signed")
            check(self._identities[word.site], word.signed(self._session), word.signature)
            signers.add(word.site)
        if len(signers) < self._session.threshold:
            raise IntegrityError("masks.replay", "too few survivors have signed the set")
        session = self._session
        digest = hashlib.sha256("\x00".join(survivors).encode()).digest()
        if not self._guard.claim(session.study, session.run, session.round, session.attempt, digest):
            raise ConflictError("conflict.round")
        alive = set(survivors)
        return Release(
            site=self._site,
            self_masks={peer: held.self_mask for peer, held in self._held.items() if peer in alive},
            roots={peer: held.root for peer, held in self._held.items() if peer not in alive},
        )

    def _bundle(self) -> Bundle:
        points = self._session.points
        receivers = [self._site, *self._peers]
        at = [points[site] for site in receivers]
        self_masks = shamir.split(self._self_mask, self._session.threshold, at)
        roots = shamir.split(self._root_bytes, self._session.threshold, at)
        shares = {s: Shares(self_mask=self_masks[points[s]], root=roots[points[s]]) for s in receivers}
        self._own = shares.pop(self._site)
        bundle = Bundle(
            site=self._site,
            sealed={peer: self._root.seal(peer, self._peers[peer], share) for peer, share in shares.items()},
            digests={s: share_digests(share) for s, share in ((self._site, self._own), *shares.items())},
            signature=b"",
        )
        return _signed(bundle, self._identity, self._session)

    def _advance(self, step: int) -> None:
        if self._step != step - 1:
            raise IntegrityError("masks.replay", "a step of secure aggregation out of order, or twice")
        self._step = step


def _signed(message: _Signed, identity: SecretKey, session: Session) -> _Signed:
    return replace(message, signature=identity.sign(Purpose.MASKS, message.signed(session)))
