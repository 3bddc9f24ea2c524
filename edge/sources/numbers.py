"""Cells of text as numbers: the one rule by which a site types a column, and by which a study is drafted from files.

Leading zeros and more than 15 digits mean a code, not a number.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence

__all__ = ["is_number", "missing_word", "numbers"]

_NUMBER = re.compile(r"[+-]?(0|[1-9]\d*)?(\.\d*)?([eE][+-]?\d{1,3})?\Z", re.ASCII)


def is_number(word: str) -> bool:
    """Whether a trimmed cell is a finite number with a decimal point."""
    return (
        bool(_NUMBER.match(word))
        and any(c.isdigit() for c in word.split("e")[0].split("E")[0])
        and len(word.lstrip("+-").split(".")[0]) <= 15
        and math.isfinite(float(word))
    )


def numbers(words: Sequence[str], *, decimal_comma: bool = False) -> list[float | None]:
    """A column's trimmed cells as numbers, None for those that are none.

    Args:
        decimal_comma: a comma may part whole and decimals. In a column where it does, a cell with a point is none: the
            point may part thousands.
    """
    if decimal_comma and any(_has_comma(word) for word in words):
        words = [word.replace(",", ".") if word.count(",") == 1 and "." not in word else _whole(word) for word in words]
    return [float(word) if is_number(word) else None for word in words]


def missing_word(text: str) -> str:
    """A cell as words for missing values are compared: without case, numbers by their value."""
    text = text.strip().casefold().replace(",", ".")
    return str(float(text)) if is_number(text) else text


def _has_comma(word: str) -> bool:
    return word.count(",") == 1 and "." not in word and is_number(word.replace(",", "."))


def _whole(word: str) -> str:
    return "" if "." in word else word
