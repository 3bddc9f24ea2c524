"""PLINK 2 (.pgen with .pvar or .bim, .psam or .fam) through pgenlib."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipelines.features.files import Content, placed
from pipelines.features.genomics.builds import settle
from pipelines.features.genomics.genotypes import Block, Dosages, Genotypes, Options, unique
from pipelines.features.genomics.plink import families, listed, map_rows
from pipelines.features.text import decode, rows
from protocol.errors import ConfigurationError, InputError

__all__ = ["opened"]

#: chromosome, id, position, reference allele, alternate alleles
_Entry = tuple[str, str, str, str, tuple[str, ...]]


@contextmanager
def opened(files: Mapping[str, Content], options: Options) -> Iterator[Genotypes]:
    """Open a PLINK 2 set.

    Raises:
        InputError: `input.genotypes`.
        ConfigurationError: `config.extra-missing` without pgenlib.
    """
    try:
        import pgenlib
    except ImportError:
        raise ConfigurationError("config.extra-missing", ".pgen needs pgenlib: pip install 'corsia[omics]'") from None
    header, entries = _variants(files)
    samples = _samples(files)
    build = settle(header, options.build)
    counts = [max(2, 1 + len(entry[4])) for entry in entries]
    offsets = np.concatenate([[0], np.cumsum(counts)]).astype(np.uintp)
    with placed(files["pgen"]) as path:
        try:
            file = pgenlib.PgenReader(
                path.encode(),
                raw_sample_ct=len(samples),
                variant_ct=len(entries),
                allele_idx_offsets=offsets if max(counts) > 2 else None,
            )
        except (RuntimeError, ValueError, OverflowError, MemoryError):
            raise InputError(
                "input.genotypes", "the .pgen does not open, or is not of the same set as .pvar and .psam"
            ) from None
        try:
            yield Genotypes(samples, build, _Reader(samples, build, options, entries, file))
        finally:
            file.close()


def _variants(files: Mapping[str, Content]) -> tuple[str, list[_Entry]]:
    """Header lines and entries of the .pvar, or of the .bim that stands for it."""
    for suffix in ("pvar", "pvar.gz"):
        if suffix in files:
            return _pvar(decode(files[suffix], "input.genotypes"))
    if "pvar.zst" in files:
        raise InputError("input.genotypes", "a .pvar.zst: unpack it first")
    if "bim" not in files:
        raise InputError("input.genotypes", "a .pgen comes with a .pvar or a .bim")
    return "", [(row[0], row[1], row[3], row[5], (row[4],)) for row in map_rows(files["bim"])]


def _pvar(text: str) -> tuple[str, list[_Entry]]:
    lines = text.splitlines()
    header = [line for line in lines if line.startswith("##")]
    body = [line.split() for line in lines if line.strip() and not line.startswith("##")]
    if not body:
        raise InputError("input.genotypes", "the .pvar is empty")
    if body[0][0] == "#CHROM":
        names = [name.lstrip("#") for name in body.pop(0)]
    else:  # without a header line the columns are those of a .bim
        names = ["CHROM", "ID", "CM", "POS", "ALT", "REF"][: 6 if len(body[0]) == 6 else 5]
        if len(body[0]) == 5:
            names = ["CHROM", "ID", "POS", "ALT", "REF"]
    try:
        at = [names.index(name) for name in ("CHROM", "ID", "POS", "REF", "ALT")]
    except ValueError:
        raise InputError("input.genotypes", "the .pvar lacks one of CHROM, POS, ID, REF, ALT") from None
    if not body or any(len(row) <= max(at) for row in body):
        raise InputError("input.genotypes", "the .pvar has no variants, or a line of it is truncated")
    chrom, name, pos, ref, alt = at
    return "\n".join(header), [(r[chrom], r[name], r[pos], r[ref], tuple(r[alt].split(","))) for r in body]


def _samples(files: Mapping[str, Content]) -> tuple[str, ...]:
    if "psam" not in files:
        if "fam" not in files:
            raise InputError("input.genotypes", "a .pgen comes with a .psam or a .fam")
        return families(files["fam"])
    text = decode(files["psam"], "input.genotypes")
    table = [row for row in rows(text) if not row[0].startswith("##")]
    if table and table[0][0] in ("#FID", "#IID"):
        names = [name.lstrip("#") for name in table.pop(0)]
        at = names.index("IID") if "IID" in names else -1
    else:
        at = 1
    if at < 0 or not table or any(len(row) <= at for row in table):
        raise InputError("input.genotypes", "the .psam has no sample ids, or a line of it is truncated")
    samples = tuple(row[at] for row in table)
    unique(samples, "in the .psam")
    return samples


@dataclass(slots=True)
class _Reader:
    samples: tuple[str, ...]
    build: str
    options: Options
    entries: list[_Entry]
    file: Any

    def blocks(self, counts: Counter[str]) -> Iterator[Block]:
        kept = listed(iter(self.entries), self.build, self.options, counts)
        for start in range(0, len(kept.record), self.options.block):
            part = slice(start, start + self.options.block)
            dosages = self._dosages(kept.record[part], kept.allele[part])
            yield Block(kept.variants.take(np.arange(len(kept.record))[part]), dosages)

    def _dosages(self, record: NDArray[np.int64], allele: NDArray[np.int64]) -> Dosages:
        values = np.empty((len(record), len(self.samples)), np.float32)
        try:
            if bool((allele == 1).all()):
                self.file.read_dosages_list(record.astype(np.uint32), values)
            else:
                for row, (index, number) in enumerate(zip(record.tolist(), allele.tolist(), strict=True)):
                    self.file.read_dosages(index, values[row], number)
        except (RuntimeError, ValueError, OverflowError, MemoryError):
            raise InputError("input.genotypes", "the .pgen is truncated or damaged") from None
        values[(values < 0) | ~np.isfinite(values)] = np.nan
        return values.T
