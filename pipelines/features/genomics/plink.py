"""PLINK 1 (.bed, .bim, .fam), decoded here: two bits a call, no library needed.

The dosage counts allele 1 (column 5 of the .bim), as plink does; allele 2 stands as `ref`, which in PLINK 1 files is
the major allele as often as the reference: compare with a list (`alleles`) before anything is summed.
Source: the PLINK 1.9 file format reference.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pipelines.features.files import Content
from pipelines.features.genomics.builds import settle
from pipelines.features.genomics.genotypes import Block, Dosages, Genotypes, Options, normalise, unique
from pipelines.features.genomics.variants import Variants
from pipelines.features.text import decode, rows
from protocol.errors import InputError

__all__ = ["Listed", "families", "listed", "map_rows", "opened"]

_MAGIC = b"\x6c\x1b\x01"
_CODES = np.array([2.0, np.nan, 1.0, 0.0], np.float32)
_LOOKUP = _CODES[(np.arange(256)[:, None] >> np.array([0, 2, 4, 6])) & 3]


@dataclass(frozen=True, slots=True, eq=False)
class Listed:
    """Variants of a file that are kept: where their data stand, and which alternate allele is meant.

    Attributes:
        variants: length m.
        record: index of the record in the data file, int64 [m].
        allele: 1 = first alternate allele, int64 [m].
    """

    variants: Variants
    record: NDArray[np.int64]
    allele: NDArray[np.int64]


def listed(
    entries: Iterator[tuple[str, str, str, str, tuple[str, ...]]], build: str, options: Options, counts: Counter[str]
) -> Listed:
    """Normalise (chrom, id, position, ref, alternates) entries, in file order."""
    kept: list[tuple[str, int, str, str, str]] = []
    record: list[int] = []
    allele: list[int] = []
    for index, (chrom, name, place, ref, alts) in enumerate(entries):
        counts["records"] += 1
        if len(alts) > 1:
            counts["multiallelic"] += 1
        try:
            pos = int(place)
        except ValueError:
            raise InputError("input.genotypes", "a position is not a number") from None
        for number, alt in enumerate(alts, 1):
            # a negative position is plink's way to set a variant aside; 0 means it is not known
            normal = normalise(chrom, pos, ref, alt, build, options, ordered=False) if pos > 0 else "no-position"
            if isinstance(normal, str):
                counts[normal] += 1
                continue
            kept.append((*normal, "" if name == "." else name))
            record.append(index)
            allele.append(number)
    variants = Variants.of(kept, build, options.reference is not None)
    return Listed(variants, np.array(record, np.int64), np.array(allele, np.int64))


def map_rows(data: Content) -> list[list[str]]:
    """Rows of a .bim.

    Raises:
        InputError: `input.genotypes`.
    """
    table = rows(decode(data, "input.genotypes"))
    if not table:
        raise InputError("input.genotypes", "the .bim is empty")
    if any(len(row) != 6 for row in table):
        raise InputError("input.genotypes", "a line of the .bim has not six fields: truncated?")
    return table


def families(data: Content) -> tuple[str, ...]:
    """Sample ids (second column) of a .fam.

    Raises:
        InputError: `input.genotypes`.
    """
    table = rows(decode(data, "input.genotypes"))
    if not table:
        raise InputError("input.genotypes", "the .fam is empty")
    if any(len(row) not in (5, 6) for row in table):
        raise InputError("input.genotypes", "a line of the .fam has not six fields: truncated?")
    samples = tuple(row[1] for row in table)
    unique(samples, "in the .fam")
    return samples


@contextmanager
def opened(files: Mapping[str, Content], options: Options) -> Iterator[Genotypes]:
    """Open a PLINK 1 set.

    Raises:
        InputError: `input.genotypes`.
    """
    for suffix in ("bim", "fam"):
        if suffix not in files:
            raise InputError("input.genotypes", f"a .bed comes with a .{suffix}")
    samples = families(files["fam"])
    build = settle("", options.build)
    table = map_rows(files["bim"])
    width = (len(samples) + 3) // 4
    bed = files["bed"]
    if isinstance(bed, bytes):
        data = np.frombuffer(bed, np.uint8)
    else:
        data = np.memmap(bed, np.uint8, "r") if bed.stat().st_size else np.empty(0, np.uint8)
    if bytes(data[:3]) != _MAGIC:
        raise InputError("input.genotypes", "the .bed does not start as a variant-major PLINK 1 file")
    if len(data) - 3 != width * len(table):
        raise InputError(
            "input.genotypes", "the .bed is not as long as .bim and .fam say: truncated, or of another set"
        )
    reader = _Reader(samples, build, options, table, data[3:].reshape(len(table), width))
    yield Genotypes(samples, build, reader)


@dataclass(slots=True)
class _Reader:
    samples: tuple[str, ...]
    build: str
    options: Options
    table: list[list[str]]
    data: NDArray[np.uint8]

    def blocks(self, counts: Counter[str]) -> Iterator[Block]:
        entries = ((row[0], row[1], row[3], row[5], (row[4],)) for row in self.table)
        kept = listed(entries, self.build, self.options, counts)
        for start in range(0, len(kept.record), self.options.block):
            part = slice(start, start + self.options.block)
            yield Block(kept.variants.take(np.arange(len(kept.record))[part]), self._dosages(kept.record[part]))

    def _dosages(self, record: NDArray[np.int64]) -> Dosages:
        calls = _LOOKUP[self.data[record]].reshape(len(record), -1)[:, : len(self.samples)]
        return np.ascontiguousarray(calls).T
