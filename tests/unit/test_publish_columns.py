"""Kinds and example rows from what was agreed by sums; pictures of odd runs."""

from __future__ import annotations

import math

import pandas as pd
import pytest

from central.federation.columns import example_rows, input_kinds
from central.federation.plots import card_plots

TABLE = pd.DataFrame(
    {
        "feature": ["age", "sex", "stage", "ward"],
        "level": ["", "f", "1", "#40"],
        "mean": [61.237, 0.4, 0.2, 0.1],
        "scale": [10.0, 0.5, 0.4, 0.3],
        "weight": [0.5, -1.0, math.nan, 2.0],
    }
)
LEVELS = {"sex": ["f", "m"], "stage": ["1", "2", "x"], "ward": []}


def test_numbers_are_double_texts_string_and_what_may_be_both_any() -> None:
    features = ("age", "sex", "stage", "ward", "unknown")
    kinds = input_kinds(features, TABLE, LEVELS)
    assert kinds == {"age": "double", "sex": "string", "stage": "any", "ward": "any", "unknown": "any"}
    assert input_kinds(("chr1",), pd.DataFrame({"variant": ["rs1"]}), {}) == {"chr1": "any"}
    assert example_rows(features[:3], TABLE, kinds) == {"age": [61.2, 66.2], "sex": ["f", "f"], "stage": ["1", "1"]}
    assert example_rows(("age", "ward"), TABLE, kinds) == {}
    assert example_rows(("unknown",), TABLE, kinds) == {}


@pytest.mark.parametrize("metrics", [[], [(1, {})], [(1, {"loss": math.nan})], [(1, {"rows": 40.0})]])
def test_a_run_without_numbers_has_no_picture_of_them(metrics: list[tuple[int, dict[str, float]]]) -> None:
    made = card_plots(metrics, [], ["a"], TABLE[["feature"]])
    assert made == {}


@pytest.mark.slow
def test_many_rounds_many_sites_and_many_weights_are_drawn() -> None:
    rounds = [(n, {"auc": 0.5 + n / 1000, "loss": math.inf if n == 3 else 1 / n}) for n in range(1, 301)]
    sites = [f"site-{i:02d}" for i in range(51)]
    weights = pd.DataFrame({"feature": [f"f{i}" for i in range(200)], "weight": range(200)})
    made = card_plots(rounds, [(n, sites[: n % 51]) for n, _ in rounds], sites, weights)
    assert set(made) == {"plots/metrics.png", "plots/sites.png", "plots/weights.png"}
    assert made == card_plots(rounds, [(n, sites[: n % 51]) for n, _ in rounds], sites, weights), "not the same bytes"
