"""Columns of a site's table as numbers, for learners."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from protocol.errors import InputError

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["labels", "matrix", "numbers"]

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


def matrix(frame: pd.DataFrame, names: tuple[str, ...]) -> Array:
    """Columns as float64 (rows, names). Raises as `numbers`."""
    return np.column_stack([numbers(frame, name) for name in names])


def labels(frame: pd.DataFrame, name: str, positive: object = None, negative: object = None) -> Array:
    """A yes/no column as float64 (rows,): 0, 1, or NaN where missing.

    Args:
        positive: the value that means yes; without it the column is 0/1.
        negative: the value that means no; without it all but `positive` mean no.

    Raises:
        InputError: `input.column-missing`, or `input.table` for a column that is not as the study says.
    """
    from pipelines.learners.vocabulary import level

    if name not in frame.columns:
        raise InputError("input.column-missing", f"column {name!r}")
    column = frame[name]
    texts = np.array([level(value) for value in column], dtype=object)
    missing = column.isna().to_numpy(dtype=bool) | (texts == "") | (texts == "inf") | (texts == "-inf")
    if positive is None:
        yes, no = np.isin(texts, ("1", "true")), np.isin(texts, ("0", "false"))
        if not (yes | no | missing).all():
            raise InputError("input.table", f"column {name!r} is not 0/1: name `positive`")
    else:
        yes = texts == level(positive)
        no = ~yes if negative is None else texts == level(negative)
    return np.where(missing | ~(yes | no), np.nan, yes.astype(np.float64))
