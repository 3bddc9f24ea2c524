"""Questionnaires, wearables and context."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import pytest
from pydantic import ValidationError

from pipelines.features import context, history, questionnaires, wearables
from pipelines.features.events import Findings, when
from protocol.errors import InputError

PHQ = questionnaires.INSTRUMENTS["phq-9"]


def day(text: str) -> float:
    found = when(text)
    assert found is not None
    assert found.day is not None
    return float(found.day)


@pytest.mark.parametrize(
    ("answers", "expected"),
    [
        ([1] * 9, 9.0),
        ([3] * 9, 27.0),
        ([1] * 8 + [None], 9.0),
        ([2, 1, 1, 1, 1, 1, 1, None, ""], 10.0),  # 8 of 7 answered: 72/7 is 10.29
        ([1] * 6 + [None] * 3, "too-many-missing"),
        ([1] * 8 + [4], "answer-range"),
        ([1] * 8 + [1.5], "answer-range"),
        ([1] * 8 + ["often"], "answer-range"),
        ([float("nan")] + [2] * 8, 18.0),
    ],
)
def test_sum_scores_and_their_missing_items(answers: list[Any], expected: float | str) -> None:
    assert questionnaires.total(dict(zip(PHQ.items, answers, strict=True)), PHQ) == expected


def test_raw_scores_round_up_and_items_may_be_reversed() -> None:
    of = questionnaires.Instrument(
        name="fatigue-4a", items=("a", "b", "c", "d"), low=1, high=5, allowed_missing=2, reverse=("d",), rounding="up"
    )
    assert questionnaires.total({"a": 1, "b": 2, "c": 3, "d": 5}, of) == 7
    assert questionnaires.total({"a": 1, "b": 2, "c": 2}, of) == 7  # 5 * 4/3 = 6.67


def test_scores_become_measurements_in_windows() -> None:
    frame = pd.DataFrame(
        [
            ["a", "2020-01-01", *[1] * 9],
            ["a", "2020-03-01", *[2] * 9],
            ["b", "2020-01-01", *[9] * 9],
            ["a", None, *[0] * 9],
        ],
        columns=["person", "day", *PHQ.items],
    )
    frame = pd.concat([frame, frame.iloc[[0]]])
    events = questionnaires.score(frame, PHQ)
    wanted = {
        "kind": "measurement",
        "name": "phq",
        "of": {"system": "questionnaire", "codes": ["phq-9"]},
        "unit": "{score}",
        "statistics": ["first", "last", "count"],
    }
    made = history.extract(events, history.parameters_of({"features": [wanted]}))
    assert made.loc["a"].tolist() == [9, 18, 3]
    assert pd.isna(made.loc["b", "phq_last"])
    counts = events.findings.counts
    assert (counts["duplicate"], counts["answer-range"], counts["date-missing"]) == (1, 1, 1)


def test_what_needs_a_licence_or_is_not_known_is_refused() -> None:
    for name, word in (("EQ-5D-5L", "licensed"), ("bdi", "no instrument")):
        with pytest.raises(InputError, match=word):
            questionnaires.instrument(name)
    with pytest.raises(InputError, match="9 items"):
        questionnaires.instrument("PHQ-9", ["a", "b"])
    assert questionnaires.instrument("gad-7", list("abcdefg")).items == tuple("abcdefg")


def test_answers_of_fhir_responses_are_scored() -> None:
    import json

    from pipelines import SourceFile
    from pipelines.features import fhir

    items = [{"linkId": f"q{n}", "answer": [{"valueInteger": 2}]} for n in range(1, 8)]
    response = {
        "resourceType": "QuestionnaireResponse",
        "status": "completed",
        "questionnaire": "http://x/Questionnaire/gad|1",
        "subject": {"reference": "Patient/p"},
        "authored": "2020-01-01T10:00:00Z",
        "item": [{"linkId": "group", "item": items}],
    }
    files = [SourceFile("1", json.dumps(one).encode()) for one in ({"resourceType": "Patient", "id": "p"}, response)]
    of = questionnaires.instrument("gad-7", [f"q{n}" for n in range(1, 8)])
    scored = questionnaires.from_events(fhir.read(files), of, "gad")
    assert scored.rows[["person", "code", "value", "day"]].to_numpy().tolist() == [["p", "gad-7", 14.0, 18262.0]]


def worn(person: str, start: str, days: int, steps: float, minutes: float = 700) -> pd.DataFrame:
    made = pd.date_range(start, periods=days)
    columns = {"person": person, "day": made.strftime("%Y-%m-%d"), "steps": steps, "resting_hr": 60.0}
    return pd.DataFrame(columns | {"sleep_min": 420.0, "wear_min": minutes})


def test_weeks_count_from_the_index_and_need_worn_days() -> None:
    table = pd.concat(
        [
            worn("a", "2020-01-01", 7, 1000),  # week -2
            worn("a", "2020-01-08", 4, 3000),  # week -1, four days
            worn("a", "2020-01-12", 3, 9000, minutes=100),  # not worn
            worn("a", "2020-01-15", 7, 50_000),  # after the index
            worn("b", "2020-01-08", 3, 5000),  # three days only
            worn("a", "2020-01-01", 1, 7, minutes=650),  # a day twice: worn less
        ]
    )
    table.loc[table["steps"] == 1000, "resting_hr"] = [60.0] * 6 + [600.0]
    index, findings = {"a": day("2020-01-15"), "b": day("2020-01-15"), "c": day("2020-01-15")}, Findings()
    frame = wearables.weekly(table, index, wearables.Parameters(), findings=findings)
    assert list(frame.columns) == [feature.name for feature in wearables.schema(wearables.Parameters())]
    assert frame.loc["a", "steps_weekly"] == 2000
    assert frame["valid_weeks"].tolist() == [2, 0, 0]
    assert frame.loc["b":, "steps_weekly"].isna().all()
    assert (findings.counts["not-worn"], findings.counts["implausible"], findings.counts["duplicate-day"]) == (3, 1, 1)
    with pytest.raises(InputError, match="wear_min"):
        wearables.weekly(table.drop(columns="wear_min"), index, wearables.Parameters())


def weather(**more: Any) -> pd.DataFrame:
    days = pd.date_range("2020-05-01", "2020-06-10").strftime("%Y-%m-%d")
    parts = [
        pd.DataFrame({"area": area, "day": days, "pm25": np.arange(len(days)) + base, "population": people})
        for area, base, people in (("ITC4", 0.0, 10_000_000), ("ITC2", 100.0, 9_000))
    ]
    return pd.concat(parts, ignore_index=True).assign(**more)


PARAMETERS = context.Parameters(scheme="nuts2", columns=(context.Column(name="pm25", unit="ug/m3"),), start=-7, end=-1)


def test_context_is_joined_by_area_and_days_and_the_area_does_not_come_out() -> None:
    areas = {"a": "itc4 ", "b": "ITC2", "c": "20121", "d": "ITH1", "e": None}
    findings = Findings()
    index = dict.fromkeys("abcde", day("2020-06-01"))
    frame = context.join(weather(), areas, index, PARAMETERS, findings=findings)
    assert list(frame.columns) == ["context_pm25"] == [feature.name for feature in context.schema(PARAMETERS)]
    assert frame.loc["a", "context_pm25"] == np.mean(np.arange(24, 31))
    assert frame["context_pm25"].isna().tolist() == [False, True, True, True, True]
    assert (findings.counts["area-code"], findings.counts["area-unknown"]) == (2, 2)  # too few inhabitants: unknown
    assert not any("ITC" in str(cell) for cell in frame.to_numpy().ravel())


@pytest.mark.parametrize(
    ("table", "word"),
    [
        (weather(area="20121"), "scheme"),
        (weather(area="45.46,9.19"), "scheme"),
        (weather(day="someday"), "day"),
        (weather(area="ITC4"), "two rows"),
    ],
)
def test_a_table_that_is_too_fine_or_broken_is_refused(table: pd.DataFrame, word: str) -> None:
    with pytest.raises(InputError, match=word):
        context.join(table, {"a": "ITC4"}, {"a": day("2020-06-01")}, PARAMETERS)


def test_parameters_are_strict() -> None:
    for model, wrong in (
        (wearables.Parameters, {"signals": ("blood",)}),
        (wearables.Parameters, {"weeks_before": 0}),
        (context.Parameters, {"scheme": "address", "columns": ({"name": "x"},)}),
        (questionnaires.Instrument, {"name": "x", "items": ("a",), "allowed_missing": 1}),
    ):
        with pytest.raises(ValidationError):
            model.model_validate(wrong)
