"""Columns of a site's table as numbers, for learners."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from protocol.errors import InputError

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["numbers"]

Array = np.ndarray[Any, Any]


def numbers(frame: pd.DataFrame, name: str) -> Array:
    """A column as float64 (rows,), NaN where missing.

    Raises:
        InputError: `input.column-missing`, or `input.table` for a column that is not numeric.
    """
    import pandas as pd

    if name not in frame.columns:
        raise InputError("input.column-missing", f"column {name!r}")
    try:
        return np.asarray(pd.to_numeric(frame[name]).astype("float64"), dtype=np.float64)
    except (ValueError, TypeError):
        raise InputError("input.table", f"column {name!r} is not numeric") from None
