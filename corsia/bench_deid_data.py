"""Files and notes for `corsia bench deid`, made in the run: every planted value is a token that stands nowhere else.

Not here: running anything over them.
"""

from __future__ import annotations

import json
from importlib.resources import files
from pathlib import Path
from typing import Any

__all__ = ["plant", "write_files", "write_notes"]

_TEXTS = frozenset({"SH", "LO", "PN", "ST", "LT", "UT", "UC", "UR", "AE"})
# What a slice needs itself, and what no writer may put a token into.
_FIXED = frozenset({0x00080016, 0x00080005})
_NESTED = (0x00082218, 0x00082220)  # not in Table E.1-1: a tool must walk into them


def _attributes() -> list[tuple[int, str]]:
    """Text, date and UID attributes of the table, with their VR."""
    from pydicom.datadict import dictionary_has_tag, dictionary_VR

    rows = json.loads(files("privacy.deid.profiles").joinpath("basic.json").read_text("utf-8"))["rows"]
    tags = sorted(
        {int(row[0], 16) for row in rows if len(row[0]) == 8 and all(c in "0123456789abcdef" for c in row[0])}
    )
    wanted = [tag for tag in tags if tag >> 16 > 4 and tag not in _FIXED and dictionary_has_tag(tag)]
    found = [(tag, dictionary_VR(tag)) for tag in wanted]
    return [(tag, vr) for tag, vr in found if vr in _TEXTS | {"DA", "UI"}]


def plant() -> dict[str, str]:
    """Value -> class, for one file; every file holds the same ones."""
    planted: dict[str, str] = {}
    for depth, kind in enumerate(("top", "depth1", "depth2", "depth3")):
        for number, (_, vr) in enumerate(_attributes()):
            planted[_token(vr, depth, number)] = kind
    planted |= {f"ZQPRIV{number:02d}X": "private" for number in range(8)}
    planted |= {f"ZQCURV{number:02d}X": "curves-overlays" for number in range(6)}
    planted |= {f"ZQMETA{number:02d}X": "meta" for number in range(5)}
    return planted


def _token(vr: str, depth: int, number: int) -> str:
    if vr == "DA":
        return f"{1801 + depth * 20 + number // 300:04d}{1 + number % 300 // 25:02d}{1 + number % 25:02d}"
    if vr == "UI":
        return f"1.2.826.0.1.{depth + 1}77{number:04d}3"
    return f"ZQ{depth}{number:04d}X"


def _dataset(depth: int) -> Any:
    from pydicom.dataset import Dataset
    from pydicom.sequence import Sequence

    dataset = Dataset()
    for number, (tag, vr) in enumerate(_attributes()):
        dataset.add_new(tag, vr, _token(vr, depth, number))
    block = dataset.private_block(0x0011, "ZQ MAKER", create=True)
    block.add_new(1, "LO", f"ZQPRIV{depth:02d}X")
    block.add_new(2, "UN", f"ZQPRIV{depth + 4:02d}X".encode() + b" ")
    if depth < 3:
        dataset.add_new(_NESTED[depth % 2], "SQ", Sequence([_dataset(depth + 1)]))
    return dataset


def write_files(folder: Path, count: int, planted: dict[str, str]) -> int:
    """Write CT slices of 512 x 512 x 16 bit, with every planted value in each or as a scanner writes them.

    Args:
        folder: is made.
        count: how many.
        planted: of `plant`; empty for plain slices.

    Returns:
        The bytes of all.
    """
    import numpy as np
    from pydicom.dataset import FileMetaDataset
    from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian

    folder.mkdir(parents=True)
    dataset = _dataset(0) if planted else _plain()
    dataset.SOPClassUID, dataset.Modality = CTImageStorage, "CT"
    dataset.Rows = dataset.Columns = 512
    dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit = 16, 12, 11
    dataset.PixelRepresentation, dataset.SamplesPerPixel, dataset.PhotometricInterpretation = 0, 1, "MONOCHROME2"
    meta = FileMetaDataset()
    meta.TransferSyntaxUID, meta.MediaStorageSOPClassUID = ExplicitVRLittleEndian, CTImageStorage
    meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID
    dataset.file_meta, dataset.preamble = meta, bytes(128)
    if planted:
        _plant_outside(dataset)
    random, size = np.random.default_rng(1), 0
    for number in range(count):
        dataset.PixelData = random.integers(0, 4096, 512 * 512, dtype=np.uint16).tobytes()
        path = folder / f"{number:05d}.dcm"
        dataset.save_as(path, enforce_file_format=True)
        size += path.stat().st_size
    data = path.read_bytes()
    assert all(value.encode() in data for value in planted)  # noqa: S101
    return size


def _plant_outside(dataset: Any) -> None:
    """Curves and overlays by group, file meta, preamble."""
    for number, group in enumerate((0x5000, 0x5002, 0x501E)):
        dataset.add_new((group << 16) | 0x0022, "LO", f"ZQCURV{number:02d}X")
    for number, group in enumerate((0x6000, 0x6002, 0x601E), start=3):
        dataset.add_new((group << 16) | 0x4000, "LT", f"ZQCURV{number:02d}X")
    meta = dataset.file_meta
    for number, tag in enumerate((0x00020016, 0x00020017, 0x00020018)):
        meta.add_new(tag, "AE", f"ZQMETA{number:02d}X")
    meta.PrivateInformationCreatorUID, meta.PrivateInformation = "1.2.3", b"ZQMETA03X "
    dataset.preamble = b"ZQMETA04X".ljust(128, b"\0")


def _plain() -> Any:
    """The header of an ordinary slice."""
    from pydicom.dataset import Dataset
    from pydicom.sequence import Sequence

    dataset = Dataset()
    values = {
        "ImageType": ["ORIGINAL", "PRIMARY", "AXIAL"], "SOPInstanceUID": "1.2.3.4.5.6", "StudyDate": "20200102",
        "SeriesDate": "20200102", "AcquisitionDate": "20200102", "ContentDate": "20200102", "StudyTime": "101112",
        "SeriesTime": "101113", "AcquisitionTime": "101114", "ContentTime": "101115", "AccessionNumber": "A123456",
        "Manufacturer": "MAKER", "InstitutionName": "Policlinico", "ReferringPhysicianName": "Bianchi^Ugo",
        "StationName": "CT1", "StudyDescription": "CT TORACE", "SeriesDescription": "AXIAL 1.0", "OperatorsName": "X",
        "ManufacturerModelName": "M", "PatientName": "Verdi^Ada", "PatientID": "P1", "PatientBirthDate": "19500102",
        "PatientSex": "F", "PatientAge": "070Y", "PatientWeight": "60", "BodyPartExamined": "CHEST", "KVP": "120",
        "SliceThickness": "1.0", "DeviceSerialNumber": "778812", "SoftwareVersions": "1", "ProtocolName": "CHEST",
        "ReconstructionDiameter": "350", "ExposureTime": "500", "XRayTubeCurrent": "200", "ConvolutionKernel": "B",
        "PatientPosition": "HFS", "StudyInstanceUID": "1.2.3.4", "SeriesInstanceUID": "1.2.3.4.5", "StudyID": "1",
        "SeriesNumber": "2", "InstanceNumber": "3", "ImagePositionPatient": ["0", "0", "0"],
        "ImageOrientationPatient": ["1", "0", "0", "0", "1", "0"], "FrameOfReferenceUID": "1.2.3.9",
        "SliceLocation": "0", "PixelSpacing": ["0.7", "0.7"], "WindowCenter": "40", "WindowWidth": "400",
        "RescaleIntercept": "-1024", "RescaleSlope": "1", "RequestedProcedureDescription": "TC TORACE",
    }  # fmt: skip
    for keyword, value in values.items():
        setattr(dataset, keyword, value)
    item = Dataset()
    item.ReferencedSOPClassUID, item.ReferencedSOPInstanceUID = "1.2.840.10008.5.1.4.1.1.2", "1.2.3.8"
    dataset.ReferencedImageSequence = Sequence([item])
    return dataset


def write_notes(path: Path, count: int) -> tuple[list[str], list[dict[str, str]]]:
    """Short English notes with values of six kinds; the notes, and what was planted into each."""
    surnames = (
        "Abernathy Blackwood Castellano Dominguez Eriksen Fitzgerald Hargreaves Ivanova Kowalski Lindqvist".split()
    )
    given = "Margaret Thomas Beatrice Samuel Harriet Edward Lucia Frederick Joanna Walter".split()
    notes, planted = [], []
    for number in range(count):
        name = f"{given[number % 10]} {surnames[(number * 7 + number // 10) % 10]}"
        values = {
            "name": name,
            "phone": f"212-555-{1000 + number:04d}",
            "email": f"{name.split()[0].lower()}.{number}@mail.example.org",
            "date": f"{1 + number % 28:02d}/{1 + number % 12:02d}/20{10 + number % 12:02d}",
            "record": f"{7_000_000 + 137 * number}",
            "iban": "IT60X0542811101000000123456",
        }
        notes.append(
            f"Patient {values['name']}, MRN {values['record']}, seen on {values['date']} for Parkinson disease. Call"
            f" {values['phone']} or write to {values['email']}. Refund to {values['iban']}. Child-Pugh B, stable."
        )
        planted.append(values)
    path.write_text(json.dumps(notes), "utf-8")
    return notes, planted
