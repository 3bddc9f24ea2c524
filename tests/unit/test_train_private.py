"""Sample-level privacy of the tabular learner: sensitivity, cost, and that nothing leaves without noise."""

from __future__ import annotations

import hashlib
import itertools
import math

import numpy as np
import pandas as pd
import pytest

from pipelines.learners.private import PrivateTabular, noised_sum
from privacy.dp.stream import Stream
from protocol.errors import InputError
from tests.tabularkit import frame, study

BOUNDS = {"x0": (-2.0, 2.0), "x1": (20.0, 80.0)}


def learner(*, rounds: int = 10, steps: int = 1, epsilon: float = 1.0, **settings: object) -> PrivateTabular:
    drawn = itertools.count()
    given = {"categorical": {"kind": ["mild", "severe"]}, "private": {"bounds": BOUNDS}, "l2": 0.0, **settings}
    return PrivateTabular(
        epsilon=epsilon, delta=1e-4, rounds=rounds, features=("x0", "x1", "kind"), outcome=("disease",), steps=steps,
        settings=given, learning_rate=1.0, stream=lambda: Stream(hashlib.sha256(str(next(drawn)).encode()).digest()),
    )  # fmt: skip


def test_the_whole_run_costs_what_was_asked_and_more_steps_more_noise() -> None:
    for rounds, steps in ((1, 1), (10, 1), (10, 7)):
        made = learner(rounds=rounds, steps=steps)
        assert 0.999 < made.schedule.cost().epsilon(1e-4) <= 1.0
    nine, one = learner(rounds=9).schedule, learner(rounds=1).schedule
    assert nine.gradient == pytest.approx(3 * one.gradient)
    assert one.sums == nine.sums


def test_one_row_moves_a_sum_by_no_more_than_its_reach() -> None:
    draw = np.random.default_rng(1)
    for scale in (1e-6, 1.0, 1e6, 1e300):
        rows = draw.normal(size=(40, 6)) * scale
        seed = b"\x05" * 32
        with_all = noised_sum(rows, 2.5, 3.0, Stream(seed))
        for i in range(0, 40, 7):
            gone = rows.copy()
            gone[i] = 0.0
            moved = np.linalg.norm(with_all - noised_sum(gone, 2.5, 3.0, Stream(seed)))
            assert moved <= 2.5 * (1 + 1e-9)
    short = np.full((4, 2), 0.25)
    assert noised_sum(short, 2.5, 1e-5, Stream(b"\x01" * 32)) == pytest.approx([1.0, 1.0], abs=1e-3)


def test_the_noise_is_as_wide_as_it_says() -> None:
    drawn = noised_sum(np.zeros((1, 4000)), 2.0, 3.0, Stream(b"\x07" * 32))
    assert drawn.std() == pytest.approx(6.0, rel=0.05)
    assert abs(drawn.mean()) < 0.4


def test_no_release_is_free_of_noise_and_none_repeats() -> None:
    made = learner()
    rows = made.rows(frame("site-a"))
    one, two = made.sums(rows, 5), made.sums(rows, 5)
    assert not np.array_equal(one["sum"], two["sum"])
    assert not one["square"].any()
    assert not one["outcome"].any()
    agreed = made.agree(one)
    model = made.initial(one, agreed)
    assert not any(value.any() for value in model.values())
    fits = [made.fit(model, agreed, rows, 1)["layer.0.weight"] for _ in range(2)]
    assert not np.array_equal(*fits)
    assert made.scoring() == {}
    assert made.plausible(one, rows.count)
    assert not made.plausible(one, rows.count + 1)
    far = {**one, "sum": one["sum"] * 100}
    assert not made.plausible(far, rows.count)


def test_one_wild_row_is_cut_to_size() -> None:
    made = learner()
    rows = made.rows(pd.DataFrame({"x0": [1e90, -1e99, np.inf], "x1": [50.0] * 3, "kind": ["mild"] * 3,
                                   "disease": [1, 0, 1]}))  # fmt: skip
    sums = made.sums(rows, 5)
    agreed = made.agree(sums)
    fitted = made.fit(made.initial(sums, agreed), agreed, rows, 1)
    bound = (3 * 1.0 + 8 * math.sqrt(6) * made.schedule.gradient) / 3
    assert np.linalg.norm(fitted["layer.0.weight"]) < bound


def test_it_learns_with_enough_rows_and_budget() -> None:
    made = learner(rounds=12, epsilon=4.0)
    rows = made.rows(frame("site-a", 2000))
    sums = made.sums(rows, 5)
    agreed = made.agree(sums)
    model = made.initial(sums, agreed)
    for round_ in range(12):
        model = made.fit(model, agreed, rows, round_)
    held = frame("elsewhere", 600)
    right = (made.predict(model, agreed, held)["probability"] > 0.5) == (held["disease"] == 1)
    assert right.mean() > 0.75


@pytest.mark.parametrize(
    "settings",
    [
        {"private": None}, {"hidden": [4]}, {"task": "continuous"}, {"standardise": "local"},
        {"private": {"bounds": {"x0": (0, 1)}}}, {"private": {"bounds": {**BOUNDS, "x1": (3, 3)}}},
        {"categorical": {"kind": []}},
    ],
)  # fmt: skip
def test_what_it_cannot_protect_is_refused(settings: dict[str, object]) -> None:
    with pytest.raises(InputError):
        learner(**settings)


def test_a_study_with_sample_level_privacy_gets_this_learner() -> None:
    from pipelines import learners

    plan = study({"private": {"bounds": BOUNDS}}, rounds=4, local_steps=2)
    private = plan.privacy.model_copy(update={"dp": "sample", "epsilon": 1.0, "delta": 1e-5})
    made = learners.for_study(plan.model_copy(update={"privacy": private}))
    assert isinstance(made, PrivateTabular)
    assert made.schedule.cost().epsilon(1e-5) <= 1.0
    assert not isinstance(learners.for_study(plan), PrivateTabular)
