"""Secure aggregation: the centre learns the sum over sites and who took part, nothing else.

Five steps, each one message a site: `Member.advertise` -> `share` -> `mask` -> `sign` -> `release`; the centre's
`Tally` relays what it may not read and adds up. Masks agree between the sites of a roster, cancel in the sum and
survive dropouts down to the threshold. Pure: no network, no file; a site's durable memory is the `Guard` it gives.

What is guaranteed, and what not: `docs/threat-model.md`. A centre that lies about who dropped out learns nothing, as
long as at most `threshold - 1` sites collude with it and the honest ones keep their identity keys.

Source: Bonawitz et al. 2017, "Practical secure aggregation for privacy-preserving machine learning", CCS, section 4
(active adversaries); ours differs in the pairwise secrets, which are hybrid post-quantum (see `masks`).
"""

from privacy.secagg.member import Guard, Member, MemoryGuard
from privacy.secagg.messages import Advert, Bundle, Release, Session, Survivors, threshold_of
from privacy.secagg.ring import Layout, Quantizer
from privacy.secagg.tally import Tally
from privacy.secagg.wide import DIGITS, from_digits, to_digits

__all__ = [
    "DIGITS",
    "Advert",
    "Bundle",
    "Guard",
    "Layout",
    "Member",
    "MemoryGuard",
    "Quantizer",
    "Release",
    "Session",
    "Survivors",
    "Tally",
    "from_digits",
    "threshold_of",
    "to_digits",
]
