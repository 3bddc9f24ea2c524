"""The gate's own look at federated statistics: the released table, and whom the worker says that it is about.

Used by `EgressGate` for pipeline `aggregate`. Only words that the study's document says may stand in the table, so that
none comes from a row. Not checkable here, without computing it all again: that a sum is the sum of these
persons' values, and that nobody dominates it; for that the site approves the code.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from itertools import pairwise
from typing import TYPE_CHECKING

from edge.policy import Effective
from edge.told import Told
from protocol.study import Study

if TYPE_CHECKING:
    import pyarrow as pa

__all__ = ["MAX_SUMS", "PIPELINE", "faults", "numbers_of", "persons_of", "sizes_of", "told_faults"]

PIPELINE = "aggregate"
MAX_SUMS = 200_000
_STATISTICS = frozenset("sum sum_squares missing histogram product_sum product table at_risk events".split())
_TEXTS = ("column", "group", "bin")
_COUNTS = ("histogram", "table", "at_risk", "events")


def faults(table: pa.Table, study: Study, effective: Effective) -> Iterator[tuple[str, str, str]]:
    """What is wrong with a released table of sums, as (rule, code, reason); nothing when it is right.

    Small numbers are looked for unless every number is noised.
    """
    from pipelines.aggregate import OUTPUT

    if set(table.column_names) != set(OUTPUT):
        yield "columns", "gate.undeclared", "sums have the six columns of statistics and no other"
        return
    if table.num_rows > MAX_SUMS:
        yield "cells", "gate.cells", f"more than {MAX_SUMS} cells"
        return
    rows = table.to_pylist()
    known = _words(study)
    for row in rows:
        if row["statistic"] not in _STATISTICS or any((row[name] or "") not in known for name in _TEXTS):
            yield "words", "gate.undeclared", "a cell is labelled with a word that the study does not say"
            return
        if row["value"] is not None and not math.isfinite(row["value"]):
            yield "finite", "gate.undeclared", "a sum is not finite"
            return
    labels = Counter(tuple(row[name] or "" for name in ("statistic", *_TEXTS)) for row in rows)
    if any(count > _times(study) for count in labels.values()):
        yield "cells", "gate.undeclared", "a cell occurs too often"
    if study.privacy.dp != "none":
        return
    least = max(effective.k, effective.traps.tab)
    if any(_is_small(row, least, effective.traps.missing) for row in rows):
        yield "cells", "gate.cells", f"a cell counts fewer than {least} persons: merge levels or coarsen the bins"


def _is_small(row: dict[str, object], least: int, missing: int) -> bool:
    n, value = row["n"], row["value"]
    if n is None or value is None:
        return n is not value
    if not isinstance(n, int) or not isinstance(value, float | int) or n < 0 or 0 < n < least:
        return True
    if row["statistic"] not in (*_COUNTS, "missing"):
        return n == 0 and value != 0
    fewest = missing if row["statistic"] == "missing" else least
    return value != int(value) or not (value == 0 or fewest <= value <= n)


def numbers_of(table: pa.Table) -> dict[str, int]:
    """Column -> how many numbers about it are in the table, whatever the worker says."""
    columns, values = table["column"].to_pylist(), table["value"].to_pylist()
    return dict(Counter(str(name) for name, value in zip(columns, values, strict=True) if value is not None))


def persons_of(told: Told) -> frozenset[str]:
    """A cohort's persons, each once: as the source's ids are compared."""
    return frozenset(one.strip().casefold() for one in told.persons)


def sizes_of(table: pa.Table) -> tuple[int, set[int]]:
    """Persons of the whole, and the sizes of all groups that the table speaks of."""
    whole, sizes = 0, set()
    for row in table.to_pylist():
        if row["n"] and row["statistic"] in ("missing", "product"):
            sizes.add(int(row["n"]))
        if row["n"]:
            whole = max(whole, int(row["n"]))
    return whole, sizes


def told_faults(
    told: Sequence[Told], table: pa.Table, persons: Collection[str] | None, *, noised: bool
) -> Iterator[tuple[str, str, str]]:
    """What is wrong with the cohorts of a table, as `faults` says it.

    Args:
        told: the worker's word.
        table: the sums that are about them.
        persons: everybody in the source's table, stripped and without case; None where there is no table.
        noised: the table's numbers are no sizes.
    """
    groups = [persons_of(each) for each in told]
    whole = max(groups, key=len, default=frozenset())
    if not whole or any(not group or not group <= whole for group in groups):
        yield "cohorts", "gate.cohort", "the cohorts of the sums are not told"
        return
    if persons is not None and not whole <= set(persons):
        yield "cohorts", "gate.cohort", "a cohort names somebody who is not in the dataset"
    most, sizes = sizes_of(table) if not noised else (0, set())
    if most > len(whole) or not sizes <= {len(group) for group in groups}:
        yield "cohorts", "gate.cohort", "the sums are about others than the cohorts that were told"


def _times(study: Study) -> int:
    """How often one label may come: once a statistic of the study, since two may share columns."""
    return max(1, len(study.pipeline.parameters.get("statistics", ())))


def _words(study: Study) -> frozenset[str]:
    """Every label that the study's own document can make."""
    from pipelines.aggregate import plan_of
    from pipelines.features import statistics as known

    plan, _ = plan_of(study)
    bounds = study.pipeline.parameters.get("bounds", {})
    middle = {name: (pair[0] + pair[1]) / 2 for name, pair in bounds.items()} if isinstance(bounds, dict) else {}
    words = {""}

    def levels(by: known.Group | None, *, named: bool) -> None:
        if by is not None:
            made = (*by.levels, known.OTHER, known.MISSING)
            words.update(f"{by.column}={level}" for level in made) if named else words.update(made)

    for one in plan.statistics:
        if isinstance(one, known.Moments | known.Products):
            words.update(one.columns)
            words.update(repr(float(one.origin.get(name, 0.0))) for name in one.columns)
            words.update(repr(one.origin.get(name, middle.get(name, 0.0))) for name in one.columns)
        if isinstance(one, known.Products):
            words.add(",".join(one.columns))
        if isinstance(one, known.Histogram):
            edges = (-math.inf, *one.edges, math.inf)
            words.update((one.column, known.MISSING, *(f"{a!r},{b!r}" for a, b in pairwise(edges))))
        if isinstance(one, known.Table):
            words.add(f"{one.rows.column},{one.columns.column}")
            levels(one.rows, named=False)
            levels(one.columns, named=False)
        if isinstance(one, known.Survival):
            words.update((one.time, *(repr(time) for time in one.grid)))
        if isinstance(one, known.Moments | known.Survival):
            levels(one.by, named=True)
    return frozenset(words)
