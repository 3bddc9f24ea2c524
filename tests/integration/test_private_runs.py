"""Runs with differential privacy over the in-process grid: what leaves, what is refused, and what is told."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from central.federation.checkpoint import Checkpoint, MemoryCheckpoints
from central.federation.local import LocalGrid, handler, train_locally
from central.federation.rounds import Rounds
from pipelines import clipping, guarantee, learners
from pipelines.flower import (
    ARRAYS,
    EXAMPLES,
    METRICS,
    arrays_of,
    message_from_bytes,
)
from pipelines.train import check_supported, load
from protocol.errors import CorsiaError, InputError
from protocol.study import Study
from tests.federation_hospital import study as survival_study
from tests.privatekit import BOUNDS, private
from tests.tabularkit import frame


def data(plan: Study, rows: int = 120):
    return {site: load(plan, site, frame(site, rows)) for site in plan.sites}


def run(plan: Study, rows: int = 120) -> Checkpoint:
    return train_locally(plan, data(plan, rows))


def hit_rate(plan: Study, reached: Checkpoint) -> float:
    held = frame("elsewhere", 600)
    said = learners.for_study(plan).predict(reached.model, reached.preprocessing, held)["probability"] > 0.5
    return float((said == (held["disease"] == 1)).mean())


@pytest.mark.parametrize(
    ("dp", "masked", "parameters"),
    [
        ("sample", False, {}),
        ("sample", True, {}),
        ("sample", True, {"private": {"bounds": BOUNDS, "rate": 0.25}}),
        ("central", False, {}),
        ("central", True, {"hidden": [6]}),
        ("distributed", True, {}),
    ],
)
def test_each_kind_learns_where_the_budget_is_wide(dp: str, masked: bool, parameters: dict[str, object]) -> None:
    # at this epsilon noise is below 0.05 of a clipping length: what is tested is that the rest is right
    plan = private(dp, masked=masked, epsilon=5e3, parameters=parameters, rounds=8, local_steps=6, learning_rate=0.4)
    reached = run(plan, 600)
    assert reached.round == 8
    assert hit_rate(plan, reached) > 0.7
    assert set(reached.metrics) == ({"rows"} if dp == "sample" else {"answers"})  # no score is told


@pytest.mark.parametrize(
    ("dp", "masked"), [("sample", True), ("central", True), ("central", False), ("distributed", True)]
)
def test_no_run_gives_the_same_model_twice(dp: str, masked: bool) -> None:
    plan = private(dp, masked=masked, rounds=1)
    one, two = run(plan), run(plan)
    assert not np.array_equal(one.model["layer.0.weight"], two.model["layer.0.weight"])


def test_central_noise_is_the_same_with_and_without_masks_and_of_the_guarantees_size() -> None:
    """Each run's model is received + mean of clipped updates + noise: 400 numbers, spread within 6 standard errors.

    A correct implementation fails once in 10^8.
    """
    plan = private("central", rounds=1, epsilon=0.02, parameters={"private": {"bounds": BOUNDS}})
    scale = guarantee.multiplier(plan) / 3
    for masked in (False, True):
        drawn = []
        changed = private("central", masked=masked, rounds=1, epsilon=0.02)
        held = data(changed)
        for _ in range(100):
            drawn += train_locally(changed, held).model["layer.0.weight"].ravel().tolist()
        assert abs(np.std(drawn) / scale - 1) < 6 / np.sqrt(2 * len(drawn))
        assert abs(np.mean(drawn)) < 6 * scale / np.sqrt(len(drawn)) + 1 / 3


# -- what leaves a site ------------------------------------------------------------------------------------------------


class Listening:
    """A site whose answers are written down."""

    def __init__(self, plan: Study, table: pd.DataFrame) -> None:
        self.said: list[bytes] = []
        self._answer = handler(load(plan, "site-a", table))

    def __call__(self, raw: bytes) -> bytes:
        self.said.append(self._answer(raw))
        return self.said[-1]


def answers(plan: Study, table: pd.DataFrame) -> list[bytes]:
    site = Listening(plan, table)
    others = {s: handler(load(plan, s, frame(s))) for s in plan.sites[1:]}
    Rounds(plan, LocalGrid({"site-a": site, **others}), MemoryCheckpoints()).run()
    return site.said


def test_sample_level_everything_but_the_number_of_rows_is_noised() -> None:
    plan = private("sample", rounds=2)
    one, two = answers(plan, frame("site-a")), answers(plan, frame("site-a"))
    assert len(one) == len(two) == 3
    for a, b in zip(one, two, strict=True):
        first, second = message_from_bytes(a).content, message_from_bytes(b).content
        assert dict(first.metric_records[METRICS]) == {EXAMPLES: 120}
        for name, value in arrays_of(first.array_records[ARRAYS]).items():
            other = arrays_of(second.array_records[ARRAYS])[name]
            public = name in ("rows", "count", "square", "outcome")
            assert np.array_equal(value, other) if public else not (value == other).any()


@pytest.mark.parametrize("dp", ["central", "distributed"])
def test_site_level_nothing_but_a_short_update_tells_of_the_rows(dp: str) -> None:
    masked = dp == "distributed"
    plan = private(dp, masked=masked, rounds=1, privacy={"clip": 0.1}, learning_rate=1.0)
    said = []
    for table in (frame("site-a"), frame("site-b", 37)):
        mine = load(plan, "site-a", table)
        sums = mine.learner.sums(mine.rows, 5)
        agreed = mine.learner.agree(sums)
        model = mine.learner.initial(sums, agreed)
        kept = clipping.cut(model, mine.learner.fit(model, agreed, mine.rows, 1), 0.1)
        assert clipping.length(model, kept) <= 0.1
        said.append(sums)
    assert all(np.array_equal(said[0][name], said[1][name]) for name in said[0])
    if not masked:
        one = answers(plan, frame("site-a"))
        counts = [dict(message_from_bytes(raw).content.metric_records[METRICS]) for raw in one]
        assert counts == [{EXAMPLES: 1}] * 2


def test_a_site_that_does_not_cut_is_left_out() -> None:
    plan = private("central", rounds=1, quorum=0.6, privacy={"clip": 0.05})
    loose = private("central", rounds=1, quorum=0.6, privacy={"clip": 50.0}, learning_rate=2.0)
    sites = {s: handler(load(plan, s, frame(s))) for s in plan.sites}
    sites["site-b"] = handler(load(loose, "site-b", frame("site-b")))
    reached = Rounds(plan, LocalGrid(sites), MemoryCheckpoints()).run()
    assert reached.sites == ("site-a", "site-c")


def test_a_patient_under_two_spellings_is_one() -> None:
    """`A1`, ` a1` and, as some exports have it, full-width letters: the noise is for the patient, not the spelling."""
    plan = private("sample")
    table = frame("site-a", 120)
    table["pid"] = [f"{'Aa'[i % 2]}{i // 3}" if i % 3 else f" \uff21{i // 3}" for i in range(120)]
    assert load(plan, "site-a", table, patient="pid").rows.count == 40


def test_of_a_patient_with_many_rows_one_is_used() -> None:
    plan = private("sample")
    table = frame("site-a").assign(pid=[f"p{i % 40}" for i in range(120)])
    assert load(plan, "site-a", table, patient="pid").rows.count == 40
    assert load(plan, "site-a", table).rows.count == 120
    central = private("central")
    assert load(central, "site-a", table, patient="pid").rows.count == 120


@pytest.mark.parametrize("parameters", [{}, {"hidden": [4]}])
@pytest.mark.parametrize("dp", ["sample", "central"])
def test_scores_are_refused_even_when_asked_for(dp: str, parameters: dict[str, object]) -> None:
    plan = private(dp, parameters=parameters)
    mine = load(plan, "site-a", frame("site-a"))
    agreed = mine.learner.agree(mine.learner.sums(mine.rows, 5))
    with pytest.raises(InputError):
        mine.learner.score(mine.learner.initial({}, agreed), agreed, mine.rows)


# -- what is refused ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("dp", "changes", "word"),
    [
        ("distributed", {"masked": False}, "secure_aggregation"),
        ("central", {"strategy": "fedmedian"}, "fedmedian"),
        ("central", {"strategy": "qfedavg"}, "are not noised"),
        ("sample", {"strategy": "qfedavg"}, "are not noised"),
        ("sample", {"metrics": ("auc",)}, "are not noised"),
        ("sample", {"stopping": {"monitor": "auc", "mode": "max"}}, "are not noised"),
        ("sample", {"privacy": {"clip": 1.0}}, "clip"),
        ("central", {"privacy": {"max_colluding": 1}}, "max_colluding"),
    ],
)
def test_a_study_that_would_not_be_covered_is_not_one(dp: str, changes: dict[str, object], word: str) -> None:
    with pytest.raises(ValueError, match=word):
        private(dp, **{"masked": dp == "distributed", **changes})  # type: ignore[arg-type]


@pytest.mark.parametrize("dp", ["sample", "central"])
def test_a_learner_that_cannot_is_refused_with_its_reason(dp: str) -> None:
    raw = survival_study().model_dump(by_alias=True, exclude_none=True)
    plan = Study.model_validate(raw | {"privacy": {"dp": dp, "epsilon": 1.0, "delta": 1e-5}})
    with pytest.raises(InputError, match="learner 'survival' can keep: none"):
        check_supported(plan)
    with pytest.raises(CorsiaError):
        Rounds(plan, LocalGrid({}), MemoryCheckpoints())


@pytest.mark.parametrize("strategy", ["fedadam", "fedavgm", "fedmedian", "krum", "fedprox", "cyclic"])
def test_what_a_strategy_makes_of_noised_updates_is_free(strategy: str) -> None:
    reached = run(private("sample", strategy=strategy, rounds=2))
    assert reached.round == 2


# -- what is told ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("dp", "masked"), [("sample", False), ("central", False), ("distributed", True)])
def test_the_guarantee_is_over_everything_and_names_its_terms(dp: str, masked: bool) -> None:
    plan = private(dp, masked=masked, rounds=5)
    made = guarantee.guarantee(plan, 5)
    assert 0.999 * 2 < made["epsilon"] <= 2
    assert guarantee.guarantee(plan, 2)["epsilon"] < 0.8 * made["epsilon"]
    assert (made["kind"], made["delta"], made["accountant"]) == (dp, 1e-5, "rdp")
    assert made["unit"].startswith("one row" if dp == "sample" else "one site")
    text = "\n".join(guarantee.sentences(made))
    for part in (made["unit"], made["adjacency"], made["against"], *made["voids"], "epsilon 2 "):
        assert part in text
    assert guarantee.guarantee(survival_study(), 3) == {}
    assert "No differential privacy" in guarantee.sentences({})[0]
