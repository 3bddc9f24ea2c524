"""Fuzzed and truncated files never crash the engine nor pass through; options never let a planted value survive."""

from __future__ import annotations

import io
import os
import random
from itertools import combinations

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydicom import dcmread

from privacy.deid.dicom import DicomEngine
from privacy.deid.profiles import load
from privacy.deid.pseudonym import Pseudonymizer
from protocol.errors import InputError
from tests.property.test_deid_property import objects
from tests.unit.test_deid_dicom import SHIPPED
from tests.unit.test_deid_dicom_leaks import left

_FULL = os.environ.get("CORSIA_FULL") == "1"
INPUTS = 10_000 if _FULL else 500
_NAMES = (
    "CT_small.dcm", "MR_small_bigendian.dcm", "MR_small_implicit.dcm", "image_dfl.dcm", "test-SR.dcm", "rtplan.dcm",
    "rtstruct.dcm", "liver_1frame.dcm", "JPEG2000.dcm", "waveform_ecg.dcm",
)  # fmt: skip
# Options that keep nothing that a name, an address or a comment could hide in.
_CLEANING = ("clean-structured-content", "clean-graphics", "retain-safe-private", "empty-documents")
_CHOICES = [frozenset(c) for n in range(len(_CLEANING) + 1) for c in combinations(_CLEANING, n)]
_ENGINES: dict[frozenset[str], DicomEngine] = {}


def engine(options: frozenset[str] = frozenset()) -> DicomEngine:
    if options not in _ENGINES:
        _ENGINES[options] = DicomEngine(Pseudonymizer(b"k" * 32), profile=load("basic", options))
    return _ENGINES[options]


def damaged(data: bytes, chance: random.Random) -> bytes:
    """Cut, with bytes flipped, a piece doubled, dropped, moved, or lengths blown up."""
    out = bytearray(data)
    for _ in range(chance.randrange(1, 5)):
        at, size = chance.randrange(min(len(out), 6000)), chance.randrange(1, 64)
        kind = chance.randrange(5)
        if kind == 0:
            out[at] = chance.randrange(256)
        elif kind == 1:
            del out[at : at + size]
        elif kind == 2:
            out[at:at] = out[at : at + size]
        elif kind == 3:
            out[at : at + 2] = b"\xff\xff"
        else:
            out[at : at + size] = chance.randbytes(size)
        if len(out) < 200:
            break
    return bytes(out[: chance.randrange(1, len(out))] if chance.random() < 0.3 and len(out) > 1 else out)


def test_damaged_files_never_crash_and_never_pass_through() -> None:
    files = {name: (SHIPPED / name).read_bytes() for name in _NAMES if (SHIPPED / name).exists()}
    assert len(files) >= 8
    chance = random.Random(20260101)  # noqa: S311 - a repeatable sequence, no secret
    passed = 0
    for number in range(INPUTS):
        name = sorted(files)[number % len(files)]
        data = damaged(files[name], chance)
        try:
            result = engine().deidentify(data)
        except InputError:
            continue
        passed += 1
        assert result.data != data
        clean = dcmread(io.BytesIO(result.data))
        assert clean.PatientIdentityRemoved == "YES"
        assert clean.PatientID == clean.PatientName == result.pseudonym
        assert not any(tag.is_private for tag in clean.keys())
    assert passed < INPUTS


@pytest.mark.parametrize("name", ["CT_small.dcm", "test-SR.dcm", "image_dfl.dcm"])
def test_no_beginning_of_a_file_passes(name: str) -> None:
    data = (SHIPPED / name).read_bytes()
    chance = random.Random(name)  # noqa: S311 - a repeatable sequence, no secret
    # What remains may be a shorter whole object without pixels: then it is one, and is cleaned.
    for _ in range(INPUTS // 10):
        cut = chance.randrange(1, len(data) - 200)
        try:
            result = engine().deidentify(data[:cut])
        except InputError:
            continue
        assert result.data[:cut] != data[:cut]
        assert dcmread(io.BytesIO(result.data)).PatientIdentityRemoved == "YES"


@settings(
    max_examples=600 if _FULL else 60,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)
@given(objects(), st.sampled_from(_CHOICES))
def test_no_option_lets_a_planted_value_survive(planted: tuple[bytes, list[str]], options: frozenset[str]) -> None:
    data, tokens = planted
    one = engine(options)
    result = one.deidentify(data)
    assert left(result.data, tokens) == []
    fresh = DicomEngine(Pseudonymizer(b"k" * 32), profile=load("basic", options))
    assert fresh.deidentify(data).data == result.data
    other = DicomEngine(Pseudonymizer(b"j" * 32), profile=load("basic", options)).deidentify(data)
    assert other.sop_instance_uid != result.sop_instance_uid
    with pytest.raises(InputError, match="already"):
        one.deidentify(result.data)
