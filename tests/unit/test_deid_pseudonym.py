"""Pseudonyms, UIDs and shifts: keyed, stable, valid; dates keep their style."""

from __future__ import annotations

from datetime import date

import pytest

from privacy.deid.dates import DATE_PATTERN, parse_date, shift_da, shift_dt, shift_text_date
from privacy.deid.pseudonym import MAX_SHIFT_DAYS, Pseudonymizer, normalise_id


def test_known_answers_never_change() -> None:
    keys = Pseudonymizer(bytes(range(32)))
    assert keys.pseudonym("PAT-001") == "PU5CPWUE7EA2XSZ65"
    assert keys.uid("1.2.840.1") == "2.25.170688774851813070826312874076692261248"
    assert keys.shift_days("PAT-001") == 315


def test_ids_that_mean_the_same_agree_and_keys_separate() -> None:
    one, other = Pseudonymizer(b"a" * 32), Pseudonymizer(b"b" * 32)
    assert normalise_id(" Pat-001 \0") == normalise_id("PAT-001")
    assert one.pseudonym("pat-001 ") == one.pseudonym("PAT-001")
    assert one.shift_days("pat-001 ") == one.shift_days("PAT-001")
    assert one.pseudonym("PAT-001") != other.pseudonym("PAT-001")
    assert one.uid("1.2.3") != other.uid("1.2.3")
    assert one.key_id != other.key_id
    with pytest.raises(ValueError, match="32"):
        Pseudonymizer(b"short")


def test_shift_is_never_zero_and_bounded() -> None:
    keys = Pseudonymizer(b"a" * 32)
    shifts = {keys.shift_days(str(number)) for number in range(5000)}
    assert 0 not in shifts
    assert min(shifts) == -MAX_SHIFT_DAYS
    assert max(shifts) == MAX_SHIFT_DAYS
    first, second = (keys.shift_date(date(2020, 1, day), "x") for day in (1, 11))
    assert (second - first).days == 10


def test_uid_is_valid() -> None:
    keys = Pseudonymizer(b"a" * 32)
    for number in range(200):
        uid = keys.uid(f"1.2.{number}")
        assert uid.startswith("2.25.")
        assert len(uid) <= 44
        assert uid[5] != "0"
        value = int(uid[5:]).to_bytes(16, "big")
        assert value[6] >> 4 == 8
        assert value[8] >> 6 == 2


@pytest.mark.parametrize(
    ("text", "moved"),
    [
        ("12/03/2021", "01/04/2021"),
        ("2021-03-12", "2021-04-01"),
        ("12.3.21", "01.04.21"),
        ("20210312", "20210401"),
        ("12 marzo 2021", "1 aprile 2021"),
        ("1 Dic. 2020", "21 Dic. 2020"),
        ("March 3, 2021", "March 23, 2021"),
        ("marzo 2021", None),
        ("12 marzo", None),
        ("03/2021", None),
    ],
)
def test_text_dates_keep_their_style(text: str, moved: str | None) -> None:
    match = DATE_PATTERN.search(f"il {text} ha")
    assert match is not None
    assert match[0] == text
    assert shift_text_date(text, 20) == moved


def test_dicom_dates() -> None:
    assert shift_da("20210101", -1) == "20201231"
    assert shift_da("2021.01.01", 1) == "20210102"
    assert shift_da("20211301", 1) is None
    assert shift_da("99991231", 1) is None
    assert shift_dt("20210101101112.123456+0100", -1) == "20201231101112.123456+0100"
    assert shift_dt("202101", 31) == "202102"
    assert shift_dt("ROSSI", 1) is None
    assert parse_date("3/4/1950") == date(1950, 4, 3)
    assert parse_date("1950-04-03 10:11") == date(1950, 4, 3)
    assert parse_date("31/02/1950") is None
