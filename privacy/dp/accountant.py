"""What a noisy release costs: Renyi differential privacy (RDP) as curves that add up.

A curve holds, at each order of one fixed grid, a bound on the Renyi divergence between the outputs for two neighbouring
data sets: one has one person (or, for a sampled mechanism, one sampled row) more than the other. Composition, adaptive
too, is addition; (epsilon, delta) comes last. The grid is part of the format: 1.125 to 8192, and infinity, at which the
bound is a pure epsilon. The central-limit accountant (GDP) is not a bound and is not here.

Source: Mironov, CSF 2017 (Gaussian, composition); Mironov, Talwar and Zhang, arXiv:1908.10530, sec. 3.3 (sampled
Gaussian); Canonne, Kamath and Steinke, NeurIPS 2020 (discrete Gaussian; prop. 12: conversion; lemma on
pure DP); Kairouz, Liu and Steinke, ICML 2021, thm. 1 (sums of discrete Gaussians).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cache
from itertools import pairwise

__all__ = [
    "ORDERS", "ZERO", "Curve", "compose", "discrete_laplace", "distributed_gaussian", "gaussian", "pure",
    "sampled_gaussian", "scale_for",
]  # fmt: skip

ORDERS: tuple[float, ...] = (
    1.125, 1.25, 1.375, 1.5, 1.625, 1.75, 1.875,
    *(n / 4 for n in range(8, 32)), *(n / 2 for n in range(16, 26)), *map(float, range(13, 65)),
    72.0, 80.0, 96.0, 112.0, 128.0, 160.0, 192.0, 256.0, 320.0, 384.0, 512.0, 640.0, 768.0, 1024.0, 1536.0, 2048.0,
    3072.0, 4096.0, 6144.0, 8192.0, math.inf,
)  # fmt: skip
_TAG = "rdp1"
_MAX_SCALE = 1e9
_LEAST_SAMPLED = 0.1  # with less noise sampling is not credited: the bound would be in the thousands anyhow


@dataclass(frozen=True, slots=True)
class Curve:
    """A bound on the Renyi divergence at each of `ORDERS`: never negative, never falling.

    Raises:
        ValueError: for anything else.
    """

    values: tuple[float, ...]

    def __post_init__(self) -> None:
        if len(self.values) != len(ORDERS):
            raise ValueError("a curve has a value for each order")
        if not self.values[0] >= 0 or any(not a <= b for a, b in pairwise(self.values)):
            raise ValueError("a curve is not negative and does not fall")

    def __add__(self, other: Curve) -> Curve:
        """Both releases together."""
        return Curve(tuple(a + b for a, b in zip(self.values, other.values, strict=True)))

    def times(self, count: int) -> Curve:
        """The same release so many times, each with fresh noise."""
        if count < 0:
            raise ValueError("a release happens no fewer than 0 times")
        return Curve(tuple(value * count for value in self.values)) if count else ZERO

    def epsilon(self, delta: float) -> float:
        """The smallest epsilon that the curve proves at this delta; infinity when it proves none."""
        if not 0 <= delta < 1:
            raise ValueError("delta is at least 0 and below 1")
        best = self.values[-1]
        if delta == 0:
            return best
        for order, value in zip(ORDERS[:-1], self.values[:-1], strict=True):
            best = min(best, value + math.log1p(-1 / order) - math.log(delta * order) / (order - 1))
        return max(best, 0.0)

    def delta(self, epsilon: float) -> float:
        """The smallest delta that the curve proves at this epsilon."""
        if not epsilon >= 0:
            raise ValueError("epsilon is not negative")
        best = 0.0 if self.values[-1] <= epsilon else 1.0
        for order, value in zip(ORDERS[:-1], self.values[:-1], strict=True):
            exponent = (order - 1) * (value - epsilon + math.log1p(-1 / order)) - math.log(order)
            best = min(best, math.exp(min(exponent, 0.0)))
        return best

    def to_text(self) -> str:
        """The one text of this curve: a tag and the shortest decimals, exactly what `from_text` reads."""
        return " ".join((_TAG, *(repr(float(value)) for value in self.values)))

    @classmethod
    def from_text(cls, text: str) -> Curve:
        """Read what `to_text` wrote.

        Raises:
            ValueError: for any other text.
        """
        tag, *words = text.split(" ")
        curve = cls(tuple(float(word) for word in words))
        if tag != _TAG or curve.to_text() != text:
            raise ValueError("not a curve of this format")
        return curve


ZERO = Curve((0.0,) * len(ORDERS))


def compose(curves: Iterable[Curve]) -> Curve:
    """All releases together, whatever their order."""
    columns = zip(*(curve.values for curve in (ZERO, *curves)), strict=True)
    return Curve(tuple(math.fsum(column) if math.inf not in column else math.inf for column in columns))


def gaussian(multiplier: float) -> Curve:
    """Gaussian noise of `multiplier` times the Euclidean sensitivity, continuous or discrete (on the integers)."""
    _positive(multiplier)
    return Curve(tuple(order / (2 * multiplier**2) for order in ORDERS))


def sampled_gaussian(multiplier: float, rate: float, steps: int = 1) -> Curve:
    """Steps of Gaussian noise on a sum over a Poisson sample: each row is in with probability `rate`, on its own."""
    _positive(multiplier)
    if not 0 <= rate <= 1 or steps < 0:
        raise ValueError("the rate is a probability, steps are not negative")
    if rate == 0 or steps == 0:
        return ZERO
    if rate == 1 or multiplier < _LEAST_SAMPLED:
        return gaussian(multiplier).times(steps)
    return _sampled(multiplier, rate).times(steps)


@cache
def _sampled(multiplier: float, rate: float) -> Curve:
    values = [0.0]
    for order in ORDERS[:-1]:
        moment = (_whole_moment if order.is_integer() else _moment)(order, multiplier, rate)
        values.append(max(moment / (order - 1), values[-1]))
    return Curve((*values[1:], math.inf))


def _whole_moment(order: float, multiplier: float, rate: float) -> float:
    """(a - 1) times the divergence: log of the sum over k of C(a, k) (1 - q)^(a - k) q^k exp((k^2 - k) / 2s^2)."""
    import numpy as np

    k = np.arange(order + 1, dtype=np.float64)
    factorials = np.concatenate([[0.0], np.cumsum(np.log(k[1:]))])
    terms = factorials[-1] - factorials - factorials[::-1]
    terms = terms + k * math.log(rate) + (order - k) * math.log1p(-rate) + (k * k - k) / (2 * multiplier**2)
    return max(0.0, float(np.logaddexp.reduce(terms)))


def _moment(order: float, multiplier: float, rate: float) -> float:
    """The same of any order: log of the mean over z ~ N(0, s^2) of (1 - q + q exp((2z - 1) / 2s^2))^a.

    By the trapezoidal rule, whose error falls exponentially with the number of points for such functions.
    """
    import numpy as np

    step = multiplier * min(1.0, multiplier) / 32
    z = np.arange(-40 * multiplier, order + 40 * multiplier, step)
    ratio = np.logaddexp(math.log1p(-rate), math.log(rate) + (2 * z - 1) / (2 * multiplier**2))
    terms = order * ratio - z * z / (2 * multiplier**2) + math.log(step / (multiplier * math.sqrt(2 * math.pi)))
    return max(0.0, float(np.logaddexp.reduce(terms)))


def pure(epsilon: float) -> Curve:
    """Any mechanism of pure (epsilon, 0) privacy."""
    _positive(epsilon)
    return Curve(tuple(min(epsilon, _pure(epsilon, order)) for order in ORDERS))


def _pure(epsilon: float, order: float) -> float:
    """Divergence of randomised response: log((sinh(a e) - sinh((a - 1) e)) / sinh(e)) / (a - 1)."""
    if order * epsilon > 600:
        return epsilon
    # sinh(x) - sinh(y) = 2 cosh((x + y) / 2) sinh((x - y) / 2)
    log = math.log(math.cosh((order - 0.5) * epsilon) / math.cosh(epsilon / 2))
    return log / (order - 1)


def discrete_laplace(multiplier: float) -> Curve:
    """Discrete Laplace noise of a scale of `multiplier` times the sum of absolute sensitivities."""
    _positive(multiplier)
    return pure(1 / multiplier)


def distributed_gaussian(multiplier: float, *, share_variance: float, honest: int, size: int) -> Curve:
    """A sum of `honest` members' discrete Gaussians, of which none alone is enough.

    Args:
        multiplier: standard deviation of the whole honest noise over the Euclidean sensitivity.
        share_variance: of one member's noise, in squared steps of the ring.
        honest: members whose noise is in the sum for sure and is not known to whoever looks.
        size: numbers in the sum.
    """
    _positive(multiplier)
    if share_variance < 1 or honest < 1 or size < 1:
        raise ValueError("a share has a variance of at least 1, and somebody is honest")
    gap = 10 * math.fsum(math.exp(-2 * math.pi**2 * share_variance * k / (k + 1)) for k in range(1, honest))
    root = min(math.sqrt(1 / multiplier**2 + size * gap / 2), 1 / multiplier + math.sqrt(size) * gap)
    return gaussian(1 / root)


def scale_for(epsilon: float, delta: float, cost: Callable[[float], Curve] = gaussian) -> float:
    """The least noise (to 1e-6, never too little) whose cost stays within (epsilon, delta).

    Args:
        epsilon: above 0.
        delta: above 0 unless the mechanism is pure.
        cost: noise -> curve, falling as noise grows.

    Raises:
        ValueError: when no noise is enough.
    """
    _positive(epsilon)
    high = 1.0
    while cost(high).epsilon(delta) > epsilon:
        high *= 2
        if high > _MAX_SCALE:
            raise ValueError("no noise is enough for this epsilon and delta")
    low = high / 2
    while low > 1e-9 and cost(low).epsilon(delta) <= epsilon:
        low, high = low / 2, low
    while high - low > 1e-6 * high:
        middle = (low + high) / 2
        low, high = (low, middle) if cost(middle).epsilon(delta) <= epsilon else (middle, high)
    return high


def _positive(value: float) -> None:
    if not (math.isfinite(value) and value > 0):
        raise ValueError("noise and epsilon are positive and finite")
