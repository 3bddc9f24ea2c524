"""Polygenic scores: one number per person, by a published file.

A score of few variants, or of few that matter, is a genotype in disguise: it is refused by the effective number of
variants, 1 over the sum of squared shares of the score's variance. The number that leaves is rounded to a fraction
of the score's spread at the site, for a sum of many exact weights could be taken apart again.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from math import floor, log10
from typing import TYPE_CHECKING, Literal

import numpy as np
from numpy.typing import NDArray

from pipelines.features.genomics.alleles import Agreement, Panel, aligned, frequencies
from pipelines.features.genomics.genotypes import Dosages, Genotypes
from pipelines.features.genomics.scorefile import Score
from pipelines.features.schema import Feature
from protocol.errors import DisclosureRefused, InputError

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["Options", "PolygenicScores", "compute"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """How a score is computed.

    Attributes:
        missing: a genotype that is not called counts as the site's mean dosage (as plink does), or as no copy.
        coverage: smallest share of the file's rows that must be found, else the score is another score.
        minimum: smallest effective number of variants.
        resolution: grid of the result in units of its standard deviation (to a power of ten below); 0 = exact.
        agreement: strand and swap rules; a score's other allele need not be the reference.
    """

    missing: Literal["mean", "zero"] = "mean"
    coverage: float = 0.75
    minimum: float = 10.0
    resolution: float = 0.01
    agreement: Agreement = field(default_factory=lambda: Agreement(swapped_indels=True))


class PolygenicScores:
    """The plug-in: parameters `{"scores": [ids]}`, one column each."""

    name = "polygenic-scores"
    version = 1

    def schema(self, parameters: Mapping[str, object]) -> tuple[Feature, ...]:
        """One float column per score id.

        Raises:
            InputError: `input.usage`.
        """
        names = parameters.get("scores")
        if not isinstance(names, list | tuple) or not names or not all(isinstance(name, str) for name in names):
            raise InputError("input.usage", "scores: a list of score ids")
        return tuple(
            Feature(
                f"score_{name}",
                "float64",
                "1",
                f"weighted sum of effect alleles of {name}, rounded to a fraction of its spread at the site",
                f"PGS Catalog {name}",
            )
            for name in names
        )


def compute(
    genotypes: Genotypes, score: Score, options: Options | None = None
) -> tuple[pd.Series[float], dict[str, int]]:
    """One number per sample.

    Args:
        genotypes: open, of the score's build; read with `Options(chosen=chosen(score.variants))` to be quick.
        score: parsed for the same build.
        options: how.

    Returns:
        Series `score_<name>`, index = sample ids; and counts: `rows`, `matched`, outcomes of matching, what the
        file left out, `missing` (genotypes not called).

    Raises:
        InputError: `input.variants` when too little of the score is found; `input.genotypes`.
        DisclosureRefused: `gate.genotype` when too few variants make up the score.
    """
    import pandas as pd

    options = options or Options()
    counts: Counter[str] = Counter(score.counts)
    counts["rows"] = score.total
    total = np.zeros(len(genotypes.samples))
    variances: list[NDArray[np.float64]] = []
    for index, dosages in aligned(genotypes, Panel(score.variants), options.agreement, counts):
        counts["matched"] += len(index)
        part, variance = _part(dosages, score.weights[index], options, counts)
        total += part
        variances.append(variance)
    if not score.total or counts["matched"] < options.coverage * score.total:
        raise InputError(
            "input.variants",
            f"{counts['matched']} of the score's {score.total} variants found: too few to be that score",
        )
    _refuse_few(np.concatenate(variances), options.minimum)
    values = _rounded(total, options.resolution)
    return pd.Series(values, index=list(genotypes.samples), name=f"score_{score.name}"), dict(counts)


def _part(
    dosages: Dosages, weights: NDArray[np.float64], options: Options, counts: Counter[str]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Contribution of a block to everyone's sum [n], and each variant's variance [b]."""
    called = np.isfinite(dosages)
    counts["missing"] += int((~called).sum())
    if options.missing == "mean":
        fill = np.nan_to_num(2 * frequencies(dosages))
        known = np.where(called, dosages, fill).astype(np.float64)
    else:
        known = np.where(called, dosages, 0).astype(np.float64)
    zero, one, two = weights.T
    values = zero + (one - zero) * np.minimum(known, 1) + (two - one) * np.maximum(known - 1, 0)
    return values.sum(axis=1), values.var(axis=0)


def _refuse_few(variances: NDArray[np.float64], minimum: float) -> None:
    squares = float((variances**2).sum())
    effective = float(variances.sum()) ** 2 / squares if squares > 0 else 0.0
    if effective < minimum:
        raise DisclosureRefused(
            "gate.genotype", f"the score rests on {effective:.1f} variants in effect, fewer than {minimum:g}"
        )


def _rounded(values: NDArray[np.float64], resolution: float) -> NDArray[np.float64]:
    spread = float(values.std())
    if resolution <= 0 or spread == 0:
        return values
    digits = -floor(log10(spread * resolution))
    return np.round(values, digits)
