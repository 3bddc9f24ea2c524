"""The leak finder itself must find: every encoding and container, or its zero means nothing."""

from __future__ import annotations

from io import BytesIO
from pathlib import Path

import pandas as pd
import pytest
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, generate_uid

from corsia.leaks import find_leaks, written_left
from corsia.synthetic import ct_series, written_image

TOKEN = "Bardellini"


def put(tmp_path: Path, data: bytes) -> Path:
    (tmp_path / "f.bin").write_bytes(data)
    return tmp_path


@pytest.mark.parametrize("text", [TOKEN, TOKEN.upper(), f"xx{TOKEN}yy"])
@pytest.mark.parametrize("encoding", ["utf-8", "latin-1", "utf-16-le", "utf-16-be"])
def test_bytes_in_several_encodings(tmp_path: Path, text: str, encoding: str) -> None:
    assert find_leaks([put(tmp_path, b"\0" + text.encode(encoding))], [TOKEN])


def test_a_compressed_parquet_cell(tmp_path: Path) -> None:
    pd.DataFrame({"a": [f"visto {TOKEN}"] * 500}).to_parquet(tmp_path / "t.parquet", compression="zstd")
    found = find_leaks([tmp_path], [TOKEN, "Notplanted"])
    assert [leak.value for leak in found] == [0]


def test_a_deflated_nested_dicom_element(tmp_path: Path) -> None:
    inner = Dataset()
    inner.PersonName = f"{TOKEN}^X"
    dataset = Dataset()
    dataset.SOPClassUID, dataset.SOPInstanceUID = CTImageStorage, generate_uid()
    dataset.ReferencedStudySequence = [inner]
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    target = BytesIO()
    dataset.save_as(target, enforce_file_format=True)
    assert find_leaks([put(tmp_path, target.getvalue())], [TOKEN])


def test_what_gzip_and_zip_hold(tmp_path: Path) -> None:
    import gzip
    import zipfile

    text = f"visto {TOKEN} ieri ".encode() * 20
    assert TOKEN.encode() not in gzip.compress(text)
    assert find_leaks([put(tmp_path, gzip.compress(text))], [TOKEN])
    target = BytesIO()
    with zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a.txt", text)
    assert find_leaks([put(tmp_path, target.getvalue())], [TOKEN])
    assert not find_leaks([put(tmp_path, gzip.compress(text)[:40])], ["Notplanted"])


def test_clean_files_and_short_values(tmp_path: Path) -> None:
    assert find_leaks([put(tmp_path, b"nothing here")], [TOKEN]) == []
    with pytest.raises(ValueError, match="at least"):
        find_leaks([tmp_path], ["abc"])


@pytest.mark.parametrize(
    "text",
    [
        '{"a": [{"b": "\\u0042ardellini"}]}',
        '{"Bardellin\\u0069": 1}',
        '{"a": 1}\n{"data": "dmlzdG8gQmFyZGVsbGluaSBpZXJp"}\n',
        '[{"a": "QmFyZGVsbGluaQ=="}]',
    ],
)
def test_escaped_and_encoded_json(tmp_path: Path, text: str) -> None:
    assert TOKEN not in text
    assert find_leaks([put(tmp_path, text.encode())], [TOKEN])
    assert not find_leaks([put(tmp_path, b"{not json " + text.encode())], ["Notplanted"])


def test_writing_in_a_picture(tmp_path: Path) -> None:
    box, data = written_image({"PatientID": "p"}, "BARDELLINI ROSA", seed=1)
    path = tmp_path / "us.dcm"
    path.write_bytes(data)
    assert written_left(path, box) == "left"
    from pydicom import dcmread

    dataset = dcmread(path)
    values = dataset.pixel_array.copy()
    values[box[1] : box[3], box[0] : box[2]] = 0
    dataset.PixelData = values.tobytes()
    dataset.save_as(path)
    assert written_left(path, box) == "blank"
    path.write_bytes(ct_series({}, seed=1, slices=1)[0])
    assert written_left(path, box) == ""
