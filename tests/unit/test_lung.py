"""The NCCTG rows as hospitals: the stated rule, fixed splits, the refusal above four, the three-way comparison."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from corsia import bench, lung
from protocol.errors import InputError

pytest.importorskip("lifelines", reason="extra `demo` is not installed")


@pytest.mark.parametrize("training", [2, 3, 4])
def test_institutions_become_balanced_hospitals(training: int) -> None:
    frames = lung.hospitals(training)
    assert list(frames) == [f"site-{c}" for c in "abcde"[: training + 1]]
    sizes = [len(f) for f in frames.values()]
    assert sum(sizes) == 227  # 228 less the one row without an institution
    assert max(sizes) - min(sizes) <= 12
    codes = [set(f["inst"]) for f in frames.values()]
    assert len(set().union(*codes)) == sum(map(len, codes)) == 18
    assert set(pd.concat(frames.values())["status"]) == {1, 2}
    *train, last = frames.values()
    assert set(last["split"]) == {"test"}
    assert all((f["split"] == "test").sum() == round(len(f) * lung.HELD_OUT) for f in train)


@pytest.mark.parametrize("training", [0, 1, 5, 18])
def test_other_numbers_are_refused_with_the_reason(training: int) -> None:
    with pytest.raises(InputError, match="institutions") as error:
        lung.hospitals(training)
    assert error.value.code == "input.usage"


def test_splits_are_fixed_by_seed() -> None:
    first, again, other = (lung.hospitals(3, split_seed=s)["site-a"]["split"].tolist() for s in (5, 5, 6))
    assert first == again != other


def test_compare_scores_given_weights_and_trains_what_is_not_given() -> None:
    frames = lung.hospitals(2)
    plan = lung.study_for(["site-a", "site-b"], rounds=2)
    result = lung.compare(frames, study=plan)
    training = {k: frames[k] for k in ("site-a", "site-b")}
    weights = lung._trained(training, plan)
    assert lung.compare(frames, weights, plan) == result
    held_out = pd.concat([f[f["split"] == "test"] for f in training.values()])
    assert result["federated"] == lung.score(weights, held_out, plan)
    assert set(result) == {"federated", "local_mean", "pooled"}
    assert all(0 < v < 1 for v in result.values())


def test_held_out_rows_do_not_reach_training() -> None:
    frames = lung.hospitals(2)
    plan = lung.study_for(["site-a", "site-b"], rounds=1)
    changed = {k: f.assign(age=np.where(f["split"] == "test", 1e6, f["age"])) for k, f in frames.items()}
    pick = ("site-a", "site-b")
    assert lung._trained({k: frames[k] for k in pick}, plan) == lung._trained({k: changed[k] for k in pick}, plan)


@pytest.mark.slow
def test_the_benchmarks_line_has_its_shape() -> None:
    lines: list[str] = []
    result = bench.bench_lung(lines.append, seeds=2, sites=2)
    assert set(result) == {"seeds", "metric", "federated", "local_mean", "pooled", "wins"}
    assert (result["seeds"], result["metric"], len(lines)) == (2, "c-index", 2)
    assert set(result["federated"]) == {"mean", "sd"}
    assert 0 <= result["wins"] <= 2
