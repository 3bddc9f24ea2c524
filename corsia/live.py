"""What a run does, as it goes: one table that renews itself, in a notebook or in a terminal; lines where neither is."""

from __future__ import annotations

import html
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from corsia.tables import html_table

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from rich.table import Table

    from corsia.runs import RunEvent

__all__ = ["Progress", "curves", "follow", "in_notebook"]


@dataclass(slots=True)
class Progress:
    """How far a run is: its rounds with their metrics, and the last that was heard.

    Examples:
        >>> from corsia.runs import RunEvent
        >>> seen = Progress("heart")
        >>> seen.take(RunEvent(kind="round.finished", seq=1, at=0.0, fields={"round": 1, "metrics": {"auc": 0.71}}))
        >>> seen.rounds
        {1: {'auc': 0.71}}
        >>> print(seen)
        heart: round.finished, round 1: auc 0.71
    """

    study: str
    rounds: dict[int, dict[str, float]] = field(default_factory=dict)
    last: str = ""

    def take(self, event: RunEvent) -> None:
        """Note an event."""
        self.last = event.kind
        if event.kind == "round.finished":
            self.rounds[int(event.fields.get("round", 0))] = _numbers(event.fields.get("metrics") or {})

    @property
    def metrics(self) -> list[str]:
        """Names of all metrics so far, by name."""
        return sorted({name for metrics in self.rounds.values() for name in metrics})

    def rows(self) -> list[list[str]]:
        """Round by round, a text a metric."""
        names = self.metrics
        return [[str(n), *(_brief(told.get(name)) for name in names)] for n, told in sorted(self.rounds.items())]

    def plot(self) -> Figure:
        """A curve a metric over the rounds."""
        return curves(self.rounds)

    def __str__(self) -> str:
        if not self.rounds:
            return f"{self.study}: {self.last}"
        newest = max(self.rounds)
        told = ", ".join(f"{name} {_brief(value)}" for name, value in sorted(self.rounds[newest].items()))
        return f"{self.study}: {self.last}, round {newest}: {told}"

    def __rich__(self) -> Table:
        from rich.table import Table
        from rich.text import Text

        table = Table(title=Text(f"{self.study}: {self.last}"))
        for name in ("round", *self.metrics):
            table.add_column(Text(name), justify="right")
        for row in self.rows():
            table.add_row(*(Text(cell) for cell in row))
        return table

    def _repr_html_(self) -> str:
        head = f"<p>{html.escape(self.study)}: <b>{html.escape(self.last)}</b></p>"
        return head + html_table(["round", *self.metrics], self.rows())


def follow(study: str, events: Iterable[RunEvent]) -> Progress:
    """Show a run's events as they come, till they end; returns all that was seen."""
    seen = Progress(study)
    if in_notebook():
        return _in_notebook(seen, events)
    if sys.stdout.isatty():
        from rich.live import Live

        with Live(seen, refresh_per_second=4) as shown:
            for event in events:
                seen.take(event)
                shown.update(seen)
        return seen
    for event in events:
        seen.take(event)
        print(event, flush=True)  # noqa: T201 - what it is for
    return seen


def in_notebook() -> bool:
    """Whether this is a notebook's kernel."""
    interactive = sys.modules.get("IPython")
    shell = interactive.get_ipython() if interactive is not None else None
    return shell is not None and hasattr(shell, "kernel")


def curves(rounds: Mapping[int, Mapping[str, float]]) -> Figure:
    """A panel a metric over the rounds; only finite numbers."""
    from corsia.figures import blank

    names = sorted({name for metrics in rounds.values() for name in metrics})
    figure = blank(4.2 * max(1, len(names)), 3)
    for axes, name in zip(figure.subplots(1, max(1, len(names)), squeeze=False).flat, names, strict=False):
        points = [(number, told[name]) for number, told in sorted(rounds.items()) if name in told]
        axes.plot([x for x, _ in points], [y for _, y in points], marker="o", markersize=3)
        axes.set(xlabel="round", title=name)
    return figure


def _in_notebook(seen: Progress, events: Iterable[RunEvent]) -> Progress:
    from IPython.display import display

    shown: Any = display(seen, display_id=True)  # type: ignore[no-untyped-call]
    for event in events:
        seen.take(event)
        shown.update(seen)
    return seen


def _numbers(metrics: Mapping[str, Any]) -> dict[str, float]:
    return {
        str(name): float(value)
        for name, value in metrics.items()
        if isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < float("inf")
    }


def _brief(value: float | None) -> str:
    return "" if value is None else f"{value:.4g}"
