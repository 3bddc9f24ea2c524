"""Figures of published models for notebooks."""

from __future__ import annotations

from typing import TYPE_CHECKING

from protocol.errors import InputError

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure

__all__ = ["model_figure"]


def model_figure(table: pd.DataFrame) -> Figure:
    """Manhattan beside QQ for an association study, a bar a feature for a linear model.

    Args:
        table: as `Model.table` gives it.

    Raises:
        InputError: `input.usage` for a table with neither P values nor weights.
    """
    from matplotlib.figure import Figure

    if "log10_p" in table.columns:
        from pipelines.features.gwas import plots

        figure = Figure(figsize=(14, 4), layout="constrained")
        left, right = figure.subplots(1, 2, width_ratios=(3, 1))
        plots.draw_manhattan(left, table)
        plots.draw_qq(right, table)
        return figure
    if "weight" not in table.columns:
        raise InputError("input.usage", "this model has neither P values nor weights to draw")
    figure = Figure(figsize=(6, 0.35 * len(table) + 1), layout="constrained")
    axes = figure.subplots()
    ordered = table.sort_values("weight")
    axes.barh(ordered["feature"], ordered["weight"])
    axes.set(xlabel="weight a standard deviation")
    return figure
