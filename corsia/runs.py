"""A federated run as a notebook handles it: pause, resume, stop, extend, and its events as they come.

`hub.studies["heart"].run` gives one; it calls the API through the hub and keeps nothing but the study's id.
"""

from __future__ import annotations

import html
import time
from collections.abc import Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from corsia import replies
from corsia.live import Progress, curves, follow
from protocol.errors import InputError, UnavailableError

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from corsia.answers import RunOrders, RunStatus
    from corsia.client import Hub

__all__ = ["Run", "RunEvent"]

_LAST = ("study.done", "study.failed", "study.closed")
_AGAIN_S = 0.5


@dataclass(frozen=True, slots=True, kw_only=True)
class RunEvent:
    """Something that happened in a run.

    Attributes:
        kind: `round.begun` (asked), `round.answered` (answered of asked), `round.late`, `round.dropped` (code),
            `round.skipped` (code), `round.retried`, `round.finished` (metrics), `run.asked`, `run.paused`,
            `run.resumed`, `run.stopped`, `run.waiting`, `run.failed`, `parcel.rejected`, `model.published`,
            `study.done`, ...
        seq: place in the centre's feed.
        at: Unix seconds.
        site: whom it is about, or empty.
        fields: ids, codes and numbers.

    Examples:
        >>> print(RunEvent(kind="round.answered", seq=7, at=0.0, site="site-a", fields={"answered": 2, "asked": 3}))
        round.answered site-a answered=2 asked=3
    """

    kind: str
    seq: int
    at: float
    site: str = ""
    fields: Mapping[str, Any] = field(default_factory=dict)

    def __str__(self) -> str:
        values = {k: v for k, v in self.fields.items() if k != "metrics"}
        metrics = self.fields.get("metrics") or {}
        values |= {k: f"{v:.4g}" for k, v in metrics.items() if isinstance(v, int | float)}
        return " ".join([self.kind, *([self.site] if self.site else []), *(f"{k}={v}" for k, v in values.items())])


class Run:
    """The run of one training study."""

    def __init__(self, hub: Hub, study_id: str) -> None:
        self._hub = hub
        self.study = study_id
        self._path = f"/runs/{quote(study_id, safe='')}"

    def status(self) -> RunStatus:
        """State, phase, what the operator asked for, rounds with their metrics.

        Raises:
            InputError: `input.usage` before the federation has begun it.
        """
        told: RunStatus = self._hub.request("GET", self._path)
        return told

    def pause(self) -> RunOrders:
        """Ask nothing more of the sites once the exchange under way is over; returns what is wanted now.

        Raises:
            ConflictError: `conflict.state` when the run has ended, is being published or is to stop.
        """
        return self._ask("pause")

    def resume(self) -> RunOrders:
        """Let a paused run go on. Raises as `pause`."""
        return self._ask("resume")

    def stop(self, *, discard: bool = False) -> RunOrders:
        """End the run; the model of its last finished round is published, or with `discard` none. Raises as `pause`."""
        return self._ask("stop", {"discard": discard})

    def extend(self, rounds: int) -> RunOrders:
        """Raise the number of rounds in all, up to `training.max_rounds`. Raises as `pause`, and:

        Raises:
            StudyRefused: `study.rounds` beyond what the sites approved.
            InputError: `input.usage` for fewer than there are.
        """
        return self._ask("extend", {"rounds": rounds})

    def watch(self, *, timeout_s: float = 86_400.0) -> Progress:
        """Show the run as it goes, in a notebook or a terminal, until it has ended; returns its rounds and metrics.

        Raises:
            UnavailableError: `unavailable.centre` when the run has not ended in time; it goes on.
        """
        return follow(self.study, self.events(timeout_s=timeout_s))

    def plot(self) -> Figure:
        """A curve a metric over the rounds so far. Raises as `status`."""
        return curves({int(done["round"]): _finite(done["metrics"]) for done in self.status()["rounds"]})

    def events(self, *, since: int = 0, timeout_s: float = 86_400.0) -> Iterator[RunEvent]:
        """Every event of the run, from its beginning or after `since` (a `seq`), until it has ended.

        A connection that breaks is taken up where it broke; none is given twice.

        Raises:
            UnavailableError: `unavailable.centre` when the run has not ended in time; it goes on.
        """
        until, seen = time.monotonic() + timeout_s, since
        while True:
            try:
                path = f"/events?study={quote(self.study, safe='')}&since={seen}"
                silent_s = min(60.0, max(0.1, until - time.monotonic()))
                with closing(self._hub.lines(path, silent_s=silent_s)) as lines:
                    for line in lines:
                        if line.startswith("data: "):
                            event = _event(replies.read("GET", "/events", line[6:].encode(), self._hub.url))
                            seen = event.seq
                            yield event
                            if event.kind in _LAST:
                                return
                        if time.monotonic() > until:
                            break
            except UnavailableError:  # the web process may be starting again
                pass
            if time.monotonic() > until:
                raise UnavailableError("unavailable.centre", f"the run has not ended after {timeout_s:g} s")
            time.sleep(_AGAIN_S)

    def _ask(self, command: str, body: dict[str, Any] | None = None) -> RunOrders:
        orders: RunOrders = self._hub.request("POST", f"{self._path}/{command}", json=body or {})
        return orders

    def __repr__(self) -> str:
        return f"<run of {self.study}>"

    def _repr_html_(self) -> str:
        """State, and a row a finished round."""
        try:
            told = self.status()
        except InputError:
            return f"<p>{html.escape(repr(self))}: not begun</p>"
        seen = Progress(self.study, {int(done["round"]): _finite(done["metrics"]) for done in told["rounds"]})
        seen.last = str(told["state"])
        return seen._repr_html_()


def _finite(metrics: Mapping[str, Any]) -> dict[str, float]:
    numbers = {name: value for name, value in metrics.items() if isinstance(value, int | float)}
    return {name: float(value) for name, value in numbers.items() if abs(value) < float("inf")}


def _event(value: Mapping[str, Any]) -> RunEvent:
    return RunEvent(
        kind=str(value["kind"]),
        seq=int(value["seq"]),
        at=float(value["at"]),
        site=str(value["site"]),
        fields=value["fields"],
    )
