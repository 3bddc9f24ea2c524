"""Do two lists mean the same alleles? Same, swapped, on the other strand, ambiguous, or not at all.

A file's variants are brought to an agreed list (a study's, a score's, a reference panel's) before any sum, so that
a dosage counts the same allele at every site. A/T and C/G variants look alike on both strands: by default they are
left out; `frequency` compares allele frequencies and keeps what is clear; `forward` trusts both lists to be on the
forward strand, as VCF requires. Indels are never flipped, and swapped only where the caller says that the list's
first allele need not be the genome's (an insertion and a deletion at one place look like a swap).
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from enum import IntEnum
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from pipelines.features.genomics.genotypes import ENOUGH, Chosen, Dosages, Genotypes
from pipelines.features.genomics.variants import Variants
from protocol.errors import InputError

__all__ = ["Agreement", "Match", "Outcome", "Panel", "aligned", "chosen", "frequencies", "match"]

#: A palindromic variant is decided by frequency only this far from one half, in both lists.
CLEAR = 0.08
#: Below this share of fitting alleles, over at least `ENOUGH` shared places, the lists are not of one genome.
FITTING = 0.5
_COMPLEMENT = str.maketrans("ACGT", "TGCA")

Ambiguous = Literal["exclude", "frequency", "forward"]


class Outcome(IntEnum):
    """What became of a variant of the file."""

    SAME = 0
    SWAPPED = 1
    FLIPPED = 2
    FLIPPED_SWAPPED = 3
    AMBIGUOUS = 4
    MISMATCH = 5
    ABSENT = 6
    DUPLICATE = 7


@dataclass(frozen=True, slots=True, eq=False)
class Panel:
    """A list to agree with: variants in normal form, and the frequency of `alt` where known (NaN = not known)."""

    variants: Variants
    frequency: NDArray[np.float64] | None = None

    def index(self) -> dict[tuple[str, int], list[int]]:
        """Positions in the list by place."""
        found: dict[tuple[str, int], list[int]] = defaultdict(list)
        for at, place in enumerate(self.variants.places()):
            found[place].append(at)
        return dict(found)


@dataclass(frozen=True, slots=True, kw_only=True)
class Agreement:
    """How much is taken on trust; see the module's text."""

    ambiguous: Ambiguous = "exclude"
    swapped_indels: bool = False


@dataclass(frozen=True, slots=True, eq=False)
class Match:
    """For each variant of the file: `index` in the panel (-1 = none), whether to take 2 - dosage, and why."""

    index: NDArray[np.int64]
    swap: NDArray[np.bool_]
    outcome: NDArray[np.int8]


def chosen(variants: Variants) -> Chosen:
    """A filter for `Options.chosen`: the places of a list."""
    places = set(variants.places())
    return lambda chrom, pos: (chrom, pos) in places


def frequencies(dosages: Dosages) -> NDArray[np.float64]:
    """Frequency of the counted allele among called genotypes; NaN where none is called."""
    called = np.isfinite(dosages)
    total = np.where(called, dosages, 0).sum(axis=0, dtype=np.float64)
    number = called.sum(axis=0)
    return np.asarray(np.divide(total, 2 * number, out=np.full(len(number), np.nan), where=number > 0))


def _compare(ref: str, alt: str, other: tuple[str, str]) -> Outcome:
    """Compare alleles, palindromes as if on the forward strand; `other` = (ref, alt) of the panel, ref "" = any."""
    if other[0] == "":
        return Outcome.SAME if alt == other[1] else Outcome.SWAPPED if ref == other[1] else Outcome.MISMATCH
    if (ref, alt) == other:
        return Outcome.SAME
    if (alt, ref) == other:
        return Outcome.SWAPPED
    if len(ref) == len(alt) == 1:
        flipped = ref.translate(_COMPLEMENT), alt.translate(_COMPLEMENT)
        if flipped == other:
            return Outcome.FLIPPED
        if flipped[::-1] == other:
            return Outcome.FLIPPED_SWAPPED
    return Outcome.MISMATCH


def _palindrome(ref: str, alt: str) -> bool:
    return len(ref) == 1 and ref in "ACGT" and ref.translate(_COMPLEMENT) == alt


def _by_frequency(outcome: Outcome, own: float, other: float) -> Outcome:
    """Decide a palindrome: the strand under which the frequencies agree, if they can tell."""
    if not (abs(own - 0.5) >= CLEAR and abs(other - 0.5) >= CLEAR):  # also for NaN
        return Outcome.AMBIGUOUS
    same_side = (own < 0.5) == (other < 0.5)
    if outcome is Outcome.SAME:
        return Outcome.SAME if same_side else Outcome.FLIPPED_SWAPPED
    return Outcome.SWAPPED if not same_side else Outcome.FLIPPED


def match(
    variants: Variants,
    panel: Panel,
    agreement: Agreement,
    frequency: NDArray[np.float64] | None = None,
    index: dict[tuple[str, int], list[int]] | None = None,
) -> Match:
    """Find each variant in the panel.

    Args:
        variants: of the file, in normal form.
        panel: to agree with.
        agreement: what is taken on trust.
        frequency: of the file's `alt`, for `ambiguous="frequency"`.
        index: `panel.index()`, when many blocks are matched.

    Raises:
        InputError: `input.genotypes` when the builds differ.
    """
    if variants.build != panel.variants.build:
        raise InputError(
            "input.genotypes", f"the file is of build {variants.build}, the list of {panel.variants.build}"
        )
    index = panel.index() if index is None else index
    own = np.full(len(variants), np.nan) if frequency is None else frequency
    where = np.full(len(variants), -1, np.int64)
    outcomes = np.full(len(variants), Outcome.ABSENT, np.int8)
    refs, alts = variants.ref.tolist(), variants.alt.tolist()
    for at, place in enumerate(variants.places()):
        best = Outcome.ABSENT
        for candidate in index.get(place, ()):
            outcome = _outcome(refs[at], alts[at], float(own[at]), panel, candidate, agreement)
            if outcome < best:
                best, outcomes[at] = outcome, outcome
                where[at] = candidate if outcome < Outcome.AMBIGUOUS else -1
    swap = np.isin(outcomes, (Outcome.SWAPPED, Outcome.FLIPPED_SWAPPED))
    return Match(where, swap, outcomes)


def _outcome(ref: str, alt: str, own: float, panel: Panel, at: int, agreement: Agreement) -> Outcome:
    other = str(panel.variants.ref[at]), str(panel.variants.alt[at])
    outcome = _compare(ref, alt, other)
    if outcome is Outcome.MISMATCH:
        return outcome
    if outcome is Outcome.SWAPPED and len(ref) != len(alt) and not agreement.swapped_indels:
        return Outcome.MISMATCH
    if _palindrome(ref, alt) and agreement.ambiguous != "forward":
        if agreement.ambiguous == "exclude" or panel.frequency is None:
            return Outcome.AMBIGUOUS
        return _by_frequency(outcome, own, float(panel.frequency[at]))
    return outcome


def aligned(
    genotypes: Genotypes, panel: Panel, agreement: Agreement, counts: Counter[str]
) -> Iterator[tuple[NDArray[np.int64], Dosages]]:
    """Dosages of the panel's `alt`, block by block: (index in the panel [b], dosages [n, b]).

    `counts` gets one entry per outcome by its name in lower case; of variants that meet one entry of the list, the
    first counts. Read with `Options(chosen=chosen(panel.variants))` to skip decoding the others.

    Raises:
        InputError: `input.genotypes` for another build, when most alleles at shared places do not fit, or when most
            frequencies say that the file's alleles are swapped (only a panel with frequencies can tell).
    """
    index, seen = panel.index(), np.zeros(len(panel.variants), bool)
    outcomes: Counter[int] = Counter()
    against = np.zeros(2, np.int64)
    for block in genotypes.blocks():
        own = frequencies(block.dosages)
        found = match(block.variants, panel, agreement, own, index)
        outcome = found.outcome.copy()
        for at in np.flatnonzero(found.index >= 0):
            if seen[found.index[at]]:
                outcome[at] = Outcome.DUPLICATE
            seen[found.index[at]] = True
        outcomes.update(outcome.tolist())
        keep = outcome < Outcome.AMBIGUOUS
        if panel.frequency is not None:
            against += _against(np.where(found.swap, 1 - own, own)[keep], panel.frequency[found.index[keep]])
        if keep.any():
            dosages = block.dosages[:, keep]
            swap = found.swap[keep]
            yield found.index[keep], np.where(swap, np.float32(2) - dosages, dosages)
    counts.update({Outcome(outcome).name.lower(): number for outcome, number in outcomes.items()})
    shared = sum(number for outcome, number in outcomes.items() if outcome <= Outcome.MISMATCH)
    if shared >= ENOUGH and outcomes[Outcome.MISMATCH] > (1 - FITTING) * shared:
        raise InputError("input.genotypes", "most alleles at shared places differ: wrong build, or another species")
    if against[1] >= ENOUGH and against[0] > (1 - FITTING) * against[1]:
        raise InputError("input.genotypes", "allele frequencies run against the list's: the alleles are swapped")


def _against(own: NDArray[np.float64], other: NDArray[np.float64]) -> NDArray[np.int64]:
    """How many clear frequencies lie on the other side of one half, and how many are clear."""
    clear = (np.abs(own - 0.5) >= CLEAR) & (np.abs(other - 0.5) >= CLEAR)
    return np.array([(clear & ((own < 0.5) != (other < 0.5))).sum(), clear.sum()], np.int64)
