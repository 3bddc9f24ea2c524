"""However persons are spread over sites, the federated estimates are those of the pooled data."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipelines.features.genomics.variants import Variants
from pipelines.features.gwas import linear, logistic, solve
from pipelines.features.gwas.cohort import cohort
from pipelines.features.gwas.newton import Newton
from pipelines.features.gwas.plan import Guard, Plan

OPEN = Guard(persons=1, minor=0, cases=0, controls=0, missing=0)
VARIANTS = Variants.of([("1", 10 * at + 1, "A", "G", "") for at in range(6)], "GRCh37")


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def drawn(seed: int, n: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    g = rng.binomial(2, rng.uniform(0.2, 0.5, 6), (n, 6)).astype(np.float32)
    g[rng.random(g.shape) < 0.05] = np.nan
    x = np.column_stack([rng.normal(50, 12, n), rng.integers(0, 2, n)])
    x[rng.integers(0, n), 0] = np.nan
    return g, x, rng.normal(size=n)


def federated(plan: Plan, sites: list[np.ndarray], g: np.ndarray, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """beta and se, [2, m]."""
    blocks = [(np.arange(4), g[:, :4]), (np.arange(4, 6), g[:, 4:])]
    people = [cohort(plan, at, y[at], x[at]) for at in sites]
    if plan.trait == "linear":
        found = solve.linear(linear.add([linear.sums(blocks, one, plan, on="cpu") for one in people]), plan)
    else:
        newton, more = Newton(plan), True
        while more:
            request = newton.request()
            more = newton.advance(logistic.add([logistic.sums(blocks, one, plan, request, on="cpu") for one in people]))
        found = newton.estimates()
    return np.array([found.beta, found.se])


@settings(deadline=None, max_examples=20)
@given(
    seed=st.integers(0, 2**32 - 1),
    labels=st.lists(st.integers(0, 4), min_size=80, max_size=160),
    trait=st.sampled_from(["linear", "logistic"]),
    ordered=st.booleans(),
)
def test_every_split_gives_the_pooled_estimates(seed: int, labels: list[int], trait: str, ordered: bool) -> None:
    n = len(labels)
    g, x, y = drawn(seed, n)
    if trait == "logistic":
        y = (y > 0.3).astype(float)
    place = np.argsort(y, kind="stable") if ordered else np.arange(n)
    spread = np.sort(labels) if ordered else np.array(labels)
    sites = [place[spread == site] for site in range(5)]
    plan = Plan(variants=VARIANTS, covariates=("age", "sex"), trait=trait, guard=OPEN, pool="any")
    split, pooled = federated(plan, sites, g, x, y), federated(plan, [np.arange(n)], g, x, y)
    np.testing.assert_allclose(split, pooled, rtol=1e-7, atol=1e-9)
    if trait == "linear":
        assert np.isfinite(pooled).all()
