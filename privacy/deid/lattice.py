"""Global recoding: one level for every column, so that the classes hold the criteria and least is lost.

    found = search(Grouped(ladders, sensitive, persons), Criteria(k=5, suppression=0.02), metric="ncp")
    found.node, found.loss, found.kept      # levels, loss, which rows are released

The lattice is all combinations of levels. `optimal` returns a node of least loss:

- Predictive tagging (a node that cannot hold rules out all finer ones) is used as far as `Grouped.judge` proves it:
  for k and distinct l with any number of rows withheld, since a class holds as soon as a part of it does; for entropy
  and recursive l and t only where none may be withheld, or on their up-closed part (k, number of values). The rest is
  looked at node by node. Tagging upwards (a node that holds: all coarser ones do) only saves chain searches.
- A node is left out when a bound on its loss is no better than the best found. Bounds: the loss with no row
  withheld, which grows along hierarchies; plus what the rows lose in addition that are withheld, for up-closed
  criteria, at a coarser node (they are withheld here too, and their cells cost no more here, so go with more to
  lose); for discernibility the sum of squared class sizes of a finer node, as merging classes makes it grow and a
  withheld row costs at least its class.

`heuristic` walks down from the top, always from the best node that holds, and stops after a number of looks; where it
has seen all nodes that hold and they hang together, its result is optimal too. `auto` is optimal up to FITS nodes and a
number of looks, else heuristic. The same table gives the same node: nothing depends on time. Ties go to the smaller
sum of levels, then the first node.

Source: Kohlmayer et al. 2012 (Flash: binary search on chains); Prasser et al. 2016 (Lightning: heuristic).
"""

from __future__ import annotations

import heapq
from collections.abc import Iterator
from dataclasses import dataclass
from math import prod
from typing import Literal

import numpy as np

from privacy.deid.grouping import Classes, Criteria, Grouped, Verdict
from privacy.deid.loss import METRICS, Metric, cell_loss, discernibility
from protocol.errors import DisclosureRefused, InputError

__all__ = ["FITS", "Found", "Search", "search"]

Search = Literal["auto", "optimal", "heuristic"]
Node = tuple[int, ...]
FITS = 1 << 18
MAX_NODES = 1 << 24
LOOKS_OPTIMAL = 20_000
LOOKS_HEURISTIC = 1_500
EPSILON = 1e-12


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """The node chosen.

    Attributes:
        node: level of each column.
        loss: under the metric asked for.
        kept: for each row, whether it is released.
        nodes: size of the lattice.
        looked: nodes that were evaluated.
        optimal: whether no node has a smaller loss.
    """

    node: Node
    loss: float
    kept: np.ndarray[tuple[int], np.dtype[np.bool_]]
    nodes: int
    looked: int
    optimal: bool


def search(table: Grouped, criteria: Criteria, *, metric: Metric = "ncp", how: Search = "auto") -> Found:
    """Find the node of least loss at which the criteria hold.

    Raises:
        DisclosureRefused: `gate.k` when no node holds.
        InputError: `input.usage` for a metric or search that is not, or a lattice too large for `optimal`.
    """
    if metric not in METRICS or how not in ("auto", "optimal", "heuristic"):
        raise InputError("input.usage", f"loss {', '.join(METRICS)}; search auto, optimal, heuristic")
    nodes = prod(table.shape)
    if how == "optimal" and nodes > MAX_NODES:
        raise InputError("input.usage", f"the lattice has {nodes} nodes: too many for search optimal")
    looker = _Looker(table, criteria, metric)
    if how == "optimal" or (how == "auto" and nodes <= FITS):
        complete = _optimal(looker, None if how == "optimal" else LOOKS_OPTIMAL)
    else:
        complete = _heuristic(looker, LOOKS_HEURISTIC)
    if looker.best is None:
        raise DisclosureRefused("gate.k", "no generalisation holds k, l and t with so few rows withheld")
    node = looker.best
    classes = table.classes(node)
    failed = table.judge(classes, criteria).failed
    kept = ~failed[classes.ids][table.row_ids]
    return Found(node=node, loss=looker.bound, kept=kept, nodes=nodes, looked=looker.looked, optimal=complete)


@dataclass(frozen=True, slots=True)
class _Look:
    verdict: Verdict
    loss: float
    floor: float  # for discernibility: no coarser node loses less
    more: float  # lost by rows withheld here and at every finer node


class _Looker:
    """Evaluates nodes, keeps the best."""

    def __init__(self, table: Grouped, criteria: Criteria, metric: Metric) -> None:
        self.table, self.criteria, self.metric = table, criteria, metric
        self.cells = cell_loss(metric, table.ladders)
        self.best: Node | None = None
        self.bound = float("inf")
        self.looked = 0

    def look(self, node: Node) -> _Look:
        self.looked += 1
        classes = self.table.classes(node)
        verdict = self.table.judge(classes, self.criteria)
        plain = self.metric != "discernibility"
        floor = 0.0 if plain else discernibility(classes.rows, 0, self.table.n)
        if verdict.impossible:
            return _Look(verdict, float("inf"), floor, 0.0)
        more = self._more(node, classes, verdict.surely) if plain else 0.0
        loss = float("inf")
        if verdict.ok and plain:
            same = verdict.withheld == classes.rows[verdict.surely].sum()
            loss = self.cells.at(node) + (more if same else self._more(node, classes, verdict.failed))
        elif verdict.ok:
            loss = discernibility(classes.rows[~verdict.failed], verdict.withheld, self.table.n)
        if verdict.ok:
            self._keep(node, loss)
        return _Look(verdict, loss, floor, more)

    def _more(self, node: Node, classes: Classes, failed: np.ndarray[tuple[int], np.dtype[np.bool_]]) -> float:
        if not failed.any():
            return 0.0
        rows = np.flatnonzero(failed[classes.ids])
        return self.cells.withheld(node, [leaves[rows] for leaves in self.table.leaves], self.table.weights[rows])

    def _keep(self, node: Node, loss: float) -> None:
        tied = self.best is not None and abs(loss - self.bound) <= EPSILON
        if tied and self.best is not None and (sum(node), node) >= (sum(self.best), self.best):
            return
        if tied or loss < self.bound:
            self.best, self.bound = node, min(loss, self.bound)


class _Map:
    """What is known of every node, as arrays with one axis a column."""

    def __init__(self, looker: _Looker) -> None:
        self._looker = looker
        self.shape = looker.table.shape
        self.open = np.ones(self.shape, dtype=np.bool_)
        self.holds = np.zeros(self.shape, dtype=np.bool_)
        self._surface = looker.cells.surface()
        self.lower = self._surface.copy()

    def visit(self, node: Node) -> bool:
        look = self._looker.look(node)
        below = tuple(slice(0, level + 1) for level in node)
        above = tuple(slice(level, None) for level in node)
        self.open[node] = False
        if look.verdict.impossible:
            self.open[below] = False
        elif look.more > 0:
            np.maximum(self.lower[below], self._surface[below] + look.more, out=self.lower[below])
        if look.floor > 0:
            np.maximum(self.lower[above], look.floor, out=self.lower[above])
        if look.verdict.ok and self._looker.criteria.up_closed:
            self.holds[above] = True
        return look.verdict.ok

    def candidates(self) -> np.ndarray[tuple[int, ...], np.dtype[np.bool_]]:
        return self.open & (self.lower < self._looker.bound - EPSILON)

    def lowest(self, among: np.ndarray[tuple[int, ...], np.dtype[np.bool_]]) -> Node:
        flat = int(np.argmin(np.where(among, self.lower, np.inf)))
        return tuple(int(level) for level in np.unravel_index(flat, self.shape))

    def chain(self, start: Node, among: np.ndarray[tuple[int, ...], np.dtype[np.bool_]]) -> list[Node]:
        """From a node upwards, each time to the candidate that loses least, as long as it is not known to hold."""
        chain = [start]
        while True:
            above = [node for node in _up(chain[-1], self.shape) if among[node] and not self.holds[node]]
            if not above:
                return chain
            chain.append(min(above, key=lambda node: (float(self.lower[node]), node)))


def _optimal(looker: _Looker, budget: int | None) -> bool:
    known = _Map(looker)
    known.visit(looker.table.top)
    while budget is None or looker.looked < budget:
        among = known.candidates()
        if not among.any():
            return True
        node = known.lowest(among)
        if known.holds[node] or not looker.criteria.up_closed:
            known.visit(node)
            continue
        chain = known.chain(node, among)
        low, high = 0, len(chain) - 1
        while low <= high:
            middle = (low + high) // 2
            if known.visit(chain[middle]):
                high = middle - 1
            else:
                low = middle + 1
    return False


def _heuristic(looker: _Looker, budget: int) -> bool:
    top = looker.table.top
    look = looker.look(top)
    heap = [(look.loss, top)]
    seen = {top}
    ruled_out: list[Node] = [top] if look.verdict.impossible else []
    while heap and looker.looked < budget:
        _loss, node = heapq.heappop(heap)
        for finer in _down(node):
            if finer in seen or looker.looked >= budget:
                continue
            seen.add(finer)
            if any(all(a <= b for a, b in zip(finer, out, strict=True)) for out in ruled_out):
                continue
            look = looker.look(finer)
            if look.verdict.impossible:
                ruled_out.append(finer)
            else:  # one that does not hold may still lead to one that does
                heapq.heappush(heap, (look.loss if look.verdict.ok else 2.0 + looker.cells.at(finer), finer))
    return not heap and looker.looked < budget


def _up(node: Node, shape: Node) -> Iterator[Node]:
    for axis, level in enumerate(node):
        if level + 1 < shape[axis]:
            yield (*node[:axis], level + 1, *node[axis + 1 :])


def _down(node: Node) -> Iterator[Node]:
    for axis, level in enumerate(node):
        if level:
            yield (*node[:axis], level - 1, *node[axis + 1 :])
