"""One streaming block form for every genotype format: sample ids, variants, dosages with missing apart from zero.

`read` takes the files of one data set by suffix and yields a `Genotypes`: its blocks hold float32 dosages
[samples, variants] of the alternate allele, NaN = missing. Multiallelic records are split (other alternate alleles
count as "not this one"), alleles trimmed and, with a reference, left-aligned. Only autosomes: dosages of sex and
mitochondrial chromosomes depend on sex and on each caller's ploidy, so they are left out and counted. What is left
out is counted by reason in `Genotypes.counts`, never silently dropped. Blocks stay within the site's process.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from pipelines.features.files import Content
from pipelines.features.genomics.builds import AUTOSOMES, LENGTHS, chromosome
from pipelines.features.genomics.variants import Reference, Variants, left_align, sequence, trim
from protocol.errors import InputError

__all__ = ["BLOCK", "Block", "Chosen", "Dosages", "Genotypes", "Options", "normalise", "read", "unique"]

#: Variants per block.
BLOCK = 1024
#: So many variants against the reference, and more than those that fit, are no chance.
ENOUGH = 20
Dosages = NDArray[np.float32]
#: Says of (chromosome, position) whether a caller wants it; decoding is skipped elsewhere.
Chosen = Callable[[str, int], bool]


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """How to read.

    Attributes:
        build: what the site says of the files; needed where the header is silent, checked where it is not.
        field: VCF only: hard calls (GT) or imputed dosages (DS).
        passing: VCF only: leave out records whose FILTER is neither PASS nor ".".
        reference: bases of the build: alleles are compared with it and indels left-aligned.
        chosen: only these places, after normalisation.
        block: variants per block.
    """

    build: str | None = None
    field: Literal["GT", "DS"] = "GT"
    passing: bool = True
    reference: Reference | None = None
    chosen: Chosen | None = None
    block: int = BLOCK


@dataclass(frozen=True, slots=True, eq=False)
class Block:
    """Consecutive variants and every sample's dosages: float32 [n, m], 0..2, NaN = missing."""

    variants: Variants
    dosages: Dosages


class Reader(Protocol):
    """One format's reader: header first, then the blocks, once."""

    samples: tuple[str, ...]
    build: str

    def blocks(self, counts: Counter[str]) -> Iterator[Block]:
        """The variants that are kept; what is left out goes to `counts` by reason."""
        ...


@dataclass(slots=True)
class Genotypes:
    """An open data set.

    Attributes:
        samples: ids in the order of the dosages' rows, unique.
        build: GRCh37 or GRCh38.
        reader: of the format; `blocks` is what callers want.
        counts: `records`, `kept` and what was left out, by reason; filled while `blocks` runs.
    """

    samples: tuple[str, ...]
    build: str
    reader: Reader
    counts: Counter[str] = field(default_factory=Counter)

    def blocks(self) -> Iterator[Block]:
        """Every block, once.

        Raises:
            InputError: `input.genotypes` for a damaged or truncated file, at the place where it shows; for a file
                without any usable variant, at its end.
        """
        if self.counts:
            raise ValueError("the blocks of a data set are read once: open it again")
        self.counts["kept"] = 0
        for block in self.reader.blocks(self.counts):
            self.counts["kept"] += len(block.variants)
            yield block
        if not self.counts["records"] or not (self.counts["kept"] or self.counts["not-chosen"]):
            raise InputError("input.genotypes", "the files hold no usable variant")
        unlike = self.counts["alleles-swapped"] + self.counts["reference-mismatch"]
        if unlike >= ENOUGH and unlike > self.counts["kept"]:
            raise InputError("input.genotypes", "most alleles are not the reference's: wrong build, or alleles swapped")

    def rows(self, wanted: Sequence[str]) -> NDArray[np.int64]:
        """The row of each wanted sample.

        Raises:
            InputError: `input.genotypes`, with how many of them the files do not hold, or hold twice asked for.
        """
        unique(wanted, "asked for")
        at = {sample: row for row, sample in enumerate(self.samples)}
        missing = sum(sample not in at for sample in wanted)
        if missing:
            raise InputError("input.genotypes", f"{missing} of {len(wanted)} samples are not in the genotype files")
        return np.array([at[sample] for sample in wanted], np.int64)


def unique(samples: Sequence[str], where: str) -> None:
    """Refuse duplicated or empty sample ids.

    Raises:
        InputError: `input.genotypes`.
    """
    if not all(samples):
        raise InputError("input.genotypes", f"a sample without id is {where}")
    twice = len(samples) - len(set(samples))
    if twice:
        raise InputError("input.genotypes", f"{twice} sample ids are {where} more than once")


def normalise(
    chrom: str, pos: int, ref: str, alt: str, build: str, options: Options, ordered: bool
) -> tuple[str, int, str, str] | str:
    """The normal form of one biallelic variant, or the reason why it is left out.

    `ordered` says that the format makes `ref` the reference genome's allele (VCF); where not (PLINK 1), either may be.

    Raises:
        InputError: `input.genotypes` for a position beyond the end of the chromosome: the build is wrong.
    """
    name = chromosome(chrom)
    if name not in AUTOSOMES:
        return "not-autosomal"
    ref, alt = ref.upper(), alt.upper()
    if not (sequence(ref) and sequence(alt)):
        return "allele-code"
    if ref == alt:
        return "alleles-equal"
    if not 0 < pos <= LENGTHS[build][name]:
        raise InputError("input.genotypes", f"a position lies outside chromosome {name} of {build}")
    if options.reference is not None and (reason := _unlike(name, pos, ref, alt, options.reference, ordered)):
        return reason
    if len(ref) > 1 or len(alt) > 1:
        if options.reference is not None:
            pos, ref, alt = left_align(name, pos, ref, alt, options.reference)
        else:
            pos, ref, alt = trim(pos, ref, alt)
    if options.chosen is not None and not options.chosen(name, pos):
        return "not-chosen"
    return name, pos, ref, alt


def _unlike(chrom: str, pos: int, ref: str, alt: str, genome: Reference, ordered: bool) -> str | None:
    """Why the alleles do not fit the reference genome, or None; where it has no base to tell, they fit."""
    if _fits(chrom, pos, ref, genome):
        return None
    if _fits(chrom, pos, alt, genome):
        return "alleles-swapped" if ordered else None
    return "reference-mismatch"


def _fits(chrom: str, pos: int, allele: str, genome: Reference) -> bool:
    bases = genome.fetch(chrom, pos, pos + len(allele) - 1)
    return all(base in (own, "N") for base, own in zip(bases, allele, strict=False))


def read(parts: Mapping[str, Content], options: Options | None = None) -> AbstractContextManager[Genotypes]:
    """Open one data set.

    Args:
        parts: by suffix. One of: {"vcf"} or {"vcf.gz"} or {"bcf"}; {"bed", "bim", "fam"};
            {"pgen", "pvar" | "pvar.gz" | "bim", "psam" | "fam"}. Suffixes are matched without case and leading dot.
        options: how.

    Raises:
        InputError: `input.genotypes` for a set that is incomplete, or a file that does not open; `input.usage`.
    """
    from pipelines.features.genomics import pgen, plink, vcf

    files = {suffix.lower().lstrip("."): data for suffix, data in parts.items()}
    options = options or Options()
    if not 1 <= options.block <= 1 << 16:
        raise InputError("input.usage", "a block has 1 to 65536 variants")
    found = [suffix for suffix in ("vcf", "vcf.gz", "vcf.bgz", "bcf", "bed", "pgen") if suffix in files]
    if len(found) != 1:
        raise InputError("input.genotypes", "a data set has exactly one of .vcf, .vcf.gz, .bcf, .bed, .pgen")
    if found[0] == "bed":
        return plink.opened(files, options)
    if found[0] == "pgen":
        return pgen.opened(files, options)
    return vcf.opened(files[found[0]], options)
