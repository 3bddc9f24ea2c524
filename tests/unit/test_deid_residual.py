"""The second look sees a survivor of every kind; a look that saw nothing would prove nothing."""

from __future__ import annotations

import io

import pytest
from pydicom import dcmread
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence
from pydicom.uid import ExplicitVRLittleEndian

from privacy.deid import residual
from tests.unit.test_deid_dicom import basic, engine
from tests.unit.test_deid_dicom_leaks import encoded


def original() -> bytes:
    nested = Dataset()
    nested.OperatorsName = "Brambilla^Ada"
    nested.DeviceSerialNumber = "SN-778899"
    dataset = basic(
        StudyDate="20200110", StudyInstanceUID="1.2.3.77889900", StudyDescription="Controllo di Zanzottera",
        StationName="CTROOM2", AccessionNumber="ACC0001", SharedFunctionalGroupsSequence=Sequence([nested]),
        RetrieveAETitle="PACSMAIN", PatientWeight="71.3", StudyTime="1011",
    )  # fmt: skip
    block = dataset.private_block(0x0029, "HOSPITAL PRIVATE", create=True)
    block.add_new(0x01, "LO", "Interno 4417 bis")
    return encoded(dataset, ExplicitVRLittleEndian)


@pytest.mark.parametrize(
    ("keyword", "value"),
    [
        ("ImageComments", "seguito da ZANZOTTERA"),
        ("ImageComments", "id zz-445566 ok"),
        ("ImageComments", "brambilla"),
        ("ImageComments", "visita 10/01/2020"),
        ("ImageComments", "acc0001"),
        ("ImageComments", "Interno 4417 bis"),
        ("ImageComments", "Controllo di Zanzottera"),
        ("StationName", "CTROOM2"),
        ("ContentDate", "20200110"),
        ("StudyDate", "20200110"),
        ("FrameOfReferenceUID", "1.2.3.77889900"),
        ("InstitutionName", "SN-778899"),
        ("StudyID", "PACSMAIN"),
        ("PatientWeight", "71.3"),
    ],
)
def test_a_survivor_is_seen(keyword: str, value: str) -> None:
    data = original()
    result = engine(frozenset()).deidentify(data)
    assert not residual.left_in_file(data, result.data)
    spoiled = dcmread(io.BytesIO(result.data))
    setattr(spoiled, keyword, value)
    target = io.BytesIO()
    spoiled.save_as(target)
    seen = residual.left_in_file(data, target.getvalue())
    if keyword == "ContentDate":  # a moved date may fall on another date of the file: only its own place counts
        assert not seen
    else:
        assert seen


@pytest.mark.parametrize("encoding", ["utf-8", "latin-1", "utf-16-le", "utf-16-be"])
def test_bytes_are_searched_in_every_encoding(encoding: str) -> None:
    output = engine(frozenset()).deidentify(original()).data
    assert residual.search(output, ["Nicolò"]) == []
    assert residual.search(output + b" " + "NICOLÒ".lower().encode(encoding) + b" ", ["x" * 9, "Nicolò"]) == [1]


def test_a_word_inside_another_is_no_hit_and_a_broken_original_is_not_trusted() -> None:
    output = engine(frozenset()).deidentify(original()).data
    assert residual.search(output + b" zanzotterana ", ["Zanzottera"]) == []
    assert residual.left_in_file(b"", output) or residual.examine(b"").values == ()
    assert residual.left_in_file(original(), b"not dicom")


def test_cells() -> None:
    values = residual.originals_of_row(["Rossetti Mario", "PT-4455", "Via Roma 12", "12345678"])
    assert residual.search_cells(["visto rossetti oggi"], values)
    assert residual.search_cells(["PT 4455"], values)
    assert residual.search_cells([12345678], values)
    assert residual.search_cells(["via roma 12"], values)
    assert not residual.search_cells(["Roma", "rossettini", 4455, 12.0, None, True], values)
