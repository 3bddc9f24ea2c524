"""Units, Charlson, dates: the small pieces of the clinical extractors."""

from __future__ import annotations

import pytest

from pipelines.features import charlson, units
from pipelines.features.events import system, when

CASES = [
    (100, "mg/dL", "mmol/L", "glucose", 5.551),
    (5.551, "mmol/L", "mg/dL", "glucose", 100.0),
    (1, "mg/dL", "umol/L", "creatinine", 88.4),
    (88.4, "µmol/L", "mg/dl", "creatinine", 1.0),
    (200, "mg/dL", "mmol/L", "cholesterol", 5.172),
    (150, "mg/dL", "mmol/L", "triglycerides", 1.694),
    (1, "mg/dL", "umol/L", "bilirubin", 17.1),
    (14, "mg/dL", "mmol/L", "urea_nitrogen", 4.998),
    (4.0, "meq/L", "mmol/L", "potassium", 4.0),
    (5.0, "meq/L", "mmol/L", "calcium", 2.5),
    (10, "mg/dL", "meq/L", "calcium", 4.99),
    (6.5, "%", "mmol/mol", "hba1c", 47.53),
    (48, "mmol/mol", "%", "hba1c", 6.543),
    (98.6, "[degF]", "Cel", "temperature", 37.0),
    (310.15, "K", "Cel", "temperature", 37.0),
    (250, "10*3/uL", "10*9/L", "platelets", 250.0),
    (250, "K/uL", "10*9/L", "platelets", 250.0),
    (250, "x10E3/uL", "10*9/L", "platelets", 250.0),
    (0.45, "L/L", "%", "haematocrit", 45.0),
    (14, "g/dL", "mmol/L", "haemoglobin", 8.688),
    (180, "[lb_av]", "kg", "weight", 81.647),
    (70, "[in_i]", "cm", "height", 177.8),
    (72, "{beats}/min", "/min", "heart_rate", 72.0),
    (72, "beats/minute", "/min", "heart_rate", 72.0),
    (16, "kPa", "mm[Hg]", "systolic", 120.0),
    (60, "mL/min/{1.73_m2}", "mL/min", "egfr", 60.0),
    (1, "ukat/L", "U/L", "alt", 60.0),
    (7, "{score}", "{score}", None, 7.0),
]


@pytest.mark.parametrize(("value", "unit", "target", "name", "expected"), CASES)
def test_units_convert_as_the_tables_say(
    value: float, unit: str, target: str, name: str | None, expected: float
) -> None:
    found = units.convert(value, unit, target, name)
    assert found == pytest.approx(expected, rel=2e-3)


@pytest.mark.parametrize(
    ("unit", "target", "name", "reason"),
    [
        ("", "mmol/L", "glucose", "unit-missing"),
        ("  ", "mmol/L", "glucose", "unit-missing"),
        ("furlong", "mmol/L", "glucose", "unit-unknown"),
        ("mg//dL", "mmol/L", "glucose", "unit-unknown"),
        ("mg/dL", "mmol/L", None, "unit-mismatch"),
        ("mg/dL", "mmol/L", "albumin", "unit-mismatch"),
        ("kg", "mmol/L", "glucose", "unit-mismatch"),
        ("meq/L", "mmol/L", "glucose", "unit-mismatch"),
        ("g/dL", "%", "hba1c", "unit-mismatch"),
        ("Cel", "kg", None, "unit-mismatch"),
    ],
)
def test_what_does_not_convert_says_why_and_is_never_guessed(
    unit: str, target: str, name: str | None, reason: str
) -> None:
    assert units.convert(5.0, unit, target, name) == reason


def test_every_analyte_converts_to_its_own_unit_and_has_its_codes_once() -> None:
    codes = [code for found in units.ANALYTES.values() for code in found.loinc]
    assert len(codes) == len(set(codes))
    for name, found in units.ANALYTES.items():
        assert units.convert(1.0, found.unit, found.unit, name) == pytest.approx(1.0)
        assert found.low < found.high


def test_the_lists_of_charlson_are_those_of_quan_by_number_and_by_hand() -> None:
    assert [len(codes) for codes in charlson.ICD10.values()] == [
        3, 14, 13, 13, 7, 21, 9, 4, 19, 25, 25, 12, 22, 83, 11, 4, 4,
    ]  # fmt: skip
    assert len(charlson.ICD9CM["cancer"]) == 65
    assert charlson.categories([("icd10cm", "E11.42"), ("icd10", "i21.4"), ("snomed", "I21")]) == {
        "diabetes_complicated",
        "myocardial_infarction",
    }
    assert charlson.categories([("icd9cm", "428.0"), ("icd10gm", "C44.1")]) == {"heart_failure"}


def test_the_milder_of_a_pair_counts_nothing() -> None:
    both = charlson.categories([("icd10", "E10.9"), ("icd10", "E10.2"), ("icd10", "C50"), ("icd10", "C78.0")])
    assert charlson.score(both) == 2 + 6
    assert charlson.score(both, "quan2011") == 1 + 6
    assert charlson.score(["mild_liver", "severe_liver", "hiv", "plegia"]) == 3 + 6 + 2
    assert [charlson.age_points(age) for age in (49, 50, 59, 60, 79, 80, 101)] == [0, 1, 1, 2, 3, 4, 4]


def test_a_day_is_the_one_that_was_written() -> None:
    late, utc = when("2015-03-23T23:30:00-05:00"), when("2015-03-24T04:30:00Z")
    assert late is not None
    assert utc is not None
    assert late.at == utc.at
    assert (late.day, utc.day) == (16517, 16518)
    for text in ("2015-03-23", "20150323", "2015-03-23 00:00:00", "2015-03-23T00:00", "2015-03-23T00:00:00.000+02:00"):
        found = when(text)
        assert found is not None
        assert found.day == 16517


@pytest.mark.parametrize("text", ["", "23/03/2015", "2015-13-01", "2015-02-30", "0015-01-01", "soon", None, 5])
def test_what_is_no_date_is_none(text: object) -> None:
    assert when(text) is None


def test_partial_dates_have_no_day() -> None:
    year, month = when("2015"), when("2015-03")
    assert year is not None
    assert month is not None
    assert (year.year, year.month, year.day, month.month, month.day) == (2015, None, None, 3, None)


def test_code_systems_have_short_names() -> None:
    uris = (
        "http://loinc.org",
        "HTTP://snomed.info/sct/",
        "http://fhir.de/CodeSystem/bfarm/icd-10-gm",
        "ICD10CM",
    )
    assert [system(name) for name in uris] == ["loinc", "snomed", "icd10gm", "icd10cm"]
