"""The typed list of variants, and the normal form of one: trimmed, left-aligned where a reference is at hand.

Without a reference sequence an indel inside a repeat keeps the place its caller gave it: parsimony (trimming) is
exact, left-alignment then is not done; `Variants.aligned` says which.
Source: Tan, Abecasis, Kang 2015, "Unified representation of genetic variants", Bioinformatics 31:2202.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

__all__ = ["Reference", "Variants", "left_align", "sequence", "trim"]

_BASES = re.compile(r"[ACGT]+\Z")
#: Single bases, and PLINK's number coding: 1 and 2 may also mean "first" and "second", so it is never read as bases.
_SHORT = frozenset("ACGT1234")
_WINDOW = 200


class Reference(Protocol):
    """Bases of the reference genome."""

    def fetch(self, chrom: str, start: int, end: int) -> str:
        """Upper-case bases of positions start..end, 1-based, both included; "" outside the sequence."""
        ...


@dataclass(frozen=True, slots=True, eq=False)
class Variants:
    """Biallelic variants, column by column, all of length m. `alt` is the allele that dosages count.

    Attributes:
        chrom: plain chromosome names (str objects).
        pos: 1-based positions, int64.
        ref, alt: alleles (str objects), upper case.
        ids: identifiers of the source ("" = none).
        build: GRCh37 or GRCh38.
        aligned: whether indels were left-aligned against a reference.
    """

    chrom: NDArray[Any]
    pos: NDArray[np.int64]
    ref: NDArray[Any]
    alt: NDArray[Any]
    ids: NDArray[Any]
    build: str
    aligned: bool = False

    def __post_init__(self) -> None:
        if not len(self.chrom) == len(self.pos) == len(self.ref) == len(self.alt) == len(self.ids):
            raise ValueError("columns of different length")

    def __len__(self) -> int:
        return len(self.pos)

    @classmethod
    def of(cls, rows: Sequence[tuple[str, int, str, str, str]], build: str, aligned: bool = False) -> Variants:
        """From (chrom, pos, ref, alt, id) rows that are in normal form already."""
        columns = tuple(zip(*rows, strict=True)) if rows else ((), (), (), (), ())
        chrom, pos, ref, alt, ids = columns
        places = np.array(pos, np.int64)
        return cls(_objects(chrom), places, _objects(ref), _objects(alt), _objects(ids), build, aligned)

    def take(self, index: NDArray[Any]) -> Variants:
        """The variants at these positions, or where the mask is true."""
        chrom, ref, alt, ids = (column[index] for column in (self.chrom, self.ref, self.alt, self.ids))
        return Variants(chrom, self.pos[index], ref, alt, ids, self.build, self.aligned)

    def joined(self, other: Variants) -> Variants:
        """These variants, then the other's."""
        columns = {
            name: np.concatenate([getattr(self, name), getattr(other, name)])
            for name in ("chrom", "pos", "ref", "alt", "ids")
        }
        return Variants(**columns, build=self.build, aligned=self.aligned and other.aligned)

    def places(self) -> list[tuple[str, int]]:
        """(chromosome, position) of each."""
        return list(zip(self.chrom.tolist(), self.pos.tolist(), strict=True))


def _objects(values: Sequence[str]) -> NDArray[Any]:
    column = np.empty(len(values), dtype=object)
    column[:] = values
    return column


def sequence(allele: str) -> bool:
    """True for an allele made of the four bases, or coded by PLINK's numbers."""
    return allele in _SHORT or _BASES.match(allele) is not None


def trim(pos: int, ref: str, alt: str) -> tuple[int, str, str]:
    """The parsimonious form: shared suffix, then shared prefix cut, at least one base kept in each."""
    if len(ref) == 1 or len(alt) == 1:
        if len(ref) == len(alt) or ref[-1] != alt[-1]:
            return pos, ref, alt
    end = 0
    while end < min(len(ref), len(alt)) - 1 and ref[-1 - end] == alt[-1 - end]:
        end += 1
    if end:
        ref, alt = ref[:-end], alt[:-end]
    start = 0
    while start < min(len(ref), len(alt)) - 1 and ref[start] == alt[start]:
        start += 1
    return pos + start, ref[start:], alt[start:]


def left_align(chrom: str, pos: int, ref: str, alt: str, genome: Reference) -> tuple[int, str, str]:
    """The parsimonious form furthest to the left; an indel at the very start of a chromosome stays."""
    pos, ref, alt = trim(pos, ref, alt)
    if len(ref) == len(alt):
        return pos, ref, alt
    start, window = pos, ""
    while pos > 1 and ref[-1] == alt[-1]:
        if pos - 1 < start:
            start = max(1, pos - _WINDOW)
            window = genome.fetch(chrom, start, pos - 1)
            if len(window) != pos - start:
                break
        before = window[pos - 1 - start]
        pos, ref, alt = pos - 1, before + ref[:-1], before + alt[:-1]
    return pos, ref, alt
