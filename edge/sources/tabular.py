"""A dataset's table, wherever it lies: a CSV or Parquet file, an Excel workbook, a relation of a database.

Used by `DatasetSource`, by what looks for withdrawals, and by the catalogue: all read it in this one way.
"""

from __future__ import annotations

import os
import time
from collections.abc import Collection, Sequence
from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING

from edge.sources import sheet, table

if TYPE_CHECKING:
    import pandas as pd

    from edge.sources import DatasetConfig

__all__ = ["Stamp", "columns_of", "is_workbook", "read", "stamp"]

Stamp = tuple[int, int, int, date]
_LOOK_S = 300  # how old what was read of a database may be, when nothing tells whether it has changed


def read(dataset: DatasetConfig, columns: Sequence[str], text: Collection[str]) -> pd.DataFrame:
    """The named columns, all rows. See `table.read`; for a database raises as `relation.read` besides."""
    if dataset.sql is not None:
        from edge.sources import relation

        return relation.read(dataset.sql, columns, text, dataset.format)
    if dataset.table is None:
        raise AssertionError("the dataset has no table")
    if is_workbook(dataset.table):
        return table.framed(sheet.rows(dataset.table), columns, text, dataset.format)
    return table.read(dataset.table, columns, text, dataset.format)


def columns_of(dataset: DatasetConfig) -> list[str]:
    """The table's columns, whether they have a role or not; raises as `read`."""
    if dataset.sql is not None:
        from edge.sources import relation

        return relation.columns_of(dataset.sql)
    if dataset.table is None:
        return []
    if is_workbook(dataset.table):
        return [cell.strip() for cell in next(sheet.rows(dataset.table), [])]
    return table.header(dataset.table, dataset.format)


def is_workbook(path: Path) -> bool:
    """Whether a file is an Excel workbook; False for what cannot be read, which `read` then says."""
    try:
        with open(os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC), "rb") as file:
            return sheet.is_workbook(file.read(4))
    except OSError:
        return False


def stamp(dataset: DatasetConfig, today: date) -> Stamp | None:
    """What changes when a table is written anew, or a new day makes a noted withdrawal count; None without table.

    A database does not tell: it counts as new every five minutes.
    """
    if dataset.sql is not None:
        return (int(time.time() // _LOOK_S), 0, 0, today)
    if dataset.table is None:
        return None
    try:
        state = dataset.table.stat()
    except OSError:
        return None
    return (state.st_mtime_ns, state.st_size, state.st_ino, today)
