"""Mutated genotype, score, gene and omics files: a refusal of ours or a result, no other exception, crash or hang."""

from __future__ import annotations

import os
import random
import time
from collections.abc import Callable, Mapping
from io import BytesIO
from pathlib import Path

import numpy as np
import pandas as pd

from pipelines.features.genomics import burden, scorefile
from pipelines.features.genomics.genotypes import Options, read
from pipelines.features.omics import genesets, matrix
from protocol.errors import CorsiaError
from tests import genomekit as kit

NUMBER = 10_000 if os.environ.get("CORSIA_FULL") == "1" else 500
SAMPLES = [f"s{number}" for number in range(8)]
CELLS = ["0/0:0", "0|1:1", "1/1:2", "./.:.", "0/1:.9"]


def seeds(folder: Path) -> dict[str, dict[str, bytes]]:
    rng = random.Random(1)  # noqa: S311
    rows = [
        ("1", 100 + 3 * at, f"rs{at}", "AT", "A,G" if at % 5 == 0 else "A", [rng.choice(CELLS) for _ in SAMPLES])
        for at in range(30)
    ]
    text = kit.vcf(rows, SAMPLES)
    dosages = np.array([[rng.choice([0, 1, 2, np.nan]) for _ in range(30)] for _ in SAMPLES])
    plain = [("1", 100 + at, f"rs{at}", "A", "G") for at in range(30)]
    columns = ("rsID", "chr_name", "chr_position", "effect_allele", "other_allele", "effect_weight", "is_dominant")
    score = [[f"rs{at}", "1", 100 + at, "G", "A", 0.1 * at, "False"] for at in range(30)]
    frame = pd.DataFrame({"id": SAMPLES} | {f"g{at}": np.arange(8.0) for at in range(6)})
    packed = BytesIO()
    frame.to_parquet(packed, index=False)
    return {
        "vcf": {"vcf": text},
        "bgzip": {"vcf.gz": kit.bgzip(text)},
        "bcf": {"bcf": kit.bcf(text, folder)},
        "bed": kit.bed(dosages, plain, SAMPLES),
        "pgen": kit.pgen(dosages, plain, SAMPLES, folder),
        "score": {"score": kit.score_file(score, columns)},
        "genes": {"genes": b"".join(b"1\t%d\t%d\tG%d\n" % (at, at + 50, at) for at in range(30))},
        "effects": {"effects": b"chrom\tpos\tref\talt\tgene\tconsequence\n" + b"1\t5\tA\tG\tG1\tstop&x\n" * 9},
        "gmt": {"gmt": b"".join(b"S%d\tx\ta\tb\tc\n" % at for at in range(9))},
        "csv": {"matrix": frame.to_csv(index=False).replace("3.0", "<0.5").encode()},
        "parquet": {"matrix": packed.getvalue()},
    }


def genotypes(parts: Mapping[str, bytes], rng: random.Random) -> None:
    with read(parts, Options(build="GRCh37", field=rng.choice(["GT", "DS"]), block=7)) as opened:
        for block in opened.blocks():
            assert block.dosages.shape == (len(opened.samples), len(block.variants))
            known = block.dosages[np.isfinite(block.dosages)]
            assert ((known >= 0) & (known <= 2)).all()


ENTRIES: dict[str, Callable[[Mapping[str, bytes], random.Random], object]] = {
    "score": lambda parts, _: scorefile.parse(parts["score"], "GRCh37"),
    "genes": lambda parts, _: burden.intervals(parts["genes"]),
    "effects": lambda parts, _: burden.annotation(parts["effects"]),
    "gmt": lambda parts, _: genesets.gmt(parts["gmt"]),
    "csv": lambda parts, _: matrix.read(parts["matrix"], matrix.Options(samples="rows")),
    "parquet": lambda parts, _: matrix.read(parts["matrix"], matrix.Options(samples="rows")),
}


def mutated(data: bytes, rng: random.Random) -> bytes:
    out = bytearray(data)
    for _ in range(rng.randint(1, 3)):
        at = rng.randrange(len(out) + 1)
        kind = rng.randrange(5)
        if kind == 0:
            out[at : at + 1] = bytes([rng.randrange(256)])
        elif kind == 1:
            del out[at : at + rng.randint(1, 40)]
        elif kind == 2:
            out[at:at] = rng.randbytes(rng.randint(1, 20))
        elif kind == 3:
            start = rng.randrange(len(out) + 1)
            out[at:at] = out[start : start + rng.randint(1, 100)]
        else:
            out[at : at + 1] = bytes([rng.choice(b"\t\n,;:/|.-+0123456789ACGTNX<>\"'\0\xff")])
    return bytes(out[: rng.randrange(len(out) + 1)] if rng.random() < 0.05 else out)


def fuzz(folder: Path, number: int) -> None:
    bases = seeds(folder)
    rng = random.Random(20261122)  # noqa: S311
    results = {name: [0, 0] for name in bases}
    for name, parts in bases.items():
        entry = ENTRIES.get(name, genotypes)
        entry(parts, rng)  # unharmed it reads
        for _ in range(number // len(bases) + 1):
            suffix = rng.choice(sorted(parts))
            began = time.monotonic()
            try:
                entry({**parts, suffix: mutated(parts[suffix], rng)}, rng)
                results[name][0] += 1
            except CorsiaError:
                results[name][1] += 1
            assert time.monotonic() - began < 20
    assert all(refused for _, refused in results.values()), results


def test_mutated_files_are_read_or_refused(tmp_path: Path) -> None:
    fuzz(tmp_path, NUMBER)
