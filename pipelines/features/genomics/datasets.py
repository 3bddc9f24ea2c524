"""From a folder's files to data sets: which files belong together, and several sets (one per chromosome) as one.

Files of one set share their stem (`00000003.bed`, `.bim`, `.fam`). Sets that are read together hold the same
samples, in whatever order; files of one person each are no data set: what they do not list could be reference or
not covered, which only a joint call can tell.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np

from pipelines.features.files import Content
from pipelines.features.genomics.genotypes import Block, Genotypes, Options, read
from protocol.errors import InputError

__all__ = ["grouped", "together"]

_SUFFIXES = ("vcf.gz", "vcf.bgz", "vcf", "bcf", "bed", "bim", "fam", "pgen", "pvar.gz", "pvar.zst", "pvar", "psam")


def grouped(files: Iterable[tuple[str, Content]]) -> list[dict[str, Content]]:
    """Data sets out of (name, content) pairs, in order of first appearance; other files are passed over."""
    sets: dict[str, dict[str, Content]] = defaultdict(dict)
    for name, data in files:
        for suffix in _SUFFIXES:
            if name.lower().endswith("." + suffix):
                sets[name[: -len(suffix) - 1]][suffix] = data
                break
    return list(sets.values())


@contextmanager
def together(sets: Sequence[Mapping[str, Content]], options: Options | None = None) -> Iterator[Genotypes]:
    """Open several sets of the same samples as one.

    Raises:
        InputError: `input.genotypes` without a set, for builds or samples that differ, and as `read` does.
    """
    if not sets:
        raise InputError("input.genotypes", "there is no genotype file")
    with read(sets[0], options) as first:
        samples, build = first.samples, first.build
        yield Genotypes(samples, build, _Chain(samples, build, first, sets[1:], options))


@dataclass(slots=True)
class _Chain:
    samples: tuple[str, ...]
    build: str
    first: Genotypes
    rest: Sequence[Mapping[str, Content]]
    options: Options | None

    def blocks(self, counts: Counter[str]) -> Iterator[Block]:
        yield from self.first.reader.blocks(counts)
        for parts in self.rest:
            with read(parts, self.options) as following:
                if following.build != self.build:
                    raise InputError("input.genotypes", "the data set's files are of different builds")
                if len(following.samples) != len(self.samples):
                    raise InputError("input.genotypes", "the data set's files do not hold the same samples")
                order = following.rows(self.samples)
                for block in following.reader.blocks(counts):
                    yield Block(block.variants, np.asarray(block.dosages[order]))
