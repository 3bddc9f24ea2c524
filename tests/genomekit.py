"""Genotype files for tests: a VCF text, and the same genotypes as BCF, PLINK 1 and PLINK 2."""

from __future__ import annotations

import gzip
import struct
import zlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np

CONTIGS = {"1": 249250621, "2": 243199373, "21": 48129895, "X": 155270560}
SAMPLES = tuple(f"p{number}" for number in range(6))

#: chrom, pos, id, ref, alt, genotypes
Row = tuple[str, int, str, str, str, Sequence[str]]


def vcf(
    rows: Sequence[Row], samples: Sequence[str] = SAMPLES, contigs: dict[str, int] | None = None, extra: str = ""
) -> bytes:
    lines = ["##fileformat=VCFv4.2", '##FILTER=<ID=LowQ,Description="low">']
    lines += [
        f"##contig=<ID={name},length={length}>" for name, length in (CONTIGS if contigs is None else contigs).items()
    ]
    lines += [
        '##FORMAT=<ID=GT,Number=1,Type=String,Description="g">',
        '##FORMAT=<ID=DS,Number=A,Type=Float,Description="d">',
    ]
    lines += [line for line in extra.splitlines() if line]
    lines.append("\t".join(["#CHROM", "POS", "ID", "REF", "ALT", "QUAL", "FILTER", "INFO", "FORMAT", *samples]))
    for chrom, pos, name, ref, alt, calls in rows:
        form = "GT" if ":" not in calls[0] else "GT:DS"
        lines.append("\t".join([chrom, str(pos), name, ref, alt, ".", "PASS", ".", form, *calls]))
    return ("\n".join(lines) + "\n").encode()


def bgzip(data: bytes) -> bytes:
    out = b""
    for start in range(0, len(data), 60000):
        part = data[start : start + 60000]
        packer = zlib.compressobj(6, zlib.DEFLATED, -15)
        body = packer.compress(part) + packer.flush()
        head = struct.pack("<BBBBIBBHBBHH", 31, 139, 8, 4, 0, 0, 255, 6, 66, 67, 2, len(body) + 25)
        out += head + body + struct.pack("<II", zlib.crc32(part), len(part))
    return out + bytes.fromhex("1f8b08040000000000ff0600424302001b0003000000000000000000")


def bcf(text: bytes, folder: Path) -> bytes:
    import cyvcf2

    (folder / "in.vcf").write_bytes(text)
    source = cyvcf2.VCF(str(folder / "in.vcf"))
    writer = cyvcf2.Writer(str(folder / "out.bcf"), source, "wb")
    for record in source:
        writer.write_record(record)
    writer.close()
    source.close()
    return (folder / "out.bcf").read_bytes()


def bed(
    dosages: np.ndarray, rows: Sequence[tuple[str, int, str, str, str]], samples: Sequence[str]
) -> dict[str, bytes]:
    """PLINK 1 of dosages [n, m] that count the fifth field (allele 1), NaN = missing; rows: chrom, pos, id, a2, a1."""
    codes = np.where(np.isnan(dosages), 1, np.select([dosages == 2, dosages == 1], [0, 2], 3)).astype(np.uint8).T
    padded = np.zeros((codes.shape[0], -(-codes.shape[1] // 4) * 4), np.uint8)
    padded[:, : codes.shape[1]] = codes
    quads = padded.reshape(codes.shape[0], -1, 4)
    packed = (quads << np.array([0, 2, 4, 6], np.uint8)).sum(axis=2).astype(np.uint8)
    bim = "".join(f"{chrom}\t{name}\t0\t{pos}\t{a1}\t{a2}\n" for chrom, pos, name, a2, a1 in rows)
    fam = "".join(f"f{sample}\t{sample}\t0\t0\t0\t-9\n" for sample in samples)
    return {"bed": b"\x6c\x1b\x01" + packed.tobytes(), "bim": bim.encode(), "fam": fam.encode()}


def pgen(
    dosages: np.ndarray, rows: Sequence[tuple[str, int, str, str, str]], samples: Sequence[str], folder: Path
) -> dict[str, bytes]:
    import pgenlib

    path = folder / "out.pgen"
    with pgenlib.PgenWriter(str(path).encode(), len(samples), variant_ct=len(rows), nonref_flags=False) as writer:
        for column in np.where(np.isnan(dosages), -9, dosages).astype(np.int8).T:
            writer.append_biallelic(np.ascontiguousarray(column))
    pvar = "#CHROM\tPOS\tID\tREF\tALT\n" + "".join("\t".join(map(str, row)) + "\n" for row in rows)
    psam = "#IID\tSEX\n" + "".join(f"{sample}\t1\n" for sample in samples)
    return {"pgen": path.read_bytes(), "pvar": pvar.encode(), "psam": psam.encode()}


def score_file(rows: Sequence[Sequence[object]], columns: Sequence[str], **header: str) -> bytes:
    head = {"format_version": "2.0", "pgs_id": "PGS000001", "genome_build": "GRCh37", "weight_type": "beta"} | header
    lines = ["###PGS CATALOG SCORING FILE"] + [f"#{key}={value}" for key, value in head.items()]
    lines += ["\t".join(columns)] + ["\t".join(map(str, row)) for row in rows]
    return gzip.compress(("\n".join(lines) + "\n").encode())
