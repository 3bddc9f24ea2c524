"""The quick reader and writer: what pydicom reads and writes, or nothing."""

from __future__ import annotations

import io
import random
from typing import Any

import pytest
from pydicom import dcmread, dcmwrite
from pydicom.dataset import Dataset, FileMetaDataset

from privacy.deid import elements, part10, plainfile
from tests.unit.test_deid_dicom import SHIPPED

FILES = sorted(path for path in SHIPPED.rglob("*") if path.is_file() and path.stat().st_size < 2_000_000)


def raw(dataset: Dataset) -> list[Any]:
    """Every element, without where in the file it stood; items too."""
    found: list[Any] = []
    for tag in sorted(dataset.keys()):
        element: Any = dataset.get_item(tag, keep_deferred=True)
        if element.is_raw and (element.VR or "") == "SQ":
            plainfile.expand(dataset, tag)
            element = dataset[tag]
        if tag == 0x00080005:  # pydicom has decoded it
            found.append((tag, dataset[tag].value))
        elif element.is_raw:
            found.append((tag, element.VR, element.length, element.value, element[5:]))
        else:
            items = [(raw(item), item.is_undefined_length_sequence_item) for item in element.value]
            found.append((tag, element.VR, element.is_undefined_length, items))
    return [dataset.original_encoding, dataset.original_character_set, found]


def without_length(data: bytes) -> bytes:
    """A file without the length of its head, which pydicom leaves out when it writes as it was."""
    return data[:132] + (data[144:] if data[132:136] == b"\2\0\0\0" else data[132:])


def test_reads_what_pydicom_reads_and_writes_what_it_writes() -> None:
    read = written = 0
    for path in FILES:
        data = path.read_bytes()
        with part10.quiet():
            mine = plainfile.read(data)
            if mine is None:
                continue
            read += 1
            theirs = dcmread(io.BytesIO(data))
            assert raw(mine) == raw(theirs), path.name
            assert mine.file_meta.TransferSyntaxUID == theirs.file_meta.TransferSyntaxUID
            syntax = theirs.file_meta.TransferSyntaxUID
            out = plainfile.write(mine, [(0x00020010, "UI", elements.padded(syntax.encode(), b"\0"))])
            if out is None:
                continue
            target = io.BytesIO()
            theirs.file_meta, theirs.preamble = FileMetaDataset(), bytes(128)
            theirs.file_meta.TransferSyntaxUID = syntax
            dcmwrite(target, theirs)
            assert without_length(out) == without_length(target.getvalue()), path.name
            written += 1
    assert read > 60
    assert written > 60


def test_what_is_not_plain_is_left_to_pydicom() -> None:
    data = (SHIPPED / "CT_small.dcm").read_bytes()
    assert plainfile.read(data) is not None
    assert plainfile.read(data[:-1]) is None
    assert plainfile.read(data + b"\0") is None
    assert plainfile.read(data[132:]) is None
    assert plainfile.read(b"") is None
    for name in ("MR_small_bigendian.dcm", "image_dfl.dcm", "MR_truncated.dcm"):
        assert plainfile.read((SHIPPED / name).read_bytes()) is None


def test_a_group_out_of_order_or_met_twice_is_not_plain() -> None:
    dataset = Dataset()
    dataset.add_new(0x00100010, "PN", "A^B")
    dataset.add_new(0x00100020, "LO", "12")
    dataset.SOPClassUID, dataset.SOPInstanceUID = "1.2.840.10008.5.1.4.1.1.2", "1.2.3"
    target = io.BytesIO()
    dataset.file_meta = dcmread(SHIPPED / "CT_small.dcm").file_meta
    dataset.file_meta.TransferSyntaxUID = "1.2.840.10008.1.2.1"
    dcmwrite(target, dataset, enforce_file_format=True)
    data = target.getvalue()
    assert plainfile.read(data) is not None
    again = data[data.index(b"\x10\0\x10\0PN") :]
    assert plainfile.read(data + again) is None


@pytest.mark.parametrize("name", ["CT_small.dcm", "test-SR.dcm", "JPEG2000.dcm", "rtplan.dcm", "liver_1frame.dcm"])
def test_damaged_bytes_are_read_alike_or_not_at_all(name: str) -> None:
    """Whatever the quick reader takes, pydicom takes for the same."""
    found = sorted(SHIPPED.rglob(name))
    if not found:
        pytest.skip(f"{name} is not with this pydicom")
    data, chance, taken = found[0].read_bytes(), random.Random(7), 0  # noqa: S311
    for _ in range(150):
        copy = bytearray(data)
        for _ in range(chance.randrange(1, 5)):
            copy[chance.randrange(132, min(len(copy), 6000))] = chance.randrange(256)
        with part10.quiet():
            mine = plainfile.read(bytes(copy))
            if mine is None:
                continue
            taken += 1
            assert raw(mine)[2] == raw(dcmread(io.BytesIO(bytes(copy)), force=True))[2]
    assert taken or name == "rtplan.dcm"


def test_items_that_are_not_plain_stay_raw() -> None:
    path = next(SHIPPED.rglob("CT_small.dcm"))
    dataset = plainfile.read(path.read_bytes())
    assert dataset is not None
    from pydicom.dataelem import RawDataElement
    from pydicom.tag import Tag

    tag = Tag(0x00081140)
    for value in (b"\xfe\xff\x00\xe0\x08\0\0\0", b"rubbish!", b"\xfe\xff\x00\xe0\x04\0\0\0abcd"):
        dataset._dict[tag] = RawDataElement(tag, "SQ", len(value), value, 0, False, True)
        plainfile.expand(dataset, tag)
        assert dataset.get_item(tag).is_raw
