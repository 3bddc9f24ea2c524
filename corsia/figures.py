"""Figures for notebooks: blank ones that show themselves, and those of published models."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING

from protocol.errors import InputError

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure

__all__ = ["blank", "model_figure"]


def blank(width: float, height: float) -> Figure:
    """An empty figure that a notebook shows as a picture, whether or not pyplot has been used there.

    Args:
        width, height: in inches.
    """
    from matplotlib.figure import Figure

    class Shown(Figure):
        def _repr_png_(self) -> bytes:
            sink = io.BytesIO()
            self.savefig(sink, format="png")
            return sink.getvalue()

    return Shown(figsize=(width, height), layout="constrained")


def model_figure(table: pd.DataFrame) -> Figure:
    """Manhattan beside QQ for an association study, a bar a feature for a linear model.

    Args:
        table: as `Model.table` gives it.

    Raises:
        InputError: `input.usage` for a table with neither P values nor weights.
    """
    if "log10_p" in table.columns:
        from pipelines.features.gwas import plots

        figure = blank(14, 4)
        left, right = figure.subplots(1, 2, width_ratios=(3, 1))
        plots.draw_manhattan(left, table)
        plots.draw_qq(right, table)
        return figure
    if "weight" not in table.columns:
        raise InputError("input.usage", "this model has neither P values nor weights to draw")
    figure = blank(6, 0.35 * len(table) + 1)
    axes = figure.subplots()
    ordered = table.sort_values("weight")
    axes.barh(ordered["feature"], ordered["weight"])
    axes.set(xlabel="weight a standard deviation")
    return figure
