"""Manhattan and QQ plots of a result frame (`Estimates.frame`), as matplotlib figures; matplotlib comes lazily."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from pipelines.features.gwas.result import lambda_gc

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["draw_manhattan", "draw_qq", "manhattan", "qq"]

GENOME_WIDE = 5e-8
_SHADES = ("#1f4e79", "#7fa7cc")


def manhattan(result: pd.DataFrame, *, line: float = GENOME_WIDE) -> Figure:
    """-log10 P along the genome, chromosomes in turn light and dark, with the genome-wide line."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 4), layout="constrained")
    draw_manhattan(figure.subplots(), result, line=line)
    return figure


def draw_manhattan(axes: Axes, result: pd.DataFrame, *, line: float = GENOME_WIDE) -> None:
    """As `manhattan`, on given axes."""
    start, ticks, labels = 0.0, [], []
    chromosomes = sorted(
        set(result["chrom"]), key=lambda name: (not name.isdigit(), int(name) if name.isdigit() else 0)
    )
    for number, name in enumerate(chromosomes):
        part = result[result["chrom"] == name]
        places = part["pos"].to_numpy(np.float64)
        heights = -part["log10_p"].to_numpy(np.float64)
        length = max(float(places.max() - places.min()), 1.0)
        axes.scatter(start + places - places.min(), heights, s=4, color=_SHADES[number % 2], linewidths=0)
        ticks.append(start + length / 2)
        labels.append(name)
        start += length * 1.02
    axes.axhline(-np.log10(line), color="#b03030", linewidth=0.8)
    axes.set_xticks(ticks, labels, fontsize=7)
    axes.set(xlabel="chromosome", ylabel="$-\\log_{10} P$", ylim=(0, None))


def qq(result: pd.DataFrame) -> Figure:
    """Observed against expected -log10 P, with the 95 % band under the null and lambda GC."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(4.5, 4.5), layout="constrained")
    draw_qq(figure.subplots(), result)
    return figure


def draw_qq(axes: Axes, result: pd.DataFrame) -> None:
    """As `qq`, on given axes."""
    from scipy.special import betaincinv

    logs = result["log10_p"].to_numpy(np.float64)
    observed = np.sort(-logs[np.isfinite(logs)])[::-1]
    rank = np.arange(1, len(observed) + 1, dtype=np.float64)
    expected = -np.log10((rank - 0.5) / max(len(observed), 1))
    if len(observed):
        low, high = (-np.log10(betaincinv(rank, len(rank) - rank + 1, tail)) for tail in (0.975, 0.025))
        axes.fill_between(expected, low, high, color="#dddddd", linewidth=0)
        axes.plot([0, expected[0]], [0, expected[0]], color="#b03030", linewidth=0.8)
        axes.scatter(expected, observed, s=5, color=_SHADES[0], linewidths=0)
    axes.set(xlabel="expected $-\\log_{10} P$", ylabel="observed $-\\log_{10} P$")
    axes.set_title(f"$\\lambda_{{GC}}$ = {lambda_gc(logs):.3f}", fontsize=10)
