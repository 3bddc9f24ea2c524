"""Omics matrices: what a cell is, normalisation against hand-made numbers, gene-set scores, bad matrices."""

from __future__ import annotations

import gzip
from io import BytesIO

import numpy as np
import pandas as pd
import pytest

from pipelines.features.omics import genesets, matrix, normalise
from pipelines.features.omics.matrix import Matrix, Options, State
from pipelines.features.schema import Extractor
from protocol.errors import DisclosureRefused, InputError

nan = np.nan
M, MISSING, BELOW, ABOVE = (int(state) for state in (State.MEASURED, State.MISSING, State.BELOW, State.ABOVE))
ROWS = Options(kind="abundance", samples="rows")
COLUMNS = Options(kind="abundance", samples="columns")


def test_below_detection_is_neither_zero_nor_missing() -> None:
    text = "id,a,b,c,d,e,f,g\ns1,0,,ND,<0.5,>500,NA,1e3\ns2,1.5,.,< LOD,<=0.25,>ULOQ,n.d.,-\n"
    found = matrix.read(text.encode(), ROWS)
    assert found.samples == ("s1", "s2")
    assert found.features == tuple("abcdefg")
    np.testing.assert_array_equal(found.values, [[0, *[nan] * 5, 1000], [1.5, *[nan] * 6]])
    assert found.states.tolist() == [
        [M, MISSING, BELOW, BELOW, ABOVE, MISSING, M],
        [M, MISSING, BELOW, BELOW, ABOVE, BELOW, MISSING],
    ]
    np.testing.assert_array_equal(
        found.limits, [[nan, nan, nan, 0.5, 500, nan, nan], [nan, nan, nan, 0.25, nan, nan, nan]]
    )
    table = normalise.assess(found)
    assert table.loc["s1"].tolist() == pytest.approx([1000, 1, 2 / 7, 2 / 7, 1 / 7])


def packings(text: str) -> dict[str, bytes]:
    frame = pd.DataFrame({"id": ["s1", "s2"], "a": [1, 2], "b": [3.5, None], "c": ["ND", "7"]})
    target = BytesIO()
    frame.to_parquet(target, index=False)
    return {
        "csv": text.encode(),
        "bom": b"\xef\xbb\xbf" + text.encode(),
        "gz": gzip.compress(text.encode()),
        "tsv": text.replace(",", "\t").encode(),
        "semicolon": text.replace(",", ";").replace("3.5", "3,5").encode(),
        "windows": text.replace("\n", "\r\n").encode(),
        "quoted": text.replace("s1", '"s1"').encode(),
        "r": text.replace("id,", "", 1).encode(),
        "comment": b"#1.2\n# x\n" + text.encode(),
        "parquet": target.getvalue(),
    }


@pytest.mark.parametrize("packing", list(packings("")))
def test_every_packing_reads_the_same(packing: str) -> None:
    found = matrix.read(packings("id,a,b,c\ns1,1,3.5,ND\ns2,2,,7\n")[packing], ROWS)
    np.testing.assert_array_equal(found.values, [[1, 3.5, nan], [2, nan, 7]])
    assert found.states.tolist() == [[M, M, BELOW], [M, MISSING, M]]


def test_orientation_is_told_or_found() -> None:
    text = b"gene,p1,p2\ng1,1,2\ng2,3,4\n__no_feature,9,9\nN_unmapped,9,9\nN_acetylaspartate,5,6\n"
    found = matrix.read(text, COLUMNS)
    assert found.samples == ("p1", "p2")
    assert found.features == ("g1", "g2", "N_acetylaspartate")
    np.testing.assert_array_equal(found.values, [[1, 3, 5], [2, 4, 6]])
    assert matrix.read(text, Options(known=["p2", "p9"])).samples == ("p1", "p2")
    assert matrix.read(b"s,g1,g2\np1,1,2\n", Options(known=["p1"])).samples == ("p1",)
    with pytest.raises(InputError, match="neither"):
        matrix.read(text, Options(known=["zz"]))
    with pytest.raises(InputError, match="rows or in columns"):
        matrix.read(text)
    counts = b"# Program:featureCounts\nGeneid\tChr\tStart\tEnd\tStrand\tLength\tp1\ng1\t1\t5\t9\t+\t4\t17\n"
    found = matrix.read(counts, Options(samples="columns"))
    assert (found.samples, found.values.tolist()) == (("p1",), [[17.0]])
    gct = b"#1.2\n1\t2\nName\tDescription\tp1\tp2\ng1\tx\t3\t4\n"
    assert matrix.read(gct, Options(samples="columns")).values.tolist() == [[3.0], [4.0]]


def test_rows_of_one_feature_are_summed_when_asked() -> None:
    text = b"gene,p1,p2\ng1,1,2\ng2,3,4\ng1,5,NA\n"
    with pytest.raises(InputError, match="twice"):
        matrix.read(text, Options(samples="columns"))
    found = matrix.read(text, Options(samples="columns", duplicates="sum"))
    np.testing.assert_array_equal(found.values, [[6, 3], [nan, 4]])
    assert found.states.tolist() == [[M, M], [MISSING, M]]


@pytest.mark.parametrize(
    ("text", "match"),
    [
        (b"", "empty"),
        (b"id,a\n", "no row"),
        (b"id\ns1\n", "no row or no column"),
        (b"id,a,b\ns1,1\n", "truncated"),
        (b"id,a\ns1,1\ns1,2\n", "twice"),
        (b"id,a,a\ns1,1,2\n", "twice"),
        (b"id,a,\ns1,1,2\n", "no name"),
        (b"id,a\ns1,hello\ns2,inf\n", "2 cells"),
        (b"id,a\ns1,-4\n", "negative"),
        (b"id;a;b\ns1;1,5;1.5,0\n", "decimal"),
        (b"id,a\ns1,\xff\xfe\n", "UTF-8"),
        (gzip.compress(b"id,a\ns1,1\n", mtime=0)[:-6], "truncated"),
        (b"\x1f\x8b\x08rubbish", "damaged|truncated"),
        (b"PAR1rubbish", "Parquet"),
    ],
)
def test_a_bad_matrix_is_refused(text: bytes, match: str) -> None:
    with pytest.raises(InputError, match=match) as caught:
        matrix.read(text, Options(samples="rows"))
    assert caught.value.code == "input.matrix"


def made(values: list[list[float]], kind: matrix.Kind = "counts") -> Matrix:
    array = np.array(values, float)
    states = np.where(np.isnan(array), MISSING, M).astype(np.int8)
    names = tuple(f"s{at}" for at in range(len(array))), tuple(f"g{at}" for at in range(array.shape[1]))
    return Matrix(*names, array, states, np.full(array.shape, nan), kind)


def test_log_cpm_is_edger_s() -> None:
    found = normalise.log_cpm(made([[10, 0, 990], [5, 100, 1895]]))
    # edgeR: prior 2 scaled by library size / mean, twice the prior added to the library size
    prior = np.array([2 * 1000 / 1500, 2 * 2000 / 1500])
    sizes = np.array([1000, 2000]) + 2 * prior
    expected = np.log2((np.array([[10, 0, 990], [5, 100, 1895]]) + prior[:, None]) / sizes[:, None] * 1e6)
    np.testing.assert_allclose(found, expected, rtol=1e-12)
    assert found[0, 1] == pytest.approx(np.log2(4 / 3 / (1000 + 8 / 3) * 1e6))
    fixed = normalise.log_cpm(made([[10, 0, 990]]), reference_size=1500)
    np.testing.assert_allclose(fixed[0], expected[0])
    for bad in (made([[0, 0]]), made([[1, 2]], "abundance")):
        with pytest.raises(InputError):
            normalise.log_cpm(bad)


def test_abundance_is_centred_and_keeps_what_is_below_apart() -> None:
    text = "id,a,b,c,d\ns1,1,2,4,<2\ns2,2,4,8,16\ns3,8,16,32,ND\n"
    found = matrix.read(text.encode(), ROWS)
    np.testing.assert_allclose(normalise.abundance(found)[:, :3], [[-1, 0, 1]] * 3)
    assert np.isnan(normalise.abundance(found)[:, 3]).tolist() == [True, False, True]
    filled = normalise.abundance(found, below="substitute", centre=False)
    np.testing.assert_allclose(filled[:, 3], [np.log2(2 / np.sqrt(2)), 4, np.log2(16 / np.sqrt(2))])
    for bad in (made([[-1, 2]], "abundance"), made([[nan, 0]], "abundance")):
        with pytest.raises(InputError):
            normalise.abundance(bad)


def test_quantile_normalisation_gives_one_distribution() -> None:
    values = np.array([[5, 2, 3, 4], [4, 1, 4, 2], [3, 4, 6, 8]], float)
    found = normalise.quantile(values)
    target = np.sort(values, axis=1).mean(axis=0)
    np.testing.assert_allclose(found[0], target[[3, 0, 1, 2]])
    np.testing.assert_allclose(found[2], target)
    np.testing.assert_allclose(
        found[1], [(target[2] + target[3]) / 2, target[0], (target[2] + target[3]) / 2, target[1]]
    )
    gap = np.vstack([values, [1, nan, 3, 2], [nan] * 4])
    assert np.isnan(normalise.quantile(gap)[3]).tolist() == [False, True, False, False]
    assert np.isnan(normalise.quantile(np.full((1, 2), nan))).all()


def walked(values: np.ndarray, inside: set[int]) -> float:
    """ssGSEA by its definition: walk down the list, add up the difference of the two running sums."""
    order = np.argsort(-values, kind="stable")
    ranks = np.empty(len(values))
    ranks[order] = np.arange(len(values), 0, -1)
    hit = np.array([gene in inside for gene in order])
    up = np.cumsum(np.where(hit, ranks[order] ** 0.25, 0))
    down = np.cumsum(~hit)
    return float((up / up[-1] - down / down[-1]).sum())


def test_set_scores() -> None:
    rng = np.random.default_rng(0)
    values, genes = rng.normal(size=(8, 50)), [f"g{at}" for at in range(50)]
    sets = {
        "one": genes[:8],
        "two": [*genes[10:20], "absent"],
        "few": genes[:3],
        "most-absent": [*genes[:6], *"abcdefgh"],
    }
    table, counts = genesets.score([f"s{at}" for at in range(8)], genes, values, sets)
    assert counts == {"sets": 4, "sets-withheld": 2}
    z = (values - values.mean(axis=0)) / values.std(axis=0, ddof=1)
    np.testing.assert_allclose(table["set_one"], z[:, :8].mean(axis=1))
    assert table[["set_few", "set_most-absent"]].isna().all(axis=None)
    ranked, _ = genesets.score(table.index, genes, values, sets, genesets.Options(method="rank"))
    np.testing.assert_allclose(ranked["set_one"], [walked(row, set(range(8))) for row in values])
    outside = {gene: (1.0, 2.0) for gene in genes}
    fixed, _ = genesets.score(table.index, genes, values, sets, reference=outside)
    np.testing.assert_allclose(fixed["set_two"], ((values[:, 10:20] - 1) / 2).mean(axis=1))
    values[0, :4] = nan
    assert np.isnan(genesets.score(table.index, genes, values, sets)[0]["set_one"]["s0"])
    with pytest.raises(DisclosureRefused):
        genesets.score(table.index, genes, values, {"few": genes[:3]})


def test_gmt_files_and_the_schema() -> None:
    assert genesets.gmt(b"A\thttp://x\tg1\tg2\tg1\n\nB\t\tg3\t\n") == {"A": ("g1", "g2"), "B": ("g3",)}
    for bad in (b"", b"A\tx\n", b"A\tx\tg\nA\tx\tg\n", b"\tx\tg\n"):
        with pytest.raises(InputError):
            genesets.gmt(bad)
    plugin = genesets.GeneSetScores()
    assert isinstance(plugin, Extractor)
    assert [feature.name for feature in plugin.schema({"sets": ["A", "B"]})] == ["set_A", "set_B"]
    for parameters in ({}, {"sets": []}, {"sets": ["A"], "method": "x"}):
        with pytest.raises(InputError):
            plugin.schema(parameters)
