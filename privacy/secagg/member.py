"""A site in one attempt, every other site its neighbour: what it says in each step, and what it refuses.

The steps are called in order; a step out of order, or a second time, is refused. Before shares are released, the
`Guard` (durable at a real site) claims the round: no other attempt of it, and no other survivor set, is ever answered.
"""

from __future__ import annotations

from collections.abc import Iterable

from privacy.envelope.keys import SecretKey
from privacy.secagg.masks import pair_seed
from privacy.secagg.messages import Advert, Bundle, Release, Survivors, check
from privacy.secagg.party import Guard, Party
from privacy.secagg.ring import Ring, add_mask
from privacy.secagg.session import Session
from protocol.errors import InputError, IntegrityError, UnavailableError

__all__ = ["Member"]


class Member(Party):
    """One site's part in a complete graph; see `Party` for the arguments.

    Raises:
        InputError: `input.study` for a roster that needs a drawn graph (`Neighbour`).
    """

    def __init__(self, session: Session, site: str, identity: SecretKey, guard: Guard) -> None:
        super().__init__(session, site, identity, guard)
        if session.graph is not None:
            raise InputError("input.study", "secure aggregation: the graph of this roster is drawn")
        self._word: Survivors | None = None

    def advertise(self) -> Advert:
        """Step 1: a fresh key and a commitment to the self-mask, signed."""
        return self._advert()

    def share(self, adverts: Iterable[Advert]) -> Bundle:
        """Step 2: shares of both secrets and a half of each pair's seed, sealed to each peer.

        Args:
            adverts: of all sites that take part, this one's among them.

        Raises:
            IntegrityError: `masks.signature` for a key that the site of that name did not sign.
            UnavailableError: `unavailable.survivors` for fewer than the threshold.
        """
        self._advance(2)
        self._admit(adverts)
        if len(self._peers) + 1 < self._session.threshold:
            raise UnavailableError("unavailable.survivors")
        return self._bundle([self._site, *self._peers], self._session.threshold)

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
            peers_half = self._open(bundle.site, bundle.sealed[self._site], bundle.digests[self._site])
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
        self._word = self._signed(Survivors(site=self._site, survivors=names, signature=b""))
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
        self._claim(survivors)
        return self._shares(survivors)
