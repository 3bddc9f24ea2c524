"""Uniqueness, noise and the page that a site reads before it approves."""

from __future__ import annotations

import math
from collections import Counter
from fractions import Fraction
from random import Random

import numpy as np
import pandas as pd
import pytest

from privacy.disclosure import noise, report, uniqueness
from protocol.errors import InputError


def test_suda_finds_the_smallest_sets_that_tell() -> None:
    frame = pd.DataFrame(
        {"sex": ["F", "F", "F", "M", "M", "M"], "age": [30, 30, 40, 30, 30, 99], "town": ["a", "b", "a", "a", "a", "a"]}
    )
    found = uniqueness.report(frame, ["sex", "age", "town"])
    # rows 1 (town b) and 2 (age 40), 5 (age 99) are alone with one column; row 0 with sex, age and town
    assert found.uniques[("town",)] == 1
    assert found.uniques[("age",)] == 2
    assert found.unique == 4
    assert found.smallest == {1: 3, 2: 0, 3: 1}
    assert found.special == 3
    scores = uniqueness.suda(frame, ["sex", "age", "town"])
    assert scores.tolist() == [1.0, 2.0, 2.0, 0.0, 0.0, 2.0]
    assert uniqueness.report(frame.iloc[:0], ["sex"]).persons == 0
    with pytest.raises(InputError):
        uniqueness.report(pd.DataFrame(np.zeros((2, 60))), list(range(60)), 3)  # type: ignore[arg-type]


@pytest.mark.parametrize("scale", [Fraction(1, 2), Fraction(3), Fraction(10, 7)])
def test_discrete_laplace_has_its_distribution(scale: Fraction) -> None:
    random = Random(1)  # noqa: S311
    drawn = Counter(noise.discrete_laplace(scale, random) for _ in range(6_000))
    ratio = math.exp(-1 / float(scale))
    for x in range(-2, 3):
        p = (1 - ratio) / (1 + ratio) * ratio ** abs(x)
        assert abs(drawn[x] - 6_000 * p) < 5 * math.sqrt(6_000 * p * (1 - p)) + 1  # 5 sigma: < 1e-6 false alarms


def test_discrete_gaussian_has_its_distribution() -> None:
    random = Random(2)  # noqa: S311
    drawn = [noise.discrete_gaussian(Fraction(9, 2), random) for _ in range(4_000)]
    total = sum(math.exp(-(x**2) / 9) for x in range(-60, 61))
    for x in (-3, 0, 1, 4):
        p = math.exp(-(x**2) / 9) / total
        assert abs(drawn.count(x) - 4_000 * p) < 5 * math.sqrt(4_000 * p * (1 - p))


def test_noise_returns_what_it_costs_and_stays_on_its_grid() -> None:
    made = noise.noisy_counts([10, 0, 5], 1.0, Random(3))  # noqa: S311
    assert (made.epsilon, made.delta) == (1.0, 0.0)
    assert all(value.is_integer() for value in made.values)
    total = noise.noisy_sum([1.0, 2.5, 100.0, float("nan")], 0.0, 10.0, 2.0, Random(4), grid=0.25)  # noqa: S311
    assert (total.values[0] / 0.25).is_integer()
    assert total.scale == pytest.approx(5.0)
    assert abs(total.values[0] - 13.5) < 60
    gauss = noise.gaussian_sums([100, 200], 1, 1.0, 1e-6, Random(5))  # noqa: S311
    rho = 1 / (2 * gauss.scale**2)
    assert rho + 2 * math.sqrt(rho * math.log(1e6)) == pytest.approx(1.0, abs=1e-6)
    assert rho + 2 * math.sqrt(rho * math.log(1e6)) <= 1.0 + 1e-12
    assert noise.noisy_counts([5], 1.0).values != noise.noisy_counts([5] * 40, 1.0).values  # from the system
    for wrong in (0.0, -1.0, float("nan"), float("inf")):
        with pytest.raises(ValueError, match="epsilon"):
            noise.noisy_counts([1], wrong)


def table() -> pd.DataFrame:
    rng = np.random.default_rng(0)
    frame = pd.DataFrame(
        {
            "pseudonym": [f"P{i:03d}" for i in range(200)],
            "age": rng.integers(40, 90, 200),
            "sex": rng.choice(["F", "M"], 200),
            "glucose": rng.normal(5.5, 1.0, 200),
            "rare": ["common"] * 198 + ["<script>alert(1)</script>"] * 2,
        }
    )
    frame.loc[frame.index[:2], "glucose"] = np.nan
    frame.loc[5, "glucose"] = 98.76543
    return frame


def test_the_report_shows_counts_and_no_value_of_a_few() -> None:
    found = report.summary(table(), quasi=["age", "sex"], minimum=5, k=5, person="pseudonym", columns={"age": "years"})
    assert found["persons"] == 200
    assert found["k"] == int(table().groupby(["age", "sex"]).size().min())
    assert found["uniqueness"]["unique"] == int((table().groupby(["age", "sex"]).size() == 1).sum())
    assert found["columns"]["glucose"]["missing"] is None  # two persons
    assert found["columns"]["rare"]["histogram"] == {"common": None, "<script>alert(1)</script>": None}
    assert found["columns"]["age"]["definition"] == "years"
    counts = [c for c in found["columns"]["glucose"]["histogram"].values() if c is not None]
    assert all(c == 0 or c >= 5 for c in counts)
    assert "pseudonym" not in found["columns"]


def test_the_page_is_one_file_with_plots_and_nothing_that_runs() -> None:
    found = report.summary(table(), quasi=["age", "sex"], minimum=5, k=5, person="pseudonym")
    html = report.page(found)
    assert html.count("<svg") == 6
    assert "suppressed" in html
    assert "<script" not in html
    assert "&lt;script&gt;" in html
    assert "http" not in html
    assert "98.76" not in html
    assert "P000" not in html
    empty = report.summary(table().iloc[:0], quasi=["age"], minimum=5, k=5, person="pseudonym")
    assert "</html>" in report.page(empty)
