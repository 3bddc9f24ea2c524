"""Disclosure control: what a table or an aggregate tells about single persons, and the rules against it.

    classes       k, l, t and small classes of rows
    traps         DataSHIELD's thresholds as a site's settings, each a check that refuses
    cells         small cells of frequency tables, suppressed so that margins do not give them back
    dominance     sums and means that are one person's value in disguise
    differencing  what cohorts released before give away together with a new one
    uniqueness    persons who are alone with their values
    noise         exact discrete noise for aggregates
    report        what would leave, for the site's eyes

Noise is in `privacy.dp`. Everything here is arithmetic on values given: no file, no ledger, no decision to release
(the egress gate).
"""

from __future__ import annotations

from privacy.disclosure.classes import (
    LKind,
    class_ids,
    class_sizes,
    cohort,
    is_number,
    k_anonymity,
    l_diversity,
    ranked,
    recursive_c,
    small_counts,
    suppress_small_classes,
    t_closeness,
)

__all__ = [
    "LKind",
    "class_ids",
    "class_sizes",
    "cohort",
    "is_number",
    "k_anonymity",
    "l_diversity",
    "ranked",
    "recursive_c",
    "small_counts",
    "suppress_small_classes",
    "t_closeness",
]
