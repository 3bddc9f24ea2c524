"""The centre in one attempt: collects, relays, adds up, and takes off the masks that are left.

It holds no secret of a site. Whatever a site says is checked here too, so that one that lies is left out (or named)
instead of spoiling the sum. The running sum is the only large thing in memory. `Tally` is for a complete graph,
`privacy.secagg.hub` for a drawn one; `adverts_for`, `bundles_for` and `words_for` say what each site is to be told.
"""

from __future__ import annotations

import hashlib
from typing import Any, TypeVar

import numpy as np

from privacy.envelope.keys import PublicKey
from privacy.secagg import shamir
from privacy.secagg.masks import Root, commitment, pair_seed
from privacy.secagg.messages import Advert, Bundle, Release, Survivors, Word, admit, check
from privacy.secagg.ring import Ring, add_mask
from privacy.secagg.session import Session
from protocol.errors import InputError, IntegrityError, UnavailableError

__all__ = ["Tally"]

_Taken = TypeVar("_Taken", Advert, Bundle)


class Tally:
    """The centre's part, all sites neighbours of all.

    Each `take_*` accepts one site's message of a step or raises and leaves the site out.

    Args:
        size: elements of the vector.
    """

    Said: type[Survivors] | type[Word] = Survivors  # what a site answers in the step `sign`

    def __init__(self, session: Session, size: int) -> None:
        self._session = session
        self._identities: dict[str, PublicKey] = {}
        self.adverts: dict[str, Advert] = {}
        self.bundles: dict[str, Bundle] = {}
        self.words: dict[str, Any] = {}  # of `Said`
        self._closed = 0
        self._masked: set[str] = set()
        self._enough = session.threshold if session.graph is None else session.graph.shares  # to give a secret back
        self._releases: dict[str, Release] = {}
        self._survivors: tuple[str, ...] = ()
        self._sum: Ring = np.zeros(size, dtype=np.uint64)

    def take_advert(self, advert: Advert) -> None:
        """Step 1. Raises IntegrityError: `masks.signature`, `masks.replay` when it comes late."""
        self._open(1)
        identity = admit(self._session, advert)
        if self.adverts.setdefault(advert.site, advert) != advert:
            raise IntegrityError("masks.signature", "two adverts of one site")
        self._identities[advert.site] = identity

    def close_adverts(self) -> list[Advert]:
        """Who takes part, for every site.

        Raises:
            UnavailableError: `unavailable.survivors` below the threshold.
        """
        return self._close(1, self.adverts)

    def adverts_for(self, site: str) -> list[bytes]:
        """What a site is told in the step `share`."""
        del site
        return [self.adverts[name].to_bytes() for name in sorted(self.adverts)]

    def take_bundle(self, bundle: Bundle) -> None:
        """Step 2. Raises IntegrityError: `masks.signature`, `masks.replay`, `masks.share` when it skips a peer."""
        self._open(2)
        check(self._identity(bundle.site), bundle.signed(self._session), bundle.signature)
        holders = self._holders(bundle.site)
        if set(bundle.digests) != holders or set(bundle.sealed) != holders - {bundle.site}:
            raise IntegrityError("masks.share", "shares for other sites than those that advertised")
        if self.bundles.setdefault(bundle.site, bundle) != bundle:
            raise IntegrityError("masks.signature", "two bundles of one site")

    def close_bundles(self) -> list[Bundle]:
        """Whose masks are in the sum, for every site that gave a bundle.

        Raises:
            UnavailableError: `unavailable.survivors` below the threshold.
        """
        return self._close(2, self.bundles)

    def bundles_for(self, site: str) -> list[bytes]:
        """What a site is told in the step `mask`."""
        del site
        return [self.bundles[name].to_bytes() for name in sorted(self.bundles)]

    def take_masked(self, site: str, vector: Ring, said: bytes = b"") -> None:
        """Step 3: add a masked vector to the sum.

        Args:
            said: what a site of a drawn graph says beside it.

        Raises:
            InputError: `input.message` for another shape or dtype.
            IntegrityError: `masks.replay` for a site without shares, a second vector, or one that comes late.
        """
        if vector.dtype != np.uint64 or vector.shape != self._sum.shape:
            raise InputError("input.message", "secure aggregation: a vector of another shape")
        if said or self._closed < 2 or site not in self.bundles or site in self._masked or self._survivors:
            raise IntegrityError("masks.replay", "a vector that is not expected, or no longer")
        np.add(self._sum, vector, out=self._sum)
        self._masked.add(site)

    def survivors(self) -> tuple[str, ...]:
        """Close step 3: whose vectors are in the sum. From now on it is fixed.

        Raises:
            UnavailableError: `unavailable.survivors` below the threshold; nothing can be revealed.
        """
        if len(self._masked) < self._session.threshold:
            raise UnavailableError("unavailable.survivors")
        self._survivors = self._survivors or tuple(sorted(self._masked))
        return self._survivors

    def take_word(self, word: Any) -> None:
        """Step 4, a word as `Said`. Raises IntegrityError: `masks.signature`, `masks.replay`."""
        check(self._identity(word.site), word.signed(self._session), word.signature)
        if word.survivors != self._survivors or word.site not in self._survivors:
            raise IntegrityError("masks.replay", "a word on another survivor set")
        self.words[word.site] = word

    def words_for(self, site: str) -> list[bytes]:
        """What a site is told in the step `release`."""
        del site
        return [self.words[name].to_bytes() for name in sorted(self.words)]

    def take_release(self, release: Release) -> None:
        """Step 5: shares are checked one by one against the digests that their owners signed.

        Raises:
            IntegrityError: `masks.share`; the site is left out.
        """
        alive = set(self._survivors)
        owners = {site for site, bundle in self.bundles.items() if release.site in bundle.digests}
        said = (set(release.self_masks), set(release.roots))
        if release.site not in alive or said != (owners & alive, owners - alive):
            raise IntegrityError("masks.share")
        for shares, half in ((release.self_masks, slice(0, 32)), (release.roots, slice(32, 64))):
            for owner, share in shares.items():
                if hashlib.sha256(share).digest() != self.bundles[owner].digests[release.site][half]:
                    raise IntegrityError("masks.share")
        self._releases[release.site] = release

    def total(self) -> Ring:
        """The sum over the survivors, unmasked: uint64 [n].

        Raises:
            UnavailableError: `unavailable.survivors` for too few releases; nothing is revealed.
            IntegrityError: `masks.share` when secrets do not fit what was committed to.
        """
        if not self._survivors or len(self._releases) < self._enough:
            raise UnavailableError("unavailable.survivors")
        for site in self._survivors:
            seed = self._rebuilt({p: r.self_masks[site] for p, r in self._releases.items() if site in r.self_masks})
            if commitment(self._session, site, seed) != self.adverts[site].commitment:
                raise IntegrityError("masks.share", f"the shares of {site} give another secret")
            add_mask(self._sum, seed, subtract=True)
        for site in self._dropped():
            root = Root(
                self._rebuilt({p: r.roots[site] for p, r in self._releases.items() if site in r.roots}),
                site,
                self._session,
            )
            if root.key.public.to_bytes() != self.adverts[site].ephemeral:
                raise IntegrityError("masks.share", f"the shares of {site} give another secret")
            for peer in self._survivors:
                self._take_off(root, site, peer)
        made, self._sum = self._sum, np.zeros(0, dtype=np.uint64)
        return made

    def _take_off(self, root: Root, site: str, peer: str) -> None:
        """The mask between a survivor and a site that dropped out, from the latter's rebuilt secrets."""
        own = root.half(peer) if peer in self.bundles[site].sealed else b""
        sealed = self.bundles[peer].sealed.get(site)
        peers_half = b"" if sealed is None else root.unseal_half(peer, sealed)
        if own or peers_half:
            seed, subtract = pair_seed(self._session, peer, peers_half, site, own)
            add_mask(self._sum, seed, subtract=not subtract)

    def _holders(self, site: str) -> set[str]:
        """Who must be given shares of a site's secrets."""
        del site
        return set(self.adverts)

    def _dropped(self) -> list[str]:
        return sorted(set(self.bundles) - set(self._survivors))

    def _rebuilt(self, shares: dict[str, bytes]) -> bytes:
        if len(shares) < self._enough:
            raise UnavailableError("unavailable.survivors")
        chosen = sorted(shares)[: self._enough]
        return shamir.combine({self._session.points[peer]: shares[peer] for peer in chosen})

    def _open(self, step: int) -> None:
        if self._closed >= step:
            raise IntegrityError("masks.replay", "a message of a step that is closed")

    def _close(self, step: int, taken: dict[str, _Taken]) -> list[_Taken]:
        if len(taken) < self._session.threshold:
            raise UnavailableError("unavailable.survivors")
        self._closed = max(self._closed, step)
        return [taken[site] for site in sorted(taken)]

    def _identity(self, site: str) -> PublicKey:
        if site not in self._identities:
            raise IntegrityError("masks.signature")
        return self._identities[site]
