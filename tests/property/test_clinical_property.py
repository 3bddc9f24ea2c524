"""Dates, windows and parsers of the clinical extractors, and suppression, for any input."""

from __future__ import annotations

import json
from datetime import UTC, date, datetime, timedelta, timezone
from typing import Any

import pandas as pd
from hypothesis import given, settings
from hypothesis import strategies as st

from pipelines import SourceFile
from pipelines.features import fhir, history, omop
from pipelines.features.events import from_table, when
from privacy.disclosure.cells import suppress_counts
from protocol.errors import InputError

ZONES = st.integers(-14 * 60, 14 * 60).map(lambda minutes: timezone(timedelta(minutes=minutes)))
MOMENTS = st.datetimes(datetime(1900, 1, 2), datetime(2099, 12, 30), timezones=ZONES)  # noqa: DTZ001


@given(MOMENTS)
def test_a_day_is_as_written_and_the_instant_is_the_same_in_every_zone(moment: datetime) -> None:
    whole = moment.replace(microsecond=0)
    found = when(whole.isoformat())
    assert found is not None
    assert found.day == (whole.date() - date(1970, 1, 1)).days
    assert found.at == whole.timestamp()
    utc = when(whole.astimezone(UTC).isoformat().replace("+00:00", "Z"))
    assert utc is not None
    assert utc.at == found.at


@given(st.text(max_size=40))
def test_no_text_breaks_the_reading_of_dates(text: str) -> None:
    found = when(text)
    assert found is None or found.day is None or isinstance(found.day, int)


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.tuples(st.sampled_from("ab"), st.integers(-40, 40), st.integers(1, 20)), max_size=12),
    st.integers(-30, 30),
    st.integers(0, 30),
)
def test_windows_are_what_a_loop_gives(records: list[tuple[str, int, int]], start: int, length: int) -> None:
    index = date(2020, 3, 1)  # a leap year, and a change of clocks nearby
    rows = [{"person": who, "code": "", "system": "", "day": "", "index_day": "2020-03-01"} for who in "ab"]
    rows += [
        {"person": who, "code": "2345-7", "system": "loinc", "day": str(index + timedelta(days=day)), "value": value}
        | {"unit": "mmol/L"}
        for who, day, value in records
    ]
    feature = {"kind": "measurement", "name": "g", "of": {"codes": ["2345-7"]}, "unit": "mmol/L"}
    feature |= {"window": {"start": start, "end": start + length}, "statistics": ["count", "last", "min", "mean"]}
    parameters = history.parameters_of({"index": {"column": True}, "features": [feature]})
    frame = history.extract(from_table(pd.DataFrame(rows)), parameters)
    for who in "ab":
        inside = [
            (day, place, v) for place, (p, day, v) in enumerate(records) if p == who and start <= day <= start + length
        ]
        found = frame.loc[who]
        assert found["g_count"] == len(inside)
        if inside:
            assert found["g_last"] == max(inside)[2]
            assert found["g_min"] == min(v for _, _, v in inside)
            assert abs(found["g_mean"] - sum(v for _, _, v in inside) / len(inside)) < 1e-9
        else:
            assert pd.isna(found["g_last"])


WORDS = ["Patient/p", "2020-01-01"]
KEYS = (
    "id subject reference code coding system status valueQuantity value unit component effectiveDateTime meta item"
    " answer identifier contained class profile"
).split()
JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-5, 3000) | st.text(max_size=8) | st.sampled_from(WORDS),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(KEYS),
            inner,
            max_size=5,
        )
    ),
    max_leaves=15,
)
KINDS = st.sampled_from("Patient Observation Condition MedicationRequest Encounter QuestionnaireResponse".split())
HEADS = (b"", b"PK\x03\x04", b"PAR1", b"\x1f\x8b\x08", b"person_id,year_of_birth\n")


@settings(max_examples=100, deadline=None)
@given(st.lists(st.tuples(KINDS, JSON), min_size=1, max_size=4))
def test_no_fhir_json_breaks_the_reader(resources: list[tuple[str, Any]]) -> None:
    base = {"subject": {"reference": "Patient/p"}, "code": {"coding": [{"code": "x"}]}}
    made = [base | (r if isinstance(r, dict) else {}) | {"resourceType": kind} for kind, r in resources]
    entries = [{"resource": one} for one in ({"resourceType": "Patient", "id": "p"}, *made)]
    data = json.dumps({"resourceType": "Bundle", "entry": entries}).encode()
    events = fhir.read([SourceFile("1", data)])
    assert set(events.rows["person"]) <= set(events.persons["person"])


@settings(max_examples=100, deadline=None)
@given(
    st.binary(max_size=200),
    st.sampled_from(HEADS),
)
def test_no_bytes_break_a_reader(data: bytes, head: bytes) -> None:
    file = SourceFile("1", head + data)
    assert fhir.read([file]).findings.counts.total() >= 0
    try:
        omop.read([file])
    except InputError:
        return
    raise AssertionError("rubbish was read")


@given(st.dictionaries(st.text(max_size=3), st.integers(0, 60), max_size=8), st.integers(2, 12))
def test_what_is_shown_of_a_one_way_table_never_gives_a_small_cell_back(counts: dict[str, int], minimum: int) -> None:
    shown = suppress_counts(counts, minimum)
    hidden = [name for name, count in shown.items() if count is None]
    assert all(shown[name] is None for name, count in counts.items() if 0 < count < minimum)
    total = sum(counts[name] for name in hidden)
    if any(counts[name] < minimum for name in hidden) and any(c is not None and c > 0 for c in shown.values()):
        assert len(hidden) > 1
        assert total - (len(hidden) - 1) >= minimum
