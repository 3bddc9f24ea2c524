"""One column climbed by a generalisation hierarchy: its distinct values and their group at every level.

Groups must nest (a level never splits a group of the one below), which is what makes the lattice search valid; a value
that a hierarchy does not know refuses the table, by count, never by value. A missing value is a value of its own up to
the last level, if that has one group. Not here: the kinds of hierarchy (`hierarchy`), which level (`lattice`).

Source: Xu et al. 2006 (normalised certainty penalty, NCP).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np

from privacy.deid.diversity import Floats, Ints
from protocol.errors import InputError

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["Hierarchy", "Ladder", "cell_text", "from_rows"]

Steps = Callable[[Any], tuple[str, ...] | None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Ladder:
    """One column climbed: its distinct values (leaves) and their group at every level.

    Attributes:
        name: the column.
        codes: leaf of each row.
        maps: for each level, the group of each leaf, int64.
        labels: for each level, the label of each group; None for missing.
        costs: for each level, the share of the column's range that each leaf's group covers, 0 to 1 (NCP).
        same: level 0 shows the values as they are.
    """

    name: str
    codes: Ints
    maps: tuple[Ints, ...]
    labels: tuple[tuple[str | None, ...], ...]
    costs: tuple[Floats, ...]
    same: bool = False

    def __len__(self) -> int:
        return len(self.maps)

    def labels_at(self, level: int) -> list[str | None]:
        """The label of each row at a level."""
        labels = self.labels[level]
        return [labels[group] for group in self.maps[level][self.codes].tolist()]


@dataclass(frozen=True, slots=True, kw_only=True)
class Hierarchy:
    """Steps from a value to its labels.

    Attributes:
        kind: for the report.
        steps: value -> its labels from level 0 upwards, None when it is not known.
        number: value -> where it lies on a line, for the range a band covers; None counts values instead.
        same: level 0 shows values as they are.
        leaves: value -> path of the whole domain, where it is larger than the table's.
    """

    kind: str
    steps: Steps
    number: Callable[[Any], float | None] | None = None
    same: bool = False
    leaves: Mapping[str, tuple[str, ...]] = field(default_factory=dict)

    def climb(self, values: pd.Series, name: str) -> Ladder:
        """Apply to a column.

        Raises:
            InputError: `input.table` with the number of distinct values not known; `input.usage` when groups of a
                level do not lie within groups of the next.
        """
        import pandas as pd

        codes, found = pd.factorize(values, use_na_sentinel=True)
        paths = [self.steps(value) for value in found]
        unknown = sum(path is None for path in paths)
        if unknown:
            raise InputError("input.table", f"column {name!r}: {unknown} values are not in its hierarchy ({self.kind})")
        known = [path for path in paths if path is not None]
        height = len(known[0]) if known else 1
        gone = codes < 0
        leaves = np.where(gone, len(found), codes).astype(np.int64)
        maps, labels = _groups(known, height, missing=bool(gone.any()))
        _nested(maps, name)
        lines = [self.number(value) for value in found] if self.number else None
        same = self.same and len(labels[0]) == len(maps[0])
        costs = tuple(
            np.ones(len(maps[0]))
            if 0 < level == height - 1 and len(labels[level]) == 1
            else self._costs(level, maps[level], known, lines)
            for level in range(height)
        )
        return Ladder(name=name, codes=leaves, maps=maps, labels=labels, costs=costs, same=same)

    def _costs(
        self, level: int, groups: Ints, paths: Sequence[tuple[str, ...]], lines: Sequence[float | None] | None
    ) -> Floats:
        costs = np.zeros(len(groups))
        n = len(paths)
        if lines is not None and all(line is not None for line in lines) and n:
            at = np.array(lines, dtype=np.float64)
            low, high = np.full(len(groups), np.inf), np.full(len(groups), -np.inf)
            np.minimum.at(low, groups[:n], at)
            np.maximum.at(high, groups[:n], at)
            width = float(at.max() - at.min())
            costs[:n] = (high - low)[groups[:n]] / width if width > 0 else 0.0
            return costs
        whole = [path[level] for path in self.leaves.values()] or [path[level] for path in paths]
        sizes = Counter(whole)
        costs[:n] = [(sizes[path[level]] - 1) / max(1, len(whole) - 1) for path in paths]
        return costs


def from_rows(rows: Sequence[Sequence[str]], name: str = "table") -> Hierarchy:
    """A hierarchy from rows: value, then its levels.

    Raises:
        InputError: `input.usage`: no rows, lines of several lengths, a value twice, groups that do not nest.
    """
    table: dict[str, tuple[str, ...]] = {}
    for line, row in enumerate(rows, 1):
        path = tuple(cell.strip() for cell in row)
        if len(path) != len(rows[0]) or len(path) < 2 or table.get(path[0], path) != path:
            raise InputError("input.usage", f"hierarchy {name}: line {line} has other levels than those before it")
        table[path[0]] = path
    if not table:
        raise InputError("input.usage", f"hierarchy {name}: no lines")
    maps, _labels = _groups(list(table.values()), len(rows[0]), missing=False)
    _nested(maps, name)
    return Hierarchy(kind=f"file {name}", steps=lambda value: table.get(cell_text(value)), same=True, leaves=table)


def _groups(
    paths: Sequence[tuple[str, ...]], height: int, *, missing: bool
) -> tuple[tuple[Ints, ...], tuple[tuple[str | None, ...], ...]]:
    """Groups and labels of each level; a missing value comes last, and joins a level that has one group."""
    maps, labels = [], []
    for level in range(height):
        numbers: dict[str, int] = {}
        groups = [numbers.setdefault(path[level], len(numbers)) for path in paths]
        names: list[str | None] = list(numbers)
        if missing:
            alone = len(names) == 1 and (level == height - 1) and level > 0
            groups.append(0 if alone else len(names))
            names += [] if alone else [None]
        maps.append(np.array(groups, dtype=np.int64))
        labels.append(tuple(names))
    return tuple(maps), tuple(labels)


def _nested(maps: Sequence[Ints], name: str) -> None:
    for level, (fine, coarse) in enumerate(pairwise(maps), 1):
        if len(set(zip(fine.tolist(), coarse.tolist(), strict=True))) != len(set(fine.tolist())):
            raise InputError("input.usage", f"hierarchy of {name!r}: level {level} splits a group of level {level - 1}")


def cell_text(value: object) -> str:
    """A cell as hierarchies name it: 12.0 is `12`."""
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    return str(value).strip()
