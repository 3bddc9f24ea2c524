"""Secure aggregation: the centre learns the sum over sites and who took part, nothing else.

Five steps, each one message a site: `Member.advertise` -> `share` -> `mask` -> `sign` -> `release`; the centre's
`Tally` relays what it may not read and adds up. Masks agree between the sites of a roster, cancel in the sum and
survive dropouts down to the threshold. Above 64 sites `Neighbour` and `Hub` take their places: each site masks with
the neighbours of a drawn graph (`graph`). Pure: no network, no file; a site's durable memory is the `Guard` it gives.

What is guaranteed, and what not: `docs/threat-model.md`. A centre that lies about who dropped out learns nothing, as
long as at most `threshold - 1` sites (above 64: the stated fraction) collude with it and the honest ones keep their
identity keys.

Sources: Bonawitz et al. 2017, "Practical secure aggregation for privacy-preserving machine learning", CCS, section 4
(active adversaries), and for the drawn graph Bell et al. 2020 (see `graph`); ours differs in the pairwise secrets,
which are hybrid post-quantum (see `masks`).
"""

from privacy.secagg.graph import ATTEMPTS, COLLUDING, count_of
from privacy.secagg.hub import Hub, tally_of
from privacy.secagg.member import Member
from privacy.secagg.messages import Advert, Bundle, Letter, Release, Survivors, Word
from privacy.secagg.neighbour import Neighbour
from privacy.secagg.party import Guard, MemoryGuard, Party
from privacy.secagg.ring import Layout, Quantizer
from privacy.secagg.session import MAX_ROSTER, Session, graph_of, threshold_of
from privacy.secagg.tally import Tally
from privacy.secagg.wide import DIGITS, from_digits, to_digits

__all__ = [
    "ATTEMPTS",
    "COLLUDING",
    "DIGITS",
    "MAX_ROSTER",
    "Advert",
    "Bundle",
    "Guard",
    "Hub",
    "Layout",
    "Letter",
    "Member",
    "MemoryGuard",
    "Neighbour",
    "Party",
    "Quantizer",
    "Release",
    "Session",
    "Survivors",
    "Tally",
    "Word",
    "count_of",
    "from_digits",
    "graph_of",
    "tally_of",
    "threshold_of",
    "to_digits",
]
