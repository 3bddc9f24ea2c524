"""Pictures for a model card, PNG: metrics by round, who took part, and the model's weights where it has some.

Drawn from what the rounds' sums gave and from the published model alone. Matplotlib is imported when used, without a
display; fixed metadata make the same bytes of the same run.
"""

from __future__ import annotations

import io
import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure

__all__ = ["card_plots"]

MOST_BARS = 30
_SKIPPED = ("rows", "answers", "num-examples")
_COLOURS = ("#1f5f8b", "#c4622d", "#4d7f3a", "#7a4b8c", "#8a6d1b", "#3b3b3b")


def card_plots(
    metrics: Sequence[tuple[int, Mapping[str, float]]],
    taken_part: Sequence[tuple[int, Sequence[str]]],
    sites: Sequence[str],
    table: pd.DataFrame,
) -> dict[str, bytes]:
    """Pictures by file name; one that would show nothing is left out.

    Args:
        metrics: of each round: number, metric by name.
        taken_part: of each round: number, the sites whose answers are in it.
        sites: all sites of the study.
        table: the model as people read it; `feature` and `weight` make the picture of weights.
    """
    made = {
        "plots/metrics.png": _metrics(metrics),
        "plots/sites.png": _sites(taken_part, sites),
        "plots/weights.png": _weights(table),
    }
    return {name: _png(figure) for name, figure in made.items() if figure is not None}


def _metrics(metrics: Sequence[tuple[int, Mapping[str, float]]]) -> Figure | None:
    names = sorted({name for _, found in metrics for name, value in found.items() if math.isfinite(value)})
    names = [name for name in names if name not in _SKIPPED][: len(_COLOURS)]
    if not names:
        return None
    figure = _figure(7.0, 1.6 * len(names) + 0.6)
    axes = figure.subplots(len(names), 1, sharex=True, squeeze=False)[:, 0]
    for name, axis, colour in zip(names, axes, _COLOURS, strict=False):
        points = [(n, found[name]) for n, found in metrics if math.isfinite(found.get(name, math.nan))]
        axis.plot(*zip(*points, strict=True), color=colour, marker="o" if len(points) < 40 else "", markersize=3)
        axis.set_ylabel(name)
        axis.grid(alpha=0.3)
    axes[-1].set_xlabel("round")
    return figure


def _sites(taken_part: Sequence[tuple[int, Sequence[str]]], sites: Sequence[str]) -> Figure | None:
    if not taken_part:
        return None
    figure = _figure(7.0, min(1.2 + 0.25 * len(sites), 14.0))
    axis = figure.subplots()
    cells = [[float(site in set(there)) for _, there in taken_part] for site in sites]
    rounds = [number for number, _ in taken_part]
    extent = (rounds[0] - 0.5, rounds[-1] + 0.5, len(sites) - 0.5, -0.5)
    axis.imshow(cells, aspect="auto", cmap="Blues", vmin=0, vmax=1.4, interpolation="nearest", extent=extent)
    axis.set_yticks(range(len(sites)), sites)
    axis.set_xlabel("round (blue: the site's answer is in it)")
    return figure


def _weights(table: pd.DataFrame) -> Figure | None:
    if not {"feature", "weight"} <= set(table.columns) or table.empty:
        return None
    levels = table["level"] if "level" in table.columns else [""] * len(table)
    names = [f"{name} = {level}" if level else str(name) for name, level in zip(table["feature"], levels, strict=True)]
    found = [(n, float(w)) for n, w in zip(names, table["weight"], strict=True) if math.isfinite(w)]
    if not found:
        return None
    strongest = sorted(found, key=lambda pair: abs(pair[1]), reverse=True)[:MOST_BARS][::-1]
    figure = _figure(7.0, 1.0 + 0.26 * len(strongest))
    axis = figure.subplots()
    axis.barh([name for name, _ in strongest], [weight for _, weight in strongest], color=_COLOURS[0])
    axis.axvline(0, color="#3b3b3b", linewidth=0.8)
    axis.set_xlabel("weight a standard unit" + (f" (strongest {MOST_BARS})" if len(found) > MOST_BARS else ""))
    return figure


def _figure(width: float, height: float) -> Figure:
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), layout="constrained")


def _png(figure: Any) -> bytes:
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    sink = io.BytesIO()
    FigureCanvasAgg(figure)
    figure.savefig(sink, format="png", dpi=120, metadata={"Software": "corsia"})
    return sink.getvalue()
