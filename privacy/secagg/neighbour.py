"""A site in one attempt of a large roster: it shares its secrets with sites that it draws itself, and masks with these
and with the sites that drew it.

The steps are `Member`'s. What differs:
- A site is shown the adverts of its neighbours alone, and checks that each is one: drawn by its own seed, or by the
  seed that the other one signed. Nobody else can be put into its neighbourhood.
- All are told the same list of sites whose shares are there (the sharers). A site masks with each neighbour on it and
  signs the list (`masked`); whoever holds a share of its self-mask asks for that word before releasing it. So the
  sites that may take its self-mask off are among those with whom it is masked, however the centre lies.
- The round is bound when the survivor set is signed, not when shares are released: the shares of one site lie with
  few, and the others must not answer another attempt meanwhile.
"""

from __future__ import annotations

import secrets
from collections.abc import Iterable
from dataclasses import replace

from privacy.envelope.keys import PublicKey, SecretKey
from privacy.secagg.graph import Degree, draw
from privacy.secagg.masks import pair_seed
from privacy.secagg.messages import SEED_BYTES, Advert, Bundle, Letter, Release, Word, check, names_digest
from privacy.secagg.party import Guard, Party
from privacy.secagg.ring import Ring, add_mask
from privacy.secagg.session import Session
from protocol.errors import InputError, IntegrityError, UnavailableError
from protocol.trust import Purpose

__all__ = ["Neighbour"]


class Neighbour(Party):
    """One site's part in a drawn graph; see `Party` for the arguments.

    Raises:
        InputError: `input.study` for a roster whose graph is complete (`Member`).
    """

    def __init__(self, session: Session, site: str, identity: SecretKey, guard: Guard) -> None:
        super().__init__(session, site, identity, guard)
        if session.graph is None:
            raise InputError("input.study", "secure aggregation: the graph of this roster is complete")
        self._graph: Degree = session.graph
        self._seed = secrets.token_bytes(SEED_BYTES)
        self._holders = self._drawn(site, self._seed)  # of this site's shares
        self._owners: set[str] = set()  # who drew this site, and advertised
        self._receivers: set[str] = set()  # holders to whom shares are sealed
        self._sharers: tuple[str, ...] = ()
        self._survivors: tuple[str, ...] = ()
        self._word: Word | None = None

    def advertise(self) -> Advert:
        """Step 1: a fresh key, a commitment to the self-mask, the seed of this site's draw; signed."""
        return self._advert(self._seed)

    def share(self, adverts: Iterable[Advert]) -> Bundle:
        """Step 2: shares of both secrets and a half of each pair's seed, sealed to each holder.

        Args:
            adverts: of this site and of all its neighbours that take part.

        Raises:
            IntegrityError: `masks.signature` for a key that the site of that name did not sign, or of a site that is
                no neighbour.
            UnavailableError: `unavailable.survivors` when too few holders take part.
        """
        self._advance(2)
        seen = self._admit(adverts)
        self._owners = {peer for peer, advert in seen.items() if self._site in self._drawn(peer, advert.seed)}
        self._receivers = set(seen) & self._holders
        if not set(seen) <= self._owners | self._receivers:
            raise IntegrityError("masks.signature", "a site that is no neighbour")
        if len(self._receivers) < self._graph.shares:
            raise UnavailableError("unavailable.survivors")
        return self._bundle(sorted(self._receivers), self._graph.shares)

    def mask(self, sharers: Iterable[str], letters: Iterable[Letter], vector: Ring) -> tuple[Ring, Word]:
        """Step 3: the masked vector, and this site's word with whom it is masked.

        Args:
            sharers: all sites whose shares the centre has, the same for every site.
            letters: from each of these that drew this site.
            vector: uint64 [n], encoded; changed in place and returned.

        Raises:
            IntegrityError: `masks.signature`, `masks.share`, `masks.replay` for lists that do not fit together.
            UnavailableError: `unavailable.survivors`.
        """
        self._advance(3)
        self._sharers = self._set_of(sharers, self._session.roster)
        sharing = set(self._sharers)
        halves = self._halves(letters)
        if set(halves) != self._owners & sharing or not self._holders & sharing <= self._receivers:
            raise IntegrityError("masks.replay", "a neighbour is kept from this site")
        if len(self._holders & sharing) < self._graph.shares:
            raise UnavailableError("unavailable.survivors")
        for peer in sorted(set(halves) | (self._holders & sharing)):
            own = self._root.half(peer) if peer in self._receivers else b""
            seed, subtract = pair_seed(self._session, self._site, own, peer, halves.get(peer, b""))
            add_mask(vector, seed, subtract=subtract)
        add_mask(vector, self._self_mask)
        return vector, self._say("masked", names_digest(self._sharers))

    def sign(self, survivors: Iterable[str]) -> Word:
        """Step 4: this site's word on the survivor set. From now on the round is bound to it, durably.

        Raises:
            IntegrityError: `masks.replay` for a set that cannot be, or a second one.
            UnavailableError: `unavailable.survivors` for fewer than the threshold.
            ConflictError: `conflict.round` when another attempt of this round was answered before.
        """
        names = tuple(sorted(survivors))
        if self._word is not None and names == self._survivors:
            return self._word  # the same question again has the same answer
        self._advance(4)
        self._survivors = self._set_of(names, self._sharers)
        self._claim(self._survivors)
        self._word = self._say("survivors", names_digest(self._sharers), names_digest(self._survivors))
        return self._word

    def release(self, words: Iterable[Word]) -> Release:
        """Step 5: one share an owner, once a threshold of survivors has signed the same sets.

        Args:
            words: `survivors` of at least the threshold, and `masked` of each survivor that drew this site.

        Raises:
            IntegrityError: `masks.signature`, `masks.replay`.
            ConflictError: `conflict.round` when another attempt of this round was answered before.
        """
        self._advance(5)
        sharers, survivors = names_digest(self._sharers), names_digest(self._survivors)
        alive = set(self._survivors)
        said: dict[str, set[str]] = {"masked": set(), "survivors": set()}
        for word in words:
            if word.site not in alive or word.site in said[word.about]:
                raise IntegrityError("masks.replay", "a word of a site that does not count, or twice")
            sets = (sharers,) if word.about == "masked" else (sharers, survivors)
            check(self._identity_of(word), word.signed(self._session, *sets), word.signature)
            said[word.about].add(word.site)
        if len(said["survivors"]) < self._session.threshold:
            raise IntegrityError("masks.replay", "too few survivors have signed the set")
        if not set(self._held) & alive <= said["masked"]:
            raise IntegrityError("masks.replay", "a survivor does not say with whom it is masked")
        self._claim(self._survivors)
        return self._shares(self._survivors)

    def _halves(self, letters: Iterable[Letter]) -> dict[str, bytes]:
        """Owner -> its half of the pair's seed; its shares are held from now on."""
        halves: dict[str, bytes] = {}
        for letter in letters:
            if letter.site not in self._owners or letter.site in halves:
                raise IntegrityError("masks.signature", "shares of a site that did not draw this one, or twice")
            check(self._identities[letter.site], letter.signed(self._session), letter.signature)
            if not letter.addressed(self._site):
                raise IntegrityError("masks.share")
            halves[letter.site] = self._open(letter.site, letter.sealed, letter.digest)
        return halves

    def _set_of(self, names: Iterable[str], among: Iterable[str]) -> tuple[str, ...]:
        found = tuple(sorted(names))
        if len(set(found)) != len(found) or self._site not in found or not set(found) <= set(among):
            raise IntegrityError("masks.replay", "not a set of sites of this attempt")
        if len(found) < self._session.threshold:
            raise UnavailableError("unavailable.survivors")
        return found

    def _identity_of(self, word: Word) -> PublicKey:
        known = self._identities.get(word.site)
        return known if known is not None else self._session.identity(word.site, word.identity)

    def _say(self, about: str, *sets: bytes) -> Word:
        word = Word(about=about, site=self._site, identity=self._identity.public.to_bytes(), signature=b"")
        return replace(word, signature=self._identity.sign(Purpose.MASKS, word.signed(self._session, *sets)))

    def _drawn(self, site: str, seed: bytes) -> frozenset[str]:
        session = self._session
        return draw(session.digest, seed, site, session.names, self._graph.degree)
