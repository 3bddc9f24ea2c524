"""Every attribute of table E.1-1 holds a unique token at top level and at three depths: none may be left."""

from __future__ import annotations

import io
import json
import random
import warnings
from datetime import date, timedelta
from pathlib import Path

import pytest
from pydicom import dcmread, dcmwrite
from pydicom.datadict import dictionary_has_tag, dictionary_VR
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.sequence import Sequence
from pydicom.uid import CTImageStorage, ExplicitVRBigEndian, ExplicitVRLittleEndian, ImplicitVRLittleEndian

import privacy.deid.profiles as profiles
from privacy.deid import residual
from privacy.deid.dicom import DicomEngine
from privacy.deid.profiles import load
from privacy.deid.pseudonym import Pseudonymizer

MODIFIED = frozenset({"retain-longitudinal-modified-dates"})
_ROWS = json.loads((Path(profiles.__file__).parent / "basic.json").read_text())["rows"]
# Sequences that the table does not list, to hide in.
_CARRIERS = (0x52009229, 0x00209111, 0x00289110)


class Planter:
    """Datasets in which every listed attribute has a value that occurs nowhere else."""

    def __init__(self, seed: int = 7) -> None:
        self._random = random.Random(seed)  # noqa: S311 - a repeatable sequence, no secret
        self._days = 0
        self.tokens: list[str] = []

    def token(self, length: int = 10) -> str:
        token = "".join(self._random.choice("BCDFGHKLMNPQRTVWXZ") for _ in range(length))
        self.tokens.append(token)
        return token

    def digits(self, length: int) -> str:
        token = "".join(self._random.choice("123456789") for _ in range(length))
        self.tokens.append(token)
        return token

    def _day(self) -> str:
        """400 days apart: no shift (at most 365 days) moves one onto another."""
        self._days += 400
        day = (date(1000, 1, 1) + timedelta(days=self._days)).strftime("%Y%m%d")
        self.tokens.append(day)
        return day

    def value(self, vr: str) -> object:
        if vr == "PN":
            return f"{self.token()}^{self.token()}"
        if vr in ("LO", "SH", "ST", "LT", "UT", "UC", "UR", "CS", "AE"):
            return self.token()
        if vr == "DA":
            return self._day()
        if vr == "DT":
            return self._day() + "101112.123456"
        if vr == "TM":
            return "101112.123456"
        if vr == "UI":
            return "1.2.3." + self.digits(12)
        if vr == "AS":
            return "071Y"
        if vr in ("DS", "IS"):
            return self.digits(9)
        if vr in ("US", "SS", "UL", "SL"):
            return 4711
        return self.token().encode("ascii")

    def fill(self, dataset: Dataset) -> Dataset:
        for hex_tag, *_ in _ROWS:
            tag = int(hex_tag, 16)
            if tag >> 16 in (0, 2, 4) or not dictionary_has_tag(tag):
                continue
            vr = dictionary_VR(tag).split(" or ")[0]
            if vr == "SQ":
                item = Dataset()
                item.add_new(0x00100010, "PN", self.value("PN"))
                item.add_new(0x00080104, "LO", self.token())
                item.add_new(0x0040A160, "UT", self.token())
                dataset.add_new(tag, "SQ", Sequence([item]))
            else:
                dataset.add_new(tag, vr, self.value(vr))
        self._beyond(dataset)
        return dataset

    def _beyond(self, dataset: Dataset) -> None:
        """What the table does not name: private blocks, overlays, curves, unlisted text, names, dates, unknown tags."""
        block = dataset.private_block(0x0029, self.token(), create=True)
        block.add_new(0x01, "LO", self.token())
        block.add_new(0x02, "OB", self.token().encode())
        inner = Dataset()
        inner.add_new(0x00100010, "PN", self.value("PN"))
        block.add_new(0x03, "SQ", Sequence([inner]))
        for group in (0x6000, 0x6002, 0x5000):
            dataset.add_new(group << 16 | 0x4000, "LT", self.token())
            dataset.add_new(group << 16 | 0x3000, "OB", self.token().encode())
        for tag, vr in ((0x00081090, "LO"), (0x00181210, "SH"), (0x00080070, "LO"), (0x00620006, "ST")):
            dataset.add_new(tag, vr, self.token())
        dataset.add_new(0x00081155, "UI", self.value("UI"))
        dataset.add_new(0x00750010, "LO", self.token())
        dataset.add_new(0x00760999, "UN", self.token().encode())  # no such attribute
        dataset.add_new(0x00200013, "IS", "3")


def planted(planter: Planter) -> Dataset:
    dataset = planter.fill(Dataset())
    holder = dataset
    for tag in _CARRIERS:
        item = planter.fill(Dataset())
        holder.add_new(tag, "SQ", Sequence([item]))
        holder = item
    dataset.SOPClassUID = CTImageStorage
    dataset.SOPInstanceUID = "1.2.3.4.5.6"
    dataset.PatientID = planter.token()
    for name in ("BurnedInAnnotation", "ImageType"):
        if name in dataset:
            del dataset[name]
    return dataset


def encoded(dataset: Dataset, syntax: str, meta_token: str = "") -> bytes:
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = syntax
    dataset.file_meta.MediaStorageSOPClassUID = dataset.SOPClassUID
    dataset.file_meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID
    if meta_token:
        dataset.file_meta.SourceApplicationEntityTitle = meta_token
        dataset.file_meta.PrivateInformationCreatorUID = "1.2.3.4"
        dataset.file_meta.PrivateInformation = meta_token.encode()
        dataset.preamble = meta_token.encode().ljust(128, b"\0")
    target = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        dcmwrite(target, dataset, enforce_file_format=True)
    return target.getvalue()


def left(output: bytes, tokens: list[str]) -> list[str]:
    lower = output.lower()
    return [token for token in tokens if token.lower().encode() in lower]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("syntax", "options"),
    [
        (ExplicitVRLittleEndian, frozenset()),
        (ExplicitVRLittleEndian, MODIFIED | {"clean-descriptors"}),
        (ImplicitVRLittleEndian, MODIFIED),
        (ImplicitVRLittleEndian, frozenset({"clean-structured-content", "clean-graphics", "retain-safe-private"})),
        (ExplicitVRBigEndian, MODIFIED),
    ],
)
def test_nothing_planted_is_left_at_any_depth(syntax: str, options: frozenset[str]) -> None:
    from privacy.deid.text import TextEngine

    planter = Planter()
    dataset = planted(planter)
    data = encoded(dataset, syntax, planter.token())
    found = left(data, planter.tokens)
    assert len(planter.tokens) > 3000
    assert len(found) > 0.99 * len(planter.tokens)  # they are there before
    text = TextEngine("it") if "clean-descriptors" in options else None
    engine = DicomEngine(Pseudonymizer(b"k" * 32), profile=load("basic", options), text=text)
    result = engine.deidentify(data)
    assert left(result.data, planter.tokens) == []
    assert not residual.left_in_file(data, result.data, options)
    assert result.data[:128] == bytes(128)
    clean = dcmread(io.BytesIO(result.data))
    assert clean.file_meta.TransferSyntaxUID == syntax
    assert clean.PatientIdentityRemoved == "YES"
    assert clean.PatientID == clean.PatientName == result.pseudonym
    assert clean.file_meta.MediaStorageSOPInstanceUID == clean.SOPInstanceUID == result.sop_instance_uid
    depth = clean
    for tag in _CARRIERS:  # the walk removed values, not structure
        depth = depth[tag].value[0]
    assert depth.InstanceNumber == 3


@pytest.mark.parametrize("option", ["retain-uids", "retain-device-identity", "retain-institution-identity"])
def test_an_option_keeps_its_attributes_but_not_the_patient(option: str) -> None:
    dataset = Dataset()
    dataset.SOPClassUID, dataset.SOPInstanceUID = CTImageStorage, "1.2.3.4.5.6"
    dataset.PatientName, dataset.PatientID = "Zanzottera^Ugo", "ZZ-445566"
    dataset.StationName, dataset.InstitutionName = "CTROOM2", "Ospedale Centrale"
    dataset.StudyDescription = "TC torace Zanzottera"
    engine = DicomEngine(Pseudonymizer(b"k" * 32), profile=load("basic", frozenset({option})))
    result = engine.deidentify(encoded(dataset, ExplicitVRLittleEndian))
    clean = dcmread(io.BytesIO(result.data))
    kept = {
        "retain-uids": clean.SOPInstanceUID == "1.2.3.4.5.6",
        "retain-device-identity": clean.get("StationName") == "CTROOM2",
        "retain-institution-identity": clean.get("InstitutionName") == "Ospedale Centrale",
    }
    assert [name for name, is_kept in kept.items() if is_kept] == [option]
    assert left(result.data, ["Zanzottera", "445566"]) == []
    assert option in {o for o in load("basic", frozenset({option})).options}
    codes = [item.CodeValue for item in clean.DeidentificationMethodCodeSequence]
    assert len(codes) == 2
    assert codes[0] == "113100"


def test_descriptors_keep_words_and_lose_names() -> None:
    from privacy.deid.text import TextEngine

    dataset = Dataset()
    dataset.SOPClassUID, dataset.SOPInstanceUID = CTImageStorage, "1.2.3.4.5.6"
    dataset.SpecificCharacterSet = "ISO_IR 100"
    dataset.PatientName, dataset.PatientID = "Però^Ugo", "ZZ-445566"
    dataset.StudyDescription = "TC Torace con mdc, però sig. Però 445566"
    options = frozenset({"clean-descriptors"})
    engine = DicomEngine(Pseudonymizer(b"k" * 32), profile=load("basic", options), text=TextEngine("it"))
    clean = dcmread(io.BytesIO(engine.deidentify(encoded(dataset, ExplicitVRLittleEndian)).data))
    assert clean.StudyDescription.startswith("TC Torace con mdc")
    assert "445566" not in clean.StudyDescription
    assert "Per" not in clean.StudyDescription
