"""Training with differential privacy through the daemon: real workers, the ledger, answers that are sent again."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edge.config import EdgeConfig
from edge.journal import Journal
from edge.ledger import Ledger
from pipelines import clipping, guarantee, learners
from pipelines.flower import (
    ARRAYS,
    CONFIG,
    Arrays,
    Message,
    RecordDict,
    array_record,
    arrays_of,
    config_record,
    message_from_bytes,
    message_to_bytes,
)
from pipelines.train import PREPROCESSING
from privacy.dp import accountant
from privacy.envelope import read_key
from protocol.assignment import Assignment, RoundPhase, State
from protocol.study import Study
from tests.agentkit import Office, enrolled, running, site_config, study

BOUNDS = {"score": [0, 40], "time": [100, 1000]}
DELTA = 1e-5


def plan(
    study_id: str = "one", dp: str = "sample", *, epsilon: float = 1.0, hidden: Any = (), **training: Any
) -> Study:
    table = {
        "learner": "tabular", "features": ["score", "time"], "outcome": ["status"], "rounds": 2, "local_steps": 2,
        "learning_rate": 0.5, "publish": {"model": "m"},
    }  # fmt: skip
    return study(
        study_id,
        lane="train",
        dataset={"name": "cohort", "columns": ["score", "time", "status"]},
        pipeline={"name": "train", "parameters": {"private": {"bounds": BOUNDS, "rate": 0.5}, "hidden": list(hidden)}},
        output={},
        training=table | training,
        privacy={"k": 2, "min_cohort": 5, "dp": dp, "epsilon": epsilon, "delta": DELTA},
    )


def hospital(folder: Path, **policy: Any) -> EdgeConfig:
    return site_config(folder, rows=80, **({"allow_unbounded_epsilon": False, "delta": DELTA} | policy))


def question(kind: str, asked: Study, round_: int = 0, arrays: Arrays | None = None, attempt: int = 0) -> bytes:
    from central.federation.flower import identify

    identify(1)
    learner = learners.for_study(asked)
    if kind == "query.prepare":
        record = RecordDict({CONFIG: config_record(0, learner.preparation(), attempt=attempt)})
    else:
        preprocessing = learner.agree({name: np.ones(shape) for name, (_, shape) in learner.preparation().items()})
        model = arrays or learner.initial({}, preprocessing)
        shapes = learner.update(model) if kind == "train" else {}
        record = RecordDict(
            {
                ARRAYS: array_record(model),
                PREPROCESSING: array_record(preprocessing),
                CONFIG: config_record(round_, shapes, attempt=attempt),
            }
        )
    message = Message(record, 1, kind, group_id=str(round_))
    return message_to_bytes(message, run_id=1, message_id=f"m{round_}-{attempt}")


class Centre:
    """What a federation asks of the one site."""

    def __init__(self, config: EdgeConfig, office: Office, asked: Study) -> None:
        self.config, self.office, self.study = config, office, asked
        self.assigned = office.submit(asked)

    def joined(self) -> Any:
        return self.office.wait(self.assigned)

    def ask(self, kind: str, round_: int = 0, attempt: int = 0, **question_: Any) -> tuple[Assignment, Any]:
        phase = {"query.prepare": RoundPhase.PREPARE, "train": RoundPhase.TRAIN, "evaluate": RoundPhase.EVALUATE}[kind]
        message = question(kind, self.study, round_, attempt=attempt, **question_)
        made = self.office.instruct(self.assigned, message, round=round_, phase=phase, attempt=attempt)
        return made, self.office.wait(made)

    def numbers(self, made: Assignment) -> Arrays:
        (batch,) = self.office.opened(made, read_key(self.config.state_dir / "identity.key"))
        return arrays_of(message_from_bytes(batch.items[0].data).content.array_records[ARRAYS])


def spends(config: EdgeConfig) -> list[Any]:
    ledger = Ledger(config.state_dir / "ledger.db")
    try:
        return ledger.spends()
    finally:
        ledger.close()


def total(config: EdgeConfig) -> accountant.Curve:
    return accountant.compose(one.cost for one in spends(config))


@pytest.mark.parametrize("hidden", [(), (3,)])
def test_a_whole_run_costs_what_was_asked_and_is_told_nothing_else(tmp_path: Path, hidden: tuple[int, ...]) -> None:
    config = hospital(tmp_path)
    office = enrolled(config)
    with running(config, office):
        centre = Centre(config, office, plan(hidden=hidden))
        said = centre.joined()
        assert (said.state, said.code, said.counts) == (State.DONE, "", {})  # exact counts are in no budget
        for kind, round_ in (("query.prepare", 0), ("train", 1), ("train", 2)):
            made, said = centre.ask(kind, round_)
            assert (said.state, said.code) == (State.DONE, "")
            assert centre.numbers(made)
        whole = guarantee.cost(centre.study)
        assert total(config).epsilon(DELTA) == pytest.approx(whole.epsilon(DELTA), rel=1e-9)
        assert 0.999 < whole.epsilon(DELTA) <= 1.0
        # scores, a round that the study does not have, and another question under one that it has
        _, said = centre.ask("evaluate", 2)
        assert (said.state, said.code) == (State.REFUSED, "policy.epsilon")
        _, said = centre.ask("train", 3)
        assert (said.state, said.code) == (State.REFUSED, "study.rounds")
        other = {name: value + 0.25 for name, value in centre.numbers(made).items()}
        _, said = centre.ask("train", 2, attempt=1, arrays=other)
        assert (said.state, said.code) == (State.REFUSED, "budget.epsilon")
    assert total(config).epsilon(DELTA) == pytest.approx(whole.epsilon(DELTA), rel=1e-9)
    assert len(spends(config)) == 3


def test_a_further_attempt_is_the_same_draw_and_costs_nothing(tmp_path: Path) -> None:
    config = hospital(tmp_path)
    office = enrolled(config)
    with running(config, office):
        centre = Centre(config, office, plan())
        centre.joined()
        first, _ = centre.ask("train", 1)
        again, said = centre.ask("train", 1, attempt=1)
        assert said.state is State.DONE
    with running(config, office):  # it is remembered over a restart
        third, said = centre.ask("train", 1, attempt=2)
        assert said.state is State.DONE
        one, two, three = (centre.numbers(made) for made in (first, again, third))
        for name in one:
            assert np.array_equal(one[name], two[name])
            assert np.array_equal(one[name], three[name])
        round_cost = guarantee.cost(centre.study, RoundPhase.TRAIN)
        assert [one.cost for one in spends(config)] == [round_cost, accountant.ZERO, accountant.ZERO]
        # another question under the same round is another draw, and is paid
        model = {name: value + 0.25 for name, value in one.items()}
        other, said = centre.ask("train", 1, attempt=3, arrays=model)
        assert said.state is State.DONE
        assert spends(config)[-1].cost == round_cost
        assert not any(np.array_equal(centre.numbers(other)[name], one[name]) for name in one)
    kept = list((config.state_dir / "draws").iterdir())
    assert [path.stat().st_mode & 0o777 for path in kept] == [0o600]
    assert b"layer.0" not in kept[0].read_bytes()  # sealed


def test_a_run_that_does_not_fit_is_refused_before_its_rows_are_loaded(tmp_path: Path) -> None:
    config = hospital(tmp_path, epsilon_per_year=1.2)
    office = enrolled(config)
    with running(config, office) as agent:
        centre = Centre(config, office, plan("one"))
        centre.joined()
        for kind, round_ in (("query.prepare", 0), ("train", 1), ("train", 2)):
            assert centre.ask(kind, round_)[1].state is State.DONE
        before = len(agent._warm)
        said = Centre(config, office, plan("two")).joined()
        assert (said.state, said.code) == (State.REFUSED, "budget.epsilon")
        assert len(agent._warm) == before
        assert Centre(config, office, plan("three", epsilon=0.2)).joined().state is State.DONE
    assert len(spends(config)) == 3


def test_the_sites_stricter_epsilon_is_what_the_noise_is_made_for(tmp_path: Path) -> None:
    config = hospital(tmp_path, epsilon_per_study=0.1)
    office = enrolled(config)
    with running(config, office):
        centre = Centre(config, office, plan(epsilon=50.0))
        centre.joined()
        for kind, round_ in (("query.prepare", 0), ("train", 1), ("train", 2)):
            assert centre.ask(kind, round_)[1].state is State.DONE
    assert total(config).epsilon(DELTA) == pytest.approx(0.1, rel=1e-3)


@pytest.mark.parametrize(
    ("policy", "changes", "code"),
    [
        ({"allow_unbounded_epsilon": False}, {}, "policy.epsilon"),  # what leaves has no noise yet
        ({"epsilon_per_study": 0.5}, {}, "policy.epsilon"),  # noise for all cannot be made stricter by one
        ({"delta": 1e-6}, {}, "policy.epsilon"),
        ({"epsilon_per_year": 0.9}, {}, "budget.epsilon"),
        ({}, {}, ""),
    ],
)
def test_central_noise_needs_a_site_that_trusts_the_federation(
    tmp_path: Path, policy: dict[str, Any], changes: dict[str, Any], code: str
) -> None:
    config = hospital(tmp_path, **({"allow_unbounded_epsilon": True} | policy))
    office = enrolled(config)
    asked = plan(dp="central", **changes).model_copy(
        update={"pipeline": plan().pipeline.model_copy(update={"parameters": {"private": {"bounds": BOUNDS}}})}
    )
    with running(config, office):
        centre = Centre(config, office, asked)
        assert centre.joined().code == code
        if not code:
            made, said = centre.ask("train", 1)
            assert said.state is State.DONE
            learner = learners.for_study(asked)
            model = learner.initial({}, {"kept": np.ones(2)})
            assert 0 < clipping.length(model, centre.numbers(made)) <= 1.0
            centre.ask("train", 1, attempt=1)
            assert [one.cost for one in spends(config)] == [guarantee.cost(asked, RoundPhase.TRAIN), accountant.ZERO]


def test_the_order_is_reserve_then_gate_then_out(tmp_path: Path) -> None:
    config = hospital(tmp_path)
    office = enrolled(config)
    with running(config, office):
        centre = Centre(config, office, plan())
        centre.joined()
        made, _ = centre.ask("train", 1)
    lines = [line for line in Journal(config.state_dir / "journal.jsonl", readonly=True).tail(200)
             if line.fields.get("assignment") == made.id]  # fmt: skip
    seen = [line.event for line in lines]
    assert seen.index("ledger.reserved") < seen.index("gate.passed") < seen.index("parcel.planned")
    reserved = next(line for line in lines if line.event == "ledger.reserved")
    assert reserved.fields["epsilon"] > 0


def test_a_hostile_worker_that_does_not_cut_is_stopped_at_the_gate() -> None:
    from edge.policy import Effective
    from edge.updates import check_update
    from protocol.assignment import RoundInstruction
    from protocol.errors import DisclosureRefused

    asked = plan(dp="central").model_copy(
        update={"pipeline": plan().pipeline.model_copy(update={"parameters": {"private": {"bounds": BOUNDS}}})}
    )
    message = question("train", asked, 1)
    model = learners.for_study(asked).initial({}, {"kept": np.ones(2)})
    instruction = RoundInstruction(
        run="r", study_digest="0" * 64, site="site-a", round=1, phase=RoundPhase.TRAIN, attempt=0, message="0" * 64,
        message_size=1, deadline=1.0,
    )  # fmt: skip
    effective = Effective(k=2, min_cohort=5, max_bytes=1, max_bytes_per_year=1, epsilon=1.0)

    def judged(moved: float, examples: int = 1) -> None:
        from pipelines.flower import METRICS, metric_record, reply

        answer = {name: (value + moved).astype(value.dtype) for name, value in model.items()}
        content = RecordDict({ARRAYS: array_record(answer), METRICS: metric_record({"num-examples": examples})})
        made = message_to_bytes(reply(message_from_bytes(message), content))
        check_update(asked, effective, instruction, message, made)

    judged(0.5)
    for arguments in ((0.6,), (float("nan"),), (0.1, 70)):
        with pytest.raises(DisclosureRefused) as error:
            judged(*arguments)
        assert error.value.code == "gate.update"
