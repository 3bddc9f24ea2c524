"""Burden: how many rare or damaging alleles a person carries in each gene. Counts, never which.

Genes come from intervals (BED, or a table with a header), optionally narrowed by an annotation table (gene and
consequence per variant). A gene in which too few variants or too few carriers are seen is withheld: its column is
all missing, for its count would be the genotype itself.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from pipelines.features.files import Content
from pipelines.features.genomics.builds import chromosome
from pipelines.features.genomics.genotypes import Block, Genotypes
from pipelines.features.genomics.variants import trim
from pipelines.features.schema import Feature
from pipelines.features.text import decode
from protocol.errors import DisclosureRefused, InputError

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["Annotation", "Burden", "Genes", "Mask", "annotation", "compute", "intervals"]

_CHROM, _START, _END, _GENE = (
    ("chrom", "chr", "#chrom", "chromosome", "seqname"),
    ("start", "chromstart", "pos_start"),
    ("end", "chromend", "stop", "pos_end"),
    ("gene", "name", "gene_name", "symbol", "gene_id"),
)


@dataclass(frozen=True, slots=True)
class Genes:
    """Gene names in order of appearance; sorted intervals by chromosome, (start, end, gene number), 1-based, closed."""

    names: tuple[str, ...]
    spans: Mapping[str, tuple[tuple[int, int, int], ...]]

    longest: int

    def at(self, chrom: str, start: int, end: int) -> set[int]:
        """Numbers of the genes that overlap start..end."""
        spans = self.spans.get(chrom, ())
        near = spans[bisect_left(spans, (start - self.longest,)) : bisect_left(spans, (end + 1,))]
        return {gene for _, last, gene in near if start <= last}


#: (chrom, pos, ref, alt) -> {gene: consequence}
Annotation = Mapping[tuple[str, int, str, str], Mapping[str, str]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Mask:
    """Which variants count, and the guard.

    Attributes:
        consequences: only these (needs an annotation); empty = any.
        maf: only variants whose minor allele is at most so frequent at the site; the minor allele is counted.
        missing: a person with a greater share of uncalled genotypes in a gene has no count there.
        variants: fewest variants with a carrier.
        carriers: fewest persons with a count above zero.
        cap: counts above are told as this; 0 = no cap.
    """

    consequences: frozenset[str] = frozenset()
    maf: float = 0.01
    missing: float = 0.1
    variants: int = 5
    carriers: int = 5
    cap: int = 0


class Burden:
    """The plug-in: parameters `{"genes": [names]}`, one column each."""

    name = "gene-burden"
    version = 1

    def schema(self, parameters: Mapping[str, object]) -> tuple[Feature, ...]:
        """One count column per gene.

        Raises:
            InputError: `input.usage`.
        """
        names = parameters.get("genes")
        if not isinstance(names, list | tuple) or not names or not all(isinstance(name, str) for name in names):
            raise InputError("input.usage", "genes: a list of gene names")
        text = "minor alleles of the mask's variants in {}, per person; missing for all where the guard withholds it"
        return tuple(
            Feature(f"burden_{name}", "float64", "{count}", text.format(name), "study's gene table") for name in names
        )


def intervals(data: Content) -> Genes:
    """Read genes: BED without header (0-based, half-open), or a tab table with header (1-based, closed).

    Raises:
        InputError: `input.variants`.
    """
    table = [line.split("\t") for line in decode(data, "input.variants").splitlines() if line.strip()]
    table = [row for row in table if not row[0].startswith(("##", "track", "browser"))]
    if not table:
        raise InputError("input.variants", "the gene table is empty")
    header = [name.strip().lower() for name in table[0]]
    named = header[0] in _CHROM
    at = [_column(header, names) for names in (_CHROM, _START, _END, _GENE)] if named else [0, 1, 2, 3]
    numbers: dict[str, int] = {}
    spans: dict[str, list[tuple[int, int, int]]] = defaultdict(list)
    for row in table[1:] if named else table:
        try:
            chrom, start, end, gene = (row[column].strip() for column in at)
            first, last = int(start) + (0 if named else 1), int(end)
        except (IndexError, ValueError):
            raise InputError(
                "input.variants", "a line of the gene table is not: chromosome, start, end, gene"
            ) from None
        if not 0 < first <= last or not gene:
            raise InputError("input.variants", "a gene's interval is empty or unnamed")
        spans[chromosome(chrom)].append((first, last, numbers.setdefault(gene, len(numbers))))
    longest = max(last - first for found in spans.values() for first, last, _ in found) + 1
    return Genes(tuple(numbers), {chrom: tuple(sorted(found)) for chrom, found in spans.items()}, longest)


def _column(header: list[str], names: Iterable[str]) -> int:
    for name in names:
        if name in header:
            return header.index(name)
    raise InputError("input.variants", f"the table has no column {next(iter(names))!r}")


def annotation(data: Content) -> Annotation:
    """Read a tab table with header: chrom, pos, ref, alt, gene, consequence (several joined by `&` or `,`).

    Raises:
        InputError: `input.variants`.
    """
    table = [line.split("\t") for line in decode(data, "input.variants").splitlines() if line.strip()]
    table = [row for row in table if not row[0].startswith("##")]
    if not table:
        raise InputError("input.variants", "the annotation is empty")
    header = [name.strip().lower() for name in table[0]]
    wanted = (_CHROM, ("pos", "position"), ("ref",), ("alt",), _GENE, ("consequence", "effect"))
    at = [_column(header, names) for names in wanted]
    found: dict[tuple[str, int, str, str], dict[str, str]] = defaultdict(dict)
    for row in table[1:]:
        try:
            chrom, pos, ref, alt, gene, consequence = (row[column].strip() for column in at)
            place, ref, alt = trim(int(pos), ref.upper(), alt.upper())
        except (IndexError, ValueError):
            raise InputError("input.variants", "a line of the annotation lacks a field") from None
        key = (chromosome(chrom), place, ref, alt)
        before = found[key].get(gene)
        found[key][gene] = consequence if before is None else f"{before},{consequence}"
    return dict(found)


def compute(
    genotypes: Genotypes, genes: Genes, mask: Mask | None = None, effects: Annotation | None = None
) -> tuple[pd.DataFrame, dict[str, int]]:
    """Counts per person and gene.

    Args:
        genotypes: open; read over.
        genes: which.
        mask: which variants, and the guard.
        effects: consequences, when the mask names some.

    Returns:
        A frame, index = sample ids, columns `burden_<gene>`; and counts: `variants` that counted, `genes-withheld`.

    Raises:
        InputError: `input.usage` for a mask by consequence without annotation; `input.genotypes`.
        DisclosureRefused: `gate.genotype` when the guard withholds every gene.
    """
    import pandas as pd

    mask = mask or Mask()
    if mask.consequences and effects is None:
        raise InputError("input.usage", "a mask by consequence needs an annotation table")
    shape = (len(genotypes.samples), len(genes.names))
    sums, lacking = np.zeros(shape), np.zeros(shape, np.int64)
    seen = np.zeros(shape[1], np.int64)
    counts: Counter[str] = Counter({"variants": 0})
    for block in genotypes.blocks():
        for at, hit in _hits(block, genes, mask, effects):
            minor = _minor(block.dosages[:, at], mask.maf)
            if minor is None:
                continue
            counts["variants"] += 1
            called = np.isfinite(minor)
            for gene in hit:
                sums[:, gene] += np.where(called, minor, 0)
                lacking[:, gene] += ~called
                seen[gene] += 1
    sums[lacking > mask.missing * seen] = np.nan
    if mask.cap:
        sums = np.minimum(sums, mask.cap)
    withheld = (seen < mask.variants) | ((sums > 0).sum(axis=0) < mask.carriers)
    counts["genes-withheld"] = int(withheld.sum())
    if withheld.all():
        raise DisclosureRefused("gate.genotype", "no gene has enough variants and carriers to tell its counts")
    sums[:, withheld] = np.nan
    columns = [f"burden_{name}" for name in genes.names]
    return pd.DataFrame(sums, index=list(genotypes.samples), columns=columns), dict(counts)


def _hits(block: Block, genes: Genes, mask: Mask, effects: Annotation | None) -> Iterable[tuple[int, set[int]]]:
    """Variants of the block that lie in a gene and have a wanted consequence there."""
    variants = block.variants
    for at, (chrom, pos) in enumerate(variants.places()):
        ref, alt = str(variants.ref[at]), str(variants.alt[at])
        hit = genes.at(chrom, pos, pos + len(ref) - 1)
        if hit and effects is not None:
            told = effects.get((chrom, pos, ref, alt), {})
            hit = {gene for gene in hit if _wanted(told.get(genes.names[gene]), mask.consequences)}
        if hit:
            yield at, hit


def _wanted(told: str | None, consequences: frozenset[str]) -> bool:
    if told is None:
        return False
    return not consequences or bool(consequences & set(told.replace("&", ",").split(",")))


def _minor(dosages: NDArray[np.float32], maf: float) -> NDArray[np.float32] | None:
    """Dosages of the minor allele, or None when nobody carries it or it is too frequent."""
    called = dosages[np.isfinite(dosages)]
    if not len(called):
        return None
    frequency = float(called.mean()) / 2
    if min(frequency, 1 - frequency) > maf or frequency in (0.0, 1.0):
        return None
    return dosages if frequency <= 0.5 else 2 - dosages
