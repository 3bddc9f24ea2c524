"""Federated statistics, the site's side: sums of which the pooled result is made, and no row of anybody.

Place: feature table (one row a person) -> `compute` -> a long, tidy frame (statistic, column, group, bin, value, n) and
the cohorts that it is about, for the memory of the gate; the centre adds the frames of all sites (`pooling.py`).
Bins, levels, grids and origins come from the study, so that nothing of the data decides what is shown. Cells below the
minimum are missing, with others that would give them back; what cannot be hidden so is refused. Not here: epsilon.

Source: sums of squares about a fixed origin: Chan, Golub and LeVeque, Am Stat 1983;37:242-7.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import combinations_with_replacement, pairwise
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from privacy.disclosure.cells import suppress_counts, suppress_table
from privacy.disclosure.dominance import check_dominance
from privacy.disclosure.traps import Traps, check_columns, check_levels, check_missing, check_table
from protocol.errors import DisclosureRefused, InputError
from protocol.validation import first_fault

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["COLUMNS", "MISSING", "OTHER", "Plan", "Sums", "compute", "needed", "plan_of"]

COLUMNS = ("statistic", "column", "group", "bin", "value", "n")
MISSING, OTHER, ALL = "(missing)", "(other)", ""
Name = Annotated[str, Field(min_length=1, max_length=128)]
Levels = Annotated[tuple[Name, ...], Field(min_length=1, max_length=200)]


class _Model(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class Group(_Model):
    """A column to split by; values that are not among its levels are `(other)`."""

    column: Name
    levels: Levels

    @model_validator(mode="after")
    def _plain(self) -> Group:
        if len(set(self.levels)) != len(self.levels) or {OTHER, MISSING} & set(self.levels):
            raise ValueError("a level is there twice, or bears a name of ours")
        return self


class Moments(_Model):
    """Counts, means and variances. `origin` is near the mean, from the study: it keeps the squares exact."""

    kind: Literal["moments"]
    columns: Annotated[tuple[Name, ...], Field(min_length=1, max_length=500)]
    by: Group | None = None
    origin: Mapping[str, float] = Field(default_factory=dict)


class Histogram(_Model):
    """Counts between edges, for quantiles: below the first and from the last on are bins of their own."""

    kind: Literal["histogram"]
    column: Name
    edges: Annotated[tuple[float, ...], Field(min_length=2, max_length=1000)]

    @model_validator(mode="after")
    def _rising(self) -> Histogram:
        if any(a >= b for a, b in pairwise(self.edges)):
            raise ValueError("edges must rise")
        return self


class Products(_Model):
    """Cross-products of complete rows, for covariance and correlation."""

    kind: Literal["products"]
    columns: Annotated[tuple[Name, ...], Field(min_length=2, max_length=100)]
    origin: Mapping[str, float] = Field(default_factory=dict)


class Table(_Model):
    """Persons by two columns of declared levels; missing and other values are levels too."""

    kind: Literal["table"]
    rows: Group
    columns: Group


class Survival(_Model):
    """Events and persons at risk on a grid of times; a time is moved up to the grid, later ones than all are cut."""

    kind: Literal["survival"]
    time: Name
    event: Name
    grid: Annotated[tuple[float, ...], Field(min_length=1, max_length=1000)]
    by: Group | None = None

    @model_validator(mode="after")
    def _rising(self) -> Survival:
        if self.grid[0] <= 0 or any(a >= b for a, b in pairwise(self.grid)):
            raise ValueError("the grid must rise from above 0")
        return self


class Plan(_Model):
    """The statistics of a study."""

    statistics: Annotated[
        tuple[Annotated[Moments | Histogram | Products | Table | Survival, Field(discriminator="kind")], ...],
        Field(min_length=1, max_length=200),
    ]

    @model_validator(mode="after")
    def _once(self) -> Plan:
        """Two sets of bins of one column would cut out the persons between them."""
        twice = Counter((s.kind, getattr(s, "column", getattr(s, "time", None))) for s in self.statistics)
        if any(count > 1 for (kind, _), count in twice.items() if kind in ("histogram", "survival")):
            raise ValueError("a column has two histograms or grids")
        return self


def plan_of(given: Mapping[str, object]) -> Plan:
    """A plan out of a study's TOML.

    Raises:
        InputError: `input.study`, naming the field.
    """
    try:
        return Plan.model_validate(given)
    except ValidationError as error:
        raise InputError("input.study", f"statistics, {first_fault(error)}") from None


@dataclass(frozen=True, slots=True, kw_only=True)
class Sums:
    """What a site would release, and about whom.

    Attributes:
        frame: `COLUMNS`; value and n are missing where a cell is hidden.
        cohorts: persons of every sum by a label, for `CohortMemory`: they never leave.
        numbers: column -> how many numbers about it are in the frame.
        hidden: cells that are missing.
    """

    frame: pd.DataFrame
    cohorts: Mapping[str, tuple[str, ...]]
    numbers: Mapping[str, int]
    hidden: int


@dataclass(slots=True)
class _Cells:
    rows: list[tuple[str, str, str, str, float | None, int | None]] = field(default_factory=list)
    cohorts: dict[str, tuple[str, ...]] = field(default_factory=dict)
    least: int = 1  # persons of a group that sums are about

    def add(self, statistic: str, column: str, group: str, bin_: str, value: float | None, n: int | None) -> None:
        self.rows.append((statistic, column, group, bin_, value, n))


def compute(
    frame: pd.DataFrame, plan: Plan, *, minimum: int, traps: Traps | None = None, person: str = "pseudonym",
    cohort: int = 1,
) -> Sums:  # fmt: skip
    """The sums of one site.

    Args:
        frame: one row a person.
        plan: the study's.
        minimum: fewest persons in any cell; `traps.tab` if that is more.
        traps: the site's settings.
        person: column of pseudonyms.
        cohort: fewest persons of a group, or of complete rows, that sums are about; `minimum` if that is more.

    Raises:
        InputError: `input.column-missing`; `input.rows` when a person has two rows; `input.table` for a column that
            is no number.
        DisclosureRefused: `gate.cohort`, and the code of the trap that fired. Nothing is returned then.
    """
    import pandas as pd

    traps = traps or Traps()
    minimum = max(minimum, traps.tab)
    for name in (person, *needed(plan)):
        if name not in frame.columns:
            raise InputError("input.column-missing", f"the table has no column {name!r}")
    if frame[person].isna().any() or frame[person].astype(str).str.strip().str.casefold().duplicated().any():
        raise InputError("input.rows", "federated statistics need one row a person")
    least = max(minimum, cohort)
    if len(frame) < least:
        raise DisclosureRefused("gate.cohort", f"fewer than {least} persons")
    cells = _Cells(cohorts={"all": tuple(frame[person].astype(str))}, least=least)
    makers: Mapping[type, Any] = {
        Moments: _moments, Histogram: _histogram, Products: _products, Table: _table, Survival: _survival,
    }  # fmt: skip
    site = frame.reset_index(drop=True)
    for wanted in plan.statistics:
        makers[type(wanted)](site, wanted, minimum, traps, cells, person)
    made = pd.DataFrame(cells.rows, columns=list(COLUMNS)).astype({"value": "float64", "n": "Int64"})
    shown = made[made["value"].notna()]
    return Sums(
        frame=made,
        cohorts=cells.cohorts,
        numbers={str(name): int(count) for name, count in shown.groupby("column").size().items()},
        hidden=len(made) - len(shown),
    )


def needed(plan: Plan) -> list[str]:
    """The columns of the rows that a plan's statistics are about."""
    names: list[str] = []
    for one in plan.statistics:
        if isinstance(one, Moments | Products):
            names += one.columns
        elif isinstance(one, Histogram):
            names.append(one.column)
        elif isinstance(one, Table):
            names += [one.rows.column, one.columns.column]
        else:
            names += [one.time, one.event]
        by = getattr(one, "by", None)
        names += [by.column] if by is not None else []
    return list(dict.fromkeys(names))


def _numbers(frame: pd.DataFrame, name: str) -> pd.Series[float]:
    import pandas as pd

    try:
        found = pd.to_numeric(frame[name]).astype("float64")
    except (ValueError, TypeError):
        raise InputError("input.table", f"column {name!r} is no number") from None
    if found.abs().eq(math.inf).any():
        raise InputError("input.table", f"column {name!r} has an infinite value")
    return found


def _groups(frame: pd.DataFrame, by: Group) -> pd.Series[str]:
    """The declared level of each row; a whole number is named without its `.0`."""
    values = frame[by.column]
    texts = values.map(lambda v: str(int(v)) if isinstance(v, float) and v.is_integer() else str(v))
    return texts.where(texts.isin(by.levels), OTHER).where(values.notna(), MISSING)


def _sets(
    frame: pd.DataFrame, by: Group | None, whole: pd.DataFrame, cells: _Cells, person: str
) -> Iterable[tuple[str, pd.DataFrame | None]]:
    """All rows and each group's, None for those that are hidden: the small ones, and as many others as protect them.

    The cohort is who is in the group at all, with or without the values that a statistic needs.
    """
    yield ALL, frame
    if by is None:
        return
    groups = _groups(frame, by)
    sizes = groups.value_counts().to_dict()
    shown = suppress_counts({level: int(sizes.get(level, 0)) for level in (*by.levels, OTHER, MISSING)}, cells.least)
    for level, count in shown.items():
        if count == 0:
            continue
        label = f"{by.column}={level}"
        if count is not None:
            cells.cohorts[label] = tuple(whole.loc[_groups(whole, by) == level, person].astype(str))
        yield label, frame[groups == level] if count is not None else None


def _moments(frame: pd.DataFrame, wanted: Moments, minimum: int, traps: Traps, cells: _Cells, person: str) -> None:
    import numpy as np

    for label, part in _sets(frame, wanted.by, frame, cells, person):
        for name in wanted.columns:
            origin = wanted.origin.get(name, 0.0)
            if part is None:
                for statistic in ("sum", "sum_squares", "missing"):
                    cells.add(statistic, name, label, repr(origin) if statistic != "missing" else "", None, None)
                continue
            values = _numbers(part, name)
            check_dominance(np.asarray(values, dtype=np.float64), _at_least(traps, minimum))
            known = (values.dropna() - origin).tolist()
            cells.add("sum", name, label, repr(origin), math.fsum(known), len(known))
            cells.add("sum_squares", name, label, repr(origin), math.fsum(v * v for v in known), len(known))
            cells.add("missing", name, label, "", float(len(values) - len(known)), len(values))


def _at_least(traps: Traps, minimum: int) -> Traps:
    return replace(traps, tab=max(traps.tab, minimum))


def _histogram(frame: pd.DataFrame, wanted: Histogram, minimum: int, traps: Traps, cells: _Cells, person: str) -> None:
    import numpy as np

    values = _numbers(frame, wanted.column)
    edges = (-math.inf, *wanted.edges, math.inf)
    places = np.searchsorted(np.array(wanted.edges), values.dropna().to_numpy(), side="right")
    found = np.bincount(places, minlength=len(edges) - 1)
    counts = {f"{a!r},{b!r}": int(n) for (a, b), n in zip(pairwise(edges), found, strict=True)}
    counts[MISSING] = int(values.isna().sum())
    for bin_, count in suppress_counts(counts, minimum).items():
        cells.add("histogram", wanted.column, ALL, bin_, None if count is None else float(count), count)


def _products(frame: pd.DataFrame, wanted: Products, minimum: int, traps: Traps, cells: _Cells, person: str) -> None:
    import pandas as pd

    whole = pd.DataFrame({name: _numbers(frame, name) for name in wanted.columns})
    complete = whole.dropna()
    strict = _at_least(traps, minimum)
    if len(complete) < cells.least or 0 < len(whole) - len(complete) < cells.least:
        raise DisclosureRefused(
            "gate.cells", f"fewer than {cells.least} persons have, or lack, all columns of the products"
        )
    check_columns(complete, strict)
    for name in wanted.columns:
        check_dominance(complete[name].to_numpy(), strict)
    cells.cohorts["complete:" + ",".join(wanted.columns)] = tuple(frame.loc[complete.index, person].astype(str))
    group, n = ",".join(wanted.columns), len(complete)
    shifted = {name: (complete[name] - wanted.origin.get(name, 0.0)).tolist() for name in wanted.columns}
    for name in wanted.columns:
        cells.add("product_sum", name, group, repr(wanted.origin.get(name, 0.0)), math.fsum(shifted[name]), n)
    for a, b in combinations_with_replacement(wanted.columns, 2):
        total = math.fsum(x * y for x, y in zip(shifted[a], shifted[b], strict=True))
        cells.add("product", a, group, b, total, n)


def _table(frame: pd.DataFrame, wanted: Table, minimum: int, traps: Traps, cells: _Cells, person: str) -> None:
    import numpy as np

    axes = [(by, (*by.levels, OTHER, MISSING)) for by in (wanted.rows, wanted.columns)]
    for by, _levels in axes:
        sizes = _groups(frame, by).value_counts().to_dict()
        check_levels({str(k): max(v, traps.tab) for k, v in sizes.items()}, len(frame), traps)
    rows, columns = (_groups(frame, by) for by, _levels in axes)
    counts = np.array(
        [[int(((rows == a) & (columns == b)).sum()) for b in axes[1][1]] for a in axes[0][1]], dtype=np.int64
    )
    shown, hidden = suppress_table(counts, minimum)
    sums = np.append(np.append(counts.sum(0), counts.sum(1)), counts.sum())
    edges = np.append(np.append(hidden[-1, :-1], hidden[:-1, -1]), hidden[-1, -1])
    if (edges & (sums >= minimum)).any():  # other statistics show these sums
        raise DisclosureRefused("gate.cells", "a table's cells cannot be hidden: merge its levels")
    name = f"{wanted.rows.column},{wanted.columns.column}"
    for i, a in enumerate(axes[0][1]):
        for j, b in enumerate(axes[1][1]):
            count = None if hidden[i, j] else int(shown[i, j])
            cells.add("table", name, a, b, None if count is None else float(count), count)


def _survival(frame: pd.DataFrame, wanted: Survival, minimum: int, traps: Traps, cells: _Cells, person: str) -> None:
    known = frame.assign(**{wanted.time: _numbers(frame, wanted.time), wanted.event: _numbers(frame, wanted.event)})
    known = known.dropna(subset=[wanted.time, wanted.event])
    if len(known) < minimum:
        raise DisclosureRefused("gate.cells", f"fewer than {minimum} persons have a time and an event")
    check_missing(len(frame) - len(known), traps)
    if not known[wanted.event].isin((0.0, 1.0)).all() or (known[wanted.time] < 0).any():
        raise InputError("input.table", f"{wanted.event!r} must be 0 or 1, {wanted.time!r} not negative")
    for label, part in _sets(known, wanted.by, frame, cells, person):
        for time, risk, events in _steps(part, wanted, _at_least(traps, minimum)):
            cells.add("at_risk", wanted.time, label, repr(time), None if risk is None else float(risk), risk)
            cells.add("events", wanted.time, label, repr(time), None if events is None else float(events), risk)


def _steps(part: pd.DataFrame | None, wanted: Survival, traps: Traps) -> Sequence[tuple[float, int | None, int | None]]:
    """(time, at risk, events) on the grid.

    Raises:
        DisclosureRefused: `gate.cells` when between two times fewer than the minimum have an event or leave.
    """
    import numpy as np

    if part is None:
        return [(time, None, None) for time in wanted.grid]
    grid = np.array(wanted.grid)
    places = np.searchsorted(grid, part[wanted.time].to_numpy(), side="left")
    died = part[wanted.event].to_numpy() == 1.0
    leaving = np.bincount(places, minlength=len(grid) + 1)
    events = np.bincount(places[died], minlength=len(grid) + 1)
    try:
        check_table([int(n) for n in (*leaving, *events[:-1], *(leaving - events)[:-1])], traps)
    except DisclosureRefused:
        raise DisclosureRefused(
            "gate.cells", f"fewer than {traps.tab} persons between two times of the grid: take a coarser grid"
        ) from None
    at_risk = len(part) - np.concatenate([[0], np.cumsum(leaving)[:-1]])
    return [(t, int(n), int(d)) for t, n, d in zip(wanted.grid, at_risk, events, strict=False)]
