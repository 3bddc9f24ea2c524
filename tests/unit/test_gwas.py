"""Federated association: equal to plink2 on pooled data, guards, missing values, separation, P to the last digit."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from pipelines.features.genomics.alleles import Agreement, Panel, aligned
from pipelines.features.genomics.genotypes import Options, read
from pipelines.features.genomics.variants import Variants
from pipelines.features.gwas import linear, logistic, plots, result, solve
from pipelines.features.gwas.cohort import cohort
from pipelines.features.gwas.newton import Newton
from pipelines.features.gwas.plan import Guard, Plan
from protocol.errors import InputError

OPEN = Guard(persons=1, minor=0, cases=0, controls=0, missing=0)
Blocks = list[tuple[np.ndarray, np.ndarray]]


def variants(m: int) -> Variants:
    return Variants.of([("1", 10 * at + 1, "A", "G", f"v{at}") for at in range(m)], "GRCh37")


def blocks_of(dosages: np.ndarray, size: int = 7) -> Blocks:
    m = dosages.shape[1]
    return [(np.arange(m)[at : at + size], dosages[:, at : at + size].astype(np.float32)) for at in range(0, m, size)]


def run_linear(
    plan: Plan,
    blocks: Blocks,
    sites: Iterable[np.ndarray],
    y: np.ndarray,
    x: np.ndarray,
    counts: Counter[str] | None = None,
) -> pd.DataFrame:
    parts = [linear.sums(blocks, cohort(plan, at, y[at], x[at]), plan, counts=counts, on="cpu") for at in sites]
    for part in parts:
        assert {name: array.shape for name, array in part.to_arrays().items()} == plan.shapes()
    travelled = [linear.LinearSums.from_arrays(part.to_arrays(), plan) for part in parts]
    return solve.linear(linear.add(travelled), plan).frame()


def run_logistic(
    plan: Plan,
    blocks: Blocks,
    sites: Iterable[np.ndarray],
    y: np.ndarray,
    x: np.ndarray,
    counts: Counter[str] | None = None,
) -> tuple[pd.DataFrame, int]:
    newton, people = Newton(plan), [cohort(plan, at, y[at], x[at]) for at in sites]
    more = True
    while more:
        request = newton.request()
        parts = [logistic.sums(blocks, one, plan, request, counts=counts, on="cpu") for one in people]
        for part in parts:
            assert {name: array.shape for name, array in part.to_arrays().items()} == plan.shapes()
        more = newton.advance(logistic.add([logistic.LogisticSums.from_arrays(p.to_arrays(), plan) for p in parts]))
    return newton.estimates().frame(), newton.round


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Small blocks on a shared machine: threads would wait for each other."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def regenie(shared_data: Path) -> dict[str, object]:
    folder = shared_data / "regenie_example"
    with read(
        {s: (folder / f"example.{s}").read_bytes() for s in ("bed", "bim", "fam")}, Options(build="GRCh37")
    ) as genotypes:
        listed = [block.variants for block in genotypes.blocks()]
    plan_variants = listed[0]
    with read(
        {s: (folder / f"example.{s}").read_bytes() for s in ("bed", "bim", "fam")}, Options(build="GRCh37")
    ) as genotypes:
        blocks = list(aligned(genotypes, Panel(plan_variants), Agreement(), Counter()))
        covariates = pd.read_csv(folder / "covariates.txt", sep=" ", dtype={"IID": str}).set_index("IID")
        rows = genotypes.rows(covariates.index.tolist())
    frames = {
        name: pd.read_csv(folder / f"{name}.txt", sep=" ", dtype={"IID": str}).set_index("IID")
        for name in ("phenotype", "phenotype_bin")
    }
    return {
        "variants": plan_variants,
        "blocks": blocks,
        "rows": rows,
        "x": covariates[["V1", "V2", "V3"]].to_numpy(),
        "linear": frames["phenotype"].loc[covariates.index, "Y1"].to_numpy(float),
        "logistic": frames["phenotype_bin"].loc[covariates.index, "Y1"].to_numpy(float),
        "truth_linear": pd.read_csv(folder / "regq.Y1.glm.linear", sep="\t"),
        "truth_logistic": pd.read_csv(folder / "reg.Y1.glm.logistic.hybrid", sep="\t"),
    }


SPLITS = ["alternating", "sorted", "tiny", "five"]


def split(how: str, y: np.ndarray) -> list[np.ndarray]:
    n = len(y)
    order = np.argsort(y, kind="stable")
    return {
        "alternating": [np.arange(n)[at::3] for at in range(3)],
        "sorted": np.array_split(order, 3),
        "tiny": [np.arange(5), np.arange(5, n)],
        "five": [np.arange(n)[at::5] for at in range(5)],
    }[how]


@pytest.mark.parametrize("how", SPLITS)
@pytest.mark.parametrize("missing", ["drop", "impute"])
def test_linear_equals_pooled_plink2(regenie: dict, how: str, missing: str) -> None:
    plan = Plan(
        variants=regenie["variants"], covariates=("V1", "V2", "V3"), trait="linear", missing=missing, guard=OPEN
    )
    found = run_linear(plan, regenie["blocks"], split(how, regenie["linear"]), regenie["linear"], regenie["x"])
    truth = regenie["truth_linear"]
    assert (found["status"] == "ok").all()
    assert (found["alt"].astype(str) == truth["A1"].astype(str)).all()
    assert np.abs(found["t"] - truth["T_STAT"]).max() <= 1e-5
    assert np.abs(found["beta"] - truth["BETA"]).max() <= 1e-6
    np.testing.assert_allclose(found["p"], truth["P"], rtol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("how", SPLITS)
def test_logistic_equals_pooled_plink2(regenie: dict, how: str) -> None:
    plan = Plan(variants=regenie["variants"], covariates=("V1", "V2", "V3"), trait="logistic", guard=OPEN)
    found, rounds = run_logistic(
        plan, regenie["blocks"], split(how, regenie["logistic"]), regenie["logistic"], regenie["x"]
    )
    truth = regenie["truth_logistic"]
    assert (found["status"] == "ok").all()
    assert rounds <= 8
    assert np.abs(found["z"] - truth["Z_STAT"]).max() <= 1e-4
    np.testing.assert_allclose(found["or"], truth["OR"], rtol=1e-5)
    np.testing.assert_allclose(found["p"], truth["P"], rtol=1e-4)
    assert found["cases"].eq(121).all()


def test_the_default_guard_passes_and_holds_back(regenie: dict) -> None:
    """Three alternating sites pass; sorted by phenotype, two of three sites have no case, and nothing is told."""
    plan = Plan(variants=regenie["variants"], covariates=("V1", "V2", "V3"), trait="logistic")
    found, _ = run_logistic(
        plan, regenie["blocks"], split("alternating", regenie["logistic"]), regenie["logistic"], regenie["x"]
    )
    assert (found["status"] == "ok").all()
    counts: Counter[str] = Counter()
    found, rounds = run_logistic(
        plan, regenie["blocks"], split("sorted", regenie["logistic"]), regenie["logistic"], regenie["x"], counts
    )
    assert (found["status"] == "guard").all()
    assert found[["n", "frequency", "beta", "se", "z", "p", "or", "cases"]].isna().all(axis=None)
    assert rounds == 1
    assert counts["guard-cases"] == 2000
    part = logistic.sums(
        regenie["blocks"],
        cohort(plan, np.arange(5), regenie["logistic"][:5], regenie["x"][:5]),
        plan,
        Newton(plan).request(),
    )
    assert all(not array.any() for name, array in part.to_arrays().items() if name != "site")
    tiny = Plan(variants=regenie["variants"], covariates=("V1", "V2", "V3"), trait="linear")
    one = linear.sums(regenie["blocks"], cohort(tiny, np.arange(5), regenie["linear"][:5], regenie["x"][:5]), tiny)
    assert all(not array.any() for name, array in one.to_arrays().items() if name != "site")


def ordinary(y: np.ndarray, x: np.ndarray, g: np.ndarray) -> tuple[float, float, int]:
    """One variant by least squares on who is complete: beta, t, n."""
    there = np.isfinite(y) & np.isfinite(x).all(axis=1) & np.isfinite(g)
    design = np.column_stack([np.ones(there.sum()), x[there], g[there]])
    beta, *_ = np.linalg.lstsq(design, y[there], rcond=None)
    residual = y[there] - design @ beta
    variance = residual @ residual / (len(design) - design.shape[1]) * np.linalg.inv(design.T @ design)[-1, -1]
    return beta[-1], beta[-1] / np.sqrt(variance), len(design)


def newton_one(y: np.ndarray, x: np.ndarray, g: np.ndarray) -> tuple[float, float]:
    there = np.isfinite(y) & np.isfinite(x).all(axis=1) & np.isfinite(g)
    design = np.column_stack([np.ones(there.sum()), x[there], g[there]])
    beta = np.zeros(design.shape[1])
    for _ in range(50):
        mean = 1 / (1 + np.exp(-design @ beta))
        information = design.T @ (design * (mean * (1 - mean))[:, None])
        beta = beta + np.linalg.solve(information, design.T @ (y[there] - mean))
    return beta[-1], beta[-1] / np.sqrt(np.linalg.inv(information)[-1, -1])


def simulated(n: int = 300, m: int = 30, seed: int = 3) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    g = rng.binomial(2, rng.uniform(0.1, 0.5, m), (n, m)).astype(float)
    g[rng.random((n, m)) < 0.06] = np.nan
    x = np.column_stack([rng.normal(60, 10, n), rng.normal(2010, 5, n), rng.integers(0, 2, n)])
    y = 100 + 0.1 * x[:, 0] + 0.3 * np.nan_to_num(g[:, 0]) + rng.normal(size=n)
    binary = (rng.random(n) < 1 / (1 + np.exp(-(x[:, 0] - 60) / 20 - 0.4 * np.nan_to_num(g[:, 1])))).astype(float)
    for array in (y, binary, x[:, 2]):
        array[rng.choice(n, 9, replace=False)] = np.nan
    return g, x, y, binary


def test_missing_genotypes_phenotypes_and_covariates_are_left_out_per_variant() -> None:
    g, x, y, binary = simulated()
    sites = split("alternating", y)
    plan = Plan(variants=variants(30), covariates=("age", "year", "sex"), trait="linear", guard=OPEN)
    found = run_linear(plan, blocks_of(g), sites, y, x)
    for at in range(30):
        beta, t, n = ordinary(y, x, g[:, at])
        assert (found["beta"][at], found["t"][at], found["n"][at]) == pytest.approx((beta, t, n), abs=1e-6)
    plan = Plan(variants=variants(30), covariates=("age", "year", "sex"), trait="logistic", guard=OPEN)
    table, _ = run_logistic(plan, blocks_of(g), sites, binary, x)
    for at in range(30):
        assert (table["beta"][at], table["z"][at]) == pytest.approx(newton_one(binary, x, g[:, at]), abs=1e-6)


def test_imputed_genotypes_share_one_covariate_block() -> None:
    g, x, y, _ = simulated()
    sites = split("alternating", y)
    plan = Plan(variants=variants(30), covariates=("age", "year", "sex"), trait="linear", missing="impute", guard=OPEN)
    assert plan.shapes()["lacking"] == (0, 15)
    filled = g.copy()
    for at in sites:
        complete = at[np.isfinite(y[at]) & np.isfinite(x[at]).all(axis=1)]
        for column in range(30):
            mean = np.nanmean(g[complete, column])
            filled[at, column] = np.where(np.isnan(g[at, column]), np.float32(mean), g[at, column])
    found = run_linear(plan, blocks_of(g), sites, y, x)
    for at in range(30):
        assert found["t"][at] == pytest.approx(ordinary(y, x, filled[:, at])[1], abs=1e-5)


def test_few_missing_genotypes_are_not_told_by_difference() -> None:
    g, x, y, _ = simulated()
    g = np.nan_to_num(g)
    g[0, 0] = g[[0, 3, 6], 1] = np.nan  # rows of the first of three sites
    y, x = np.nan_to_num(y), np.nan_to_num(x)
    plan = Plan(variants=variants(30), covariates=("age", "year", "sex"), trait="linear")
    counts: Counter[str] = Counter()
    found = run_linear(plan, blocks_of(g), split("alternating", y), y, x, counts)
    assert found["status"].tolist() == ["guard"] + ["ok"] * 29
    assert counts["guard-missing"] == 1
    pooled = Plan(variants=variants(30), covariates=("age", "year", "sex"), trait="linear", pool="any")
    found = run_linear(pooled, blocks_of(g), split("alternating", y), y, x)
    rest = np.setdiff1d(np.arange(300), np.arange(300)[0::3])
    assert found["t"][0] == pytest.approx(ordinary(y[rest], x[rest], g[rest, 0])[1], abs=1e-6)
    assert found["sites"].tolist() == [2.0] + [3.0] * 29


def test_constant_collinear_and_separated_variants_say_so() -> None:
    rng = np.random.default_rng(5)
    n = 200
    g = rng.binomial(2, 0.3, (n, 4)).astype(float)
    x = rng.normal(size=(n, 1))
    y = (rng.random(n) < 0.4).astype(float)
    g[:, 0] = 1.0
    g[:, 1] = np.where(x[:, 0] > 0, 2, 0)
    x = np.where(x > 0, 1.0, 0.0)
    g[:, 2] = np.where(y == 1, rng.binomial(2, 0.5, n), 0.0)  # only cases carry it
    sites = [np.arange(n)[::2], np.arange(n)[1::2]]
    plan = Plan(variants=variants(4), covariates=("x",), trait="logistic")
    found, rounds = run_logistic(plan, blocks_of(g), sites, y, x)
    assert found["status"].tolist() == ["collinear", "collinear", "separated", "ok"]
    assert found["beta"].isna().tolist() == [True, True, True, False]
    assert rounds <= 25
    found = run_linear(Plan(variants=variants(4), covariates=("x",), trait="linear"), blocks_of(g), sites, y, x)
    assert found["status"].tolist() == ["constant", "collinear", "ok", "ok"]


def test_coefficients_that_single_out_a_person_get_nothing() -> None:
    rng = np.random.default_rng(6)
    n = 100
    g, x = rng.binomial(2, 0.4, (n, 2)).astype(float), rng.normal(size=(n, 1))
    y = (rng.random(n) < 0.5).astype(float)
    plan = Plan(variants=variants(2), covariates=("x",), trait="logistic")
    people, counts = cohort(plan, np.arange(n), y, x), Counter()
    at = float(x[7, 0])
    hostile = {"coefficients": np.array([[-500 * at, 500.0, 0.0], [0.0, 0.0, 0.0]]), "active": np.ones(2)}
    part = logistic.sums(blocks_of(g), people, plan, hostile, counts=counts)
    assert part.sites.tolist() == [0.0, 1.0]
    assert not part.information[0].any()
    assert not part.gradient[0].any()
    assert counts["guard-leverage"] == 1


def test_a_message_of_another_shape_is_refused() -> None:
    plan = Plan(variants=variants(3), covariates=("x",), trait="logistic")
    good = Newton(plan).request()
    people = cohort(plan, np.arange(20), np.arange(20) % 2.0, np.arange(20.0)[:, None])
    for change in ({"coefficients": np.zeros((3, 2))}, {"active": np.full(3, np.nan)}, {"more": np.zeros(1)}):
        with pytest.raises(InputError) as caught:
            logistic.sums([], people, plan, good | change)
        assert caught.value.code == "input.message"
    sums = logistic.sums([], people, plan, good).to_arrays()
    for change in ({"site": np.zeros(2)}, {"gradient": np.full((3, 3), np.inf)}, {"more": np.zeros(1)}):
        with pytest.raises(InputError):
            logistic.LogisticSums.from_arrays(sums | change, plan)
    with pytest.raises(InputError):
        logistic.LogisticSums.from_arrays({name: sums[name] for name in list(sums)[1:]}, plan)


def test_a_cohort_that_makes_no_sense_is_refused() -> None:
    plan = Plan(variants=variants(1), covariates=("x",), trait="logistic")
    for rows, y, x in (
        ([0, 1], [1.0, 2.0], [[0.0], [0.0]]),
        ([0, 0], [1.0, 0.0], [[0.0], [0.0]]),
        ([0, 1], [1.0, 0.0], [[0.0, 1.0], [0.0, 1.0]]),
        ([0], [1.0, 0.0], [[0.0], [0.0]]),
    ):
        with pytest.raises(InputError):
            cohort(plan, np.array(rows), np.array(y), np.array(x))
    assert cohort(plan, [4, 5, 6], np.array([1, np.nan, 0.0]), np.array([[1.0], [1.0], [np.nan]])).rows.tolist() == [4]
    with pytest.raises(InputError):
        Plan(variants=variants(1), covariates=("x", "x"), trait="linear")
    with pytest.raises(InputError):
        Plan(variants=variants(2).take(np.array([0, 0])), covariates=(), trait="linear")
    with pytest.raises(InputError):
        Newton(Plan(variants=variants(1), covariates=(), trait="linear"))


def test_lambda_and_plots(regenie: dict) -> None:
    plan = Plan(variants=regenie["variants"], covariates=("V1", "V2", "V3"), trait="linear")
    found = run_linear(
        plan, regenie["blocks"], split("alternating", regenie["linear"]), regenie["linear"], regenie["x"]
    )
    uniform = np.log10((np.arange(1000) + 0.5) / 1000)
    assert result.lambda_gc(uniform) == pytest.approx(1, abs=2e-3)
    assert result.lambda_gc(np.log10(result_p(2.0))) == pytest.approx(2, abs=1e-2)
    assert np.isnan(result.lambda_gc(np.array([np.nan])))
    known = found[found["status"] == "ok"]
    for figure in (plots.manhattan(found), plots.qq(found)):
        (axes,) = figure.axes
        (points,) = [
            c for c in axes.collections if len(c.get_offsets()) == len(known) or len(c.get_offsets()) == len(found)
        ]
        heights = np.sort(np.asarray(points.get_offsets())[:, 1])
        np.testing.assert_allclose(heights[np.isfinite(heights)], np.sort(-known["log10_p"]))
    nothing = found.assign(log10_p=np.nan)
    for figure in (plots.manhattan(nothing), plots.qq(nothing)):
        figure.canvas.draw()


def result_p(inflation: float) -> np.ndarray:
    from scipy.stats import chi2

    return chi2.sf(chi2.ppf((np.arange(1000) + 0.5) / 1000, 1) * inflation, 1)
