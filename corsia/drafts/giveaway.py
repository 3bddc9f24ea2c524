"""Columns that give the outcome away: equal to it, or its copy in another unit or spelling."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from corsia.drafts.cohort import Cohort
from corsia.drafts.column import Kind
from edge.sources.numbers import is_number
from pipelines.learners.vocabulary import level

__all__ = ["copies"]

_LIKE = 0.99999  # correlation
_FEWEST = 10


def copies(cohort: Cohort, names: Sequence[str], outcome: Sequence[str]) -> list[str]:
    """Those of `names` that follow from an outcome column row by row, and it from them."""
    return [name for name in names if any(_same(cohort, name, other) for other in outcome)]


def _same(cohort: Cohort, name: str, outcome: str) -> bool:
    pairs = [
        (a, b)
        for file in cohort.files.values()
        for a, b in zip(file.cells[name], file.cells[outcome], strict=True)
        if a and b
    ]
    if len(pairs) < _FEWEST:
        return False
    kinds = {cohort.shared[column].kind for column in (name, outcome)}
    few = min(cohort.shared[name].distinct, cohort.shared[outcome].distinct) <= 20
    if few or Kind.CATEGORY in kinds:
        found = {(level(a), level(b)) for a, b in pairs}
        left, right = {a for a, _ in found}, {b for _, b in found}
        return 1 < len(left) == len(right) == len(found)
    numbers = [(float(x), float(y)) for a, b in pairs if is_number(x := _point(a)) and is_number(y := _point(b))]
    if len(numbers) < _FEWEST:
        return False
    x, y = np.array(numbers).T
    if not (x.std() > 0 and y.std() > 0):
        return False
    return bool(abs(np.corrcoef(x, y)[0, 1]) > _LIKE)


def _point(text: str) -> str:
    return text.replace(",", ".") if text.count(",") == 1 else text
