"""Numeric and categorical columns of a site's table as one matrix, of a width that follows from the study alone.

A categorical feature has a slot for each level that the study names. Where it names none, levels go to buckets: whole
numbers 0 to 31 each to their own, anything else to one of 32 by a hash, so that sites need not tell each other their
levels. Which slots are in use is agreed by sums, and so are the value that stands for a missing one and the scale.
"""

from __future__ import annotations

import hashlib
import unicodedata
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from pipelines.learners import columns
from privacy.deid.deny import fold
from protocol.errors import InputError

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["BUCKETS", "LARGEST", "Spellings", "Vocabulary", "level", "standardised"]

Array = np.ndarray[Any, Any]

_OWN = 32  # whole numbers with a bucket of their own
BUCKETS = 64
_LIMIT = 20.0  # of a standardised value
_UNKNOWN = 1 << 20  # beyond every slot
LARGEST = 1e100  # a larger number is none: its square would leave the range


def level(value: object) -> str:
    """The text by which a level is known: numbers without a trailing `.0`, other values as they are, trimmed."""
    if isinstance(value, bool | np.bool_):
        return str(bool(value)).lower()
    if isinstance(value, int | float | np.integer | np.floating) and float(value).is_integer():
        return str(int(value))
    text = str(value).strip()
    try:
        number = float(text)
    except ValueError:
        return text
    return str(int(number)) if number.is_integer() and abs(number) < 1e15 else text


class Spellings:
    """Which of several known texts a site's text is: the same one, else the only one that differs in form alone.

    Form: upper and lower case, accents and how they are composed, blanks. So `Si`, `SI` and `sì` are one word unless
    the study names two of them.
    """

    def __init__(self, known: Sequence[str]) -> None:
        self._places = {text: i for i, text in enumerate(known)}
        forms = [_form(text) for text in known]
        self._forms = {form: i for i, form in enumerate(forms) if forms.count(form) == 1}

    def find(self, text: str) -> int | None:
        """The place of the text among the known ones, or None."""
        place = self._places.get(text)
        return self._forms.get(_form(text)) if place is None else place


def _form(text: str) -> str:
    return " ".join(fold(unicodedata.normalize("NFC", text)).split())


class Vocabulary:
    """The columns of the matrix: numeric features in their order, then the slots of each categorical one.

    Args:
        features: all features.
        categorical: feature -> levels; none: buckets.
    """

    def __init__(self, features: tuple[str, ...], categorical: Mapping[str, tuple[str, ...]]) -> None:
        self.numeric = tuple(name for name in features if name not in categorical)
        self._levels = {name: categorical[name] for name in features if name in categorical}
        self.names: list[tuple[str, str]] = [(name, "") for name in self.numeric]
        self.groups: list[slice] = []  # the slots of each categorical feature
        for name, levels in self._levels.items():
            texts = levels or tuple(str(i) if i < _OWN else f"#{i}" for i in range(BUCKETS))
            self.groups.append(slice(len(self.names), len(self.names) + len(texts)))
            self.names += [(name, text) for text in texts]

    @property
    def declared(self) -> list[bool]:
        """Of each categorical feature, whether the study names its levels."""
        return [bool(levels) for levels in self._levels.values()]

    @property
    def width(self) -> int:
        """Columns in all."""
        return len(self.names)

    def matrix(self, frame: pd.DataFrame) -> Array:
        """float64 (rows, width): NaN where missing, infinite or beyond `LARGEST`; an unknown level is 0 in every slot.

        Raises:
            InputError: `input.column-missing`, or `input.table` for a numeric feature that is not numeric.
        """
        made = np.full((len(frame), self.width), np.nan)
        for i, name in enumerate(self.numeric):
            made[:, i] = columns.numbers(frame, name)
        for (name, levels), group in zip(self._levels.items(), self.groups, strict=True):
            if name not in frame.columns:
                raise InputError("input.column-missing", f"column {name!r}")
            made[:, group] = _slots(frame[name], levels)
        made[~(np.abs(made) < LARGEST)] = np.nan
        return made

    def totals(self, x: Array, least: int) -> tuple[Array, Array, Array]:
        """Count, sum and squares of each column over a site's rows, float64 (width,).

        A numeric column with fewer than `least` values, or with two values of which one is rarer, is missing. A
        categorical feature counts levels with `least` rows.
        """
        present = np.isfinite(x)
        values = np.where(present, x, 0.0)
        count = present.sum(axis=0).astype(np.float64)
        for i in range(len(self.numeric)):
            own = x[present[:, i], i]
            if len(own) < least or _rare(own, least):
                present[:, i], values[:, i], count[i] = False, 0.0, 0.0
        total, square = values.sum(axis=0), np.square(values).sum(axis=0)
        for group in self.groups:
            total[group] = square[group] = np.where(total[group] >= least, total[group], 0.0)
            count[group] = total[group].sum()
        return count, total, square

    def agreed(self, sums: Mapping[str, Array], drop_first: bool = False) -> dict[str, Array]:
        """Mean, scale (1 for a column that does not vary) and which columns are in use, float64 (width,), from sums.

        Args:
            drop_first: leave out each categorical feature's first level in use.
        """
        n = np.maximum(sums["count"], 1.0)
        mean = sums["sum"] / n
        scale = np.sqrt(np.maximum(sums["square"] / n - np.square(mean), 0.0))
        flat = scale <= 1e-6 * np.abs(mean)
        kept = np.ones(self.width)
        for group in self.groups:
            kept[group] = sums["sum"][group] > 0
            if drop_first and kept[group].any():
                kept[group.start + int(np.argmax(kept[group]))] = 0.0
        return {"mean": mean, "scale": np.where(flat, 1.0, scale), "kept": kept}


def standardised(x: Array, preprocessing: Mapping[str, Array], how: str, reference: Array) -> Array:
    """Columns in use, missing values replaced by the agreed mean, standardised, within +-20 standard units.

    Args:
        how: `agreed`, `local` or `none`, see `tabular.Settings.standardise`.
        reference: float64 (n, columns): the rows whose mean and scale `local` uses (one row: the agreed ones).
    """
    kept = preprocessing["kept"] > 0
    mean, scale = preprocessing["mean"][kept], preprocessing["scale"][kept]
    full = np.where(np.isfinite(x[:, kept]), x[:, kept], mean)
    if how == "none":
        return full
    if how == "local" and len(reference) > 1:
        own = np.where(np.isfinite(reference[:, kept]), reference[:, kept], mean)
        mean, scale = own.mean(axis=0), own.std(axis=0, ddof=1)
        scale = np.where(scale <= 1e-6 * np.abs(mean), 1.0, scale)
    with np.errstate(over="ignore"):
        return np.clip((full - mean) / scale, -_LIMIT, _LIMIT)


def _slots(column: pd.Series[Any], levels: tuple[str, ...]) -> Array:
    width = len(levels) or BUCKETS
    known = Spellings(levels) if levels else None
    missing = column.isna().to_numpy(dtype=bool)
    slots = np.array([width if m else _slot(level(v), known) for v, m in zip(column, missing, strict=True)], np.int64)
    made = np.eye(width + 1)[np.minimum(slots, width)][:, :width]
    made[missing] = np.nan
    return made


def _slot(text: str, known: Spellings | None) -> int:
    """The slot of a level; beyond all of them for an unknown one."""
    if known is not None:
        place = known.find(text)
        return _UNKNOWN if place is None else place
    if text.isascii() and text.isdigit() and int(text[:6]) < _OWN and len(text) <= 2:
        return int(text)
    return _OWN + hashlib.sha256(text.casefold().encode()).digest()[0] % (BUCKETS - _OWN)


def _rare(values: Array, least: int) -> bool:
    """Whether a column has two values, one of them in 1 to `least` - 1 rows."""
    found, counts = np.unique(values, return_counts=True)
    return len(found) == 2 and int(counts.min()) < least
