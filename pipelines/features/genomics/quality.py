"""Quality of genotypes: call rates, minor allele frequency, Hardy-Weinberg; counts by reason.

Per-variant figures stay at the site; only the counts of a `Report` are for the outside.
Source of the exact test: Wigginton, Cutler, Abecasis 2005, Am J Hum Genet 76:887.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import lru_cache
from math import lgamma

import numpy as np
from numpy.typing import NDArray

from pipelines.features.genomics.alleles import frequencies
from pipelines.features.genomics.genotypes import Block, Dosages

__all__ = ["Report", "Thresholds", "assess", "hardy_weinberg", "passes"]

#: A dosage this far from a whole number is no call for the Hardy-Weinberg test.
_FUZZ = 0.1


@dataclass(frozen=True, slots=True, kw_only=True)
class Thresholds:
    """A variant or sample below (p below `hwe`) is left out; 0 switches a test off."""

    variant_call_rate: float = 0.95
    sample_call_rate: float = 0.95
    maf: float = 0.0
    hwe: float = 1e-6


@dataclass(slots=True, eq=False)
class Report:
    """What `assess` found.

    Attributes:
        samples: call rate of each, over the variants that pass, float64 [n].
        counts: `variants`, `passed` and what failed, by reason; `samples-call-rate` too.
    """

    samples: NDArray[np.float64]
    counts: Counter[str] = field(default_factory=Counter)


@lru_cache(maxsize=1 << 16)
def hardy_weinberg(heterozygous: int, homozygous: int, other: int) -> float:
    """Exact p-value of Hardy-Weinberg equilibrium: sum over all tables no likelier than the one seen.

    Args:
        heterozygous: persons with one copy.
        homozygous: persons with two copies of one allele.
        other: persons with two copies of the other.

    Returns:
        p in (0, 1]; 1 for no person.
    """
    n = heterozygous + homozygous + other
    rare = 2 * min(homozygous, other) + heterozygous
    if rare == 0:
        return 1.0
    hets = np.arange(rare % 2, rare + 1, 2)
    rares = (rare - hets) // 2
    factorial = _log_factorials(1 << n.bit_length())
    logs = hets * np.log(2.0) - factorial[hets] - factorial[rares] - factorial[n - hets - rares]
    seen = logs[(heterozygous - rare % 2) // 2]
    weights = np.exp(logs - logs.max())
    return float(min(1.0, weights[logs <= seen + 1e-9].sum() / weights.sum()))


@lru_cache(maxsize=4)
def _log_factorials(n: int) -> NDArray[np.float64]:
    """log(k!) for k = 0..n."""
    return np.array([lgamma(value + 1.0) for value in range(n + 1)])


def passes(dosages: Dosages, thresholds: Thresholds) -> tuple[NDArray[np.bool_], Counter[str]]:
    """Which variants of a block pass, and how many failed of each reason (the first that applies)."""
    called = np.isfinite(dosages)
    rate = called.mean(axis=0) if len(dosages) else np.zeros(dosages.shape[1])
    frequency = frequencies(dosages)
    maf = np.minimum(frequency, 1 - frequency)
    keep = np.ones(dosages.shape[1], bool)
    reasons: Counter[str] = Counter()
    _fail(keep, reasons, "variant-call-rate", ~(rate >= thresholds.variant_call_rate) | ~np.isfinite(frequency))
    _fail(keep, reasons, "maf", ~(maf >= thresholds.maf))
    if thresholds.hwe > 0:
        _fail(keep, reasons, "hwe", _hwe(dosages) < thresholds.hwe)
    return keep, reasons


def _fail(keep: NDArray[np.bool_], reasons: Counter[str], reason: str, failing: NDArray[np.bool_]) -> None:
    if number := int((keep & failing).sum()):
        reasons[reason] += number
    keep &= ~failing


def _hwe(dosages: Dosages) -> NDArray[np.float64]:
    counts = [(np.abs(dosages - copies) <= _FUZZ).sum(axis=0).tolist() for copies in (1, 0, 2)]
    return np.array([hardy_weinberg(*table) for table in zip(*counts, strict=True)], np.float64)


def assess(blocks: Iterable[Block], samples: int, thresholds: Thresholds | None = None) -> Report:
    """Call rates of the samples over the variants that pass, and the counts by reason.

    Args:
        blocks: of `samples` rows each; consumed.
        samples: number of samples.
        thresholds: of variants and samples.
    """
    thresholds = thresholds or Thresholds()
    called = np.zeros(samples, np.int64)
    report = Report(np.ones(samples))
    for block in blocks:
        keep, reasons = passes(block.dosages, thresholds)
        report.counts.update(reasons)
        report.counts["variants"] += len(keep)
        report.counts["passed"] += int(keep.sum())
        called += np.isfinite(block.dosages[:, keep]).sum(axis=1)
    if passed := report.counts["passed"]:
        report.samples = called / passed
    report.counts["samples-call-rate"] = int((report.samples < thresholds.sample_call_rate).sum())
    return report
