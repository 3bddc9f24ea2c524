"""Compound actions of table E.1-1 by the attribute's type in the object's IOD, at top level and in sequences."""

from __future__ import annotations

import io
import json
from pathlib import Path

import pytest
from pydicom import dcmread
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence
from pydicom.uid import ExplicitVRLittleEndian

import privacy.deid.profiles as profiles
from privacy.deid.profiles import Action, generate
from privacy.deid.profiles.types import UNKNOWN, resolve, types_of
from tests.unit.test_deid_dicom import engine
from tests.unit.test_deid_dicom_leaks import encoded

CT, PRESENTATION, SR = (
    "1.2.840.10008.5.1.4.1.1.2", "1.2.840.10008.5.1.4.1.1.11.1", "1.2.840.10008.5.1.4.1.1.88.33",
)  # fmt: skip
ENHANCED_CT, UNHEARD_OF = "1.2.840.10008.5.1.4.1.1.2.1", "1.2.840.10008.5.1.4.1.1.999"
FOLDER = Path(profiles.__file__).parent
SHARED = Path(__file__).parents[2].parent / "shared" / "data" / "dicom-ps3.15"


@pytest.mark.parametrize(
    ("word", "kind", "action"),
    [
        ("X/Z", "3", "X"), ("X/Z", "2", "Z"), ("X/Z", "2C", "Z"), ("X/Z", UNKNOWN, "Z"),
        ("X/D", "3", "X"), ("X/D", "1", "D"), ("X/D", "1C", "D"), ("X/D", UNKNOWN, "D"),
        ("Z/D", "2", "Z"), ("Z/D", "1", "D"), ("Z/D", UNKNOWN, "D"), ("Z/D", "3", "Z"),
        ("X/Z/D", "3", "X"), ("X/Z/D", "2", "Z"), ("X/Z/D", "1", "D"), ("X/Z/D", UNKNOWN, "D"),
        ("X/Z/U*", "1", "U"), ("X/Z/U*", UNKNOWN, "U"),
        ("X", "3", "X"), ("X", UNKNOWN, "X"), ("X", "1C", "X"), ("X", "2", "Z"), ("X", "1", "D"),
        ("Z", "2", "Z"), ("Z", "1", "D"), ("Z", UNKNOWN, "Z"), ("D", "3", "D"), ("U", "3", "U"),
    ],
)  # fmt: skip
def test_words_by_type(word: str, kind: str, action: str) -> None:
    assert resolve(word, kind) is Action(action)


def test_types_are_those_of_the_object_and_the_place() -> None:
    assert types_of(CT).of((), 0x00080021) == "3"  # Series Date
    assert types_of(PRESENTATION).of((), 0x00700084) == "3"  # Content Creator's Name
    assert types_of(ENHANCED_CT).of((), 0x00080023) == "1"  # Content Date
    assert types_of(SR).of((0x0040A730,), 0x0040A032) == "1C"  # Observation DateTime of a content item
    # Deeper than the tables unfold, the innermost sequence decides.
    assert types_of(SR).of((0x0040A730,) * 6, 0x0040A032) == "1C"
    assert types_of(CT).of((0x00741234,), 0x00080021) == UNKNOWN
    assert types_of(UNHEARD_OF).of((), 0x00080021) == UNKNOWN


def made(sop_class: str) -> Dataset:
    dataset = Dataset()
    dataset.SOPClassUID, dataset.SOPInstanceUID = sop_class, "1.2.3.4.5.6"
    dataset.PatientName, dataset.PatientID = "Zanzottera^Ugo", "ZZ-445566"
    dataset.SeriesDate, dataset.ContentDate, dataset.AcquisitionDate = "20200101", "20200102", "20200103"
    dataset.ContentCreatorName, dataset.InstitutionName = "Zanzottera^Ada", "Ospedale Uno"
    inner = Dataset()
    inner.StationName = "STANZA9"
    dataset.add_new(0x00209111, "SQ", Sequence([inner]))
    return dataset


def test_the_engine_resolves_by_type() -> None:
    one = engine(frozenset())
    clean = {
        sop: dcmread(io.BytesIO(one.deidentify(encoded(made(sop), ExplicitVRLittleEndian)).data))
        for sop in (CT, PRESENTATION, ENHANCED_CT, UNHEARD_OF)
    }
    assert "SeriesDate" not in clean[CT]
    assert "InstitutionName" not in clean[CT]
    assert clean[CT].ContentDate == ""
    assert clean[PRESENTATION].ContentCreatorName == ""
    assert clean[ENHANCED_CT].ContentDate == "19000101"
    strict = one.deidentify(encoded(made(UNHEARD_OF), ExplicitVRLittleEndian))
    assert clean[UNHEARD_OF].SeriesDate == "19000101"
    assert clean[UNHEARD_OF].InstitutionName == "ANON"
    assert strict.counts["type-unknown"] >= 4
    assert clean[UNHEARD_OF].FrameContentSequence[0].StationName == "ANON"


@pytest.mark.slow
def test_the_data_file_is_small_and_made_by_the_generator() -> None:
    text = (FOLDER / "types.json").read_text("utf-8")
    assert len(text) < 300_000
    assert len(json.loads(text)["iods"]) >= 180
    pytest.importorskip("highdicom")
    if not SHARED.is_dir():
        pytest.skip("../shared/data is not here")
    table = generate.rows(SHARED)
    assert json.loads(json.dumps(generate.types(table))) == json.loads(text)
    assert json.loads((FOLDER / "basic.json").read_text("utf-8"))["rows"] == json.loads(json.dumps(table))
    assert len([row for row in table if row[4] == "2025-01"]) == 617  # and four ranges make 621
    assert len([row for row in table if row[4] == "2026c"]) == 35
