"""Information loss of a recoded table: NCP, non-uniform entropy, discernibility; 0 nothing lost, 1 everything.

NCP: mean over cells of the share of the column's range (numbers, dates) or of its other values that the cell's group
covers. Entropy: bits by which the original value is unknown, over those when all cells are gone. Discernibility: sum
over rows of the size of their class, a withheld row counted as the whole table, over rows squared. A withheld row loses
all its cells. NCP and entropy of a node without withheld rows are sums over columns, and grow along every hierarchy.

Source: Xu et al. 2006 (NCP); De Waal and Willenborg 1999 (entropy); Bayardo and Agrawal 2005 (discernibility).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

from privacy.deid.diversity import Floats, Ints
from privacy.deid.ladder import Ladder

__all__ = ["METRICS", "CellLoss", "Metric", "cell_loss", "discernibility"]

Metric = Literal["ncp", "entropy", "discernibility"]
METRICS: tuple[Metric, ...] = ("ncp", "entropy", "discernibility")


@dataclass(frozen=True, slots=True, kw_only=True)
class CellLoss:
    """What each cell loses.

    Attributes:
        kept: column -> level -> loss of each leaf.
        gone: column -> loss of each leaf when its row is withheld.
        shares: column -> level -> part of the whole loss when all rows are kept.
        total: loss when all rows are withheld.
    """

    kept: tuple[tuple[Floats, ...], ...]
    gone: tuple[Floats, ...]
    shares: tuple[Floats, ...]
    total: float

    def at(self, node: Sequence[int]) -> float:
        """Loss of a node with no row withheld."""
        return float(sum(column[level] for column, level in zip(self.shares, node, strict=True)))

    def surface(self) -> npt.NDArray[np.float64]:
        """Loss of every node with no row withheld, one axis a column."""
        result = np.zeros(tuple(len(column) for column in self.shares))
        for axis, column in enumerate(self.shares):
            result += column.reshape([-1 if at == axis else 1 for at in range(len(self.shares))])
        return result

    def withheld(self, node: Sequence[int], rows: Sequence[Ints], weights: Floats) -> float:
        """What is lost in addition when rows (leaves of each column, and how often) are withheld."""
        if not len(weights):
            return 0.0
        more = np.zeros(len(weights))
        for column, (level, leaves) in enumerate(zip(node, rows, strict=True)):
            more += self.gone[column][leaves] - self.kept[column][level][leaves]
        return float(more @ weights) / self.total if self.total else 0.0


def cell_loss(metric: Metric, ladders: Sequence[Ladder]) -> CellLoss:
    """Loss of each cell under `ncp` or `entropy` (for `discernibility`: none)."""
    kept: list[tuple[Floats, ...]] = []
    gone: list[Floats] = []
    counts: list[Floats] = []
    for ladder in ladders:
        n = len(ladder.maps[0])
        count = np.bincount(ladder.codes, minlength=n).astype(np.float64)
        counts.append(count)
        if metric == "ncp":
            kept.append(ladder.costs)
            gone.append(np.ones(n))
            continue
        if metric == "discernibility":
            kept.append(tuple(np.zeros(n) for _level in ladder.maps))
            gone.append(np.zeros(n))
            continue
        kept.append(
            tuple(_bits(np.bincount(groups, weights=count)[groups].astype(np.float64), count) for groups in ladder.maps)
        )
        gone.append(_bits(np.full(n, count.sum()), count))
    total = float(sum(count @ loss for count, loss in zip(counts, gone, strict=True)))
    shares = tuple(
        np.array([count @ loss / total if total else 0.0 for loss in levels])
        for count, levels in zip(counts, kept, strict=True)
    )
    return CellLoss(kept=tuple(kept), gone=tuple(gone), shares=shares, total=total)


def discernibility(sizes: Floats, withheld: float, rows: float) -> float:
    """Of classes (rows of each) that are kept and a number of rows that are not, over rows squared."""
    return (float((sizes**2).sum()) + withheld * rows) / rows**2 if rows else 0.0


def _bits(groups: Floats, leaves: Floats) -> Floats:
    return np.log2(np.divide(groups, leaves, out=np.ones_like(leaves), where=leaves > 0))
