"""Laws of curves: order does not matter, more is never cheaper, the text is canonical."""

from __future__ import annotations

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from privacy.dp import accountant
from privacy.dp.accountant import Curve

MULTIPLIERS = st.floats(0.3, 200)
CURVES = st.one_of(
    MULTIPLIERS.map(accountant.gaussian),
    st.floats(1e-3, 10).map(accountant.pure),
    st.tuples(st.sampled_from([0.8, 1.3, 4.0]), st.sampled_from([0.01, 0.2]), st.integers(1, 500)).map(
        lambda given_: accountant.sampled_gaussian(*given_)
    ),
)
DELTAS = st.floats(1e-12, 0.1)


@given(st.lists(CURVES, max_size=6), DELTAS)
@settings(deadline=None, max_examples=60)
def test_composition_is_a_sum(curves: list[Curve], delta: float) -> None:
    together = accountant.compose(curves)
    shuffled = sorted(curves, key=lambda curve: -curve.values[3])
    assert accountant.compose(shuffled) == together
    epsilon = together.epsilon(delta)
    assert all(curve.epsilon(delta) <= epsilon * (1 + 1e-9) for curve in curves)
    folded = accountant.ZERO
    for curve in curves:
        folded = folded + curve
    assert folded.epsilon(delta) == pytest.approx(epsilon, rel=1e-9, abs=1e-12)
    assert Curve.from_text(together.to_text()) == together


@given(CURVES, DELTAS, DELTAS)
@settings(deadline=None, max_examples=60)
def test_conversion_is_monotone_and_its_own_inverse(curve: Curve, one: float, other: float) -> None:
    low, high = sorted((one, other))
    assert curve.epsilon(high) <= curve.epsilon(low) <= curve.epsilon(0.0)
    epsilon = curve.epsilon(low)
    assert curve.delta(epsilon) <= low * (1 + 1e-6)
    assert curve.delta(epsilon + 1.0) <= curve.delta(epsilon)


@given(MULTIPLIERS, st.floats(1.001, 10), DELTAS, st.sampled_from([0.01, 0.1, 0.5]))
@settings(deadline=None, max_examples=25)
def test_more_noise_costs_less_and_more_rows_cost_more(
    multiplier: float, factor: float, delta: float, rate: float
) -> None:
    less, more = accountant.gaussian(multiplier), accountant.gaussian(multiplier * factor)
    assert all(a >= b for a, b in zip(less.values[:-1], more.values[:-1], strict=True))
    sampled = accountant.sampled_gaussian(multiplier, rate)
    assert sampled.epsilon(delta) <= accountant.sampled_gaussian(multiplier, min(1.0, 2 * rate)).epsilon(delta) + 1e-9
    assert sampled.values[-1] == math.inf
