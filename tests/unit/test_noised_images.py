"""Sample-level privacy of networks on images: what a patient can move, what leaves, what it costs, what is refused."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from central.federation.checkpoint import MemoryCheckpoints
from central.federation.local import LocalGrid, handler, train_locally
from central.federation.rounds import Rounds
from pipelines import guarantee, learners
from pipelines.flower import ARRAYS, EXAMPLES, METRICS, arrays_of, message_from_bytes
from pipelines.train import TrainingData, load
from privacy.dp.stream import Stream
from protocol.assignment import RoundPhase
from protocol.errors import InputError
from protocol.study import Study
from tests.imagekit import SITES, patients, source, study

pytest.importorskip("opacus")
DELTA = 1e-5
STEPS = {"clip": 0.5, "rate": 0.5}


def private(learner: str = "cnn", *, epsilon: float = 3.0, masked: bool = False, **changes: Any) -> Study:
    parameters = {"private": STEPS, **changes.pop("parameters", {})}
    raw = study(learner, parameters, **{"rounds": 2, "local_steps": 2, **changes}).model_dump(
        by_alias=True, exclude_none=True
    )
    raw["privacy"] |= {"dp": "sample", "epsilon": epsilon, "delta": DELTA, "secure_aggregation": masked}
    return Study.model_validate(raw)


def data(plan: Study, site: str = "site-a", count: int = 12) -> TrainingData:
    read = source(site, count)
    return load(plan, site, read.table(), read.documents, "patient_id", read.files)


def started(mine: TrainingData) -> tuple[dict[str, Any], dict[str, Any]]:
    sums = mine.learner.sums(mine.rows, 5)
    agreed = mine.learner.agree(sums)
    return mine.learner.initial(sums, agreed), agreed


def seeded(mine: TrainingData, name: str = "s") -> TrainingData:
    mine.learner._draw = lambda: Stream(hashlib.sha256(name.encode()).digest())  # type: ignore[attr-defined]
    return mine


def flat(arrays: dict[str, Any]) -> np.ndarray:
    return np.concatenate([value.ravel() for value in arrays.values()]).astype(np.float64)


@pytest.mark.parametrize("learner", ["cnn", "unet"])
def test_the_run_costs_what_was_asked_and_the_guarantee_says_the_same(learner: str) -> None:
    plan = private(learner)
    whole = guarantee.cost(plan).epsilon(DELTA)
    assert 0.99 * 3 < whole <= 3
    assert guarantee.cost(plan, RoundPhase.PREPARE).epsilon(DELTA) == 0
    assert guarantee.cost(plan, RoundPhase.TRAIN).times(2).epsilon(DELTA) == pytest.approx(whole)
    said = guarantee.guarantee(plan, 2)
    assert said["epsilon"] == pytest.approx(whole, abs=1e-6)
    assert said["multiplier"] == learners.for_study(plan).schedule.gradient  # type: ignore[union-attr]
    assert said["releases"] == 4
    assert said["unit"].startswith("one patient")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("learner", "changes"),
    [
        ("cnn", {}), ("cnn", {"dropout": 0.3}), ("cnn", {"dimensions": 3, "size": [8, 16, 16], "slices": 0}),
        ("cnn", {"task": "continuous", "private": {**STEPS, "bounds": {"dense": [0, 1]}}}),
        ("unet", {}), ("unet", {"dimensions": 3, "size": [8, 16, 16], "slices": 0}),
    ],
)  # fmt: skip
def test_one_patient_with_all_his_slices_moves_a_step_by_one_clip(learner: str, changes: dict[str, Any]) -> None:
    """All of his images and his outcome are other ones: a step of plain descent differs by two clips at most."""
    local = {"batch": 5, "optimiser": "sgd"}
    parameters = {**changes, "local": local}
    parameters["private"] = {**changes.get("private", STEPS), "rate": 1.0}
    plan = private(learner, parameters=parameters, rounds=1, local_steps=1, learning_rate=1.0)
    mine = seeded(data(plan))
    model, agreed = started(mine)
    rows: Any = mine.rows
    his = rows.owner == 4
    x, y = rows.x.copy(), rows.y.copy()
    x[his], y[4] = 60_000.0, 1 - y[4]
    mask = None if rows.mask is None else np.where(his.reshape(-1, *[1] * (x.ndim - 1)), ~rows.mask, rows.mask)
    other = replace(rows, x=x, y=y, mask=mask)
    fits = [mine.learner.fit(model, agreed, table, 1) for table in (rows, other, rows)]
    assert np.array_equal(flat(fits[0]), flat(fits[2]))
    moved = np.linalg.norm(flat(fits[0]) - flat(fits[1])) * rows.count
    assert 0 < moved <= 2 * 0.5 * (1 + 1e-3)


def test_the_noise_is_as_wide_as_the_schedule_says() -> None:
    """1,500 weights or so, all drawn in one step; a correct implementation fails once in 10^8 streams."""
    plan = private(parameters={"local": {"batch": 8, "optimiser": "sgd"}}, rounds=1, local_steps=1, learning_rate=1.0)
    mine = seeded(data(plan))
    model, agreed = started(mine)
    drawn = flat(mine.learner.fit(model, agreed, mine.rows, 1)) - flat(model)
    assert mine.learner.schedule is not None
    expected = mine.learner.schedule.gradient * 0.5 / (12 * 0.5)
    assert abs(np.std(drawn) / expected - 1) < 6 / np.sqrt(2 * len(drawn)) + 0.01  # and 12 short gradients
    assert (drawn != 0).all()


def test_a_patient_counts_as_one_record_however_many_slices_he_has() -> None:
    plan = private()
    mine = data(plan)
    rows: Any = mine.rows
    assert len(rows.x) == 24
    made: Any = mine.learner
    for step in range(20):
        at = made._one_each(rows, np.array([0, 3, 11]), 7, step)
        assert rows.owner[at].tolist() == [0, 3, 11]
    assert len({int(made._one_each(rows, np.array([3]), 7, step)[0]) for step in range(20)}) == 2


class Listening:
    """A site whose answers are written down."""

    def __init__(self, answer: Callable[[bytes], bytes]) -> None:
        self.said: list[bytes] = []
        self._answer = answer

    def __call__(self, raw: bytes) -> bytes:
        self.said.append(self._answer(raw))
        return self.said[-1]


@pytest.mark.slow
@pytest.mark.parametrize("learner", ["cnn", "unet"])
def test_over_the_grid_nothing_but_the_number_of_patients_leaves_without_noise(learner: str) -> None:
    plan = private(learner)
    held = {site: data(plan, site) for site in SITES}
    said, reached = [], []
    for _ in range(2):
        site = Listening(handler(held["site-a"]))
        sites = {**{name: handler(held[name]) for name in SITES[1:]}, "site-a": site}
        reached.append(Rounds(plan, LocalGrid(sites), MemoryCheckpoints()).run())
        said.append(site.said)
    assert [one.round for one in reached] == [2, 2]
    assert set(reached[0].metrics) == {"rows"}
    assert not (flat(reached[0].model) == flat(reached[1].model)).any()
    assert len(said[0]) == len(said[1]) == 3
    for number, (a, b) in enumerate(zip(*said, strict=True)):
        first, second = message_from_bytes(a).content, message_from_bytes(b).content
        assert dict(first.metric_records[METRICS]) == {EXAMPLES: 12}
        one, two = (arrays_of(content.array_records[ARRAYS]) for content in (first, second))
        if number == 0:
            assert {name: value.tolist() for name, value in one.items()} == {
                "rows": [12.0], "outcome": [0.0, 0.0], "intensity": [0.0, 0.0, 0.0],
            }  # fmt: skip
        else:
            assert not any((one[name] == two[name]).any() for name in one)


@pytest.mark.slow
def test_under_masks_too_no_run_gives_the_same_model_twice() -> None:
    plan = private(masked=True)
    held = {site: data(plan, site) for site in SITES}
    one, two = (train_locally(plan, held) for _ in range(2))
    assert (one.round, set(one.metrics)) == (2, {"rows"})
    assert not (flat(one.model) == flat(two.model)).any()


@pytest.mark.slow
def test_it_learns_where_the_budget_is_wide() -> None:
    """At this epsilon noise is below 0.05 of a clipping length: what is tested is that the rest is right."""
    parameters = {"private": {"clip": 1.0, "rate": 0.5}, "augment": {}}
    plan = private(epsilon=5e3, parameters=parameters, rounds=6, local_steps=12, learning_rate=0.02)
    held = {site: data(plan, site) for site in SITES}
    model = Rounds(plan, LocalGrid({s: handler(d) for s, d in held.items()}), MemoryCheckpoints()).run()
    scorer: Any = learners.named("cnn", (), plan.pipeline.parameters)  # as inference does, without any noise
    scores, withheld = scorer.predict_images(model.model, model.preprocessing, source("site-b", masks=False).files())
    truth = dict(patients("site-b"))
    right = [(p > 0.5) == truth[who] for who, p in zip(scores["patient"], scores["probability"], strict=True)]
    assert (len(right), withheld) == (12, {})
    assert np.mean(right) >= 0.9


def test_scores_are_refused_even_when_asked_for() -> None:
    mine = data(private())
    model, agreed = started(mine)
    assert mine.learner.scoring() == {}
    with pytest.raises(InputError):
        mine.learner.score(model, agreed, mine.rows)


def test_sums_that_tell_more_are_dropped_by_the_centre() -> None:
    mine = data(private())
    sums = mine.learner.sums(mine.rows, 5)
    assert mine.learner.plausible(sums, 12)
    assert not mine.learner.plausible(sums, 11)
    assert not mine.learner.plausible({**sums, "outcome": np.array([6.0, 6.0])}, 12)


@pytest.mark.parametrize(
    ("parameters", "word"),
    [
        ({"private": None}, "private"),
        ({"window": None}, "window"),
        ({"local": {"accumulate": 2}}, "accumulate"),
        ({"local": {"precision": "mixed"}}, "precision"),
        ({"local": {"clip": 1.0}}, "clip"),
        ({"private": {"bounds": {"dense": [0, 1]}}}, "bounds"),
        ({"task": "continuous"}, "bounds"),
        ({"private": {"share": 0.1}}, "share"),
    ],
)
def test_what_cannot_be_noised_is_refused(parameters: dict[str, Any], word: str) -> None:
    with pytest.raises(InputError, match=word):
        learners.for_study(private(parameters=parameters))


@pytest.mark.parametrize("dp", ["central", "distributed"])
def test_other_kinds_are_not_kept_for_images(dp: str) -> None:
    raw = private().model_dump(by_alias=True, exclude_none=True)
    raw["privacy"] |= {"dp": dp, "secure_aggregation": dp == "distributed"}
    with pytest.raises(InputError, match="sample"):
        learners.for_study(Study.model_validate(raw))
