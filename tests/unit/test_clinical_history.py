"""One row a patient: windows, statistics, exposures, age, sex; bad units and impossible values withheld."""

from __future__ import annotations

from typing import Any

import pandas as pd
import pytest

from pipelines.features import history
from pipelines.features.events import from_table
from pipelines.features.schema import DTYPES
from protocol.errors import InputError

GLUCOSE = {"system": "loinc", "codes": ["2345-7"]}
INDEX = {"index": {"column": True}}


def table(*rows: dict[str, Any]) -> Any:
    columns = ["person", "kind", "system", "code", "day", "value", "unit", "days", "sex", "birth_date", "index_day"]
    return from_table(pd.DataFrame(rows, columns=columns))


def lab(person: str, day: str, value: Any, unit: str | None = "mmol/L", **more: Any) -> dict[str, Any]:
    base = {"person": person, "kind": "measurement", "system": "LOINC", "code": "2345-7", "day": day}
    return base | {"value": value, "unit": unit, "index_day": "2020-06-01"} | more


def made(events: Any, *features: dict[str, Any], **more: Any) -> pd.DataFrame:
    parameters = history.parameters_of({"features": list(features), **more})
    frame = history.extract(events, parameters)
    described = history.schema(parameters)
    assert list(frame.columns) == [feature.name for feature in described]
    assert all(feature.dtype in DTYPES and feature.definition and feature.source for feature in described)
    return frame


def measurement(**more: Any) -> dict[str, Any]:
    return {"kind": "measurement", "name": "g", "of": GLUCOSE, "unit": "mmol/L", "statistics": ["last"], **more}


def test_windows_include_both_ends_and_calendar_days_as_written() -> None:
    events = table(
        lab("a", "2020-05-25", 1.0),
        lab("a", "2020-05-31T23:59:00-11:00", 2.0),  # the first of June in UTC
        lab("a", "2020-06-01", 3.0),
        lab("a", "2020-06-08T00:30:00+14:00", 4.0),  # the seventh in UTC
    )
    count = {"statistics": ["count", "first", "last"]}
    before = made(events, measurement(window={"start": -7, "end": -1}, **count), **INDEX)
    assert before.loc["a"].tolist() == [2, 1.0, 2.0]
    after = made(events, measurement(window={"start": 0, "end": 7}, **count), **INDEX)
    assert after.loc["a"].tolist() == [2, 3.0, 4.0]
    tight = made(events, measurement(window={"start": 0, "end": 6}, **count), **INDEX)
    assert tight.loc["a"].tolist() == [1, 3.0, 3.0]


def test_units_are_normalised_and_what_cannot_be_is_withheld_and_counted() -> None:
    events = table(
        lab("a", "2020-01-01", 90, "mg/dL"),
        lab("a", "2020-01-02", 7.0, None),
        lab("a", "2020-01-03", 7.0, "blobs"),
        lab("a", "2020-01-04", 7.0, "kg"),
        lab("a", "2020-01-05", 9000.0, "mmol/L"),
        lab("a", "2020-01-06", -1.0, "mmol/L"),
        lab("a", "2020-01-07", "high", "mmol/L"),
    )
    frame = made(events, measurement(statistics=["count", "mean"]))
    assert frame.loc["a", "g_count"] == 1
    assert frame.loc["a", "g_mean"] == pytest.approx(90 / 18.0156)
    counts = events.findings.counts
    assert {
        name: counts[name] for name in ("unit-missing", "unit-unknown", "unit-mismatch", "implausible", "value")
    } == {
        "unit-missing": 1,
        "unit-unknown": 1,
        "unit-mismatch": 1,
        "implausible": 2,
        "value": 1,
    }


def test_the_study_may_say_what_a_spelling_means() -> None:
    events = table(lab("a", "2020-01-01", 37.0, "C", code="8310-5"), lab("b", "2020-01-01", 37.0, "C", code="8310-5"))
    wanted = {"kind": "measurement", "name": "t", "of": {"codes": ["8310-5"]}, "unit": "Cel"}
    assert made(events, wanted)["t_last"].isna().all()
    assert made(events, wanted | {"spellings": {"C": "Cel"}})["t_last"].tolist() == [37.0, 37.0]


def test_slope_is_least_squares_by_year_and_needs_two_days() -> None:
    import numpy as np

    days = pd.to_datetime(["2020-01-01", "2020-04-01", "2020-12-01", "2021-03-01"])
    values = [5.0, 5.5, 7.0, 6.0]
    rows = [lab("a", str(day.date()), value) for day, value in zip(days, values, strict=True)]
    rows += [lab("b", "2020-01-01", 5.0), lab("b", "2020-01-01T10:00", 9.0)]
    frame = made(table(*rows), measurement(statistics=["slope", "last"]))
    years = (days - days[0]).days / 365.25
    assert frame.loc["a", "g_slope"] == pytest.approx(np.polyfit(years, values, 1)[0])
    assert pd.isna(frame.loc["b", "g_slope"])
    assert frame.loc["b", "g_last"] == 9.0  # the later of one day


def test_patients_without_events_have_zero_counts_and_missing_measurements() -> None:
    rows = [
        lab("a", "2020-06-01", 5.0),
        {"person": "b", "system": "x", "code": "", "day": "", "index_day": "2020-06-01"},
    ]
    codes = {"kind": "codes", "name": "n", "of": GLUCOSE, "window": {"start": -1, "end": 1}}
    frame = made(table(*rows), codes, codes | {"name": "any", "output": "any"}, measurement(), **INDEX)
    assert frame["n"].tolist() == [1, 0]
    assert frame["any"].tolist() == [True, False]
    assert pd.isna(frame.loc["b", "g_last"])


def test_patients_without_index_are_dropped_and_counted_or_kept_with_missing_cells() -> None:
    events = table(lab("a", "2020-06-01", 5.0), lab("b", "2020-06-01", 5.0, index_day=None))
    codes = {"kind": "codes", "name": "n", "of": GLUCOSE, "window": {"start": 0}}
    assert made(events, codes, **INDEX).index.tolist() == ["a"]
    assert events.findings.counts["no-index"] == 1
    kept = made(events, codes, without_index="keep", **INDEX)
    assert kept["n"].isna().tolist() == [False, True]


def test_the_index_is_the_first_record_of_a_code() -> None:
    def diagnosis(day: str, code: str) -> dict[str, Any]:
        return {"person": "a", "kind": "condition", "system": "ICD10CM", "code": code, "day": day}

    events = table(
        diagnosis("2020-03-05", "E11.9"), diagnosis("2020-01-10", "E11.65"), diagnosis("2020-01-12", "I21.4")
    )
    index = {"index": {"first": {"system": "icd10", "prefixes": ["E11"]}}}
    frame = made(
        events,
        {"kind": "codes", "name": "mi", "of": {"system": "icd10", "codes": ["I214"]}, "window": {"start": 1, "end": 2}},
        {"kind": "charlson", "window": {"end": 0}},
        {"kind": "charlson", "name": "later", "window": {"end": 400}},
        **index,
    )
    assert frame.loc["a"].tolist() == [1, 1, 2]  # E11.65 alone; with I21.4


@pytest.mark.parametrize(
    ("birth", "age"),
    [("1960-06-01", 60), ("1960-06-02", 59), ("1960", 59), ("1960-05", 60), ("1915-01-01", 90), ("2021-01-01", None)],
)
def test_age_at_the_index_is_in_completed_years_and_capped(birth: str, age: int | None) -> None:
    events = table(lab("a", "2020-06-01", 5.0, birth_date=birth))
    frame = made(events, {"kind": "age"}, {"kind": "age", "name": "band", "band": 10}, **INDEX)
    found = frame.loc["a", "age"]
    assert pd.isna(found) if age is None else found == age
    assert age is None or frame.loc["a", "band"] == age // 10 * 10


def test_a_leap_day_is_a_birthday_on_the_first_of_march_of_other_years() -> None:
    def age(day: str) -> int:
        return int(
            made(table(lab("a", day, 5.0, birth_date="1960-02-29")), {"kind": "age"}, index={"date": day}).iloc[0, 0]
        )

    assert [age("2019-02-28"), age("2019-03-01"), age("2020-02-28"), age("2020-02-29")] == [58, 59, 59, 60]


def test_overlapping_exposures_count_each_day_once_and_begin_before_the_window() -> None:
    def drug(person: str, day: str, days: float | None) -> dict[str, Any]:
        base = {"person": person, "kind": "drug", "system": "ATC", "code": "C10AA05", "index_day": "2020-06-01"}
        return base | {"day": day, "days": days}

    events = table(
        drug("a", "2020-05-20", 30),
        drug("a", "2020-06-10", 10),
        drug("a", "2020-06-15", 2),
        drug("b", "2020-06-01", None),
    )
    wanted = {
        "kind": "drug",
        "name": "s",
        "of": {"system": "atc", "prefixes": ["C10AA"]},
        "statistics": ["days", "count", "any"],
        "window": {"start": 0, "end": 29},
    }
    frame = made(events, wanted, **INDEX)
    days = set(range(-12, 18)) | set(range(9, 19)) | {14, 15}
    assert frame.loc["a", "s_days"] == len({day for day in days if 0 <= day <= 29}) == 19
    assert frame["s_count"].tolist() == [2, 1]
    assert frame["s_days"].tolist() == [19, 1]
    assert events.findings.counts["no-length"] == 1


@pytest.mark.parametrize(
    "wrong",
    [
        {"features": []},
        {"features": [{"kind": "age"}]},
        {"features": [measurement(unit="furlong")]},
        {"features": [measurement(window={"start": 1, "end": 0})], **INDEX},
        {"features": [{"kind": "codes", "name": "N!", "of": GLUCOSE}]},
        {"features": [{"kind": "codes", "name": "n", "of": {"system": "x"}}]},
        {"features": [{"kind": "sex", "typo": 1}]},
        {"features": [{"kind": "sex"}], "index": {"date": "2020-02-31"}},
        {"features": [{"kind": "sex"}], "index": {}},
    ],
)
def test_parameters_that_make_no_sense_are_refused_by_name(wrong: dict[str, Any]) -> None:
    with pytest.raises(InputError, match="clinical parameters") as caught:
        history.parameters_of(wrong)
    assert caught.value.code == "input.study"


def test_two_columns_of_one_name_and_a_hierarchy_that_is_not_there_are_refused() -> None:
    twice = history.parameters_of({"features": [{"kind": "sex"}, {"kind": "sex"}]})
    with pytest.raises(InputError, match="'sex'"):
        history.schema(twice)
    below = {"kind": "codes", "name": "n", "of": {"system": "atc", "descendants_of": ["C10"]}}
    with pytest.raises(InputError, match="hierarchy"):
        made(table(lab("a", "2020-01-01", 5)), below)


def test_event_tables_come_as_csv_and_lack_nothing() -> None:
    text = "Person;Kind;System;Code;Day;Value;Unit\n"
    text += "a;m;LOINC;2345-7;2020-01-01;5,5;mmol/L\na;m;LOINC;2345-7;2020-01-02;5.5;mmol/L\n"
    events = from_table(text.encode(), person=str.upper)
    assert events.persons["person"].tolist() == ["A"]
    assert events.findings.counts["value"] == 1  # a decimal comma is not guessed
    with pytest.raises(InputError, match="'code'"):
        from_table(b"person,system,day\n")
    with pytest.raises(InputError, match="not CSV"):
        from_table(b"person,system,code,day\n\xff\xfe,\xff,1,2\n")


def test_sources_join() -> None:
    left = table(lab("a", "2020-01-01", 5.0, sex="female"))
    right = table(lab("a", "2020-02-01", 7.0), lab("b", "2020-02-01", 8.0))
    joined = left.joined(right)
    frame = made(joined, measurement(statistics=["mean", "count"]), {"kind": "sex"})
    assert frame["g_mean"].tolist() == [6.0, 8.0]
    assert frame["g_count"].tolist() == [2, 1]
    assert frame["sex"].tolist()[0] == "F"
