"""Updates cut to length, on the grid, and the noise that hides a whole site.

Every statistical test is on a seeded stream: it passes or fails once for all. A threshold of p > 1e-4 would have failed
one correct implementation in 10 000.
"""

from __future__ import annotations

import hashlib
import math
from fractions import Fraction

import numpy as np
import pytest
from scipy import stats

from pipelines import clipping, guarantee
from pipelines.masking import decode_update, encode_update
from privacy.dp import accountant
from privacy.dp.stream import Stream
from privacy.secagg import threshold_of
from protocol.errors import InputError
from tests.privatekit import private

SITES = tuple(f"site-{c}" for c in "abcdef")  # the threshold is 5


def stream(name: object) -> Stream:
    return Stream(hashlib.sha256(str(name).encode()).digest())


def models(seed: int, scale: float, size: int = 60) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    draw = np.random.default_rng(seed)
    received = {"b": draw.normal(size=size).astype(np.float32) * 100, "a": draw.normal(size=(2, 3))}
    made = {
        name: (value + scale * draw.normal(size=value.shape)).astype(value.dtype) for name, value in received.items()
    }
    return received, made


@pytest.mark.parametrize("scale", [0.0, 1e-9, 0.01, 1.0, 1e6])
@pytest.mark.parametrize("clip", [1e-6, 0.5, 1e4])
def test_no_update_is_longer_than_the_clip_however_numbers_round(scale: float, clip: float) -> None:
    for seed in range(20):
        received, made = models(seed, scale)
        kept = clipping.cut(received, made, clip)
        assert clipping.length(received, kept) <= clip
        assert {name: value.dtype for name, value in kept.items()} == {name: v.dtype for name, v in made.items()}
        whole = clipping.steps(received, kept, clip)
        assert math.sqrt(float(np.sum(np.square(whole.astype(np.float64))))) <= clipping.GRID
        if clipping.length(received, made) <= clip:
            assert all(np.array_equal(kept[name], made[name]) for name in made)


def test_what_is_cut_keeps_its_direction() -> None:
    received, made = models(1, 5.0)
    kept = clipping.cut(received, made, 2.0)
    a, b = ({n: m[n].astype(np.float64) - received[n] for n in received} for m in (kept, made))
    dot = sum(float((a[n] * b[n]).sum()) for n in a)
    assert dot / clipping.length(received, made) / clipping.length(received, kept) == pytest.approx(1, abs=1e-6)
    assert clipping.length(received, kept) == pytest.approx(2.0, rel=1e-4)


def test_what_cannot_be_cut_is_refused() -> None:
    received, made = models(1, 1.0)
    with pytest.raises(InputError) as error:
        clipping.cut(received, made | {"b": made["b"] * np.float32("nan")}, 1.0)
    assert error.value.code == "input.diverged"
    with pytest.raises(InputError):
        clipping.cut(received, {"a": made["a"]}, 1.0)
    with pytest.raises(InputError):
        clipping.cut(received | {"a": np.ones((2, 3), np.int64)}, made | {"a": np.ones((2, 3), np.int64)}, 1.0)
    with pytest.raises(InputError) as error:
        clipping.steps(received, made, 1e-3)
    assert error.value.code == "input.message"


def test_a_sum_of_steps_is_the_mean_of_the_updates() -> None:
    parts = []
    received, _ = models(0, 0.0)
    for seed in range(4):
        _, made = models(seed, 0.01)
        parts.append(clipping.cut(received, made, 0.3))
    total = np.sum([clipping.steps(received, part, 0.3) for part in parts], axis=0)
    found = clipping.mean(received, total, 4, 0.3)
    for name in received:
        wanted = np.mean([part[name].astype(np.float64) for part in parts], axis=0)
        assert np.abs(found[name] - wanted).max() <= 2e-5


# -- how much noise ----------------------------------------------------------------------------------------------------


def test_central_noise_is_of_the_size_that_the_guarantee_says() -> None:
    plan = private("central", rounds=7, privacy={"clip": 0.25})
    scale = guarantee.multiplier(plan)
    spent = accountant.gaussian(scale).times(7)
    assert 0.999 * 2.0 < spent.epsilon(1e-5) <= 2.0
    received = {"w": np.zeros(4000)}
    ring = np.append(np.zeros(4000, np.int64), np.int64(3)).view(np.uint64)
    made, sites = decode_update(plan, received, ring, stream("central"))
    assert sites == 3
    assert stats.kstest(made["w"] * 3 / (0.25 * scale), "norm").pvalue > 1e-4


@pytest.mark.parametrize("gone", [0, 1])
def test_distributed_noise_is_enough_with_the_fewest_sites_and_no_less_with_more(gone: int) -> None:
    """The sum over the survivors, less one that colludes, has at least the noise of the guarantee."""
    plan = private("distributed", masked=True, rounds=4, sites=SITES, privacy={"max_colluding": 1})
    scale = guarantee.multiplier(plan)
    threshold = threshold_of(len(SITES))
    assert threshold == 5
    received = {"w": np.zeros(3000)}
    survivors = SITES[gone:]
    shares = [
        encode_update(plan, received, received, stream((site, gone))).view(np.int64)[:-1].astype(float)
        for site in survivors
    ]
    honest = np.sum(shares[1:], axis=0) / clipping.GRID  # what a colluding site knows is taken off
    needed = scale * math.sqrt((len(survivors) - 1) / (threshold - 1))
    assert needed >= scale
    assert stats.kstest(honest / needed, "norm").pvalue > 1e-4
    variance, least = clipping.share(scale, plan.privacy, threshold)
    assert least == threshold - 1
    assert least * variance >= Fraction(scale * clipping.GRID) ** 2
    with_all = encode_update(plan, received, received, stream(0)).view(np.int64)
    assert with_all[-1] == 1  # who took part is public and has no noise


def test_an_update_is_in_the_sum_to_a_step() -> None:
    plan = private("central", masked=True, privacy={"clip": 0.5})
    received, made = models(3, 0.01)
    kept = clipping.cut(received, made, 0.5)
    moved = encode_update(plan, received, kept).view(np.int64)[:-1] * (0.5 / clipping.GRID)
    wanted = np.concatenate([(kept[n].astype(float) - received[n]).ravel() for n in ("a", "b")])
    assert np.abs(moved - wanted).max() <= 0.5 / clipping.GRID * 1.001


def test_sites_that_would_leave_nobody_honest_are_refused() -> None:
    plan = private("distributed", masked=True, privacy={"max_colluding": 3})
    with pytest.raises(InputError, match="max_colluding"):
        guarantee.cost(plan)


def test_more_collusion_costs_more_noise_of_each() -> None:
    scale = 3.0
    one, two = (
        clipping.share(scale, private("distributed", masked=True, privacy={"max_colluding": n}).privacy, 5)[0]
        for n in (1, 3)
    )
    assert two == pytest.approx(2 * float(one), rel=1e-9)


def test_absurdly_little_epsilon_is_refused() -> None:
    with pytest.raises(InputError, match="no noise is enough"):
        guarantee.cost(private("central", epsilon=1e-8))


def test_shares_are_for_rosters_in_which_every_sum_has_the_threshold() -> None:
    many = tuple(f"site-{i}" for i in range(65))
    with pytest.raises(InputError, match="at most 64"):
        guarantee.cost(private("distributed", masked=True, sites=many))
    assert guarantee.cost(private("distributed", masked=True, sites=many[:64])).epsilon(1e-5) <= 2.0
