"""Sums in the ring without a bound that a study would have to declare: each number as three digits of 48 bits.

For sums over rows, whose sizes differ by many powers of ten (a count, a sum of squares): one fixed point would fit
none of them. Every float64 from 2^-28 to 2^62 in size is carried exactly, a smaller one to 2^-81; digits are added
apart, so that a thousand sites never carry.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from privacy.secagg.ring import Ring
from protocol.errors import InputError

__all__ = ["DIGITS", "MAX_SUM", "from_digits", "to_digits"]

DIGITS = 3
MAX_SUM = 2.0**62
_UNITS = (2.0**16, 2.0**-32, 2.0**-80)  # what one of each digit is worth


def to_digits(values: NDArray[Any]) -> Ring:
    """Numbers as digits modulo 2^64.

    Args:
        values: float [n], finite, at most 2^62 in size.

    Returns:
        uint64 [3n]: all first digits, all second ones, all third ones.

    Raises:
        InputError: `input.message` for values that are not finite or too large.
    """
    left = np.asarray(values, dtype=np.float64)
    if not np.isfinite(left).all() or (left.size and float(np.abs(left).max()) > MAX_SUM):
        raise InputError("input.message", "secure aggregation: a sum that is not finite, or above 2^62")
    high, middle = np.trunc(left / _UNITS[0]), np.trunc(np.fmod(left, _UNITS[0]) / _UNITS[1])
    low = np.rint(np.fmod(left, _UNITS[1]) / _UNITS[2])
    return np.concatenate([high, middle, low]).astype(np.int64).view(np.uint64)


def from_digits(total: Ring) -> NDArray[np.float64]:
    """Sums of `to_digits` as floats.

    Args:
        total: uint64 [3n].
    """
    digits = total.view(np.int64).reshape(DIGITS, -1).astype(np.float64)
    return np.asarray(digits[2] * _UNITS[2] + digits[1] * _UNITS[1] + digits[0] * _UNITS[0])
