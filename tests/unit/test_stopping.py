"""Early stopping as a function of the rounds' metrics, and the fields of a study that it stands on."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from central.federation.stopping import Verdict, judge
from pipelines.train import check_supported
from protocol.errors import InputError
from protocol.study import Stopping, Study, Training, dump_study, parse_study
from tests.federation_hospital import study


def history(*values: float | None, name: str = "auc"):
    return [(i, {"rows": 10, "loss": 1.0} | ({} if v is None else {name: v})) for i, v in enumerate(values, start=1)]


@pytest.mark.parametrize(
    ("mode", "patience", "delta", "values", "best", "stop"),
    [
        ("max", 2, 0.0, (0.5, 0.6, 0.6), 2, False),
        ("max", 2, 0.0, (0.5, 0.6, 0.6, 0.55), 2, True),
        ("min", 1, 0.0, (3.0, 2.0, 1.0), 3, False),
        ("min", 1, 0.0, (3.0, 2.0, 2.0), 2, True),
        ("max", 2, 0.1, (0.5, 0.55, 0.58), 1, True),  # better, but by too little
        ("max", 2, 0.1, (0.5, 0.55, 0.61), 3, False),
        ("max", 1, 0.0, (0.5, None, None), 1, False),  # a round without the metric counts neither way
        ("max", 1, 0.0, (0.5, math.nan, 0.4), 1, True),
        ("max", 1, 0.0, (0.5,), 1, False),
    ],
)
def test_patience_counts_rounds_that_were_not_better(mode, patience, delta, values, best, stop) -> None:
    asked = Stopping(monitor="auc", mode=mode, patience=patience, min_delta=delta)
    assert judge(asked, history(*values)) == Verdict(best=best, stop=stop)


def test_a_metric_that_there_is_not_is_named_with_those_there_are() -> None:
    asked = Stopping(monitor="f1", mode="max")
    assert judge(asked, []) == Verdict()
    assert judge(asked, [(1, {"rows": 3})]) == Verdict()  # an evaluation that stayed masked
    with pytest.raises(InputError, match="auc, loss") as error:
        judge(asked, history(0.5))
    assert error.value.code == "input.study"


@given(st.lists(st.floats(-5, 5), min_size=1, max_size=30), st.integers(1, 5), st.sampled_from(["min", "max"]))
def test_the_decision_is_the_same_wherever_the_run_was_resumed(values, patience, mode) -> None:
    """What is decided after a round follows from the rounds up to it; the best is never beaten by an earlier round."""
    asked = Stopping(monitor="auc", mode=mode, patience=patience)
    sign = 1 if mode == "max" else -1
    for end in range(1, len(values) + 1):
        seen = values[:end]
        found = judge(asked, history(*seen))
        assert seen[found.best - 1] == sign * max(sign * v for v in seen)
        assert found.stop is (end - found.best >= patience)


def test_max_rounds_is_rounds_where_it_is_not_given_and_never_below() -> None:
    plain = {"learner": "tabular", "features": ["a"], "outcome": ["b"], "publish": {"model": "m"}}
    assert Training.model_validate(plain).max_rounds == 5
    assert Training.model_validate(plain | {"rounds": 7}).max_rounds == 7
    assert Training.model_validate(plain | {"rounds": 7, "max_rounds": 9}).max_rounds == 9
    for wrong in ({"rounds": 7, "max_rounds": 6}, {"max_rounds": 0}, {"max_rounds": 10_001}):
        with pytest.raises(ValueError, match="max_rounds"):
            Training.model_validate(plain | wrong)


def test_a_study_with_all_of_it_reads_back_and_one_without_keeps_its_bytes() -> None:
    full = study(rounds=3, max_rounds=8, stopping={"monitor": "c-index", "mode": "max"}, max_model_bytes=10**6)
    assert parse_study(dump_study(full)) == full
    assert b"max_rounds = 8" in dump_study(full)
    assert b"max_rounds" not in dump_study(study())
    assert b"stopping" not in dump_study(study())
    assert parse_study(dump_study(study())) == study()


def test_a_learner_that_releases_no_scores_is_refused_with_the_reason() -> None:
    raw = study().model_dump(by_alias=True, exclude_none=True)
    raw["dataset"] = {"name": "cohort", "columns": ["IID", "y"], "genotypes": True}
    raw["pipeline"] |= {"parameters": {"variants": ["1:100:A:G"], "build": "GRCh37", "trait": "linear"}}
    raw["training"] |= {"learner": "gwas", "strategy": "newton", "features": (), "outcome": ("y",)}
    check_supported(Study.model_validate(raw))
    raw["training"] |= {"stopping": {"monitor": "lambda-gc", "mode": "min"}}
    with pytest.raises(InputError, match=r"training\.stopping: the learner's scores do not leave") as error:
        check_supported(Study.model_validate(raw))
    assert error.value.code == "input.study"
