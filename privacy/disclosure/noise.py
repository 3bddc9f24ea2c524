"""Exact discrete noise for aggregates: Laplace and Gaussian on the integers, with rational arithmetic alone.

A sum is put on a grid and clipped first, noise is drawn on the grid, so that no float of the noise carries bits of
the value (Mironov's snapping hole) and every grid point has the probability that the proof asks for. Randomness
comes from the operating system unless a generator is given for tests. What was spent is returned, and is the
ledger's to book before the result leaves.

Source: Canonne, Kamath and Steinke, NeurIPS 2020 (algorithms 1-3); Ghosh et al., STOC 2009 (geometric mechanism);
Mironov, CCS 2012; Bun and Steinke, TCC 2016 (zCDP to (epsilon, delta)).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from random import Random, SystemRandom

__all__ = ["Noisy", "discrete_gaussian", "discrete_laplace", "gaussian_sums", "noisy_counts", "noisy_sum"]

MAX_DENOMINATOR = 1 << 40


@dataclass(frozen=True, slots=True, kw_only=True)
class Noisy:
    """Noisy values and what they cost.

    Attributes:
        values: multiples of the grid.
        epsilon: spent.
        delta: spent.
        scale: of the noise, in units of the values: Laplace scale or Gaussian standard deviation.
    """

    values: tuple[float, ...]
    epsilon: float
    delta: float
    scale: float


def discrete_laplace(scale: Fraction | int, generator: Random | None = None) -> int:
    """One integer x with probability proportional to exp(-|x| / scale), scale > 0."""
    random = SystemRandom() if generator is None else generator
    scale = Fraction(scale)
    if scale <= 0:
        raise ValueError("the scale is positive")
    top, bottom = scale.numerator, scale.denominator
    while True:
        whole = random.randrange(top)
        if not _bernoulli_exp(Fraction(whole, top), random):
            continue
        geometric = 0
        while _bernoulli_exp(Fraction(1), random):
            geometric += 1
        magnitude = (whole + top * geometric) // bottom
        negative = random.randrange(2) == 1
        if not (negative and magnitude == 0):
            return -magnitude if negative else magnitude


def discrete_gaussian(variance: Fraction | int, generator: Random | None = None) -> int:
    """One integer x with probability proportional to exp(-x^2 / (2 variance)), variance > 0."""
    random = SystemRandom() if generator is None else generator
    variance = Fraction(variance)
    if variance <= 0:
        raise ValueError("the variance is positive")
    scale = math.isqrt(variance.numerator // variance.denominator) + 1
    while True:
        x = discrete_laplace(scale, random)
        if _bernoulli_exp((abs(x) - variance / scale) ** 2 / (2 * variance), random):
            return x


def noisy_counts(counts: Sequence[int], epsilon: float, generator: Random | None = None, *, cells: int = 1) -> Noisy:
    """Counts with discrete Laplace noise.

    Args:
        counts: of a histogram: a person is in at most `cells` of them.
        epsilon: to be spent on all of them together.
        generator: for tests; the operating system's otherwise.
        cells: in how many a person may be.

    Privacy:
        (epsilon, 0) under adding or removing one person. Values below 0 are left as they are.
    """
    _positive(epsilon)
    scale = Fraction(cells) / _rational(epsilon)
    values = tuple(float(int(count) + discrete_laplace(scale, generator)) for count in counts)
    return Noisy(values=values, epsilon=epsilon, delta=0.0, scale=float(scale))


def noisy_sum(
    values: Sequence[float],
    low: float,
    high: float,
    epsilon: float,
    generator: Random | None = None,
    *,
    grid: float = 0.0,
) -> Noisy:
    """A sum of one value a person, each clipped to [low, high] and put on a grid, with discrete Laplace noise.

    Args:
        values: one a person; missing ones (NaN) count as nothing.
        low: bound that is public, not taken from the data.
        high: bound that is public.
        epsilon: to be spent.
        generator: for tests.
        grid: step of the grid; a 2^-20th of the larger bound when 0.

    Privacy:
        (epsilon, 0) under adding or removing one person.
    """
    _positive(epsilon)
    if not (math.isfinite(low) and math.isfinite(high) and low < high):
        raise ValueError("the bounds are not in order")
    most = max(abs(low), abs(high))
    step = 2.0 ** math.floor(math.log2(grid or most * 2.0**-20))
    reach = math.ceil(most / step)
    total = sum(max(-reach, min(reach, round(min(max(v, low), high) / step))) for v in values if not math.isnan(v))
    scale = Fraction(reach) / _rational(epsilon)
    noisy = total + discrete_laplace(scale, generator)
    return Noisy(values=(noisy * step,), epsilon=epsilon, delta=0.0, scale=float(scale) * step)


def gaussian_sums(
    sums: Sequence[int], sensitivity: int, epsilon: float, delta: float, generator: Random | None = None
) -> Noisy:
    """Integer sums with discrete Gaussian noise for (epsilon, delta).

    Args:
        sums: integers (or values already on a grid, in its steps).
        sensitivity: by how much, in Euclidean length over all sums, a person changes them.
        epsilon: to be spent.
        delta: to be spent.
        generator: for tests.

    Privacy:
        rho = sensitivity^2 / (2 variance) zCDP, thus (rho + 2 sqrt(rho ln(1/delta)), delta).
    """
    _positive(epsilon)
    if not 0 < delta < 1 or sensitivity < 1:
        raise ValueError("delta is between 0 and 1, the sensitivity at least 1")
    log = math.log(1 / delta)
    rho = (math.sqrt(log + epsilon) - math.sqrt(log)) ** 2
    variance = Fraction(sensitivity**2) / (2 * _rational(rho))
    values = tuple(float(int(s) + discrete_gaussian(variance, generator)) for s in sums)
    return Noisy(values=values, epsilon=epsilon, delta=delta, scale=math.sqrt(variance))


def _positive(epsilon: float) -> None:
    if not (math.isfinite(epsilon) and epsilon > 0):
        raise ValueError("epsilon is positive and finite")


def _rational(value: float) -> Fraction:
    """A fraction that is not above the number, so that never more is spent than said."""
    return Fraction(math.floor(Fraction(value) * MAX_DENOMINATOR), MAX_DENOMINATOR) or Fraction(1, MAX_DENOMINATOR)


def _bernoulli_exp(gamma: Fraction, random: Random) -> bool:
    """True with probability exp(-gamma), gamma >= 0."""
    while gamma > 1:
        if not _bernoulli_exp(Fraction(1), random):
            return False
        gamma -= 1
    k = 1
    while random.randrange(gamma.denominator * k) < gamma.numerator:
        k += 1
    return k % 2 == 1
