"""A CSV's rows as numbers and words, whatever spreadsheet wrote it: what a published model is to score."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from corsia.drafts.file import read_file
from edge.sources.table import read

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["read_rows"]


def read_rows(
    path: Path, columns: Sequence[str], *, missing: Sequence[str] = (), tell: Callable[[str], None] = lambda _line: None
) -> pd.DataFrame:
    """The named columns alone, as a site would read them; index 0..n-1, a row a row of the file.

    Args:
        missing: words that mean missing, besides those that are known.
        tell: is told what was made of the file.

    Raises:
        InputError: `input.table`, or `input.column-missing` naming a column that looks alike.
    """
    file = read_file(path, missing=missing)
    file.require(columns)
    for note in file.notes:
        tell(note)
    return read(path, list(columns), (), file.form)
