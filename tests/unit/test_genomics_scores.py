"""Alleles against a list, quality control, polygenic scores and burden: numbers by hand, and what is refused."""

from __future__ import annotations

from collections import Counter
from math import comb

import numpy as np
import pandas as pd
import pytest

from pipelines.features.genomics import alleles, burden, quality, scorefile, scores
from pipelines.features.genomics.alleles import Agreement, Outcome, Panel
from pipelines.features.genomics.genotypes import Options, read
from pipelines.features.genomics.variants import Variants
from pipelines.features.schema import Extractor, check_names
from protocol.errors import DisclosureRefused, InputError
from tests import genomekit as kit

nan = np.nan


def variants(*rows: tuple[str, int, str, str], build: str = "GRCh37") -> Variants:
    return Variants.of([(*row, "") for row in rows], build)


@pytest.mark.parametrize(
    ("own", "listed", "agreement", "outcome"),
    [
        (("A", "G"), ("A", "G"), Agreement(), Outcome.SAME),
        (("A", "G"), ("G", "A"), Agreement(), Outcome.SWAPPED),
        (("A", "G"), ("T", "C"), Agreement(), Outcome.FLIPPED),
        (("A", "G"), ("C", "T"), Agreement(), Outcome.FLIPPED_SWAPPED),
        (("A", "G"), ("A", "C"), Agreement(), Outcome.MISMATCH),
        (("A", "T"), ("A", "T"), Agreement(), Outcome.AMBIGUOUS),
        (("A", "T"), ("A", "T"), Agreement(ambiguous="forward"), Outcome.SAME),
        (("C", "G"), ("G", "C"), Agreement(ambiguous="forward"), Outcome.SWAPPED),
        (("AT", "A"), ("AT", "A"), Agreement(), Outcome.SAME),
        (("AT", "A"), ("A", "AT"), Agreement(), Outcome.MISMATCH),
        (("AT", "A"), ("A", "AT"), Agreement(swapped_indels=True), Outcome.SWAPPED),
        (("AT", "A"), ("TA", "T"), Agreement(), Outcome.MISMATCH),
        (("1", "2"), ("2", "1"), Agreement(), Outcome.SWAPPED),
        (("A", "G"), ("", "G"), Agreement(), Outcome.SAME),
        (("A", "G"), ("", "A"), Agreement(), Outcome.SWAPPED),
        (("A", "G"), ("", "C"), Agreement(), Outcome.MISMATCH),
    ],
)
def test_alleles_are_compared(
    own: tuple[str, str], listed: tuple[str, str], agreement: Agreement, outcome: Outcome
) -> None:
    found = alleles.match(variants(("1", 5, *own)), Panel(variants(("1", 5, *listed))), agreement)
    assert Outcome(found.outcome[0]) is outcome
    assert found.index[0] == (0 if outcome < Outcome.AMBIGUOUS else -1)
    assert found.swap[0] == (outcome in (Outcome.SWAPPED, Outcome.FLIPPED_SWAPPED))


@pytest.mark.parametrize(
    ("listed", "own", "other", "outcome"),
    [
        (("A", "T"), 0.1, 0.15, Outcome.SAME),
        (("A", "T"), 0.9, 0.15, Outcome.FLIPPED_SWAPPED),
        (("T", "A"), 0.9, 0.15, Outcome.SWAPPED),
        (("T", "A"), 0.1, 0.15, Outcome.FLIPPED),
        (("A", "T"), 0.47, 0.15, Outcome.AMBIGUOUS),
        (("A", "T"), 0.1, 0.55, Outcome.AMBIGUOUS),
        (("A", "T"), 0.1, nan, Outcome.AMBIGUOUS),
    ],
)
def test_palindromes_are_decided_by_frequency(
    listed: tuple[str, str], own: float, other: float, outcome: Outcome
) -> None:
    panel = Panel(variants(("1", 5, *listed)), np.array([other]))
    agreement = Agreement(ambiguous="frequency")
    found = alleles.match(variants(("1", 5, "A", "T")), panel, agreement, np.array([own]))
    assert Outcome(found.outcome[0]) is outcome


def calls(values: np.ndarray) -> list[str]:
    return [{0: "0/0", 1: "0/1", 2: "1/1"}.get(value, "./.") for value in values.tolist()]


def cohort(n: int = 60, m: int = 40, seed: int = 1) -> tuple[np.ndarray, list[kit.Row], list[str]]:
    rng = np.random.default_rng(seed)
    dosages = rng.binomial(2, rng.uniform(0.1, 0.45, m), (n, m)).astype(float)
    dosages[rng.random((n, m)) < 0.03] = nan
    rows = [("1", 1000 + 10 * at, f"rs{at}", "A", "G", calls(dosages[:, at])) for at in range(m)]
    return dosages, rows, [f"s{number}" for number in range(n)]


def test_dosages_arrive_in_the_lists_orientation() -> None:
    dosages, rows, samples = cohort()
    listed = [("1", row[1], "G", "A") if at % 2 else ("1", row[1], "T", "C") for at, row in enumerate(rows)]
    counts: Counter[str] = Counter()
    with read({"vcf": kit.vcf([*rows, rows[0]], samples)}) as genotypes:
        parts = list(alleles.aligned(genotypes, Panel(variants(*listed, ("2", 1, "A", "C"))), Agreement(), counts))
    index, found = np.concatenate([p[0] for p in parts]), np.hstack([p[1] for p in parts])
    assert index.tolist() == list(range(40))
    odd = np.arange(40) % 2 == 1
    np.testing.assert_array_equal(found, np.where(odd, 2 - dosages, dosages))
    assert counts == {"swapped": 20, "flipped": 20, "duplicate": 1}


def test_another_build_species_or_swapped_alleles_are_refused() -> None:
    dosages, rows, samples = cohort(n=200)
    text = kit.vcf(rows, samples)

    def run(panel: Panel) -> None:
        with read({"vcf": text}) as genotypes:
            list(alleles.aligned(genotypes, panel, Agreement(), Counter()))

    places = [("1", row[1], "A", "G") for row in rows]
    frequency = np.nanmean(dosages, axis=0) / 2
    run(Panel(variants(*places), frequency))
    for panel, match in (
        (Panel(variants(*places, build="GRCh38")), "build"),
        (Panel(variants(*[("1", pos, "A", "C") for _, pos, *_ in rows])), "wrong build"),
        (Panel(variants(*places), 1 - frequency), "swapped"),
    ):
        with pytest.raises(InputError, match=match):
            run(panel)


def exact_hwe(het: int, hom: int, other: int) -> float:
    """By whole numbers: the number of ways is n!/(hom! het! other!) 2^het, given the allele counts."""
    n, rare = het + hom + other, 2 * hom + het

    def ways(hets: int) -> int:
        homs = (rare - hets) // 2
        return comb(n, hets) * comb(n - hets, homs) * 2**hets

    all_ways = [ways(hets) for hets in range(rare % 2, min(rare, 2 * n - rare) + 1, 2)]
    return sum(value for value in all_ways if value <= ways(het)) / sum(all_ways)


def test_hardy_weinberg_is_exact() -> None:
    rng = np.random.default_rng(0)
    tables = [(0, 0, 0), (0, 5, 5), (10, 0, 0), (57, 14, 50), (1, 0, 99), (0, 1, 99)]
    tables += [tuple(rng.integers(0, 40, 3).tolist()) for _ in range(60)]
    for het, hom, other in tables:
        assert quality.hardy_weinberg(het, hom, other) == pytest.approx(
            exact_hwe(het, hom, other) if het + hom + other else 1
        )
        assert quality.hardy_weinberg(het, hom, other) == quality.hardy_weinberg(het, other, hom)
    assert quality.hardy_weinberg(57, 14, 50) == pytest.approx(
        0.842279756570793, abs=1e-9
    )  # R HardyWeinberg, package example
    assert 0 < quality.hardy_weinberg(0, 50000, 50000) < 1e-300 or quality.hardy_weinberg(0, 50000, 50000) == 0


def test_quality_counts_by_reason() -> None:
    dosages = np.array(
        [[0, 0, 2, nan, nan], [1, 0, 0, 1, nan], [2, 0, 2, nan, nan], [1, 0, 0, 1, nan]] * 10, np.float32
    )
    keep, reasons = quality.passes(dosages, quality.Thresholds(variant_call_rate=0.6, maf=0.01, hwe=1e-6))
    assert keep.tolist() == [True, False, False, False, False]
    assert reasons == {"variant-call-rate": 2, "maf": 1, "hwe": 1}
    rows, samples = [("1", 5, ".", "A", "G", ["0/1", "0/0", "./.", "1/1"])] * 2, list("abcd")
    with read({"vcf": kit.vcf(rows, samples)}) as genotypes:
        report = quality.assess(genotypes.blocks(), 4, quality.Thresholds(variant_call_rate=0.5))
    assert report.samples.tolist() == [1, 1, 0, 1]
    assert report.counts == {"variants": 2, "passed": 2, "samples-call-rate": 1}


COLUMNS = ("rsID", "chr_name", "chr_position", "effect_allele", "other_allele", "effect_weight")


def scored(rows: list[kit.Row], samples: list[str], text: bytes, **options: object) -> tuple[pd.Series, dict[str, int]]:
    score = scorefile.parse(text, "GRCh37")
    with read({"vcf": kit.vcf(rows, samples)}, Options(chosen=alleles.chosen(score.variants))) as genotypes:
        return scores.compute(genotypes, score, scores.Options(**({"resolution": 0.0} | options)))


def test_a_score_is_the_weighted_sum_of_effect_alleles() -> None:
    dosages, rows, samples = cohort()
    weights = np.random.default_rng(2).normal(size=40)
    effect = ["G" if at % 3 else "A" for at in range(40)]
    lines = [
        [f"rs{at}", "chr1", 1000 + 10 * at, effect[at], "A" if effect[at] == "G" else "G", weights[at]]
        for at in range(40)
    ]
    copies = np.where([allele == "G" for allele in effect], dosages, 2 - dosages)
    filled = np.where(np.isnan(copies), np.nanmean(copies, axis=0), copies)
    found, counts = scored(rows, samples, kit.score_file(lines, COLUMNS))
    assert found.index.tolist() == samples
    assert found.name == "score_PGS000001"
    np.testing.assert_allclose(found, filled @ weights, rtol=1e-5, atol=1e-5)
    assert (counts["rows"], counts["matched"], counts["missing"]) == (40, 40, int(np.isnan(dosages).sum()))
    zero, _ = scored(rows, samples, kit.score_file(lines, COLUMNS), missing="zero")
    np.testing.assert_allclose(zero, np.nan_to_num(copies) @ weights, rtol=1e-5, atol=1e-5)
    rounded, _ = scored(rows, samples, kit.score_file(lines, COLUMNS), resolution=0.01)
    assert 0 < np.abs(rounded - found).max() <= 0.005 * found.std()
    without_other = [[*line[:4], "", line[5]] for line in lines]
    again, _ = scored(rows, samples, kit.score_file(without_other, COLUMNS))
    np.testing.assert_allclose(again, found)
    flipped = [[*line[:3], *("TC"["AG".index(str(a))] for a in line[3:5]), line[5]] for line in lines]
    np.testing.assert_allclose(scored(rows, samples, kit.score_file(flipped, COLUMNS))[0], found)


def test_models_and_harmonised_columns() -> None:
    dosages, rows, samples = cohort()
    dosages, rows = np.nan_to_num(dosages), [(*row[:5], [call.replace(".", "0") for call in row[5]]) for row in rows]
    names = (
        "chr_name",
        "chr_position",
        "effect_allele",
        "other_allele",
        "effect_weight",
        "is_dominant",
        "is_recessive",
    )
    names += ("dosage_0_weight", "dosage_1_weight", "dosage_2_weight", "hm_chr", "hm_pos")
    lines, expected = [], np.zeros(len(samples))
    for at in range(40):
        d, place = dosages[:, at], ["9", 99, "G", "A", 0.5]
        model = at % 4
        tail = [
            ["", "", "", "", ""],
            ["True", "False", "", "", ""],
            ["", "True", "", "", ""],
            ["", "", 0.1, 0.7, -0.2],
        ][model]
        lines.append([*place, *tail, "1", 1000 + 10 * at])
        expected += [0.5 * d, 0.5 * (d > 0), 0.5 * (d > 1), np.choose(d.astype(int), [0.1, 0.7, -0.2])][model]
    lines.append(["9", 99, "G", "A", 0.5, "", "", "", "", "", "", ""])
    found, counts = scored(rows, samples, kit.score_file(lines, names, genome_build="NR", HmPOS_build="GRCh37"))
    np.testing.assert_allclose(found, expected, atol=1e-5)
    assert (counts["rows"], counts["no-place"]) == (41, 1)


def test_a_score_that_is_a_genotype_in_disguise_is_refused() -> None:
    _, rows, samples = cohort()

    def weights(values: list[float]) -> bytes:
        return kit.score_file([["", "1", 1000 + 10 * at, "G", "A", w] for at, w in enumerate(values)], COLUMNS)

    for values in ([1.0], [1.0] * 5, [3.0**at for at in range(40)], [1000.0] + [1e-6] * 39, [0.0] * 40):
        with pytest.raises(DisclosureRefused) as caught:
            scored(rows, samples, weights(values))
        assert caught.value.code == "gate.genotype"
    scored(rows, samples, weights([1.0] * 20))


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"genome_build": "GRCh38"}, "build"),
        ({"genome_build": "NR"}, "build"),
        ({"pgs_id": "a b"}, "pgs_id"),
    ],
)
def test_a_score_file_of_another_build_is_refused(change: dict[str, str], match: str) -> None:
    with pytest.raises(InputError, match=match) as caught:
        scorefile.parse(kit.score_file([["", "1", 5, "G", "A", 1]], COLUMNS, **change), "GRCh37")
    assert caught.value.code == "input.variants"


@pytest.mark.parametrize(
    ("row", "match"),
    [
        (["", "1", 5, "G", "A", "x"], "weight"),
        (["", "1", 5, "G", "A", "inf"], "finite"),
        (["", "1", 5, "G", "G", 1], "same"),
        (["", "1", 999999999, "G", "A", 1], "outside"),
        (["", "1", 5, "G", "A", 1, 7], "too many"),
    ],
)
def test_a_score_row_without_sense_is_refused(row: list[object], match: str) -> None:
    with pytest.raises(InputError, match=match):
        scorefile.parse(kit.score_file([row], COLUMNS), "GRCh37")
    with pytest.raises(InputError, match="twice"):
        scorefile.parse(kit.score_file([["", "1", 5, "G", "A", 1]] * 2, COLUMNS), "GRCh37")
    with pytest.raises(InputError, match="interactions"):
        scorefile.parse(
            kit.score_file(
                [["1", 5, "G", 1, "True"]],
                ("chr_name", "chr_position", "effect_allele", "effect_weight", "is_interaction"),
            ),
            "GRCh37",
        )
    with pytest.raises(InputError, match="PGS Catalog"):
        scorefile.parse(b"hello\n", "GRCh37")


def test_too_little_of_a_score_is_not_that_score() -> None:
    _, rows, samples = cohort()
    lines = [["", "1", 1000 + 10 * at, "G", "A", 1] for at in range(60)]
    with pytest.raises(InputError, match="40 of the score's 60"):
        scored(rows, samples, kit.score_file(lines, COLUMNS))
    assert scored(rows, samples, kit.score_file(lines, COLUMNS), coverage=0.5)[1]["matched"] == 40


GENES = b"1\t999\t1100\tAA\n1\t1099\t1200\tBB\n2\t0\t100\tCC\n1\t1190\t1400\tBB\n"


def test_burden_counts_minor_alleles_per_gene() -> None:
    dosages, rows, samples = cohort()
    genes = burden.intervals(GENES)
    assert genes.names == ("AA", "BB", "CC")
    assert genes.at("1", 1100, 1100) == {0, 1}
    assert genes.at("1", 1401, 1500) == set()
    with read({"vcf": kit.vcf(rows, samples)}) as genotypes:
        found, counts = burden.compute(genotypes, genes, burden.Mask(maf=0.5))
    minor = np.where(np.nanmean(dosages, axis=0) > 1, 2 - dosages, dosages)
    inside = np.arange(40) <= 10
    lacking = np.isnan(minor[:, inside]).mean(axis=1) > 0.1
    expected = np.where(lacking, nan, np.nansum(minor[:, inside], axis=1))
    np.testing.assert_array_equal(found["burden_AA"], expected)
    assert found["burden_CC"].isna().all()
    assert counts == {"variants": 40, "genes-withheld": 1}


def test_burden_by_consequence_and_its_guard() -> None:
    _, rows, samples = cohort()
    table = "chrom\tpos\tref\talt\tgene\tconsequence\n" + "".join(
        f"chr1\t{1000 + 10 * at}\tA\tG\tAA\t{'stop_gained&x' if at < 7 else 'synonymous'}\n" for at in range(11)
    )
    effects = burden.annotation(table.encode())
    mask = burden.Mask(maf=0.5, consequences=frozenset({"stop_gained"}))

    def run(mask: burden.Mask) -> tuple[pd.DataFrame, dict[str, int]]:
        with read({"vcf": kit.vcf(rows, samples)}) as genotypes:
            return burden.compute(genotypes, burden.intervals(GENES), mask, effects)

    found, counts = run(mask)
    assert counts == {"variants": 7, "genes-withheld": 2}
    assert set(run(burden.Mask(maf=0.5, consequences=mask.consequences, cap=2))[0]["burden_AA"].dropna()) <= {0, 1, 2}
    for refused in (burden.Mask(maf=0.5, consequences=mask.consequences, variants=8), burden.Mask(maf=0.001)):
        with pytest.raises(DisclosureRefused) as caught:
            run(refused)
        assert caught.value.code == "gate.genotype"
    with read({"vcf": kit.vcf(rows, samples)}) as genotypes, pytest.raises(InputError, match="annotation"):
        burden.compute(genotypes, burden.intervals(GENES), mask)
    assert found.columns.tolist() == ["burden_AA", "burden_BB", "burden_CC"]


@pytest.mark.parametrize("table", [b"", b"1\t5\n", b"1\tx\t9\tA\n", b"1\t9\t5\tA\n", b"chrom\tstart\tend\n1\t2\t3\n"])
def test_a_gene_table_without_sense_is_refused(table: bytes) -> None:
    with pytest.raises(InputError) as caught:
        burden.intervals(table)
    assert caught.value.code == "input.variants"


def test_no_column_of_a_schema_is_a_variant() -> None:
    """One column per score or gene, whatever the number of variants: nothing per variant and person leaves."""
    for plugin, parameters in (
        (scores.PolygenicScores(), {"scores": ["PGS1", "PGS2"]}),
        (burden.Burden(), {"genes": ["AA", "BB", "CC"]}),
    ):
        assert isinstance(plugin, Extractor)
        features = plugin.schema(parameters)
        check_names(features)
        assert len(features) == len(next(iter(parameters.values())))
        for wrong in ({}, {next(iter(parameters)): []}, {next(iter(parameters)): "PGS1"}):
            with pytest.raises(InputError):
                plugin.schema(wrong)
    _, rows, samples = cohort()
    with read({"vcf": kit.vcf(rows, samples)}) as genotypes:
        found, counts = burden.compute(genotypes, burden.intervals(GENES), burden.Mask(maf=0.5))
    assert found.columns.tolist() == [feature.name for feature in burden.Burden().schema({"genes": ["AA", "BB", "CC"]})]
    for key in [*counts, *found.columns]:
        assert "rs" not in key
        assert not any(str(row[1]) in key for row in rows)
