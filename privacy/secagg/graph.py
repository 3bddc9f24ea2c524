"""Who is whose neighbour above 64 sites: how many each site draws, how many shares give a secret back, and the draw.

Each site draws the holders of its shares itself, from a seed of its own that its signed advert commits it to: there is
no common coin that a centre could bias by letting sites drop out, and nobody gains by choosing his own seed, since a
site's draw protects that site alone. The degree is the smallest for which an exchange goes wrong with a chance of
2^-40 at most (`failure`): hypergeometric tails, and a union over everything that a hostile centre may choose after it
has seen the whole graph.

Source: Bell, Bonawitz, Gascon, Lepoint, Raykova 2020, "Secure single-server aggregation with (poly)logarithmic
overhead", CCS, section 4 (each client draws its own neighbours) and 3.1 (good graphs). Ours differs in the third
event: the survivors are signed by two thirds of the roster, so that a set of sites can be taken apart only from the
rest of these; the bound is worked out in `docs/adr/0014-sparse-graph.md`.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

__all__ = ["ATTEMPTS", "COLLUDING", "DROPOUT", "FAILURE", "Degree", "chance", "count_of", "degree_of", "draw"]

COLLUDING, DROPOUT = 0.05, 0.1  # fractions of the roster, where the study states none
ATTEMPTS = 3  # at one exchange, each with a graph of its own; a site answers no more
FAILURE = 2.0**-40  # of one exchange, all its attempts


@dataclass(frozen=True, slots=True, kw_only=True)
class Degree:
    """How many sites each site draws to hold its shares, and how many of these give a secret back."""

    degree: int
    shares: int


@lru_cache(maxsize=64)
def degree_of(roster: int, threshold: int, colluding: int, dropout: int) -> Degree:
    """The smallest degree whose chance of failure is at most `FAILURE`; that of the complete graph always is.

    Args:
        roster: sites, at least 4.
        threshold: survivors without whom nothing is revealed.
        colluding: sites that may be in league with the centre, and silent besides.
        dropout: further sites that may drop out in some step.

    Raises:
        ValueError: fewer than a threshold would be left.
    """
    if colluding < 0 or dropout < 0 or roster - colluding - dropout < threshold or 2 * threshold - roster <= colluding:
        raise ValueError("more sites collude or drop out than the threshold bears")
    for degree in range(1, roster - 1):
        shares = _fitting(roster, threshold, colluding, dropout, degree)
        if shares is not None:
            return Degree(degree=degree, shares=shares)
    return Degree(degree=roster - 1, shares=roster - 1 - colluding - dropout)  # everybody holds everybody's


def count_of(fraction: float, roster: int) -> int:
    """How many sites a stated fraction of the roster is, rounded down."""
    return math.floor(fraction * roster + 1e-9)


def chance(degree: Degree, *, roster: int, threshold: int, colluding: int, dropout: int) -> tuple[float, float]:
    """Bounds on what may go wrong in one attempt.

    Returns:
        The chance that some site has too few honest survivors among the holders of its shares, when `dropout` sites
        drop out that were not chosen by the graph; and the chance that there is any set of at most half of the honest
        survivors whose sum a hostile centre could take apart from the others', by naming as dropped whom it likes
        (one site whose holders collude is such a set).
    """
    good = roster - colluding - dropout - 1  # besides the site itself
    lost = roster * math.exp(_log_tail_below(roster - 1, good, degree.degree, degree.shares))
    return min(1.0, lost), min(1.0, _apart(degree, roster, threshold, colluding))


def draw(context: bytes, seed: bytes, site: str, roster: Sequence[str], degree: int) -> frozenset[str]:
    """The holders of a site's shares: `degree` other sites, uniform over such sets for a uniform seed.

    Args:
        context: digest of the session.
        seed: 32 bytes, from the site's signed advert.
        roster: all sites of the signed study, whether or not they take part, in sorted order.
    """
    others = [name for name in roster if name != site]
    stream = _Stream(b"corsia/v1/masks/graph\x00" + context + site.encode() + b"\x00" + seed)
    for at in range(min(degree, len(others))):  # the first steps of Fisher and Yates' shuffle
        other = at + stream.below(len(others) - at)
        others[at], others[other] = others[other], others[at]
    return frozenset(others[:degree])


class _Stream:
    """Uniform numbers from SHAKE-256 of one text; a number that would favour some residues is thrown away."""

    def __init__(self, text: bytes) -> None:
        self._text, self._raw, self._at = text, hashlib.shake_256(text).digest(8192), 0

    def below(self, bound: int) -> int:
        limit = 2**32 - 2**32 % bound
        while True:
            if self._at + 4 > len(self._raw):
                self._raw = hashlib.shake_256(self._text).digest(2 * len(self._raw))
            value = int.from_bytes(self._raw[self._at : self._at + 4], "big")
            self._at += 4
            if value < limit:
                return value % bound


# -- chances -----------------------------------------------------------------------------------------------------------


def _fitting(roster: int, threshold: int, colluding: int, dropout: int, degree: int) -> int | None:
    """The largest number of shares that leaves enough survivors, if it also keeps every set together."""
    allowed = math.log(FAILURE / 2 / ATTEMPTS / roster)
    good = roster - colluding - dropout - 1
    shares = 0
    while shares < degree and _log_tail_below(roster - 1, good, degree, shares + 1) <= allowed:
        shares += 1
    made = Degree(degree=degree, shares=shares)
    most = FAILURE / 2 / ATTEMPTS
    return shares if shares and _apart(made, roster, threshold, colluding, most) <= most else None


def _apart(degree: Degree, roster: int, threshold: int, colluding: int, most: float = math.inf) -> float:
    """Chance of any set of s honest sites, at most half of the honest survivors, that stands apart from the rest B.

    At least max(s, threshold - colluding - s) such B are left; each of the s drew none of them, and drew enough
    holders among the s and the colluders. Of both we take the rarer, for s sites that draw independently. Where the
    colluders among one site's holders are enough by themselves, no B protects it.
    """
    honest, total = roster - colluding, 0.0
    for size in range(1, honest // 2 + 1):
        rest = max(size, threshold - colluding - size)
        if size + rest > honest or total > most:
            break
        inside = _log_tail_from(roster - 1, size - 1 + colluding, degree.degree, degree.shares)
        outside = _log_choose(roster - 1 - rest, degree.degree) - _log_choose(roster - 1, degree.degree)
        worst = size * inside
        if size > 1:
            worst = min(worst, _log_choose(honest - size, rest) + size * outside)
        total += math.exp(min(_log_choose(honest, size) + worst, 0.0))
    return total


def _log_tail_below(population: int, marked: int, drawn: int, bound: int) -> float:
    """Log of the chance that fewer than `bound` of `drawn` are marked."""
    return _log_sum(population, marked, drawn, max(0, drawn - (population - marked)), min(bound - 1, marked, drawn))


def _log_tail_from(population: int, marked: int, drawn: int, bound: int) -> float:
    """Log of the chance that `bound` or more of `drawn` are marked."""
    return _log_sum(population, marked, drawn, max(bound, drawn - (population - marked), 0), min(marked, drawn))


def _log_sum(population: int, marked: int, drawn: int, low: int, high: int) -> float:
    if low > high:
        return -math.inf
    at = np.arange(low, high + 1)
    table = _log_factorials()
    parts = (
        table[marked] - table[at] - table[marked - at]
        + table[population - marked] - table[drawn - at] - table[population - marked - drawn + at]
    )  # fmt: skip
    top = float(parts.max())
    return top + math.log(float(np.exp(parts - top).sum())) - _log_choose(population, drawn)


def _log_choose(of: int, some: int) -> float:
    if not 0 <= some <= of:
        return -math.inf
    table = _log_factorials()
    return float(table[of] - table[some] - table[of - some])


@lru_cache(maxsize=1)
def _log_factorials() -> NDArray[np.float64]:
    return np.concatenate([[0.0], np.cumsum(np.log(np.arange(1, 4096)))])
