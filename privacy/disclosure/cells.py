"""Small cells of frequency tables, hidden together with so many others that no margin gives them back.

A hidden cell is one that somebody who knows the shown cells, the margins and that hidden cells are not empty can
bound no better than from below the minimum to the minimum or more. For two-way tables the bounds are exact: changes
of hidden cells that keep all sums are flows in the graph of rows and columns, and their largest is a maximum flow.
Zeros are shown; where the zero itself tells (everybody in the row has the disease), that is for levels and l.

Source: Willenborg and de Waal, Elements of Statistical Disclosure Control (2001), ch. 4-6 (secondary suppression).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from typing import TYPE_CHECKING

from protocol.errors import DisclosureRefused

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    Counts = npt.NDArray[np.int64]
    Mask = npt.NDArray[np.bool_]

__all__ = ["bounds", "suppress_counts", "suppress_table"]

MAX_CELLS = 10_000
_OPEN = 10**15


def suppress_counts(counts: Mapping[str, int], minimum: int, *, total_known: bool = True) -> dict[str, int | None]:
    """A one-way table with its small cells hidden, and others where the total would tell them.

    Args:
        counts: persons of each level, that of missing values included.
        minimum: cells of 1 to minimum - 1 persons are hidden.
        total_known: the sum is known to the reader (it mostly is).

    Returns:
        Counts, None where hidden. Everything non-empty is hidden when nothing less protects.

    Example: {a: 50, b: 40, c: 1} with minimum 5 is {a: 50, b: None, c: None}.
    """
    hidden = {name for name, count in counts.items() if 0 < count < minimum}
    if hidden and total_known:
        shown = sorted((name for name, n in counts.items() if n and name not in hidden), key=lambda name: counts[name])
        for name in shown:
            if _protected([counts[h] for h in hidden], minimum):
                break
            hidden.add(name)
    return {name: None if name in hidden else count for name, count in counts.items()}


def _protected(values: list[int], minimum: int) -> bool:
    """Each small one could be the minimum, or anything from 1: the others could give or take so much."""
    spare = sum(values) - len(values)
    return len(values) > 1 and all(value + spare - (value - 1) >= minimum for value in values if value < minimum)


def suppress_table(table: Counts, minimum: int, *, margins: bool = True) -> tuple[Counts, Mask]:
    """A two-way table with its small cells hidden, and others where rows, columns or totals would tell them.

    Args:
        table: int64 [rows, columns], persons; the cells of missing values are rows and columns like others.
        minimum: cells of 1 to minimum - 1 persons are hidden.
        margins: the sums are shown too: they are checked and hidden as cells, in a last row and column.

    Returns:
        The table (with margins, int64 [rows + 1, columns + 1]), hidden cells set to -1, and which are hidden.

    Raises:
        DisclosureRefused: `gate.cells` when even hiding everything does not protect, or the table is too large.
    """
    import numpy as np

    whole = np.asarray(table, dtype=np.int64)
    if whole.ndim != 2 or whole.size > MAX_CELLS or (whole < 0).any():
        raise DisclosureRefused("gate.cells", f"a table of counts has at most {MAX_CELLS} cells")
    if margins:
        whole = np.block([[whole, whole.sum(1, keepdims=True)], [whole.sum(0, keepdims=True), whole.sum()]])
    hidden = (whole > 0) & (whole < minimum)
    while margins and (open_cell := _revealed(whole, hidden, minimum)) is not None:
        more = _partner(whole, hidden, open_cell)
        if more is None:
            raise DisclosureRefused("gate.cells", "the table is too small to hide its cells: merge categories")
        hidden[more] = True
    return np.where(hidden, -1, whole), hidden


def bounds(whole: Counts, hidden: Mask, cell: tuple[int, int]) -> tuple[int, int]:
    """The least and the most that a hidden cell can be, for a reader of everything else; margins last.

    Args:
        whole: true counts with margins, int64 [rows + 1, columns + 1].
        hidden: which are hidden.
        cell: row and column.
    """
    value = int(whole[cell])
    inner = _sign(whole, cell) > 0
    up = _flow(whole, hidden, cell, rising=inner)
    down = _flow(whole, hidden, cell, rising=not inner)
    return value - min(value - 1, down), value + up


def _revealed(whole: Counts, hidden: Mask, minimum: int) -> tuple[int, int] | None:
    """A small hidden cell whose bounds are below the minimum, or leave but one value."""
    import numpy as np

    for row, column in np.argwhere(hidden & (whole < minimum)).tolist():
        low, high = bounds(whole, hidden, (row, column))
        if high < minimum or low == high:
            return row, column
    return None


def _partner(whole: Counts, hidden: Mask, cell: tuple[int, int]) -> tuple[int, int] | None:
    """The smallest shown, non-empty cell that may protect: of the same row or column first, a margin last."""
    import numpy as np

    row, column = cell
    free = (whole > 0) & ~hidden
    near = np.zeros_like(free)
    alone_row, alone_column = hidden[row].sum() == 1, hidden[:, column].sum() == 1
    if alone_row or not alone_column:
        near[row] = True
    if alone_column or not alone_row:
        near[:, column] = True
    inner = free.copy()
    inner[-1, :] = inner[:, -1] = False
    for chosen in (inner & near, inner, free & near, free):
        if chosen.any():
            flat = int(np.where(chosen, whole, np.iinfo(np.int64).max).argmin())
            return flat // whole.shape[1], flat % whole.shape[1]
    return None


def _sign(whole: Counts, cell: tuple[int, int]) -> int:
    """Margins count against the cells that they sum: with their signs, every row and column sums to zero."""
    rows, columns = whole.shape
    return -1 if (cell[0] == rows - 1) != (cell[1] == columns - 1) else 1


def _flow(whole: Counts, hidden: Mask, cell: tuple[int, int], *, rising: bool) -> int:
    """By how much the signed value of a cell can rise (or fall) while the other hidden ones make up for it."""
    rows, columns = whole.shape
    room: dict[int, dict[int, int]] = {node: {} for node in range(rows + columns)}
    for row in range(rows):
        for column in range(columns):
            if hidden[row, column] and (row, column) != cell:
                spare = int(whole[row, column]) - 1
                fall, rise = (spare, _OPEN) if _sign(whole, (row, column)) > 0 else (_OPEN, spare)
                room[row][rows + column] = fall if rising else rise
                room[rows + column][row] = rise if rising else fall
    start, goal, total = cell[0], rows + cell[1], 0
    while total < _OPEN and (path := _path(room, start, goal)):
        step = min(room[a][b] for a, b in path)
        for a, b in path:
            room[a][b] -= step
            room[b][a] += step
        total += step
    return min(total, _OPEN)


def _path(room: dict[int, dict[int, int]], start: int, goal: int) -> list[tuple[int, int]]:
    came = {start: start}
    queue = deque([start])
    while queue:
        node = queue.popleft()
        if node == goal:
            path = []
            while node != start:
                path.append((came[node], node))
                node = came[node]
            return path
        for other, left in room[node].items():
            if left > 0 and other not in came:
                came[other] = node
                queue.append(other)
    return []
