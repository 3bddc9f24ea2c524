"""VCF and BCF through htslib (cyvcf2): records into blocks.

htslib notices damage inside a file; a file cut at a block's end only lacks its end marker, which is looked for here.
htslib is C code: 10,000 mutated VCF texts did not crash it behind the checks made here, but a BCF that is crafted
with right checksums can. The lane's worker is a process of its own, so such a crash ends that job (`worker.killed`)
and nothing else.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipelines.features.files import Content, placed
from pipelines.features.genomics.builds import AUTOSOMES, settle
from pipelines.features.genomics.genotypes import Block, Genotypes, Options, normalise, unique
from pipelines.features.genomics.variants import Variants
from protocol.errors import ConfigurationError, InputError

__all__ = ["opened"]

_BGZF_END = bytes.fromhex("1f8b08040000000000ff0600424302001b0003000000000000000000")


@contextmanager
def opened(data: Content, options: Options) -> Iterator[Genotypes]:
    """Open a VCF or BCF, plain, gzipped or bgzipped.

    Raises:
        InputError: `input.genotypes`.
        ConfigurationError: `config.extra-missing` without cyvcf2.
    """
    try:
        import cyvcf2
        from cyvcf2.cyvcf2 import set_htslib_log_level
    except ImportError:
        raise ConfigurationError("config.extra-missing", "VCF files need cyvcf2: pip install 'corsia[omics]'") from None
    set_htslib_log_level(0)  # its messages quote records
    _whole(data)
    with placed(data) as path:
        try:
            file = cyvcf2.VCF(path)
            header, samples = str(file.raw_header), tuple(file.samples)
            known = _known_chromosomes(file)
        except Exception:  # cyvcf2 raises bare Exception, OSError, UnicodeDecodeError
            raise InputError("input.genotypes", "not a VCF or BCF file, or its header is damaged") from None
        try:
            if not samples:
                raise InputError("input.genotypes", "the file lists variants without any sample")
            unique(samples, "in the header")
            reader = _Reader(file, samples, settle(header, options.build), options, known)
            yield Genotypes(samples, reader.build, reader)
        finally:
            file.close()


def _known_chromosomes(file: Any) -> frozenset[str]:
    """Names that the header knows, the autosomes' among them.

    cyvcf2 passes on a record that failed to parse when its chromosome is not in the header, and crashes when it is
    looked at: so the autosomes are added, and records of other unknown chromosomes are not looked at.
    """
    names = set(file.seqnames)
    for name in (prefix + number for prefix in ("", "chr") for number in AUTOSOMES):
        if name not in names:
            file.add_to_header(f"##contig=<ID={name}>")
            names.add(name)
    return frozenset(names)


def _whole(data: Content) -> None:
    """Refuse a bgzipped file without end marker, text whose last line is not ended, and BCF without checksums."""
    if isinstance(data, bytes):
        head, tail = data[:18], data[-28:]
    else:
        with data.open("rb") as source:
            head = source.read(18)
            source.seek(0, 2)
            source.seek(max(0, source.tell() - 28))
            tail = source.read()
    if head[:4] == b"\x1f\x8b\x08\x04" and head[12:14] == b"BC":
        if tail != _BGZF_END:
            raise InputError("input.genotypes", "the file is truncated: its end marker is missing")
    elif head[:3] == b"BCF":
        raise InputError("input.genotypes", "an uncompressed BCF has no checksums: compress it")
    elif head[:2] == b"##" and not tail.endswith((b"\n", b"\r")):
        raise InputError("input.genotypes", "the file is truncated: its last line does not end")


@dataclass(slots=True)
class _Reader:
    file: Any
    samples: tuple[str, ...]
    build: str
    options: Options
    known: frozenset[str]

    def blocks(self, counts: Counter[str]) -> Iterator[Block]:
        rows: list[tuple[str, int, str, str, str]] = []
        columns: list[NDArray[np.float32]] = []
        for record in self._records():
            counts["records"] += 1
            try:
                known = record.CHROM in self.known
            except UnicodeDecodeError:
                raise InputError("input.genotypes", "a record is damaged") from None
            if not known:
                counts["not-autosomal"] += 1
                continue
            for row, column in self._alleles(record, counts):
                rows.append(row)
                columns.append(column)
            if len(rows) >= self.options.block:
                yield self._block(rows, columns)
                rows, columns = [], []
        if rows:
            yield self._block(rows, columns)

    def _block(self, rows: list[tuple[str, int, str, str, str]], columns: list[NDArray[np.float32]]) -> Block:
        variants = Variants.of(rows, self.build, self.options.reference is not None)
        return Block(variants, np.stack(columns).T)

    def _records(self) -> Iterator[Any]:
        records = iter(self.file)
        while True:
            try:
                record = next(records)
            except StopIteration:
                return
            except Exception:  # cyvcf2 raises bare Exception
                raise InputError("input.genotypes", "the file is truncated or damaged") from None
            yield record

    def _alleles(
        self, record: Any, counts: Counter[str]
    ) -> Iterator[tuple[tuple[str, int, str, str, str], NDArray[np.float32]]]:
        """Each alternate allele that is kept, with its dosages; the genotypes are decoded only for those."""
        try:
            chrom, pos, ref, alts = str(record.CHROM), int(record.POS), str(record.REF), list(record.ALT)
            passed, name = record.FILTER is None, str(record.ID or "")
        except (TypeError, ValueError, UnicodeDecodeError):
            raise InputError("input.genotypes", "a record is damaged") from None
        if self.options.passing and not passed:
            counts["filtered"] += 1
            return
        if not alts:
            counts["no-alternate"] += 1
        if len(alts) > 1:
            counts["multiallelic"] += 1
        calls: NDArray[np.float32] | None = None
        for number, alt in enumerate(alts):
            normal = normalise(chrom, pos, ref, alt, self.build, self.options, ordered=True)
            if isinstance(normal, str):
                counts[normal] += 1
                continue
            if calls is None:
                calls = self._calls(record, len(alts), counts)
                if calls is None:
                    return
            yield (*normal, name), calls[:, number]

    def _calls(self, record: Any, alleles: int, counts: Counter[str]) -> NDArray[np.float32] | None:
        """Dosages [n, alternate alleles], or None (counted) where the record has none."""
        try:
            if self.options.field == "DS":
                return self._imputed(record, alleles, counts)
            if "GT" not in record.FORMAT:
                counts["no-genotypes"] += 1
                return None
            table = np.asarray(record.genotype.array())[:, :-1]
        except InputError:
            raise
        except Exception:  # cyvcf2 raises bare Exception
            raise InputError("input.genotypes", "a record's genotypes are damaged") from None
        return _counted(table, alleles, counts)

    def _imputed(self, record: Any, alleles: int, counts: Counter[str]) -> NDArray[np.float32] | None:
        values = record.format("DS") if "DS" in record.FORMAT else None
        if values is None or values.ndim != 2 or values.shape[1] != alleles or values.dtype.kind != "f":
            counts["no-genotypes"] += 1
            return None
        dosages = values.astype(np.float32)
        if bool(((dosages < -0.001) | (dosages > 2.001)).any()):
            raise InputError("input.genotypes", "a dosage lies outside 0 to 2")
        return np.asarray(np.clip(dosages, 0, 2))


def _counted(table: NDArray[np.int16], alleles: int, counts: Counter[str]) -> NDArray[np.float32]:
    """Allele counts from allele numbers [n, ploidy]: -1 = not called, -2 = no such chromosome copy.

    A call that is not diploid, partly missing, or names an allele that the record does not list, is missing.
    """
    ploidy = table.shape[1]
    if ploidy < 2:
        counts["calls-not-diploid"] += int((table >= 0).any(axis=1).sum())
        return np.full((len(table), alleles), np.nan, np.float32)
    first, second = table[:, 0], table[:, 1]
    if ploidy == alleles + 1 == 2:  # the common record: both numbers are 0 or 1 where their bits are
        both = first | second
        usable = (both >= 0) & (both <= 1)
        dosages = (first + second).astype(np.float32)[:, None]
    else:
        usable = (table[:, :2] >= 0).all(axis=1) & (table[:, 2:] == -2).all(axis=1) & (table <= alleles).all(axis=1)
        numbers = np.arange(1, alleles + 1)
        dosages = ((first[:, None] == numbers).astype(np.float32) + (second[:, None] == numbers)).astype(np.float32)
    if not usable.all():
        wrong = second == -2
        if ploidy > 2:
            wrong |= (table[:, 2:] >= 0).any(axis=1)
        counts["calls-not-diploid"] += int(wrong.sum())
        dosages[~usable] = np.nan
    return dosages
