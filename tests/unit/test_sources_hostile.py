"""Source folders that somebody prepared: pipes, devices, endless nesting, bombs. Set aside and counted, or refused."""

from __future__ import annotations

import os
import tracemalloc
import zlib
from io import BytesIO
from pathlib import Path

import pydicom
import pytest
from pydicom.dataset import Dataset, FileMetaDataset

from edge.sources import table
from privacy.deid import inflated
from protocol.errors import InputError
from tests.unit.test_sources_dicom import TABLE, folder, image, patients, source

_MIB = 1 << 20


def deflated_bomb(size: int, *, preamble: bool = True, lie: bool = False) -> bytes:
    """A small file of consenting patient p1 that unpacks to `size` bytes and more."""
    dataset = Dataset()
    dataset.SOPClassUID, dataset.SOPInstanceUID, dataset.PatientID = "1.2.840.10008.5.1.4.1.1.2", "1.2.3", "p1"
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = "1.2.840.10008.1.2.1"
    target = BytesIO()
    dataset.save_as(target, enforce_file_format=True)
    plain = target.getvalue()
    head_end = 144 + int.from_bytes(plain[140:144], "little")
    head = plain[:head_end].replace(b"1.2.840.10008.1.2.1\0", b"1.2.840.10008.1.2.1.99")
    at = head.index(b"1.2.840.10008.1.2.1.99")
    head = head[: at - 2] + (22).to_bytes(2, "little") + head[at:]
    if lie:
        head = head[:140] + (7).to_bytes(4, "little") + head[144:]
    packer = zlib.compressobj(9, wbits=-zlib.MAX_WBITS)
    body = plain[head_end:] + b"\xe0\x7f\x10\x00OB\0\0" + size.to_bytes(4, "little") + bytes(size)
    return (head if preamble else head[132:]) + packer.compress(body) + packer.flush()


@pytest.mark.slow
@pytest.mark.parametrize("lie", [False, True])
@pytest.mark.parametrize("preamble", [False, True])
def test_a_deflated_bomb_is_set_aside_without_being_unpacked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, preamble: bool, lie: bool
) -> None:
    root = folder(tmp_path, {"1": image("p1"), "2": deflated_bomb(1 << 10, preamble=preamble, lie=lie)})
    assert len(list(source(tmp_path, root, TABLE).files())) == 2, "it is read where it is small"
    (root / "2").write_bytes(deflated_bomb(64 * _MIB, preamble=preamble, lie=lie))
    assert (root / "2").stat().st_size < _MIB
    monkeypatch.setattr(inflated, "MAX_INFLATED_BYTES", 4 * _MIB)
    s = source(tmp_path, root, TABLE)
    tracemalloc.start()
    try:
        assert patients(s) == ["p1"]
        assert tracemalloc.get_traced_memory()[1] < 16 * _MIB
    finally:
        tracemalloc.stop()
    assert s.withheld["unreadable"] == 1


@pytest.mark.parametrize("special", ["/dev/zero", "pipe", "socket"])
def test_a_table_that_is_no_file_neither_hangs_nor_fills_the_memory(tmp_path: Path, special: str) -> None:
    path = Path(special)
    if special == "pipe":
        os.mkfifo(path := tmp_path / "table.csv")
    elif special == "socket":
        import socket

        path = tmp_path / "table.csv"
        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind(str(path))
    with pytest.raises(Exception, match=r"input\.table|storage\.failed"):
        table.read(path, ["id"], {"id"})


def test_a_folder_in_a_folder_in_a_folder_is_walked_to_its_end(tmp_path: Path) -> None:
    root = folder(tmp_path, {"1": image("p1")})
    handle = os.open(root, os.O_RDONLY)
    try:
        for _ in range(1100):
            os.mkdir("d", dir_fd=handle)
            inner = os.open("d", os.O_RDONLY, dir_fd=handle)
            os.close(handle)
            handle = inner
    finally:
        os.close(handle)
    s = source(tmp_path, root, TABLE)
    try:
        assert patients(s) == ["p1"]
    finally:
        import subprocess

        subprocess.run(["rm", "-rf", str(root)], check=True)  # pytest's own cleaning follows it by recursion


@pytest.mark.parametrize("depth", [200, 5000])
def test_sequences_in_sequences_are_no_way_to_end_the_agent(tmp_path: Path, depth: int) -> None:
    bottom = b""
    for _ in range(depth):
        head = b"\x08\0\x18\x22SQ\0\0\xff\xff\xff\xff\xfe\xff\0\xe0\xff\xff\xff\xff"
        bottom = head + bottom + b"\xfe\xff\x0d\xe0\0\0\0\0\xfe\xff\xdd\xe0\0\0\0\0"
    plain = BytesIO(image("p1"))
    dataset = pydicom.dcmread(plain)
    del dataset.PixelData
    target = BytesIO()
    dataset.save_as(target, enforce_file_format=True)
    root = folder(tmp_path, {"1": image("p1"), "2": target.getvalue() + bottom})
    s = source(tmp_path, root, TABLE)
    found = len(patients_of(s))
    assert found + s.withheld.get("unreadable", 0) == 2


def patients_of(s: object) -> list[str]:
    return [file.name for file in s.files()]  # type: ignore[attr-defined]


@pytest.mark.slow
def test_a_parquet_column_of_repeats_is_no_bomb(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One long word in a dictionary page, and a thousand indices in a few bytes; a constant in no bytes at all."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    words = pa.DictionaryArray.from_arrays(pa.array([0] * 1000, pa.int32()), pa.array(["x" * (_MIB >> 3)]))
    for name, column in (("words", words), ("numbers", pa.array([7] * _MIB, pa.int8()))):
        path = tmp_path / f"{name}.parquet"
        pq.write_table(pa.table({"id": column}), path)
        assert path.stat().st_size < _MIB
        monkeypatch.setattr(table, "MAX_TABLE_BYTES", 1 << 30)
        assert len(table.read(path, ["id"], set() if name == "numbers" else {"id"})) == len(column)
        monkeypatch.setattr(table, "MAX_TABLE_BYTES", 4 * _MIB)
        with pytest.raises(InputError, match=r"input\.table"):
            table.read(path, ["id"], {"id"})


@pytest.mark.slow
def test_a_packed_volume_is_measured_before_it_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A NIfTI of a few kilobytes that unpacks to 64 MiB of zeros, and one that only says so."""
    import gzip
    import struct

    from pipelines.features import volumes

    pytest.importorskip("SimpleITK", reason="needs corsia[imaging]")
    head = bytearray(352)
    struct.pack_into("<i", head, 0, 348)
    struct.pack_into("<8h", head, 40, 3, 256, 256, 1024, 1, 1, 1, 1)
    struct.pack_into("<hh", head, 70, 2, 8)  # unsigned bytes
    struct.pack_into("<8f", head, 76, 1, 1, 1, 1, 0, 0, 0, 0)
    struct.pack_into("<f", head, 108, 352.0)
    head[344:348] = b"n+1\0"
    for name, data in (("full", bytes(head) + bytes(64 * _MIB)), ("empty", bytes(head))):
        path = tmp_path / f"{name}.nii.gz"
        path.write_bytes(gzip.compress(data))
        assert path.stat().st_size < _MIB
        monkeypatch.setattr(volumes, "MAX_VOXELS", 32 * _MIB)
        with pytest.raises(InputError, match="more than"):
            volumes.read(path)
        monkeypatch.undo()
        if name == "full":
            assert volumes.read(path).voxels.shape == (1024, 256, 256)
