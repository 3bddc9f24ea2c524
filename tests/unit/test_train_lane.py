"""The lane at the site: what is loaded, what is refused, and what a session answers."""

from __future__ import annotations

import pandas as pd
import pytest

from central.federation.flower import identify
from pipelines import Job, flower, replies
from pipelines.train import PREPARE, PREPROCESSING, Session, run
from protocol.errors import CorsiaError, InputError
from protocol.study import Privacy, Study
from tests.federation_hospital import FrameSource, frame, session, study

identify(1)


class Gate:
    def __init__(self) -> None:
        self.items, self.withheld = [], {}

    def put(self, item) -> None:
        self.items.append(item)

    def withhold(self, reason: str, count: int = 1) -> None:
        self.withheld[reason] = self.withheld.get(reason, 0) + count

    def progress(self, done: int, total: int) -> None:
        pass


def job(plan: Study, **roles: str) -> Job:
    return Job(study=plan, site="site-a", key=bytes(32), roles=roles)


def prepared(plan: Study) -> bytes:
    from pipelines.learners import for_study

    config = flower.config_record(0, for_study(plan).preparation(), attempt=0)
    message = flower.Message(flower.RecordDict({flower.CONFIG: config}), 1, PREPARE, group_id="0")
    return flower.message_to_bytes(message, run_id=1, message_id="p")


def test_the_study_itself_puts_nothing_and_counts_what_cannot_be_used() -> None:
    table = frame("site-a").astype({"time": float})
    table.loc[:2, "time"] = float("nan")
    gate = Gate()
    run(job(study()), FrameSource(table), gate)
    assert gate.items == []
    assert gate.withheld == {"incomplete": 3}


@pytest.mark.parametrize(
    ("table", "code"),
    [
        (None, "input.table"),
        (frame("site-a").drop(columns="time"), "input.column-missing"),
        (frame("site-a").assign(status=7), "input.rows"),
        (frame("site-a", 9), "gate.cohort"),
        (frame("site-a", 1), "gate.cohort"),
    ],
)
def test_what_cannot_be_trained_on_is_refused_with_its_code(table: pd.DataFrame | None, code: str) -> None:
    with pytest.raises(CorsiaError) as error:
        run(job(study()), FrameSource(table), Gate())
    assert error.value.code == code


def test_the_cohort_is_counted_in_persons() -> None:
    table = frame("site-a").assign(pid=[f" P{i % 4}" for i in range(40)])
    with pytest.raises(CorsiaError) as error:
        run(job(study(), pid="patient"), FrameSource(table), Gate())
    assert error.value.code == "gate.cohort"


@pytest.mark.parametrize(
    "privacy",
    [
        {"secure_aggregation": True, "max_examples": 10**9},  # rounded too coarsely
        {"dp": "sample", "epsilon": 1.0, "delta": 1e-5},
        {"epsilon": 1.0},
    ],
)
def test_protection_that_is_not_there_is_refused_not_ignored(privacy: dict[str, object]) -> None:
    plan = study().model_copy(update={"privacy": Privacy.model_validate(privacy)})
    with pytest.raises(InputError) as error:
        run(job(plan), FrameSource(frame("site-a")), Gate())
    assert error.value.code == "input.study"


def test_a_session_answers_what_the_instruction_declares() -> None:
    plan = study()
    asked = prepared(plan)
    answer = session(plan, "site-a").handle(asked)
    shape = replies.describe_reply(answer, asked)
    assert shape.arrays == replies.describe_message(asked).arrays
    assert shape.metrics == {flower.EXAMPLES: 40}
    assert answer == session(plan, "site-a").handle(asked)


def evaluation(plan: Study) -> bytes:
    import numpy as np

    from pipelines.learners import for_study

    made = for_study(plan)
    rows = made.rows(frame("site-a"))
    sums = made.sums(rows, 1)
    preprocessing = made.agree(sums)
    record = flower.RecordDict(
        {
            flower.ARRAYS: flower.array_record(
                {k: np.asarray(v) for k, v in made.initial(sums, preprocessing).items()}
            ),
            flower.CONFIG: flower.config_record(1, made.scoring(), ("c-index",), attempt=0),
            PREPROCESSING: flower.array_record(preprocessing),
        }
    )
    return flower.message_to_bytes(flower.Message(record, 1, "evaluate", group_id="1"), run_id=1, message_id="e")


def test_a_sites_own_metric_leaves_only_where_study_and_site_say_so_and_rounded() -> None:
    asked = evaluation(study())
    silent = replies.describe_reply(session(study(), "site-a").handle(asked))
    assert set(silent.metrics) == {flower.EXAMPLES}
    plan = study(metrics=("c-index",))
    kept = replies.describe_reply(session(plan, "site-a").handle(asked))
    assert set(kept.metrics) == {flower.EXAMPLES}, "the site did not say that they may leave"
    shown = replies.describe_reply(session(plan, "site-a", site_metrics=True).handle(asked))
    assert set(shown.metrics) == {flower.EXAMPLES, "c-index"}
    assert shown.metrics["c-index"] == round(shown.metrics["c-index"], 3)


@pytest.mark.parametrize("raw", [b"", b"nonsense", evaluation(study())[:-3]])
def test_bytes_that_are_no_instruction_are_refused(raw: bytes) -> None:
    with pytest.raises(InputError):
        session(study(), "site-a").handle(raw)


@pytest.mark.parametrize("kind", ["train.other", "query.who", "train"])
def test_instructions_that_do_not_fit_are_refused_and_the_session_goes_on(kind: str) -> None:
    warm = Session(job(study()), FrameSource(frame("site-a")))
    record = flower.RecordDict({flower.CONFIG: flower.config_record(1, {}, attempt=0)})
    raw = flower.message_to_bytes(flower.Message(record, 1, kind, group_id="1"), message_id="x")
    with pytest.raises(InputError) as error:
        warm.handle(raw)
    assert error.value.code == "input.message"
    assert warm.handle(prepared(study()))
