"""Any dataset, any nesting, any bytes: nothing planted survives, twice is the same, nothing crashes the engine."""

from __future__ import annotations

import io
import random
import time
import warnings
from pathlib import Path

import pydicom
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydicom import dcmread
from pydicom.datadict import DicomDictionary
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence
from pydicom.uid import ExplicitVRBigEndian, ExplicitVRLittleEndian, ImplicitVRLittleEndian

from privacy.deid import residual
from privacy.deid.deny import DenyList
from privacy.deid.dicom import DicomEngine
from privacy.deid.profiles import load
from privacy.deid.pseudonym import Pseudonymizer
from privacy.deid.text import TextEngine
from privacy.deid.vocabulary import clean
from protocol.errors import InputError
from tests.unit.test_deid_dicom import MODIFIED, SHIPPED, basic
from tests.unit.test_deid_dicom_leaks import encoded, left

_TEXT = {"PN", "LO", "SH", "ST", "LT", "UT", "UC", "UR", "AE"}
# Every public attribute of the dictionary that can hold text, listed in the table or not, but for what is refused.
_TAGS = sorted(
    tag
    for tag, entry in DicomDictionary.items()
    if entry[0] in _TEXT and tag >> 16 > 4 and tag >> 24 not in (0x50, 0x60)
)
_SEQUENCES = sorted(tag for tag, entry in DicomDictionary.items() if entry[0] == "SQ" and tag >> 16 > 4)
_SYNTAXES = [ExplicitVRLittleEndian, ImplicitVRLittleEndian, ExplicitVRBigEndian]


def token(number: int) -> str:
    return "".join(
        "BDFGKLMPRSTVZ"[(number >> shift) % 13] + "AEIOU"[(number >> shift) % 5] for shift in range(0, 20, 4)
    )


def grow(draw: st.DrawFn, depth: int, tokens: list[str]) -> Dataset:
    dataset = Dataset()
    for tag in draw(st.lists(st.sampled_from(_TAGS), max_size=6, unique=True)):
        tokens.append(token(draw(st.integers(0, 2**31))) + "QX")
        dataset.add_new(tag, DicomDictionary[tag][0], tokens[-1])
    if draw(st.booleans()):
        block = dataset.private_block(0x0011, "MAKER", create=True)
        tokens.append(token(draw(st.integers(0, 2**31))) + "QX")
        block.add_new(draw(st.integers(0, 255)), draw(st.sampled_from(["LO", "UN", "OB"])), _as_bytes(tokens[-1]))
    if depth:
        for tag in draw(st.lists(st.sampled_from(_SEQUENCES), max_size=2, unique=True)):
            dataset.add_new(tag, "SQ", Sequence([grow(draw, depth - 1, tokens)]))
    return dataset


def _as_bytes(value: str) -> object:
    return value.encode("ascii")


@st.composite
def objects(draw: st.DrawFn) -> tuple[bytes, list[str]]:
    tokens: list[str] = []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        dataset = grow(draw, 3, tokens)
        for element in basic():
            dataset.add(element)
        return encoded(dataset, draw(st.sampled_from(_SYNTAXES))), tokens


@settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])
@given(objects(), st.sampled_from([frozenset(), MODIFIED]))
def test_nothing_survives_in_any_dataset(planted: tuple[bytes, list[str]], options: frozenset[str]) -> None:
    data, tokens = planted
    engine = DicomEngine(Pseudonymizer(b"k" * 32), profile=load("basic", options))
    result = engine.deidentify(data)
    assert left(result.data, tokens) == []
    assert not residual.left_in_file(data, result.data, options)
    assert engine.deidentify(data).data == result.data
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        str(dcmread(io.BytesIO(result.data)))  # every element decodes, and none is invalid


@pytest.mark.parametrize(
    "name", ["CT_small.dcm", "test-SR.dcm", "rtstruct.dcm", "MR_small_implicit.dcm", "image_dfl.dcm"]
)
def test_damaged_files_are_refused_or_clean(name: str) -> None:
    engine = DicomEngine(Pseudonymizer(b"k" * 32), profile=load("basic", MODIFIED))
    data = (SHIPPED / name).read_bytes()
    chance = random.Random(name)  # noqa: S311 - a repeatable sequence, no secret
    for _ in range(120):
        damaged = bytearray(data[: chance.randrange(1, len(data))] if chance.random() < 0.4 else data)
        for _ in range(chance.randrange(1, 12)):
            at = chance.randrange(min(len(damaged), 3000))
            damaged[at] = chance.randrange(256)
        try:
            result = engine.deidentify(bytes(damaged))
        except InputError:
            continue
        assert dcmread(io.BytesIO(result.data)).PatientIdentityRemoved == "YES"


@settings(max_examples=150, deadline=None)
@given(st.binary(max_size=400), st.booleans())
def test_random_bytes_are_refused(data: bytes, with_head: bool) -> None:
    engine = DicomEngine(Pseudonymizer(b"k" * 32))
    with pytest.raises(InputError):
        engine.deidentify((bytes(128) + b"DICM" + data) if with_head else data)


_ITALIAN = TextEngine("it")


@settings(max_examples=150, deadline=None)
@given(st.text(max_size=300), st.text(min_size=3, max_size=12))
def test_any_text_is_redacted_and_spans_fit(text: str, name: str) -> None:
    deny = DenyList([name])
    redacted, spans = _ITALIAN.redact(f"{text} {name} {text}", deny=deny)
    ends = [0]
    for span in spans:
        assert ends[-1] <= span.start < span.end
        ends.append(span.end)
    assert isinstance(clean(redacted, deny), str)


@pytest.mark.parametrize(
    "unit", ["a", "A", "A ", "Via ", "1", "1 ", "1.", "A.", "Mario ", "a.b@", "dott. ", "-", "12/", "AB1"]
)
def test_no_text_takes_long(unit: str) -> None:
    started = time.monotonic()
    _ITALIAN.redact(unit * (6000 // len(unit)), shift_days=3)
    assert time.monotonic() - started < 5.0


def test_the_shipped_folder_is_there() -> None:
    assert Path(pydicom.__file__).parent in SHIPPED.parents
