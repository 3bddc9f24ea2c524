"""The study's list of variants, from the lists of its sites: the same allele means the same thing everywhere."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from pipelines.features.genomics.alleles import Agreement, Outcome, Panel, match
from pipelines.features.genomics.variants import Variants
from protocol.errors import InputError

__all__ = ["agree"]


def agree(lists: Sequence[Variants], *, least: int | None = None, agreement: Agreement | None = None) -> Variants:
    """Variants that at least so many sites have, oriented as in the first list that has them.

    Args:
        lists: one per site, in normal form; only variants that passed the site's quality control and guard.
        least: number of sites; default all.
        agreement: strand and swap rules; by default A/T and C/G variants are left out.

    Raises:
        InputError: `input.genotypes` when builds differ; `input.usage` without a list; `input.variants` when no
            variant is shared.
    """
    if not lists:
        raise InputError("input.usage", "no site gave a list of variants")
    least = len(lists) if least is None else least
    agreement = agreement or Agreement()
    merged = lists[0].take(np.arange(0))
    number = np.zeros(0, np.int64)
    for listed in lists:
        found = match(listed, Panel(merged), agreement)
        number[np.unique(found.index[found.index >= 0])] += 1
        alone = match(listed, Panel(listed), agreement)
        new = listed.take((found.outcome == Outcome.ABSENT) & (alone.index == np.arange(len(listed))))
        merged = merged.joined(new)
        number = np.concatenate([number, np.ones(len(new), np.int64)])
    kept = merged.take(number >= least)
    if not len(kept):
        raise InputError("input.variants", "the sites share no variant")
    return kept
