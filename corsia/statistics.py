"""Federated statistics as a notebook handles them: the pooled values, made of the sites' sums.

    found = hub.statistics("blood-counts")
    found.moments()
    found.survival("time", group="arm=a")

Rows never left the hospitals: what is downloaded are sums, with small cells missing.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from corsia.figures import blank
from corsia.studies import StudyTable

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure

__all__ = ["Statistics"]


class Statistics(StudyTable):
    """The statistics of a study with pipeline `aggregate`; NaN where a site hid a cell that is needed."""

    def pooled(self) -> pd.DataFrame:
        """Cell by cell sums over sites, how many sites gave each and how many hid it."""
        from pipelines.aggregate import read
        from pipelines.features.pooling import pool

        return pool([read(part) for _, part in self.to_pandas().groupby("site")])

    def moments(self) -> pd.DataFrame:
        """n, missing, mean, variance and sd by column and group; the whole is the group `""`."""
        from pipelines.features import pooling

        return pooling.moments(self.pooled())

    def quantiles(self, column: str, probabilities: Sequence[float] = (0.25, 0.5, 0.75)) -> dict[float, float]:
        """Out of the histogram, linear within a bin: right to the width of a bin."""
        from pipelines.features import pooling

        return pooling.quantiles(self.pooled(), column, probabilities)

    def correlation(self, columns: Sequence[str]) -> pd.DataFrame:
        """Pearson's correlation of complete rows, for columns in the study's order."""
        from pipelines.features import pooling

        return pooling.correlation(self.pooled(), columns)

    def table(self, rows: str, columns: str) -> pd.DataFrame:
        """A contingency table; hidden cells are NaN."""
        from pipelines.features import pooling

        return pooling.table(self.pooled(), rows, columns)

    def survival(self, time: str, group: str = "") -> pd.DataFrame:
        """Kaplan-Meier on the study's grid, with Greenwood's standard error."""
        from pipelines.features import pooling

        return pooling.survival(self.pooled(), time, group)

    def plot_survival(self, time: str, groups: Sequence[str] = ("",)) -> Figure:
        """Kaplan-Meier curves with bands of 1.96 standard errors."""
        figure = blank(7, 4.2)
        axes = figure.subplots()
        for group in groups:
            curve = self.survival(time, group)
            (line,) = axes.step(curve.index, curve["survival"], where="post", label=group or "all")
            low, high = curve["survival"] - 1.96 * curve["error"], curve["survival"] + 1.96 * curve["error"]
            axes.fill_between(
                curve.index, low.clip(0), high.clip(upper=1), step="post", alpha=0.15, color=line.get_color()
            )
        axes.set(xlabel=time, ylabel="survival", ylim=(0, 1.02))
        axes.legend(frameon=False)
        return figure
