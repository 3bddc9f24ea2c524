"""Noise has its distribution, comes from the operating system, and from no global generator."""

from __future__ import annotations

import hashlib
import math
import os
from collections import Counter
from decimal import Context, Decimal
from fractions import Fraction

import numpy as np
import pytest
from scipy import stats

from privacy.dp import accountant, noise
from privacy.dp.stream import Stream
from privacy.secagg.ring import Quantizer


def stream(name: str) -> Stream:
    return Stream(hashlib.sha256(name.encode()).digest())


def chi_square(drawn: np.ndarray, chance: dict[int, float]) -> float:
    """P-value of the cells given and of all the rest together."""
    counts = Counter(drawn.tolist())
    seen = [counts[x] for x in chance]
    expected = [drawn.size * p for p in chance.values()]
    seen.append(drawn.size - sum(seen))
    expected.append(drawn.size - sum(expected))
    return float(stats.chisquare(seen, expected).pvalue)


@pytest.mark.parametrize("scale", [Fraction(1, 2), Fraction(3), Fraction(10, 7)])
def test_discrete_laplace_has_its_distribution(scale: Fraction) -> None:
    ratio = math.exp(-1 / float(scale))
    chance = {x: (1 - ratio) / (1 + ratio) * ratio ** abs(x) for x in range(-3, 4)}
    assert chi_square(noise.discrete_laplace(scale, 40_000, stream("laplace")), chance) > 1e-4


@pytest.mark.parametrize("variance", [Fraction(1, 3), Fraction(9, 2), Fraction(40)])
def test_discrete_gaussian_has_its_distribution(variance: Fraction) -> None:
    weights = {x: math.exp(-(x**2) / (2 * float(variance))) for x in range(-100, 101)}
    total = sum(weights.values())
    reach = math.ceil(1.5 * math.sqrt(variance))
    chance = {x: weights[x] / total for x in range(-reach, reach + 1)}
    assert chi_square(noise.discrete_gaussian(variance, 40_000, stream("gaussian")), chance) > 1e-4


@pytest.mark.parametrize("deviation", [1 << 20, 1 << 45, 1 << 58])
def test_wide_noise_is_as_the_continuous_one(deviation: int) -> None:
    drawn = noise.discrete_gaussian(deviation**2, 100_000, stream("wide"))
    assert stats.kstest(drawn / deviation, "norm").pvalue > 1e-4
    # no grid coarser than the integers: the low bits are as even as coins
    assert abs(int((drawn & 1).sum()) - 50_000) < 5 * math.sqrt(25_000)


@pytest.mark.parametrize("wrong", [0, -1, (1 << 116) + 1])
def test_noise_out_of_range_is_refused(wrong: int) -> None:
    with pytest.raises(ValueError, match="positive"):
        noise.discrete_gaussian(wrong, 1)
    with pytest.raises(ValueError, match="positive"):
        noise.discrete_laplace(wrong, 1)


def test_a_coin_that_floats_cannot_decide_is_decided_exactly() -> None:
    exponent = Fraction(1)
    word = int(Context(prec=60).exp(Decimal(-1)) * 2**64)  # the first 64 bits of exp(-1)
    assert noise._coin(word - 1, exponent, stream("below"))
    assert not noise._coin(word + 1, exponent, stream("above"))
    tossed = [noise._coin(word, exponent, stream(str(n))) for n in range(40)]
    assert len(set(tossed)) == 2  # the next bits decide


def test_continuous_noise_has_its_distribution() -> None:
    drawn = stream("normal").normals((400, 250), 3.0)
    assert drawn.shape == (400, 250)
    assert drawn.dtype == np.float64
    assert stats.kstest(drawn.ravel() / 3.0, "norm").pvalue > 1e-4
    rows = np.corrcoef(drawn[:20])
    assert float(np.abs(rows - np.eye(20)).max()) < 0.35


def test_whole_numbers_below_a_bound_are_even() -> None:
    for bound in (1, 2, 3, 10):
        drawn = stream("below").below(bound, 20_000)
        assert set(drawn.tolist()) == set(range(bound))
        if bound > 1:
            assert stats.chisquare(np.bincount(drawn)).pvalue > 1e-4
    assert int(stream("big").below(1 << 53, 1000).max()) > 1 << 52


def test_randomness_is_the_systems_and_no_global_generator_moves() -> None:
    before = np.random.get_state()[1].tobytes()
    first, second = (noise.discrete_gaussian(1 << 40, 8) for _ in range(2))
    assert first.tolist() != second.tolist()
    assert Stream().words(4).tolist() != Stream().words(4).tolist()
    assert np.random.get_state()[1].tobytes() == before
    np.random.seed(1)
    one = Stream().normals((4,), 1.0)
    np.random.seed(1)
    assert Stream().normals((4,), 1.0).tolist() != one.tolist()


def test_a_child_process_draws_other_noise_than_its_parent() -> None:
    source = Stream()
    source.words(1)
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        os.write(writing, source.words(2).tobytes())
        os._exit(0)
    os.waitpid(child, 0)
    assert os.read(reading, 16) != source.words(2).tobytes()


def test_shares_of_noise_add_up_in_the_ring() -> None:
    # 7 sites, threshold 5, 1 may collude: 4 make up the noise that is promised
    clip, size, members, honest = 1.0, 20_000, 7, 4
    ring = Quantizer(bound=clip + 8 * 3.0, max_weight=1, sites=members)
    sigma = 3.0 * clip * 2.0**ring.bits
    share = noise.share_variance(sigma, honest)
    total = np.zeros(size, dtype=np.uint64)
    for member in range(honest):
        total += noise.ring_share(share, size, stream(str(member)))
    assert stats.kstest(ring.decode(total) / 3.0, "norm").pvalue > 1e-4
    cost = accountant.distributed_gaussian(3.0, share_variance=float(share), honest=honest, size=size)
    assert cost.epsilon(1e-6) == pytest.approx(accountant.gaussian(3.0).epsilon(1e-6))
    with pytest.raises(ValueError, match="honest"):
        noise.share_variance(sigma, 0)
