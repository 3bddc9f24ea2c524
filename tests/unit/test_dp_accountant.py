"""Curves against published accountants and against the definition; budgets made of them."""

from __future__ import annotations

import math

import numpy as np
import pytest

from privacy.dp import accountant
from privacy.dp.accountant import ORDERS, ZERO, Curve
from privacy.dp.budget import Budget
from protocol.errors import BudgetExceeded

# dp-accounting 0.6.0 at delta 1e-5: (multiplier, rate, steps, RDP, PLD)
PEER = [
    (1.1, 0.05, 60, 2.7425894, 2.3359116),
    (0.8, 0.01, 1000, 3.6956132, 3.1410183),
    (2.0, 0.2, 100, 5.4987638, 5.0231798),
    (4.0, 0.5, 10, 1.8321436, 1.6646246),
    (10.0, 0.001, 10_000, 0.0323863, 0.0297636),
]


@pytest.mark.parametrize(("multiplier", "rate", "steps", "rdp", "pld"), PEER)
def test_sampled_gaussian_agrees_with_published_accountants(
    multiplier: float, rate: float, steps: int, rdp: float, pld: float
) -> None:
    ours = accountant.sampled_gaussian(multiplier, rate, steps).epsilon(1e-5)
    assert ours <= rdp * 1.002  # our grid of orders is finer or as fine
    assert pld <= ours  # the tight value is below any bound
    assert ours <= 1.25 * pld


def test_sampled_gaussian_agrees_with_opacus() -> None:
    analysis = pytest.importorskip("opacus.accountants.analysis.rdp")
    orders = [order for order in ORDERS if 2 <= order <= 256]
    for multiplier, rate in ((1.1, 0.05), (0.7, 0.004), (3.0, 0.3)):
        theirs = analysis.compute_rdp(q=rate, noise_multiplier=multiplier, steps=7, orders=orders)
        mine = dict(zip(ORDERS, accountant.sampled_gaussian(multiplier, rate, 7).values, strict=True))
        np.testing.assert_allclose([mine[order] for order in orders], theirs, rtol=1e-6)


def test_the_central_limit_value_is_below_the_tight_one_and_never_ours() -> None:
    assert accountant.sampled_gaussian(1.1, 0.05, 60).epsilon(1e-5) > 2.336 > 1.724  # gdp says 1.724


@pytest.mark.parametrize("multiplier", [0.5, 1.0, 5.0, 80.0])
def test_gaussian_is_close_to_and_never_below_the_exact_value(multiplier: float) -> None:
    def exact(epsilon: float) -> float:  # Balle and Wang, ICML 2018
        a = 1 / (2 * multiplier) - epsilon * multiplier
        b = -1 / (2 * multiplier) - epsilon * multiplier
        return _normal(a) - math.exp(epsilon) * _normal(b)

    curve = accountant.gaussian(multiplier)
    epsilon = curve.epsilon(1e-6)
    assert exact(epsilon) <= 1e-6
    assert exact(0.75 * epsilon) > 1e-6
    assert curve.delta(epsilon) == pytest.approx(1e-6, rel=1e-6)


def _normal(x: float) -> float:
    return 0.5 * math.erfc(-x / math.sqrt(2))


def test_no_sampling_and_full_sampling() -> None:
    assert accountant.sampled_gaussian(1.5, 0.0, 10) == ZERO
    assert accountant.sampled_gaussian(1.5, 1.0, 10) == accountant.gaussian(1.5).times(10)
    assert accountant.sampled_gaussian(1.5, 0.5).epsilon(1e-5) < accountant.gaussian(1.5).epsilon(1e-5)
    assert ZERO.epsilon(1e-5) == 0.0


@pytest.mark.parametrize("epsilon", [0.05, 1.0, 5.0, 200.0])
def test_pure_noise_is_pure(epsilon: float) -> None:
    curve = accountant.discrete_laplace(1 / epsilon)
    assert curve.epsilon(0.0) == pytest.approx(epsilon)
    assert curve.epsilon(1e-6) <= curve.epsilon(0.0)
    # the divergence of the discrete Laplace itself, at order 2 and sensitivity 1
    x = np.arange(-4000, 4001)
    p = np.exp(-np.abs(x) * epsilon)
    q = np.exp(-np.abs(x - 1) * epsilon)
    found = math.log(float((p**2 / np.where(q > 0, q, 1)).sum() / p.sum()))
    assert found <= dict(zip(ORDERS, curve.values, strict=True))[2.0] * (1 + 1e-9)


def test_ten_releases_cost_less_together_than_one_by_one() -> None:
    one = accountant.gaussian(20.0)
    assert accountant.compose([one] * 10) == pytest.approx(one.times(10))
    assert one.times(10).epsilon(1e-6) < 0.5 * 10 * one.epsilon(1e-6)


@pytest.mark.parametrize("epsilon", [0.01, 1.0, 8.0])
def test_the_noise_for_a_target_is_the_least(epsilon: float) -> None:
    found = accountant.scale_for(epsilon, 1e-5)
    assert accountant.gaussian(found).epsilon(1e-5) <= epsilon
    assert accountant.gaussian(found * 0.999).epsilon(1e-5) > epsilon
    trained = accountant.scale_for(epsilon, 1e-5, lambda m: accountant.sampled_gaussian(m, 0.05, 200))
    assert accountant.sampled_gaussian(trained, 0.05, 200).epsilon(1e-5) <= epsilon
    with pytest.raises(ValueError, match="no noise"):
        accountant.scale_for(epsilon, 0.0)


def test_shares_of_noise_cost_what_the_honest_ones_make_up() -> None:
    whole = accountant.gaussian(3.0)
    wide = accountant.distributed_gaussian(3.0, share_variance=2.0**40, honest=5, size=10**7)
    assert wide.epsilon(1e-6) == pytest.approx(whole.epsilon(1e-6))
    narrow = accountant.distributed_gaussian(3.0, share_variance=1.0, honest=5, size=10**7)
    assert narrow.epsilon(1e-6) > whole.epsilon(1e-6)


def test_the_text_of_a_curve_is_one_and_comes_back() -> None:
    for curve in (ZERO, accountant.gaussian(1.1), accountant.pure(0.3), accountant.sampled_gaussian(1.0, 0.1, 3)):
        assert Curve.from_text(curve.to_text()) == curve
    text = accountant.gaussian(1.1).to_text()
    wrong = ["", "rdp1", "0.5", text + " 1.0", text.replace("rdp1", "rdp2"), text.replace(" ", "  ", 1)]
    wrong += [text.replace("inf", "nan"), text.replace("inf", "INF"), "rdp1 " + " ".join(["-1.0"] * len(ORDERS))]
    for one in wrong:
        with pytest.raises(ValueError):  # noqa: PT011
            Curve.from_text(one)


@pytest.mark.parametrize("value", [0.0, -1.0, math.inf, math.nan])
def test_noise_must_be_a_number(value: float) -> None:
    for make in (accountant.gaussian, accountant.pure, lambda v: accountant.scale_for(v, 1e-5)):
        with pytest.raises(ValueError, match="positive"):
            make(value)


def test_a_budget_refuses_what_does_not_fit_and_composes_what_does() -> None:
    one = accountant.gaussian(accountant.scale_for(1.0, 1e-5))
    empty = Budget(epsilon=1.0, delta=1e-5)
    empty.require(one, "study")
    assert (empty.used, empty.remaining) == (0.0, 1.0)
    full = Budget(epsilon=1.0, delta=1e-5, spent=one)
    assert full.remaining == pytest.approx(0.0, abs=1e-5)
    full.require(ZERO, "study")
    for budget in (full, Budget(epsilon=0.99, delta=1e-5), Budget(epsilon=1.0, delta=1e-7)):
        with pytest.raises(BudgetExceeded) as refused:
            budget.require(one, "study")
        assert refused.value.code == "budget.epsilon"
    # two releases of epsilon 1 fit into less than 2
    Budget(epsilon=1.5, delta=1e-5, spent=one).require(one, "study")
