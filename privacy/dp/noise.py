"""Exact discrete noise: Gaussian and Laplace on the integers, every integer with the probability the proof asks for.

A sum is put on a grid first and noise is drawn on the grid, so that no float of the noise carries bits of the value
(Mironov's snapping hole). A coin of probability exp(-x) is tossed against 64 random bits in floating point; where that
cannot tell, which is about once in 2^39, more bits and decimals are taken until it can. What a draw costs is in
`accountant`.

Source: Canonne, Kamath and Steinke, NeurIPS 2020, algorithms 1-3; Mironov, CCS 2012.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from decimal import Context, Decimal
from fractions import Fraction

import numpy as np
from numpy.typing import NDArray

from privacy.dp.stream import Stream

__all__ = ["discrete_gaussian", "discrete_laplace", "ring_share", "share_variance"]

Integers = NDArray[np.int64]
_WIDEST = 1 << 58  # standard deviation in steps: what a sum in the ring of 64 bits has room for, and more
_LONGEST = 1 << 62
_SLACK = 2.0**-40  # relative error of exp(-x) in floating point, with room


def discrete_laplace(scale: Fraction | int, count: int, stream: Stream | None = None) -> Integers:
    """Integers x with probability proportional to exp(-|x| / scale).

    Args:
        scale: above 0; numerator at most 2^46, so that none is cut.
        count: how many.
        stream: for tests; a fresh one otherwise.
    """
    stream, scale = stream or Stream(), Fraction(scale)
    if not (scale > 0 and scale.numerator <= 1 << 46):
        raise ValueError("the scale is positive and of a numerator of at most 2^46")
    top, bottom = scale.numerator, scale.denominator
    return _until(count, lambda open_: _laplace(top, bottom, open_, stream))


def discrete_gaussian(variance: Fraction | int, count: int, stream: Stream | None = None) -> Integers:
    """Integers x with probability proportional to exp(-x^2 / (2 variance)).

    Args:
        variance: above 0, at most 2^116. (Beyond 16 deviations, once in 10^55, a very wide draw is made again.)
        count: how many.
        stream: for tests; a fresh one otherwise.
    """
    stream, variance = stream or Stream(), Fraction(variance)
    if not 0 < variance <= _WIDEST**2:
        raise ValueError("the variance is positive and at most 2^116")
    scale = math.isqrt(math.floor(variance)) + 1
    deviation, centre = math.sqrt(variance), float(variance / scale)

    def tried(open_: int) -> tuple[Integers, NDArray[np.bool_]]:
        drawn, fine = _laplace(scale, 1, open_, stream)
        exponents = ((np.abs(drawn) - centre) / deviation) ** 2 / 2

        def exact(place: int) -> Fraction:
            return (abs(int(drawn[place])) - variance / scale) ** 2 / (2 * variance)

        return drawn, fine & _coins(exponents, exact, stream)

    return _until(count, tried)


def share_variance(sigma: float, honest: int) -> Fraction:
    """Variance of one member's noise so that any `honest` of them make up a deviation of `sigma`, in ring steps.

    `honest` is the threshold of the aggregation less the members that may collude: so many are in every sum that is
    opened at all, and are not known to who looks. The ring's `Quantizer` needs a `bound` with room for the noise: an
    element's own largest value and 8 times its share's deviation.
    """
    if not (math.isfinite(sigma) and sigma > 0 and honest >= 1):
        raise ValueError("sigma is positive and somebody is honest")
    return max(Fraction(1), Fraction(math.ceil(Fraction(sigma) ** 2 / honest)))


def ring_share(variance: Fraction | int, count: int, stream: Stream | None = None) -> NDArray[np.uint64]:
    """One member's noise in the ring of 64-bit integers, to be added to its encoded values before its masks."""
    return discrete_gaussian(variance, count, stream).view(np.uint64)


def _until(count: int, tried: Callable[[int], tuple[Integers, NDArray[np.bool_]]]) -> Integers:
    """`count` draws that were accepted."""
    made = np.zeros(count, dtype=np.int64)
    filled = 0
    while filled < count:
        drawn, fine = tried(min(1 << 17, 2 * (count - filled) + 16))
        kept = drawn[fine][: count - filled]
        made[filled : filled + kept.size] = kept
        filled += kept.size
    return made


def _laplace(top: int, bottom: int, count: int, stream: Stream) -> tuple[Integers, NDArray[np.bool_]]:
    """Draws of scale top / bottom, and which of them hold."""
    rest = stream.below(top, count)
    fine = _coins(rest / top, lambda place: Fraction(int(rest[place]), top), stream)
    runs = np.zeros(count, dtype=np.int64)
    going = np.flatnonzero(fine)
    while going.size:
        going = going[_coins(np.ones(going.size), lambda _: Fraction(1), stream)]
        runs[going] += 1
    fine &= runs < _LONGEST // top - 1
    size = (rest + top * np.where(fine, runs, 0)) // bottom
    negative = stream.below(2, count) == 1
    return np.where(negative, -size, size), fine & ~(negative & (size == 0))


def _coins(exponents: NDArray[np.float64], exact: Callable[[int], Fraction], stream: Stream) -> NDArray[np.bool_]:
    """True with probability exp(-x) for each x >= 0; `exact` gives an x in full."""
    words = stream.words(exponents.size)
    drawn, chance = words.astype(np.float64), np.exp(-exponents) * 2.0**64
    error = drawn * 2.0**-52 + 1
    made: NDArray[np.bool_] = drawn + error <= chance * (1 - _SLACK)
    unsure = ~made & (drawn - error < chance * (1 + _SLACK))
    for place in np.flatnonzero(unsure).tolist():
        made[place] = _coin(int(words[place]), exact(place), stream)
    return made


def _coin(word: int, exponent: Fraction, stream: Stream) -> bool:
    """Whether a number in [0, 1) that begins with these 64 bits is below exp(-exponent)."""
    bits = 64
    while True:
        context = Context(prec=30 + bits * 10 // 32, Emin=-(10**9), Emax=10**9)
        power = context.divide(Decimal(-exponent.numerator), Decimal(exponent.denominator))
        chance = context.multiply(context.exp(power), Decimal(1 << bits))
        error = max(exponent, Fraction(1)) * Fraction(chance) * Fraction(1, 10 ** (context.prec - 2))
        if word + 1 <= Fraction(chance) - error:
            return True
        if word >= Fraction(chance) + error:
            return False
        bits, word = bits + 64, word << 64 | int(stream.words(1)[0])
