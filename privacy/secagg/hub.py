"""The centre in one attempt of a large roster: as `Tally`, but each site is told only what concerns its neighbours."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from functools import cached_property

from privacy.secagg.graph import Degree, draw
from privacy.secagg.messages import Bundle, Letter, Survivors, Word, check, names_digest
from privacy.secagg.ring import Ring
from privacy.secagg.session import Session
from privacy.secagg.tally import Tally
from protocol.errors import InputError, IntegrityError

__all__ = ["Hub", "tally_of"]


class Hub(Tally):
    """The centre's part in a drawn graph; see `Tally`.

    Raises:
        InputError: `input.study` for a roster whose graph is complete.
    """

    Said: type[Survivors] | type[Word] = Word

    def __init__(self, session: Session, size: int) -> None:
        super().__init__(session, size)
        if session.graph is None:
            raise InputError("input.study", "secure aggregation: the graph of this roster is complete")
        self._graph: Degree = session.graph
        self._letters: dict[str, dict[str, Letter]] = {}  # receiver -> owner -> letter
        self._said: dict[str, Word] = {}  # `masked`

    def adverts_for(self, site: str) -> list[bytes]:
        """The site's own advert and those of its neighbours."""
        draws = self._drawn
        near = {site, *draws[site], *(peer for peer, holders in draws.items() if site in holders)}
        return [self.adverts[name].to_bytes() for name in sorted(near)]

    def take_bundle(self, bundle: Bundle) -> None:
        """See `Tally.take_bundle`."""
        super().take_bundle(bundle)
        for receiver, letter in bundle.letters().items():
            self._letters.setdefault(receiver, {})[bundle.site] = letter

    def bundles_for(self, site: str) -> list[bytes]:
        """All sites whose shares are there, as one string, and the letters for this one."""
        letters = self._letters.get(site, {})
        return ["\x00".join(sorted(self.bundles)).encode(), *(letters[owner].to_bytes() for owner in sorted(letters))]

    def take_masked(self, site: str, vector: Ring, said: bytes = b"") -> None:
        """Step 3: a vector counts with the word that it is masked with every neighbour. See `Tally.take_masked`.

        Raises:
            IntegrityError: `masks.signature`, `masks.replay`.
            InputError: `input.message`.
        """
        word = Word.from_bytes(said)
        if (word.about, word.site) != ("masked", site):
            raise IntegrityError("masks.replay", "a vector without the word of its own site")
        check(self._identity(site), word.signed(self._session, self._sharers), word.signature)
        super().take_masked(site, vector)
        self._said[site] = word

    def take_word(self, word: Word) -> None:
        """Step 4. Raises IntegrityError: `masks.signature`, `masks.replay`."""
        if word.about != "survivors" or word.site not in self._survivors:
            raise IntegrityError("masks.replay", "a word of a site that does not count")
        signed = word.signed(self._session, self._sharers, names_digest(self._survivors))
        check(self._identity(word.site), signed, word.signature)
        self.words[word.site] = word

    def words_for(self, site: str) -> list[bytes]:
        """A threshold of words on the survivors, neighbours' first, and `masked` of all whose shares the site holds."""
        known = self._drawn[site] | {peer for peer, holders in self._drawn.items() if site in holders} | {site}
        chosen = sorted(self.words, key=lambda name: (name not in known, name))[: self._session.threshold]
        owners = [owner for owner in sorted(self._letters.get(site, {})) if owner in self._said]
        return [*_told(self.words, chosen, known), *_told(self._said, owners, known)]

    @cached_property
    def _drawn(self) -> dict[str, set[str]]:
        names, context = self._session.names, self._session.digest
        return {
            site: set(draw(context, advert.seed, site, names, self._graph.degree)) & set(self.adverts)
            for site, advert in self.adverts.items()
        }

    @cached_property
    def _sharers(self) -> bytes:
        return names_digest(self.bundles)

    def _holders(self, site: str) -> set[str]:
        return self._drawn[site]


def tally_of(session: Session, size: int) -> Tally:
    """The centre's part for a session's graph.

    Args:
        size: elements of the vector.
    """
    return Tally(session, size) if session.graph is None else Hub(session, size)


def _told(words: dict[str, Word], sites: Iterable[str], known: set[str]) -> list[bytes]:
    """Words with the key under which to verify them, unless the receiver has it from an advert."""
    return [(replace(words[s], identity=b"") if s in known else words[s]).to_bytes() for s in sites]
