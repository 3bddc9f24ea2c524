"""Benchmarks on data that ship with the product's dependencies. Figures are reported as they come.

No seed, split or setting is chosen here by its result: the seeds are 0 to 19 and the settings the product's defaults.
"""

from __future__ import annotations

from collections.abc import Callable
from statistics import fmean, stdev
from typing import Any

from corsia import lung

__all__ = ["SEEDS", "bench_lung"]

SEEDS = 20
_MODELS = ("federated", "local_mean", "pooled")


def bench_lung(
    tell: Callable[[str], object] = lambda _line: None, *, seeds: int = SEEDS, sites: int = 3
) -> dict[str, Any]:
    """Federated v mean of local v pooled on the lung cohort, over fixed splits.

    Args:
        tell: called with a line after each split.
        seeds: how many splits.
        sites: training hospitals.

    Returns:
        Mean and spread (sample standard deviation over splits) of each; `wins` counts the splits in which the
        federated model is above the mean of the local ones.
    """
    results: list[dict[str, float]] = []
    for seed in range(seeds):
        *training, _joining = lung.hospitals(sites, split_seed=seed).items()
        result = lung.compare(dict(training), study=lung.study_for([name for name, _ in training], seed=seed))
        results.append(result)
        tell(f"split {seed + 1}/{seeds}: " + "  ".join(f"{name} {result[name]:.3f}" for name in _MODELS))
    spread = {
        name: {
            "mean": round(fmean(r[name] for r in results), 4),
            "sd": round(stdev([r[name] for r in results]), 4) if seeds > 1 else 0.0,
        }
        for name in _MODELS
    }
    wins = sum(r["federated"] > r["local_mean"] for r in results)
    return {"seeds": seeds, "metric": "c-index", **spread, "wins": wins}
