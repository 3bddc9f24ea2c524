"""Rounds of a training run, and inference, through the daemon with real workers and a real ClientApp."""

from __future__ import annotations

import os
import signal
import time
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from edge.config import EdgeConfig
from edge.ledger import Ledger
from edge.site import Site
from privacy.envelope import SecretKey, read_key
from protocol.assignment import RoundPhase, State
from protocol.errors import StudyRefused
from protocol.study import Study
from tests.agentkit import Office, enrolled, running, site_config, study


def training_study(study_id: str = "fed", **training: Any) -> Study:
    table = {
        "learner": "survival",
        "features": ["age", "score"],
        "outcome": ["time", "status"],
        "rounds": 2,
        "local_steps": 3,
        "publish": {"model": "risk"},
    }
    return study(
        study_id,
        lane="train",
        dataset={"name": "cohort", "columns": ["age", "score", "time", "status"]},
        pipeline={"name": "train"},
        output={},
        training=table | training,
    )


def prepare_message(asked: Study) -> bytes:
    from central.federation.flower import identify
    from pipelines import learners
    from pipelines.flower import CONFIG, Message, RecordDict, config_record, message_to_bytes

    identify(1)

    declared = learners.for_study(asked).preparation()
    record = RecordDict({CONFIG: config_record(0, declared, attempt=0)})
    return message_to_bytes(Message(record, 1, "query.prepare", group_id="0"), run_id=1, message_id="m1")


@pytest.fixture
def config(tmp_path: Path) -> EdgeConfig:
    return site_config(tmp_path)


@pytest.fixture
def office(config: EdgeConfig) -> Office:
    return enrolled(config)


def test_a_round_is_answered_once_and_survives_worker_and_restart(config: EdgeConfig, office: Office) -> None:
    from pipelines.replies import describe_reply

    asked_study = training_study()
    message = prepare_message(asked_study)
    with running(config, office) as agent:
        asked = office.submit(asked_study)
        said = office.wait(asked)
        assert (said.state, said.counts["rows"]) == (State.DONE, 21)
        first = office.instruct(asked, message)
        assert office.wait(first).state is State.DONE
        (batch,) = office.opened(first, read_key(config.state_dir / "identity.key"))
        shape = describe_reply(batch.items[0].data, message)
        assert shape.metrics["num-examples"] == 21
        # the same instruction under another assignment is not answered again
        again = office.instruct(asked, message, id="f" * 32, deadline=time.time() + 61)
        assert office.wait(again).code == "study.replay"
        # a dead worker is started again for the next attempt
        (worker,) = agent._warm.values()
        assert worker._child is not None
        os.kill(worker._child.pid, signal.SIGKILL)
        second = office.instruct(asked, message, attempt=1)
        assert office.wait(second).state is State.DONE
    with running(config, office):
        third = office.instruct(asked, message, attempt=2)
        assert office.wait(third).state is State.DONE
    replies = [
        office.opened(one, read_key(config.state_dir / "identity.key"))[0].items[0].data
        for one in (first, second, third)
    ]
    assert len(set(replies)) == 1
    keys = [spend.key for spend in Ledger(config.state_dir / "ledger.db").spends()]
    assert keys == ["r1/0/prepare", "r1/0/prepare/1", "r1/0/prepare/2"]


def first_model(asked: Study) -> tuple[Any, Any]:
    """Model and preprocessing before round 1, of other rows than the site's."""
    import pandas as pd

    from pipelines import learners

    made = learners.for_study(asked)
    table = pd.DataFrame({name: [float(n % 7 + 1) for n in range(30)] for name in ("age", "score", "time")})
    sums = made.sums(made.rows(table.assign(status=1)), 1)
    preprocessing = made.agree(sums)
    return made.initial(sums, preprocessing), preprocessing


def round_message(asked: Study, kind: str, model: Any, preprocessing: Any, declared: Any, *metrics: str) -> bytes:
    from central.federation.flower import identify
    from pipelines import flower
    from pipelines.train import PREPROCESSING

    identify(1)
    content = flower.RecordDict(
        {
            flower.ARRAYS: flower.array_record(model),
            flower.CONFIG: flower.config_record(1, declared, metrics, attempt=0),
            PREPROCESSING: flower.array_record(preprocessing),
        }
    )
    return flower.message_to_bytes(flower.Message(content, 1, kind, group_id="1"), run_id=1, message_id="e1")


def evaluate_message(asked: Study) -> bytes:
    from pipelines import learners

    model, preprocessing = first_model(asked)
    return round_message(asked, "evaluate", model, preprocessing, learners.for_study(asked).scoring(), "c-index")


# Those that ask a site for something of their own run always; the others differ at the centre alone.
FULL = (
    "fedavg",
    "fedavgm",
    "fedadam",
    "fedadagrad",
    "fedyogi",
    "fedmedian",
    "fedtrimmedavg",
    "krum",
    "multikrum",
    "bulyan",
)


@pytest.mark.parametrize(
    "name", ["qfedavg", "fedprox", "cyclic", *(pytest.param(n, marks=pytest.mark.full) for n in FULL)]
)
def test_a_site_trains_for_every_strategy(tmp_path: Path, name: str) -> None:
    """Through agent, worker and gate; the strategy makes a model of the answer where one is enough for it."""
    from central.federation import flower as server
    from central.federation.moments import Moments
    from pipelines import flower, learners
    from tests.flowerkit import Nodes

    config = site_config(tmp_path, site_metrics=True)
    parameters = {"fedprox": {"proximal_mu": 0.1}, "fedavgm": {"server_momentum": 0.9}}.get(name, {})
    office, asked_study = enrolled(config), training_study(strategy=name, strategy_parameters=parameters)
    assert asked_study.training is not None
    made = server.strategy(asked_study.training)
    model, preprocessing = first_model(asked_study)
    declared = learners.for_study(asked_study).update(model)
    message = round_message(asked_study, "train", model, preprocessing, declared, *server.told(made))
    with running(config, office):
        asked = office.submit(asked_study)
        assert office.wait(asked).state is State.DONE
        round_ = office.instruct(asked, message, round=1, phase=RoundPhase.TRAIN)
        assert office.wait(round_).state is State.DONE
    (batch,) = office.opened(round_, read_key(config.state_dir / "identity.key"))
    answer = flower.message_from_bytes(batch.items[0].data)
    assert flower.shapes_of(flower.views_of(answer.content[flower.ARRAYS])) == declared
    assert set(answer.content[flower.METRICS]) == {flower.EXAMPLES, *server.told(made)}
    if name in server._REPLIES:
        return  # a robust strategy chooses among several
    asking = server.configured(
        made.configure_train(1, flower.array_record(model), flower.config_record(1, {}), Nodes(1)), made
    )
    assert len(asking) == 1
    stepped = server.aggregate(made, 1, [answer], model, Moments(), Moments())
    assert any((stepped[key] != value).any() for key, value in model.items())


@pytest.mark.parametrize("allowed", [None, True])
def test_a_sites_own_metrics_leave_only_where_its_policy_says_so(tmp_path: Path, allowed: bool | None) -> None:
    from pipelines.replies import describe_reply

    config = site_config(tmp_path, **({} if allowed is None else {"site_metrics": allowed}))
    office, asked_study = enrolled(config), training_study(metrics=["c-index"])
    message = evaluate_message(asked_study)
    with running(config, office):
        asked = office.submit(asked_study)
        assert office.wait(asked).state is State.DONE, "the study is not refused"
        round_ = office.instruct(asked, message, round=1, phase=RoundPhase.EVALUATE)
        assert office.wait(round_).state is State.DONE
        fair = office.wait(office.submit(training_study("fair", strategy="qfedavg")))
    (batch,) = office.opened(round_, read_key(config.state_dir / "identity.key"))
    shown = set(describe_reply(batch.items[0].data, message).metrics)
    assert shown == {"num-examples", *(["c-index"] if allowed else [])}
    lines = (config.state_dir / "journal.jsonl").read_text().splitlines()
    (passed,) = [line for line in lines if "gate.passed" in line and round_.id in line]
    assert ("site-metrics" in passed) is bool(allowed)
    assert (fair.state, fair.code) == ((State.DONE, "") if allowed else (State.REFUSED, "policy.site-metrics"))


def test_an_answer_that_comes_too_late_ends_its_round_and_takes_no_room(config: EdgeConfig, office: Office) -> None:
    asked_study = training_study()
    message = prepare_message(asked_study)
    calls: list[int] = []

    def late() -> None:
        calls.append(1)
        raise StudyRefused("study.late")

    with running(config, office) as agent:
        asked = office.submit(asked_study)
        office.wait(asked)
        office.fail["deliver"] = late
        said = office.wait(office.instruct(asked, message))
        assert (said.state, said.code) == (State.EXPIRED, "study.late")
        del office.fail["deliver"]
        assert office.wait(office.instruct(asked, message, attempt=1)).state is State.DONE
        assert [folder for folder, _ in agent.site.spool.entries()] == ["sent"]
        office.fail["fetch"] = late
        said = office.wait(office.instruct(asked, message, attempt=2))
        assert (said.state, said.code) == (State.EXPIRED, "study.late")
    assert len(calls) == 2, "not tried again"


def test_rounds_that_are_not_the_federations_are_refused(config: EdgeConfig, office: Office) -> None:
    asked_study = training_study()
    message = prepare_message(asked_study)
    with running(config, office):
        asked = office.submit(asked_study)
        office.wait(asked)
        codes = {
            "study.signature": office.instruct(asked, message, signer=SecretKey.generate()),
            "study.expired": office.instruct(asked, message, deadline=time.time() - 1),
            "study.replay": office.instruct(asked, message, site="site-b"),
            "study.unknown": office.instruct(replace(asked, study_digest="ab" * 32), message),
            "gate.update": office.instruct(asked, message, phase=RoundPhase.EVALUATE, round=1),
        }
        for code, made in codes.items():
            said = office.wait(made)
            assert said.code == code
            assert said.state in (State.REFUSED, State.EXPIRED)
        late = office.instruct(asked, message)
        assert office.wait(late).code == "study.replay"  # round 0 after round 1
    assert office.parcels == {}


@pytest.mark.parametrize("hours", [-9, 9])
def test_a_clock_that_is_hours_wrong_ends_no_round(
    config: EdgeConfig, office: Office, monkeypatch: pytest.MonkeyPatch, hours: int
) -> None:
    from corsia.doctor import examine

    asked_study = training_study().model_copy(update={"expires": datetime.now(UTC) + timedelta(days=3)})
    message = prepare_message(asked_study)
    monkeypatch.setattr(Site, "now", lambda _self: time.time() + 3600 * hours)
    with running(config, office):
        asked = office.submit(asked_study)
        office.wait(asked)
        assert office.wait(office.instruct(asked, message)).state is State.DONE
        late = office.instruct(asked, message, attempt=1, deadline=time.time() - 1)
        assert office.wait(late).code == "study.expired"  # by the centre's clock, whatever ours says
    found = {f.check: f for f in examine(config.state_dir.parent / "edge.toml")}["clock against the centre"]
    assert (found.ok, round(int(found.found.removesuffix(" s")) / 3600)) == (False, hours)


def test_a_model_beyond_the_sites_limit_is_not_fetched(tmp_path: Path) -> None:
    config = site_config(tmp_path, max_model_bytes=1000)
    office = enrolled(config)

    def fetched() -> None:
        raise AssertionError("the site asked for a model that is too large")

    office.fail["fetch"] = fetched
    asked_study = training_study()
    with running(config, office):
        asked = office.submit(asked_study)
        office.wait(asked)
        made = office.instruct(asked, prepare_message(asked_study), message_size=1000 + (16 << 20) + 1)
        said = office.wait(made)
        assert (said.state, said.code) == (State.REFUSED, "policy.model-size")
        beyond = office.instruct(asked, prepare_message(asked_study), round=3)
        said = office.wait(beyond)
        assert (said.state, said.code) == (State.REFUSED, "study.rounds")


def test_a_round_of_a_study_that_was_never_approved(tmp_path: Path) -> None:
    config = site_config(tmp_path, approve="manual")
    office = enrolled(config)
    asked_study = training_study()
    with running(config, office):
        asked = office.submit(asked_study)
        office.wait(asked, State.PENDING)
        said = office.wait(office.instruct(asked, prepare_message(asked_study)))
    assert (said.state, said.code) == (State.REFUSED, "approval.pending")


def test_too_small_a_cohort_does_not_train(tmp_path: Path) -> None:
    config = site_config(tmp_path, min_cohort=22)
    office = enrolled(config)
    with running(config, office):
        assert office.wait(office.submit(training_study())).code == "gate.cohort"
