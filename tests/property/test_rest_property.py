"""Whatever bytes come: an object at rest, a withdrawal and a list of subjects read back, or are refused by one code."""

from __future__ import annotations

import io
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from privacy.envelope.rest import OBJECT_MAGIC, keep, read
from protocol.errors import IntegrityError
from protocol.withdrawal import Withdrawal, read_subjects, subjects_item

KEY = bytes(32)
_PSEUDONYM = st.text("ABCDEFGHIJKLMNOPQRSTUVWXYZ234567", min_size=16, max_size=16).map("P".__add__)
_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=20) | _PSEUDONYM,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=10), inner, max_size=4),
)


@given(st.lists(st.binary(max_size=3000), max_size=5), st.text(max_size=30))
def test_objects_read_back(pieces: list[bytes], place: str) -> None:
    target = io.BytesIO()
    keep(pieces, target, key=KEY, place=place)
    target.seek(0)
    assert b"".join(read(target, key=KEY, place=place)) == b"".join(pieces)


@given(st.binary(max_size=200))
def test_any_bytes_are_no_object(raw: bytes) -> None:
    for data in (raw, OBJECT_MAGIC + raw):
        with pytest.raises(IntegrityError) as caught:
            list(read(io.BytesIO(data), key=KEY, place="p"))
        assert caught.value.code == "lake.damaged"


@given(
    st.frozensets(_PSEUDONYM, max_size=5),
    st.dictionaries(st.text(max_size=9), _PSEUDONYM | st.lists(_PSEUDONYM), max_size=4),
)
def test_what_a_site_says_reads_back(gone: frozenset[str], about: dict[str, str | list[str]]) -> None:
    assert Withdrawal.from_bytes(Withdrawal(subjects=gone).item().data).subjects == gone
    assert read_subjects(subjects_item(about).data) == about


@given(st.binary(max_size=200) | _JSON.map(lambda value: json.dumps(value).encode()))
def test_any_bytes_are_refused_or_name_pseudonyms_alone(raw: bytes) -> None:
    codes = set()
    for name in (lambda: Withdrawal.from_bytes(raw).subjects, lambda: read_subjects(raw).values()):
        try:
            named = name()
        except IntegrityError as error:
            codes.add(error.code)
        else:
            assert all(len(one) == 17 for who in named for one in ([who] if isinstance(who, str) else who))
    assert codes <= {"parcel.payload"}
