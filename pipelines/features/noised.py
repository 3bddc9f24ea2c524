"""Federated statistics with differential privacy: the sums of `statistics`, clipped, on a grid, and noised.

Place: feature table (one row a person) and a plan -> blocks of integer sums, each with what one person may add to it ->
discrete Gaussian noise -> the same long frame as `statistics.compute` gives, which `pooling` adds up. Which rows the
frame has follows from the plan alone; nothing is hidden, since every number is noised. Values beyond the study's bounds
are moved to them; what is no finite number counts as missing, so that no person's value stops the release.

Neighbouring tables differ by one person, with one row, there or not. Not here: the ledger.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from itertools import combinations_with_replacement, pairwise
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, TypeAdapter, ValidationError

from pipelines.features.statistics import (
    ALL,
    COLUMNS,
    MISSING,
    OTHER,
    Group,
    Histogram,
    Moments,
    Plan,
    Products,
    Survival,
    Table,
    needed,
)  # fmt: skip
from privacy.dp.noise import discrete_gaussian
from privacy.dp.stream import Stream
from protocol.errors import InputError

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["Bounds", "bounds_of", "compute"]

Number = Annotated[float, Field(allow_inf_nan=False, ge=-1e12, le=1e12)]
Bounds = Mapping[str, tuple[float, float]]
Row = tuple[str, str, str, str, float, int]
Floats = NDArray[np.float64]
_STEPS = 1 << 20  # of the grid between 0 and the largest value that one person may add
_ADAPTER = TypeAdapter(dict[str, tuple[Number, Number]])


@dataclass(frozen=True, slots=True)
class _Block:
    """Sums that are noised alike. One person adds a vector whose squared length is at most `square`, in grid steps."""

    totals: NDArray[np.int64]
    square: int
    step: float


@dataclass(frozen=True, slots=True)
class _Part:
    """Blocks of one statistic, and what makes rows of them once they are noised."""

    blocks: Sequence[_Block]
    rows: Callable[[Sequence[Floats]], Iterator[Row]]


def bounds_of(given: object, plan: Plan) -> Bounds:
    """A study's declared bounds, column -> (lower, upper).

    Raises:
        InputError: `input.study` when they are malformed, or a column that is summed has none.
    """
    try:
        bounds = _ADAPTER.validate_python(given)
    except ValidationError as error:
        raise InputError("input.study", f"bounds: {error.errors()[0]['msg']}") from None
    summed = [name for one in plan.statistics if isinstance(one, Moments | Products) for name in one.columns]
    for name in dict.fromkeys((*summed, *bounds)):
        if name not in bounds:
            raise InputError("input.study", f"bounds: noised sums of {name!r} need a lower and an upper bound")
        if not bounds[name][0] < bounds[name][1]:
            raise InputError("input.study", f"bounds: those of {name!r} are not in order")
    return bounds


def compute(
    frame: pd.DataFrame, plan: Plan, bounds: Bounds, *, multiplier: float, stream: Stream | None = None
) -> pd.DataFrame:
    """The noised sums of one site.

    Args:
        frame: one row a person, by index.
        plan: the study's.
        bounds: see `bounds_of`.
        multiplier: noise of the whole release over the sensitivity of the whole.
        stream: for tests.

    Returns:
        `statistics.COLUMNS`. Counts may be negative; n is the noised count.

    Raises:
        InputError: `input.column-missing`, `input.rows` when a person has two rows.

    Privacy:
        `accountant.gaussian(multiplier)` under adding or removing one person, over all rows together: each of the B
        blocks gets noise of sqrt(B) times the multiplier.
    """
    import pandas as pd

    for name in needed(plan):
        if name not in frame.columns:
            raise InputError("input.column-missing", f"the table has no column {name!r}")
    if frame.index.duplicated().any():
        raise InputError("input.rows", "federated statistics need one row a person")
    makers: Mapping[type, Any] = {
        Moments: _moments, Histogram: _histogram, Products: _products, Table: _table, Survival: _survival,
    }  # fmt: skip
    parts: list[_Part] = []
    for one in plan.statistics:
        parts += makers[type(one)](frame, one, bounds)
    variance = Fraction(multiplier) ** 2 * sum(len(part.blocks) for part in parts)
    stream = stream or Stream()
    rows: list[Row] = []
    for part in parts:
        rows += part.rows([_noised(block, variance, stream) for block in part.blocks])
    return pd.DataFrame(rows, columns=list(COLUMNS)).astype({"value": "float64", "n": "Int64"})


def _noised(block: _Block, variance: Fraction, stream: Stream) -> Floats:
    drawn = discrete_gaussian(Fraction(math.ceil(variance * block.square)), block.totals.size, stream)
    return np.asarray((block.totals + drawn.reshape(block.totals.shape)) * block.step, dtype=np.float64)


def _numbers(frame: pd.DataFrame, name: str) -> Floats:
    """Finite numbers; NaN for all else."""
    import pandas as pd

    found: Floats = np.array(pd.to_numeric(frame[name], errors="coerce").astype("float64"), dtype=np.float64)
    found[~np.isfinite(found)] = np.nan
    return found


def _sets(frame: pd.DataFrame, by: Group | None) -> Iterator[tuple[list[str], NDArray[np.int64]]]:
    """Disjoint groups: their labels, and each row's place among them. The whole first, then those of the column."""
    yield [ALL], np.zeros(len(frame), dtype=np.int64)
    if by is not None:
        levels = [*by.levels, OTHER, MISSING]
        yield [f"{by.column}={level}" for level in levels], _places(frame, by)


def _places(frame: pd.DataFrame, by: Group) -> NDArray[np.int64]:
    """Each row's level. One odd value makes a reader take a whole column for text: what a value is called must not
    depend on the others, so numbers are compared as numbers however they are written.
    """
    order = {_named(level): place for place, level in enumerate(by.levels)}
    other, missing = len(by.levels), len(by.levels) + 1
    values, gone = frame[by.column], frame[by.column].isna()
    found = [missing if lost else order.get(_named(v), other) for v, lost in zip(values, gone, strict=True)]
    return np.array(found, dtype=np.int64)


def _named(value: object) -> str:
    text = str(value).strip()
    try:
        return repr(float(text))
    except ValueError:
        return text.casefold() if text.casefold() in ("true", "false") else text


def _tally(places: NDArray[np.int64], size: int) -> _Block:
    """Persons by cell: each is in one."""
    return _Block(np.bincount(places, minlength=size).astype(np.int64), 1, 1.0)


def _total(values: Floats, most: float, places: NDArray[np.int64], size: int) -> _Block:
    """Sums by cell of values in [-most, most], one a person."""
    totals = np.zeros(size, dtype=np.int64)
    np.add.at(totals, places, np.clip(np.rint(values / most * _STEPS), -_STEPS, _STEPS).astype(np.int64))
    return _Block(totals, _STEPS**2, most / _STEPS)


def _shifted(values: Floats, name: str, origins: Mapping[str, float], bounds: Bounds) -> tuple[Floats, float, float]:
    """Values cut to the bounds, about the origin (the middle when the study names none), their largest, the origin."""
    low, high = bounds[name]
    origin = origins.get(name, (low + high) / 2)
    return np.clip(values, low, high) - origin, max(abs(low - origin), abs(high - origin)), origin


def _moments(frame: pd.DataFrame, wanted: Moments, bounds: Bounds) -> Iterator[_Part]:
    for labels, places in _sets(frame, wanted.by):
        for name in wanted.columns:
            values, most, origin = _shifted(_numbers(frame, name), name, wanted.origin, bounds)
            known, count = ~np.isnan(values), len(labels)
            persons = _tally(places + count * ~known, 2 * count)
            sums = _total(values[known], most, places[known], count)
            squares = _total(values[known] ** 2, most**2, places[known], count)
            yield _Part([persons, sums, squares], _moment_rows(name, labels, repr(origin)))


def _moment_rows(name: str, labels: list[str], origin: str) -> Callable[[Sequence[Floats]], Iterator[Row]]:
    def rows(noisy: Sequence[Floats]) -> Iterator[Row]:
        persons, sums, squares = noisy
        for place, label in enumerate(labels):
            known, missing = int(persons[place]), int(persons[len(labels) + place])
            yield "sum", name, label, origin, float(sums[place]), known
            yield "sum_squares", name, label, origin, float(squares[place]), known
            yield "missing", name, label, "", float(missing), known + missing

    return rows


def _histogram(frame: pd.DataFrame, wanted: Histogram, bounds: Bounds) -> Iterator[_Part]:
    values = _numbers(frame, wanted.column)
    edges = (-math.inf, *wanted.edges, math.inf)
    bins = [*(f"{a!r},{b!r}" for a, b in pairwise(edges)), MISSING]
    places = np.searchsorted(np.array(wanted.edges), values, side="right")
    places[np.isnan(values)] = len(bins) - 1

    def rows(noisy: Sequence[Floats]) -> Iterator[Row]:
        for bin_, count in zip(bins, noisy[0].tolist(), strict=True):
            yield "histogram", wanted.column, ALL, bin_, count, int(count)

    yield _Part([_tally(places, len(bins))], rows)


def _products(frame: pd.DataFrame, wanted: Products, bounds: Bounds) -> Iterator[_Part]:
    whole = np.stack([_numbers(frame, name) for name in wanted.columns])
    complete = whole[:, ~np.isnan(whole).any(axis=0)]
    made = [_shifted(x, name, wanted.origin, bounds) for name, x in zip(wanted.columns, complete, strict=True)]
    scaled = [x / most for x, most, _ in made]
    pairs = list(combinations_with_replacement(range(len(made)), 2))
    here = np.zeros(complete.shape[1], dtype=np.int64)
    sums = np.array([_total(x, 1.0, here, 1).totals[0] for x in scaled], dtype=np.int64)
    products = np.array([_total(scaled[i] * scaled[j], 1.0, here, 1).totals[0] for i, j in pairs], dtype=np.int64)
    blocks = [
        _tally(here, 1),
        _Block(sums, _STEPS**2 * len(sums), 1 / _STEPS),
        _Block(products, _STEPS**2 * len(products), 1 / _STEPS),
    ]
    group, names = ",".join(wanted.columns), wanted.columns

    def rows(noisy: Sequence[Floats]) -> Iterator[Row]:
        n = int(noisy[0][0])
        for name, (_, most, origin), value in zip(names, made, noisy[1].tolist(), strict=True):
            yield "product_sum", name, group, repr(origin), value * most, n
        for (i, j), value in zip(pairs, noisy[2].tolist(), strict=True):
            yield "product", names[i], group, names[j], value * made[i][1] * made[j][1], n

    yield _Part(blocks, rows)


def _table(frame: pd.DataFrame, wanted: Table, bounds: Bounds) -> Iterator[_Part]:
    across = (*wanted.columns.levels, OTHER, MISSING)
    cells = [(a, b) for a in (*wanted.rows.levels, OTHER, MISSING) for b in across]
    places = _places(frame, wanted.rows) * len(across) + _places(frame, wanted.columns)

    def rows(noisy: Sequence[Floats]) -> Iterator[Row]:
        for (a, b), count in zip(cells, noisy[0].tolist(), strict=True):
            yield "table", f"{wanted.rows.column},{wanted.columns.column}", a, b, count, int(count)

    yield _Part([_tally(places, len(cells))], rows)


def _survival(frame: pd.DataFrame, wanted: Survival, bounds: Bounds) -> Iterator[_Part]:
    """Who leaves at each step of the grid, with an event or without, is noised; who is at risk is summed of that."""
    times, events = _numbers(frame, wanted.time), _numbers(frame, wanted.event)
    known = (times >= 0) & np.isin(events, (0.0, 1.0))
    width = len(wanted.grid) + 1
    steps = np.searchsorted(np.array(wanted.grid), times[known], side="left")
    for labels, places in _sets(frame, wanted.by):
        cells = (places[known] * 2 + events[known].astype(np.int64)) * width + steps
        yield _Part([_tally(cells, len(labels) * 2 * width)], _survival_rows(wanted, labels, width))


def _survival_rows(wanted: Survival, labels: list[str], width: int) -> Callable[[Sequence[Floats]], Iterator[Row]]:
    def rows(noisy: Sequence[Floats]) -> Iterator[Row]:
        for label, (left, died) in zip(labels, noisy[0].reshape(len(labels), 2, width), strict=True):
            at_risk = np.cumsum((left + died)[::-1])[::-1]
            for time, risk, events in zip(wanted.grid, at_risk.tolist(), died.tolist(), strict=False):
                yield "at_risk", wanted.time, label, repr(time), risk, int(risk)
                yield "events", wanted.time, label, repr(time), events, int(risk)

    return rows
