"""One attempt of one round: to what every signature and mask is bound, and how many sites each step needs."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from privacy.envelope.keys import PublicKey
from privacy.secagg.graph import COLLUDING, DROPOUT, Degree, count_of, degree_of
from protocol.errors import InputError, IntegrityError
from protocol.parcel import canonical_json

__all__ = ["MAX_COMPLETE", "MAX_ROSTER", "Session", "graph_of", "threshold_of"]

MAX_COMPLETE = 64  # up to here every site has every other one for a neighbour; above, those of `graph`
MAX_ROSTER = 1000
MIN_SURVIVORS = 3


def threshold_of(roster: int) -> int:
    """The smallest number above two thirds of the roster, at least 3.

    Above two thirds, two survivor sets of a round share an honest site, even if a third of the roster lies.
    """
    return max(MIN_SURVIVORS, 2 * roster // 3 + 1)


def graph_of(roster: int, colluding: float | None = None, dropout: float | None = None) -> Degree | None:
    """How many sites hold a site's shares; None up to `MAX_COMPLETE` sites, where all do.

    Args:
        colluding, dropout: fractions of the roster.

    Raises:
        InputError: `input.study` when too many are said to collude or to drop out.
    """
    if roster <= MAX_COMPLETE:
        return None
    lost = [count_of(d if f is None else f, roster) for f, d in ((colluding, COLLUDING), (dropout, DROPOUT))]
    try:
        return degree_of(roster, threshold_of(roster), *lost)
    except ValueError:
        raise InputError(
            "input.study", "secure aggregation: colluding and dropout are too much for two thirds"
        ) from None


@dataclass(frozen=True, kw_only=True)
class Session:
    """One attempt of one round.

    Attributes:
        study: digest of the signed study.
        run: the run and, behind a slash, what of it is added up (the phase).
        roster: site -> fingerprint of its identity key, from the signed study.
        colluding, dropout: fractions of a roster above `MAX_COMPLETE` for which its graph is made.
    """

    study: str
    run: str
    round: int
    attempt: int
    roster: Mapping[str, str]
    colluding: float | None = None
    dropout: float | None = None

    def __post_init__(self) -> None:
        if not MIN_SURVIVORS <= len(self.roster) <= MAX_ROSTER:
            raise InputError("input.study", f"secure aggregation: {MIN_SURVIVORS} to {MAX_ROSTER} sites")
        if len(set(self.roster.values())) != len(self.roster):
            raise InputError("input.study", "secure aggregation: two sites under one identity")
        _ = self.graph

    @cached_property
    def graph(self) -> Degree | None:
        """How many sites hold a site's shares, above `MAX_COMPLETE` sites.

        Raises:
            InputError: `input.study` when too many are said to collude or to drop out.
        """
        return graph_of(len(self.roster), self.colluding, self.dropout)

    @property
    def place(self) -> str:
        """What of a study's round is released once: the phase. Not the run, whose name the centre makes up."""
        return self.run.rpartition("/")[2]

    @property
    def threshold(self) -> int:
        """Survivors without whom nothing is revealed."""
        return threshold_of(len(self.roster))

    @cached_property
    def names(self) -> tuple[str, ...]:
        """The roster's sites in sorted order."""
        return tuple(sorted(self.roster))

    @cached_property
    def points(self) -> dict[str, int]:
        """Each site's abscissa in Shamir's scheme."""
        return {site: i for i, site in enumerate(self.names, 1)}

    @cached_property
    def digest(self) -> bytes:
        """SHA-256 over everything that makes this attempt what it is."""
        value: dict[str, Any] = {
            "study": self.study, "run": self.run, "round": self.round, "attempt": self.attempt,
            "roster": dict(self.roster), "threshold": self.threshold,
        }  # fmt: skip
        if self.graph is not None:
            value["graph"] = [self.graph.degree, self.graph.shares]
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
