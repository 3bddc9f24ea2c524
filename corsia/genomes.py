"""Genotypes of nobody for demo and notebooks: PLINK files of a few hundred variants, some with a planted effect.

Every hospital draws its own persons from one population: allele frequencies, neighbours' correlation and effects are
the same everywhere, so that a federated study can find what no hospital alone would. A function of its arguments;
numpy only. Nothing may be learnt from it.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray

__all__ = ["BUILD", "EFFECTS", "TRAIT", "VARIANTS", "draw_trait", "write_genotypes"]

BUILD = "GRCh38"
TRAIT = "ldl"  # column of the table, mg/dL
_CHROMOSOMES = ("1", "6", "19")
_EACH = 100  # variants a chromosome
_CHAIN = 0.8  # correlation of neighbours on the scale on which alleles are cut
_PAIRS = ("AG", "CT", "AC", "GT")  # none that reads the same on the other strand
_LEAST, _MOST = 0.04, 0.5  # frequencies of the effect allele
_MEAN, _SD, _A_YEAR = 115.0, 22.0, 0.5


def _listed() -> tuple[tuple[str, ...], NDArray[np.float64]]:
    """Variants as a study lists them, and the frequency of each one's effect allele."""
    draw = np.random.default_rng(20)
    frequencies = draw.uniform(_LEAST, _MOST, len(_CHROMOSOMES) * _EACH)
    entries = []
    for number in range(len(frequencies)):
        place = 1_000_000 + number % _EACH * 400_000 + int(draw.integers(300_000))
        ref, alt = tuple(_PAIRS[int(draw.integers(len(_PAIRS)))])
        entries.append(f"{_CHROMOSOMES[number // _EACH]}:{place}:{ref}:{alt}:demo{number:03d}")
    for planted, frequency in _PLANTED.items():
        frequencies[planted] = frequency
    return tuple(entries), frequencies


# Number of a variant -> frequency of its effect allele.
_PLANTED = {42: 0.35, 163: 0.45, 251: 0.25}
VARIANTS, _FREQUENCIES = _listed()
# Name of a variant -> what one copy of its effect allele adds to the trait.
EFFECTS = {f"demo{number:03d}": effect for number, effect in zip(_PLANTED, (18.0, -15.0, 22.0), strict=True)}


def write_genotypes(folder: Path, samples: Sequence[str], seed: str) -> NDArray[np.int8]:
    """Write `cohort.bed`, `.bim`, `.fam`; returns copies of the effect allele [samples, variants].

    Args:
        samples: ids of the persons, as in the hospital's table.
        seed: of the persons' alleles; the hospital's name.
    """
    copies = _alleles(len(samples), seed)
    folder.mkdir(parents=True, exist_ok=True)
    lines = []
    for entry in VARIANTS:
        chrom, place, ref, alt, name = entry.split(":")
        lines.append(f"{chrom}\t{name}\t0\t{place}\t{alt}\t{ref}\n")
    (folder / "cohort.bim").write_text("".join(lines))
    (folder / "cohort.fam").write_text("".join(f"{sample}\t{sample}\t0\t0\t0\t-9\n" for sample in samples))
    (folder / "cohort.bed").write_bytes(b"\x6c\x1b\x01" + _packed(copies.T))
    return copies


def draw_trait(copies: NDArray[np.int8], ages: NDArray[np.float64], seed: str) -> NDArray[np.float64]:
    """Values of `TRAIT` [samples]: planted effects, age and chance."""
    draw = np.random.default_rng([1, *seed.encode()])
    values = _MEAN + _A_YEAR * (ages - 60) + draw.normal(0, _SD, len(copies))
    for (number, frequency), effect in zip(_PLANTED.items(), EFFECTS.values(), strict=True):
        values += effect * (copies[:, number] - 2 * frequency)
    return np.asarray(values.round(1))


def _alleles(persons: int, seed: str) -> NDArray[np.int8]:
    """Two chromosomes a person: a chain of normal numbers along each, cut where the frequency says."""
    draw = np.random.default_rng([0, *seed.encode()])
    noise = draw.normal(size=(2 * persons, len(VARIANTS)))
    chain = noise.copy()
    for number in range(1, len(VARIANTS)):
        if number % _EACH:  # chromosomes are apart
            chain[:, number] = _CHAIN * chain[:, number - 1] + (1 - _CHAIN**2) ** 0.5 * noise[:, number]
    cuts = np.array([NormalDist().inv_cdf(frequency) for frequency in _FREQUENCIES])
    return np.asarray((chain < cuts).reshape(persons, 2, -1).sum(axis=1), np.int8)


def _packed(copies: NDArray[np.int8]) -> bytes:
    """PLINK's two bits a person, variant by variant: 0 = two copies of allele 1, 2 = one, 3 = none."""
    codes = np.array([3, 2, 0], np.uint8)[copies]
    codes = np.pad(codes, ((0, 0), (0, -codes.shape[1] % 4)))
    quads = codes.reshape(len(codes), -1, 4)
    return (quads[..., 0] | quads[..., 1] << 2 | quads[..., 2] << 4 | quads[..., 3] << 6).astype(np.uint8).tobytes()
