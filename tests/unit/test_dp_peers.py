"""What a run is said to cost, confirmed by two tight accountants that are not ours: dp-accounting's PLD, Opacus' PRV.

Ours (RDP) is a bound, theirs are numerical values of the same thing: theirs <= ours <= 1.25 times theirs, and the two
agree within 2 %. The central-limit accountant (GDP) is no bound: it is below both and is not offered.
"""

from __future__ import annotations

import pytest

from pipelines import guarantee
from pipelines.learners.schedule import Schedule
from privacy.dp import accountant
from tests.privatekit import BOUNDS, private

pytestmark = [
    pytest.mark.filterwarnings("ignore:divide by zero:RuntimeWarning"),  # Opacus at a rate of 1
    pytest.mark.filterwarnings("ignore:Optimal order is the largest:UserWarning"),  # its first guess of a grid
    pytest.mark.filterwarnings("ignore:invalid value encountered:RuntimeWarning"),
]
Part = tuple[float, float, int]  # multiplier, rate, steps
RUNS: list[tuple[str, list[Part], float]] = [
    ("sampled", [(1.1, 0.05, 60)], 1e-5),
    ("sampled, little noise", [(0.8, 0.01, 1000)], 1e-5),
    ("full batch", [(8.0, 1.0, 30)], 1e-4),
    ("full batch, sums before", [(12.8, 1.0, 1), (16.5, 1.0, 15)], 1e-4),
    ("sampled, sums before", [(12.8, 1.0, 1), (2.0, 0.1, 200)], 1e-5),
    ("two studies", [(3.0, 0.2, 50), (1.5, 0.02, 300)], 1e-6),
]


def pld(parts: list[Part], delta: float) -> float:
    accounting = pytest.importorskip("dp_accounting")
    from dp_accounting.pld import pld_privacy_accountant

    made = pld_privacy_accountant.PLDAccountant()
    for multiplier, rate, steps in parts:
        event = accounting.GaussianDpEvent(multiplier)
        event = event if rate == 1 else accounting.PoissonSampledDpEvent(rate, event)
        made.compose(accounting.SelfComposedDpEvent(event, steps))
    return float(made.get_epsilon(delta))


def prv(parts: list[Part], delta: float) -> float:
    accountants = pytest.importorskip("opacus.accountants")
    made = accountants.PRVAccountant()
    made.history = list(parts)
    return float(made.get_epsilon(delta))


def ours(parts: list[Part], delta: float) -> float:
    return accountant.compose(accountant.sampled_gaussian(*part) for part in parts).epsilon(delta)


@pytest.mark.slow
@pytest.mark.parametrize(("name", "parts", "delta"), RUNS, ids=[name for name, _, _ in RUNS])
def test_our_epsilon_is_a_bound_and_close_to_the_tight_ones(name: str, parts: list[Part], delta: float) -> None:
    del name
    mine, tight, other = ours(parts, delta), pld(parts, delta), prv(parts, delta)
    assert other == pytest.approx(tight, rel=0.02)
    assert tight <= mine <= 1.25 * tight
    assert other <= mine * 1.001


@pytest.mark.slow
@pytest.mark.parametrize("rate", [1.0, 0.1])
def test_what_a_sample_level_study_promises_is_confirmed(rate: float) -> None:
    plan = private("sample", rounds=10, local_steps=3, parameters={"private": {"bounds": BOUNDS, "rate": rate}})
    made = guarantee.guarantee(plan, 10)
    parts = [(made["preparation_multiplier"], 1.0, 1), (made["multiplier"], made["rate"], made["releases"])]
    tight = pld(parts, made["delta"])
    assert tight <= made["epsilon"] <= 1.25 * tight
    assert made["epsilon"] <= 2.0
    short = guarantee.guarantee(plan, 4)
    tight = pld([parts[0], (made["multiplier"], made["rate"], 12)], made["delta"])
    assert tight <= short["epsilon"] <= 1.3 * tight


@pytest.mark.parametrize(("dp", "masked"), [("central", False), ("distributed", True)])
def test_what_a_site_level_study_promises_is_confirmed(dp: str, masked: bool) -> None:
    made = guarantee.guarantee(private(dp, masked=masked, rounds=6), 6)
    tight = pld([(made["multiplier"], 1.0, made["releases"])], made["delta"])
    assert tight <= made["epsilon"] <= 1.25 * tight


def test_a_smaller_share_for_the_sums_leaves_more_for_the_steps() -> None:
    wide, narrow = (
        Schedule.fitted(epsilon=1, delta=1e-5, rounds=10, steps=2, rate=0.1, share=share) for share in (0.4, 0.05)
    )
    assert narrow.gradient < wide.gradient
    for made in (wide, narrow):
        assert 0.999 < made.cost().epsilon(1e-5) <= 1.0
