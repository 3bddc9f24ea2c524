"""Genotype readers: one block form for four formats, normal forms, and one clear refusal per kind of bad file."""

from __future__ import annotations

import gzip
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest

from pipelines.features.genomics import builds
from pipelines.features.genomics.datasets import grouped, together
from pipelines.features.genomics.fasta import Fasta
from pipelines.features.genomics.genotypes import Genotypes, Options, read
from pipelines.features.genomics.variants import Variants, left_align, trim
from protocol.errors import InputError
from tests import genomekit as kit

nan = np.nan
ROWS = [
    ("1", 100, "rs1", "A", "G", ["0/0", "0/1", "1|1", "./.", "./1", "0|1"]),
    ("chr1", 200, "rs2", "A", "C,GT", ["0/1", "1/2", "2/2", "0/0", ".", "0/2"]),
    ("1", 300, "del", "CTT", "CT", ["0/0", "0/1", "1/1", "0/0", "0/0", "0/9"]),
    ("1", 400, "sv", "A", "<DEL>", ["0/1"] * 6),
    ("1", 500, "star", "A", "*,T", ["1/2", "0/2", "0/0", "0/0", "0/0", "0/0"]),
    ("X", 600, "x", "A", "T", ["0/1", "1", "0", "0/0", "0/0", "0/0"]),
    ("2", 700, "hap", "A", "T", ["0/1", "1", "0", "0/0", "0/0/1", "0/0"]),
]
EXPECTED = {
    (100, "A", "G"): [0, 1, 2, nan, nan, 1],
    (200, "A", "C"): [1, 1, 0, 0, nan, 0],
    (200, "A", "GT"): [0, 1, 2, 0, nan, 1],
    (300, "CT", "C"): [0, 1, 2, 0, 0, nan],
    (500, "A", "T"): [1, 1, 0, 0, 0, 0],
    (700, "A", "T"): [1, nan, nan, 0, nan, 0],
}


def table(genotypes: Genotypes) -> dict[tuple[int, str, str], list[float]]:
    found = {}
    for block in genotypes.blocks():
        assert block.dosages.dtype == np.float32
        assert block.dosages.shape == (len(genotypes.samples), len(block.variants))
        v = block.variants
        for at in range(len(v)):
            found[int(v.pos[at]), str(v.ref[at]), str(v.alt[at])] = block.dosages[:, at].tolist()
    return found


def same(
    found: Mapping[tuple[int, str, str], list[float]], expected: Mapping[tuple[int, str, str], list[float]]
) -> None:
    assert list(found) == list(expected)
    for key, values in expected.items():
        np.testing.assert_array_equal(found[key], values, err_msg=str(key))


@pytest.mark.parametrize("form", ["vcf", "vcf.gz", "bgzip", "bcf", "path"])
def test_vcf_in_every_packing_gives_the_same_dosages(form: str, tmp_path: Path) -> None:
    rows = [row for row in ROWS if row[0] != "chr1"] if form == "bcf" else ROWS
    text = kit.vcf(rows)
    (tmp_path / "a.vcf").write_bytes(text)
    parts = {
        "vcf": {"vcf": text},
        "vcf.gz": {"vcf.gz": gzip.compress(text)},
        "bgzip": {".VCF.GZ": kit.bgzip(text)},
        "bcf": {"bcf": kit.bcf(text, tmp_path)},
        "path": {"vcf": tmp_path / "a.vcf"},
    }[form]
    with read(parts, Options(block=2)) as genotypes:
        assert genotypes.samples == kit.SAMPLES
        assert genotypes.build == "GRCh37"
        same(table(genotypes), {key: value for key, value in EXPECTED.items() if form != "bcf" or key[0] != 200})
        assert genotypes.counts["not-autosomal"] == 1
        assert genotypes.counts["allele-code"] == 2  # <DEL> and *
        assert genotypes.counts["calls-not-diploid"] == 3 + (form != "bcf")  # the lone "." of rs2 is haploid
        with pytest.raises(ValueError, match="once"):
            next(genotypes.blocks())


def test_imputed_dosages_and_filters() -> None:
    rows = [("1", 10, ".", "A", "C,G", ["0/0:0.1,0.25", "0/1:1,0", "./.:.", "0/0:0,0", "0/0:0,2", "0/0:0,0"])]
    with read({"vcf": kit.vcf(rows)}, Options(field="DS")) as genotypes:
        found = table(genotypes)
    np.testing.assert_allclose(found[10, "A", "C"], [0.1, 1, nan, 0, 0, 0], rtol=1e-6)
    np.testing.assert_allclose(found[10, "A", "G"], [0.25, 0, nan, 0, 2, 0], rtol=1e-6)
    filtered = kit.vcf([ROWS[0], ROWS[2]]).replace(b"PASS", b"LowQ", 1)
    with read({"vcf": filtered}) as genotypes:
        assert list(table(genotypes)) == [(300, "CT", "C")]
        assert genotypes.counts["filtered"] == 1
    with read({"vcf": filtered}, Options(passing=False)) as genotypes:
        assert len(table(genotypes)) == 2


def test_plink_files_say_the_same(tmp_path: Path) -> None:
    rows = [
        ("1", 100, "rs1", "A", "G"),
        ("chr2", 200, "rs2", "AT", "A"),
        ("23", 5, "x", "A", "C"),
        ("1", 0, "u", "A", "C"),
    ]
    rows += [("1", 300, "m", "A", "0")]
    dosages = np.array([[0, 1, 0, 0, 0], [1, nan, 0, 0, 0], [2, 2, 1, 1, 0], [nan, 0, 0, 2, 0], [0, 0, 0, 0, 0]], float)
    samples = list("abcde")
    bed = kit.bed(dosages, rows, samples)
    pgen = kit.pgen(dosages, rows, samples, tmp_path)
    expected = {(100, "A", "G"): dosages[:, 0].tolist(), (200, "AT", "A"): dosages[:, 1].tolist()}
    sets = [bed, pgen, {"pgen": pgen["pgen"], "bim": bed["bim"], "fam": bed["fam"]}]
    for parts in sets:
        with read(parts, Options(build="GRCh38", block=1)) as genotypes:
            assert genotypes.samples == tuple(samples)
            same(table(genotypes), expected)
            assert genotypes.counts["not-autosomal"] == genotypes.counts["no-position"] == 1
            assert genotypes.counts["allele-code"] == 1
    (tmp_path / "x.bed").write_bytes(bed["bed"])
    with read(bed | {"bed": tmp_path / "x.bed"}, Options(build="GRCh38")) as genotypes:
        same(table(genotypes), expected)


def test_bed_reader_reads_the_same(shared_data: Path) -> None:
    bed_reader = pytest.importorskip("bed_reader", reason="bed-reader is an oracle of the tests only")
    folder = shared_data / "regenie_example"
    with read(
        {suffix: (folder / f"example.{suffix}").read_bytes() for suffix in ("bed", "bim", "fam")},
        Options(build="GRCh37"),
    ) as genotypes:
        mine = np.hstack([block.dosages for block in genotypes.blocks()])
    np.testing.assert_array_equal(mine, bed_reader.open_bed(folder / "example.bed").read())


def test_a_real_vcf(shared_data: Path) -> None:
    path = shared_data / "vcf_1kg_phase3_chr21" / "1kg_phase3_chr21_start.vcf.gz"
    with read({"vcf.gz": path}) as genotypes:
        assert genotypes.build == "GRCh37"
        total = sum(float(np.nansum(block.dosages)) for block in genotypes.blocks())
    with gzip.open(path, "rt") as text:
        lines = [line.split("\t") for line in text if not line.startswith("#")]
    counted = sum(field[:3].count("1") for line in lines for field in line[9:])
    assert (genotypes.counts["records"], total) == (len(lines), counted)


def bad(parts: Mapping[str, bytes], match: str, options: Options | None = None) -> None:
    with pytest.raises(InputError, match=match) as caught:  # noqa: PT012
        with read(parts, options) as genotypes:
            for _ in genotypes.blocks():
                pass
    assert caught.value.code == "input.genotypes"


GOOD = kit.vcf(ROWS)


@pytest.mark.parametrize(
    ("parts", "match"),
    [
        ({"vcf": GOOD[:-3]}, "truncated"),
        ({"vcf": GOOD[: GOOD.index(b"rs2")] + b"\n"}, "damaged"),
        ({"vcf.gz": kit.bgzip(GOOD)[:-28]}, "truncated"),
        ({"vcf.gz": gzip.compress(GOOD)[:-20]}, "truncated|damaged|header"),
        ({"vcf": b""}, "not a VCF"),
        ({"vcf": b"\x00\x01hello"}, "not a VCF"),
        ({"bcf": b"BCF\x02\x02" + b"\0" * 50}, "checksums"),
        ({"vcf": kit.vcf([], samples=())}, "not a VCF|without any sample"),
        ({"vcf": kit.vcf([])}, "no usable variant"),
        ({"vcf": kit.vcf(ROWS, samples=("a", "b", "a", "c", "d", "e"))}, "not a VCF|more than once"),
        ({"vcf": kit.vcf(ROWS, contigs={"1": 12345})}, "neither"),
        ({"vcf": kit.vcf(ROWS, contigs={"1": 249250621, "2": 242193529})}, "neither"),
        ({"vcf": kit.vcf(ROWS, contigs={})}, "does not tell"),
        ({"vcf": kit.vcf([("21", 48000000, ".", "A", "C", ["0/0"] * 6)], contigs={"21": 46709983})}, "outside"),
        ({"vcf": kit.vcf([ROWS[3]])}, "no usable variant"),
        ({"vcf": GOOD, "bcf": GOOD}, "exactly one"),
        ({"bed": b"\x6c\x1b\x01\0"}, "comes with"),
    ],
)
def test_a_bad_file_is_refused_with_its_reason(parts: dict[str, bytes], match: str) -> None:
    bad(parts, match)


def test_bad_plink_sets_are_refused(tmp_path: Path) -> None:
    samples, rows = ["a", "b", "c", "d", "e"], [("1", 5, "v", "A", "C"), ("1", 6, "w", "A", "C")]
    good = kit.bed(np.zeros((5, 2)), rows, samples)
    options = Options(build="GRCh37")
    bad(good, "does not tell")
    bad(good | {"bed": good["bed"][:-1]}, "truncated", options)
    bad(good | {"bed": b"\x6c\x1b\x00" + good["bed"][3:]}, "variant-major", options)
    bad(good | {"fam": good["fam"].replace(b"fb\tb", b"fa\ta")}, "more than once", options)
    bad(good | {"bim": good["bim"][:-4]}, "six fields", options)
    bad(good | {"bim": good["bim"].replace(b"\t5\t", b"\t999999999\t")}, "outside", options)
    bad(good | {"bim": good["bim"].replace(b"\t5\t", b"\tfive\t")}, "not a number", options)
    pgen = kit.pgen(np.zeros((5, 2)), rows, samples, tmp_path)
    bad(pgen | {"pgen": pgen["pgen"][:8]}, "does not open|truncated", options)
    bad(pgen | {"psam": pgen["psam"][:-4]}, "does not open|truncated", options)
    bad({"pgen": pgen["pgen"], "psam": pgen["psam"]}, "comes with", options)
    bad({"vcf": GOOD}, "build GRCh37, not GRCh38", Options(build="GRCh38"))


def test_samples_that_are_asked_for_must_be_there() -> None:
    with read({"vcf": GOOD}) as genotypes:
        assert genotypes.rows(["p3", "p0"]).tolist() == [3, 0]
        with pytest.raises(InputError, match="1 of 2 samples"):
            genotypes.rows(["p3", "nobody"])
        with pytest.raises(InputError, match="more than once"):
            genotypes.rows(["p3", "p3"])


def test_files_by_chromosome_are_one_data_set(tmp_path: Path) -> None:
    turned = tuple(reversed(kit.SAMPLES))
    second = ("2", 900, "rs9", "A", "G", ["0/0", "0/1", "1/1", "0/0", "0/0", "0/0"])
    files = [("3.vcf", kit.vcf([ROWS[0]])), ("3.vcf.tbi", b"x"), ("4.VCF.gz", kit.bgzip(kit.vcf([second], turned)))]
    files += [
        (f"5.{suffix}", data) for suffix, data in kit.bed(np.ones((6, 1)), [("2", 5, ".", "A", "C")], turned).items()
    ]
    files.append(("6.vcf", kit.vcf([ROWS[5]])))  # chromosome X alone: nothing of it is kept
    sets = grouped(files)
    assert [sorted(parts) for parts in sets] == [["vcf"], ["vcf.gz"], ["bed", "bim", "fam"], ["vcf"]]
    with together(sets, Options(build="GRCh37")) as genotypes:
        found = table(genotypes)
        assert (genotypes.counts["records"], genotypes.counts["kept"], genotypes.counts["not-autosomal"]) == (4, 3, 1)
    same(found, {(100, "A", "G"): EXPECTED[100, "A", "G"], (900, "A", "G"): [0, 0, 0, 2, 1, 0], (5, "A", "C"): [1] * 6})
    others = kit.vcf([second], (*kit.SAMPLES[:5], "stranger"))
    for wrong in (
        others,
        kit.vcf([(*second[:5], ["0/0"] * 5)], kit.SAMPLES[:5]),
        kit.vcf([second], contigs={"1": 248956422}),
    ):
        with together([sets[0], {"vcf": wrong}]) as genotypes, pytest.raises(InputError) as caught:
            table(genotypes)
        assert caught.value.code == "input.genotypes"
    with pytest.raises(InputError), together([]):
        pass


def test_only_chosen_places_are_decoded() -> None:
    with read({"vcf": GOOD}, Options(chosen=lambda chrom, pos: (chrom, pos) == ("1", 200))) as genotypes:
        assert [key[0] for key in table(genotypes)] == [200, 200]


@pytest.mark.parametrize(
    ("name", "plain"),
    [
        ("chr1", "1"),
        ("CHR01", "1"),
        ("chrX", "X"),
        ("x", "X"),
        ("23", "X"),
        ("chrM", "MT"),
        ("26", "MT"),
        ("MT", "MT"),
        ("NC_000021.8", "21"),
        ("GL000191.1", "GL000191.1"),
        ("chr1_KI270706v1_random", "1_KI270706v1_random"),
    ],
)
def test_chromosome_names(name: str, plain: str) -> None:
    assert builds.chromosome(name) == plain


def test_the_build_is_told_by_the_header() -> None:
    assert builds.settle("##contig=<ID=chr1,length=248956422>", None) == "GRCh38"
    assert builds.settle('##contig=<length=249250621,assembly="x",ID=1>\n##contig=<ID=HLA,length=5>', None) == "GRCh37"
    assert builds.settle("##reference=file:///ref/Homo_sapiens_assembly_hg38.fasta", None) == "GRCh38"
    assert builds.settle("", "GRCh38") == "GRCh38"
    with pytest.raises(InputError):
        builds.settle("##note=hg19", None)
    with pytest.raises(InputError):
        builds.settle("", "hg99")


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ((10, "A", "G"), (10, "A", "G")),
        ((10, "CTT", "CT"), (10, "CT", "C")),
        ((10, "CA", "CG"), (11, "A", "G")),
        ((10, "TCA", "TGA"), (11, "C", "G")),
        ((10, "A", "AT"), (10, "A", "AT")),
        ((10, "GAA", "GA"), (10, "GA", "G")),
        ((10, "AC", "GT"), (10, "AC", "GT")),
        ((10, "AA", "AAA"), (10, "A", "AA")),
    ],
)
def test_trimming(before: tuple[int, str, str], after: tuple[int, str, str]) -> None:
    assert trim(*before) == after


def test_left_alignment_with_a_fasta(tmp_path: Path) -> None:
    sequence = "GGGCACACACAGGG" + "T" * 300 + "AC"
    lines = [sequence[at : at + 10] for at in range(0, len(sequence), 10)]
    (tmp_path / "r.fa").write_text(">chr1 x\n" + "\n".join(lines) + "\n")
    (tmp_path / "r.fa.fai").write_text(f"chr1\t{len(sequence)}\t8\t10\t11\n")
    with Fasta(tmp_path / "r.fa") as genome:
        assert genome.fetch("1", 1, 12) == sequence[:12]
        assert genome.fetch("1", 1, 1000) == genome.fetch("2", 1, 1) == ""
        for pos in (4, 6, 8):  # any CA of the repeat taken out is the same deletion (Tan et al., figure 1)
            assert left_align("1", pos + 1, "ACA", "A", genome) == (3, "GCA", "G")
        assert left_align("1", 314, "TA", "TTA", genome) == (14, "G", "GT")
        assert left_align("1", 3, "G", "GG", genome) == (1, "G", "GG")
        assert left_align("1", 5, "A", "T", genome) == (5, "A", "T")
        text = kit.vcf([("1", 8, "d", "CAC", "C", ["0/1"] * 6)])
        with read({"vcf": text}, Options(reference=genome)) as genotypes:
            assert list(table(genotypes)) == [(3, "GCA", "G")]
    with pytest.raises(InputError):
        Fasta(tmp_path / "none.fa")


class Genome:
    """ACGTACGT... everywhere, and N beyond 1,000."""

    def fetch(self, chrom: str, start: int, end: int) -> str:
        return "".join("N" if pos > 1000 else "ACGT"[(pos - 1) % 4] for pos in range(start, end + 1))


def test_alleles_are_compared_with_the_reference() -> None:
    def rows(swapped: int, other: int, right: int) -> list[kit.Row]:
        pairs = [("C", "A")] * swapped + [("G", "T")] * other + [("A", "C")] * right
        return [("1", 1 + 4 * at, ".", *pair, ["0/1"] * 6) for at, pair in enumerate(pairs)]

    options = Options(reference=Genome(), build="GRCh37")
    with read({"vcf": kit.vcf([*rows(5, 5, 11), ("1", 2001, ".", "T", "G", ["0/1"] * 6)])}, options) as genotypes:
        assert len(table(genotypes)) == 12
        assert (genotypes.counts["alleles-swapped"], genotypes.counts["reference-mismatch"]) == (5, 5)
    bad({"vcf": kit.vcf(rows(21, 0, 11))}, "swapped", options)
    bad({"vcf": kit.vcf(rows(0, 21, 11))}, "wrong build", options)
    either = [row[:5] for row in rows(21, 0, 11)]
    with read(kit.bed(np.ones((6, 32)), either, kit.SAMPLES), options) as genotypes:
        assert len(table(genotypes)) == 32


def test_variants_keep_their_columns_together() -> None:
    variants = Variants.of([("1", 1, "A", "C", "a"), ("2", 2, "G", "T", "b")], "GRCh37")
    assert variants.take(np.array([False, True])).places() == [("2", 2)]
    assert variants.joined(variants.take(np.array([0]))).ids.tolist() == ["a", "b", "a"]
    assert len(Variants.of([], "GRCh37")) == 0
