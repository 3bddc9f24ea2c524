"""Classes of a table at any node of its lattice, by integer codes over distinct rows; which of them fail the criteria.

A class fails when it has fewer than k persons, or a sensitive column that is less than l-diverse or further than t from
the rows that are kept. Rows of failing classes are withheld. Withholding changes what t is measured against, so classes
are withheld until none fails: what is released has the t that its reader measures.

Up-closed criteria (k persons; l distinct values) hold for a class as soon as they hold for a part of it, hence rows
withheld for them at a node contain those withheld at any coarser node. Entropy and recursive l and t have this only
where no row may be withheld at all: there all classes of a node hold, and unions of classes that hold do (entropy is
concave; the l - 1 most frequent values of a union are at most those of its parts; EMD is convex and the reference is
the whole table). See `lattice` for what follows from it. Not here: the search.

Source: Samarati 2001; LeFevre et al. 2005 (Incognito); Machanavajjhala et al. 2007; Li et al. 2007.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from privacy.deid import diversity
from privacy.deid.diversity import Counts, Floats, Ints
from privacy.deid.ladder import Ladder
from protocol.errors import InputError

__all__ = ["Classes", "Criteria", "Grouped", "Sensitive", "Verdict"]

LRule = Literal["distinct", "entropy", "recursive"]
SLACK = 1e-9
PAST = 64  # nodes whose classes are remembered
DENSE = 1 << 21  # keys numbered without sorting


@dataclass(frozen=True, slots=True, kw_only=True)
class Criteria:
    """What every released class must hold.

    Attributes:
        k: persons.
        l_value: diversity of each sensitive column; None for no rule.
        l_rule: how it is counted.
        c: of recursive (c, l)-diversity.
        t: largest distance; None for no rule.
        suppression: share of rows that may be withheld, 0 to 1.
    """

    k: int = 5
    l_value: float | None = None
    l_rule: LRule = "distinct"
    c: float = 1.0
    t: float | None = None
    suppression: float = 0.0

    def __post_init__(self) -> None:
        good = (
            type(self.k) is int
            and self.k >= 1
            and (self.l_value is None or 1 <= self.l_value < 1e9)
            and self.l_rule in ("distinct", "entropy", "recursive")
            and (self.l_rule != "recursive" or self.l_value is None or float(self.l_value).is_integer())
            and 0 < self.c < 1e9
            and (self.t is None or 0 <= self.t <= 1)
            and 0 <= self.suppression <= 1
        )
        if not good:
            raise InputError(
                "input.usage",
                "k and l from 1 (l whole when recursive), l_kind distinct, entropy or recursive, c above 0, "
                "t and suppression from 0 to 1",
            )

    @property
    def up_closed(self) -> bool:
        """Whether rows withheld at a node contain those withheld at every coarser one."""
        plain = self.t is None and (self.l_value is None or self.l_rule == "distinct")
        return plain or self.suppression == 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Sensitive:
    """One sensitive column: the code of each row, how many codes there are, whether they are steps of a line."""

    name: str
    codes: Ints
    width: int
    ordered: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Classes:
    """Classes at one node.

    Attributes:
        ids: class of each distinct row.
        rows: rows of each class.
        persons: persons of each class.
        first: a distinct row of each class.
    """

    ids: Ints
    rows: Floats
    persons: Floats
    first: Ints


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """How a node falls out.

    Attributes:
        ok: the criteria hold with no more rows withheld than allowed, and a row is left.
        impossible: no finer node can hold either.
        failed: which classes are withheld.
        surely: those withheld at every finer node too.
        withheld: rows of `failed`.
    """

    ok: bool
    impossible: bool
    failed: np.ndarray[tuple[int], np.dtype[np.bool_]]
    surely: np.ndarray[tuple[int], np.dtype[np.bool_]]
    withheld: float


class Grouped:
    """A table as distinct rows with counts.

    Args:
        ladders: one a quasi-identifier; at least one.
        sensitive: columns for l and t.
        persons: code of the person of each row; None when each row is a person.
    """

    def __init__(
        self, ladders: Sequence[Ladder], sensitive: Sequence[Sensitive] = (), persons: Ints | None = None
    ) -> None:
        self.ladders = tuple(ladders)
        self.n = len(self.ladders[0].codes)
        self.shape = tuple(len(ladder) for ladder in self.ladders)
        self.top = tuple(height - 1 for height in self.shape)
        keys = np.zeros(self.n, dtype=np.int64)
        for ladder in self.ladders:
            keys = np.unique(keys * len(ladder.maps[0]) + ladder.codes, return_inverse=True)[1].astype(np.int64)
        first = np.unique(keys, return_index=True)[1]
        self.row_ids = keys
        self.leaves = tuple(ladder.codes[first] for ladder in self.ladders)
        self.weights = np.bincount(keys, minlength=len(first)).astype(np.float64)
        self._levels = [
            [(groups[leaves], len(labels)) for groups, labels in zip(ladder.maps, ladder.labels, strict=True)]
            for ladder, leaves in zip(self.ladders, self.leaves, strict=True)
        ]
        self._persons = self._pairs(keys, persons)
        self._scratch = np.zeros(DENSE, dtype=np.bool_), np.zeros(DENSE, dtype=np.int64)
        every = np.arange(len(first), dtype=np.int64)
        bottom = Classes(ids=every, rows=self.weights, persons=self.weights, first=every)
        self._past: list[Classes] = [bottom]
        self._nodes = np.full((PAST, len(self.shape)), -1, dtype=np.int64)
        self._sensitive = []
        for column in sensitive:
            table = diversity.tally(keys, column.codes, np.ones(self.n), column.width)
            self._sensitive.append((column, table))

    @staticmethod
    def _pairs(keys: Ints, persons: Ints | None) -> tuple[Ints, Ints] | None:
        if persons is None or len(np.unique(persons)) == len(persons):
            return None
        width = int(persons.max()) + 1
        pairs = np.unique(keys * width + persons)
        return pairs // width, pairs % width

    def classes(self, node: Sequence[int]) -> Classes:
        """The classes at a node, from those of the coarsest finer node that is remembered."""
        finer = np.flatnonzero((self._nodes[: len(self._past)] <= node).all(axis=1))
        base = self._past[min(finer, key=lambda at: len(self._past[at].first))]
        keys = np.zeros(len(base.first), dtype=np.int64)
        space = 1
        for levels, level in zip(self._levels, node, strict=True):
            groups, width = levels[level]
            if width == 1:
                continue
            if space * width > DENSE:
                keys, space = self._number(keys, space)
            keys = keys * width + groups[base.first]
            space *= width
        merged = self._number(keys, space)[0]
        rows = np.bincount(merged, weights=base.rows).astype(np.float64)
        first = np.zeros(len(rows), dtype=np.int64)
        first[merged] = base.first
        ids = merged[base.ids]
        persons = rows
        if self._persons is not None:
            of_row, person = self._persons
            width = int(person.max()) + 1
            persons = np.bincount(np.unique(ids[of_row] * width + person) // width).astype(np.float64)
        found = Classes(ids=ids, rows=rows, persons=persons, first=first)
        if 2 * len(first) <= len(base.first):
            self._remember(node, found)
        return found

    def _number(self, keys: Ints, space: int) -> tuple[Ints, int]:
        """Keys below `space` renumbered from 0 in their order, and how many there are."""
        if space > DENSE:
            found, merged = np.unique(keys, return_inverse=True)
            return merged.astype(np.int64), len(found)
        seen, numbers = self._scratch  # kept between calls: fresh pages cost more than all the rest
        seen[keys] = True
        found = np.flatnonzero(seen[:space])
        numbers[found] = np.arange(len(found))
        seen[found] = False
        return numbers[keys], len(found)

    def _remember(self, node: Sequence[int], classes: Classes) -> None:
        """Keep the classes of a node; beyond PAST the oldest is forgotten, never the table itself."""
        if len(self._past) == PAST:
            del self._past[1]
            self._nodes[1:-1] = self._nodes[2:]
        self._nodes[len(self._past)] = node
        self._past.append(classes)

    def judge(self, classes: Classes, criteria: Criteria) -> Verdict:
        """Which classes fail, and what follows."""
        limit = criteria.suppression * self.n + SLACK
        failed = classes.persons < criteria.k
        tables: list[tuple[Sensitive, Counts]] = []
        possible = float(classes.rows[failed].sum()) <= limit and not failed.all()
        if possible and (criteria.l_value is not None or criteria.t is not None):
            tables = [(column, self._tally(classes, table)) for column, table in self._sensitive]
            failed = failed | self._few(classes, tables, criteria)
        surely = failed.copy()
        withheld = float(classes.rows[failed].sum())
        impossible = withheld > limit or bool(failed.all())
        if not impossible and tables:
            failed = self._settle(classes, tables, criteria, failed, limit)
            withheld = float(classes.rows[failed].sum())
        ok = withheld <= limit and not failed.all()
        impossible = impossible or (not ok and criteria.suppression == 0)
        return Verdict(ok=ok, impossible=impossible, failed=failed, surely=surely, withheld=withheld)

    def _tally(self, classes: Classes, table: Counts) -> Counts:
        return diversity.tally(classes.ids[table.classes], table.values, table.counts, table.width)

    @staticmethod
    def _few(
        classes: Classes, tables: Sequence[tuple[Sensitive, Counts]], criteria: Criteria
    ) -> np.ndarray[tuple[int], np.dtype[np.bool_]]:
        """Classes with fewer than l values: entropy and recursive l need as many."""
        failed = np.zeros(len(classes.rows), dtype=np.bool_)
        if criteria.l_value is not None:
            for _column, table in tables:
                failed |= diversity.distinct(table, len(failed)) < criteria.l_value - SLACK
        return failed

    def _settle(
        self,
        classes: Classes,
        tables: Sequence[tuple[Sensitive, Counts]],
        criteria: Criteria,
        failed: np.ndarray[tuple[int], np.dtype[np.bool_]],
        limit: float,
    ) -> np.ndarray[tuple[int], np.dtype[np.bool_]]:
        n = len(classes.rows)
        for _column, table in tables:
            if criteria.l_value is None or criteria.l_rule == "distinct":
                break
            if criteria.l_rule == "entropy":
                failed = failed | (diversity.entropy(table, n) < criteria.l_value - SLACK)
            else:
                failed = failed | ~(diversity.recursive(table, n, int(criteria.l_value)) < criteria.c)
        while criteria.t is not None and not failed.all() and classes.rows[failed].sum() <= limit:
            far = np.zeros(n, dtype=np.bool_)
            for column, table in tables:
                weights = np.where(failed[table.classes], 0.0, table.counts)
                reference = np.bincount(table.values, weights=weights, minlength=table.width) / weights.sum()
                kept = _without(table, failed)
                far |= diversity.distance(kept, n, reference, ordered=column.ordered) > criteria.t + SLACK
            if not (far & ~failed).any():
                break
            failed = failed | far
        return failed


def _without(table: Counts, failed: np.ndarray[tuple[int], np.dtype[np.bool_]]) -> Counts:
    if not failed.any():
        return table
    kept = ~failed[table.classes]
    return Counts(table.classes[kept], table.values[kept], table.counts[kept], table.width)
