"""Columns of a site's table as numbers, for learners."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from protocol.errors import InputError

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["labels", "numbers"]

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


def labels(frame: pd.DataFrame, name: str, positive: object = None, negative: object = None) -> Array:
    """A yes/no column as float64 (rows,): 0, 1, or NaN where missing.

    Args:
        positive, negative: the values that mean yes and no, in any spelling (`vocabulary.Spellings`). With one of them
            any other value means the other; with none the column is 0/1.

    Raises:
        InputError: `input.column-missing`, or `input.table` for a column that is not as the study says.
    """
    from pipelines.learners.vocabulary import Spellings, level

    if name not in frame.columns:
        raise InputError("input.column-missing", f"column {name!r}")
    column = frame[name]
    texts = np.array([level(value) for value in column], dtype=object)
    missing = column.isna().to_numpy(dtype=bool) | (texts == "") | (texts == "inf") | (texts == "-inf")
    given = [level(value) for value in (positive, negative) if value is not None]
    if not given:
        yes, no = np.isin(texts, ("1", "true")), np.isin(texts, ("0", "false"))
        if not (yes | no | missing).all():
            raise InputError("input.table", f"column {name!r} is not 0/1: name `positive`")
    else:
        known = Spellings(given)
        places = np.array([-1 if (place := known.find(text)) is None else place for text in texts])
        yes, no = places == 0, places == len(given) - 1
        if negative is None:
            no = ~yes
        elif positive is None:
            yes = ~no
    return np.where(missing | ~(yes | no), np.nan, yes.astype(np.float64))
