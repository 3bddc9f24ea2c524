"""A folder of DICOM files: who passes, who is counted, and that the walk never leaves the folder."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from datetime import date
from io import BytesIO
from pathlib import Path
from typing import Any

import pydicom
import pytest
from pydicom.dataset import Dataset

from corsia.synthetic import ct_series
from edge.config import Consent, DatasetConfig, Policy
from edge.sources import DatasetSource, instance
from edge.sources import folder as folders
from protocol.errors import ConfigurationError, InputError, StorageError
from protocol.study import Condition, Lane
from protocol.study import Dataset as Asked
from tests.unit import test_sources as rows


def image(patient: str) -> bytes:
    return ct_series({"PatientID": patient, "PatientName": "PLANTED^NAME"}, seed=1, size=8, slices=1)[0]


def folder(tmp_path: Path, files: dict[str, bytes]) -> Path:
    root = tmp_path / "dicom"
    for name, data in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(data)
    return root


def source(tmp_path: Path, root: Path | None, table: str | None, **more: Any) -> DatasetSource:
    path = tmp_path / "t.csv"
    if table is not None:
        path.write_text(table)
    consent = Consent(column="consent", granted=("yes",)) if more.get("consent", True) else None
    config = DatasetConfig(
        table=None if table is None else path,
        dicom=root,
        columns={} if table is None else {"id": "patient", "age": "value"},
        consent=consent,
        policy=Policy(require_consent=consent is not None),
    )
    asked = Asked(name="d", where=more.get("where", ()), images=more.get("images", True))
    study = rows.study().model_copy(update={"dataset": asked, "lane": more.get("lane", Lane.HARVEST)})
    return DatasetSource(config, study, today=date(2024, 6, 15))


TABLE = "id,age,consent\np1,40,yes\n P2 ,50,yes\np3,60,no\np4,70,yes\np4,70,no\n"


def patients(s: DatasetSource) -> list[str]:
    return [str(pydicom.dcmread(BytesIO(file.data)).PatientID) for file in s.files()]


def test_consent_reaches_the_files(tmp_path: Path) -> None:
    root = folder(
        tmp_path,
        {f"{n}/a.dcm": image(p) for n, p in enumerate(["P1", "p2", "p3", "p4", "p5", ""])} | {"z/notes.txt": b"hello"},
    )
    (root / "z" / "broken.dcm").write_bytes(image("p1")[:180])
    (root / "z" / "empty.dcm").write_bytes(b"")
    s = source(tmp_path, root, TABLE)
    assert patients(s) == ["P1", "p2"]
    assert s.withheld == {"consent": 2 + 4, "unreadable": 3}
    assert patients(s) == ["P1", "p2"]  # and again: nothing is counted twice
    assert s.withheld == {"consent": 2 + 4, "unreadable": 3}


def test_names_are_opaque_and_the_order_is_fixed(tmp_path: Path) -> None:
    root = folder(tmp_path, {"rossi_mario.dcm": image("p1"), "b/2.dcm": image("p2"), "a.dcm": image("p1")})
    names = [file.name for file in source(tmp_path, root, TABLE).files()]
    assert names == ["00000001.dcm", "00000002.dcm", "00000003.dcm"]
    assert patients(source(tmp_path, root, TABLE)) == ["p1", "p2", "p1"]


def test_lane_3_gets_files_grouped_by_patient(tmp_path: Path) -> None:
    root = folder(tmp_path, {"1": image("p2"), "2": image("p1"), "3": image("P2"), "4": b"x", "5": image("p1")})
    s = source(tmp_path, root, TABLE, lane=Lane.EXTRACT)
    assert patients(s) == ["p2", "P2", "p1", "p1"]
    assert s.withheld["unreadable"] == 1


def test_conditions_reach_the_files(tmp_path: Path) -> None:
    root = folder(tmp_path, {p: image(p) for p in ("p1", "p2", "p3", "p9")})
    where = (Condition(column="age", op=">=", value=50),)
    s = source(tmp_path, root, TABLE, where=where)
    assert patients(s) == ["p2"]
    s = source(tmp_path, root, TABLE, where=where, consent=False)
    assert patients(s) == ["p2", "p3"]
    assert s.withheld == {}


def test_without_consent_every_readable_file_passes(tmp_path: Path) -> None:
    root = folder(tmp_path, {"1": image("p1"), "2": image("stranger"), "3": b"no dicom"})
    s = source(tmp_path, root, None, consent=False)
    assert patients(s) == ["p1", "stranger"]
    assert s.withheld == {"unreadable": 1}
    assert s.table() is None


def test_no_images_unless_the_study_asks(tmp_path: Path) -> None:
    root = folder(tmp_path, {"1": image("p1")})
    assert list(source(tmp_path, root, TABLE, images=False).files()) == []


def test_links_are_not_followed(tmp_path: Path) -> None:
    root = folder(tmp_path, {"in/1.dcm": image("p1")})
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "secret.dcm").write_bytes(image("p1"))
    (root / "file.dcm").symlink_to(outside / "secret.dcm")
    (root / "folder").symlink_to(outside)
    (root / "again").symlink_to(root / "in")
    (root / "loop").symlink_to(root / "loop")
    os.mkfifo(root / "pipe")
    s = source(tmp_path, root, TABLE)
    assert len(patients(s)) == 1
    assert s.withheld["unreadable"] == 4


def test_file_without_preamble_is_read(tmp_path: Path) -> None:
    dataset = Dataset()
    dataset.SOPClassUID = "1.2.840.10008.5.1.4.1.1.2"
    dataset.PatientID = "p1"
    dataset.add_new(0x7FE00010, "OB", b"\0\0")
    buffer = BytesIO()
    pydicom.dcmwrite(buffer, dataset, implicit_vr=True, little_endian=True)
    assert len(list(source(tmp_path, folder(tmp_path, {"1": buffer.getvalue()}), TABLE).files())) == 1


def test_absent_folder_and_absent_columns(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"input\.dicom"):
        list(source(tmp_path, tmp_path / "none", TABLE).files())
    with pytest.raises(InputError, match=r"input\.dicom"):
        list(source(tmp_path, None, TABLE).files())
    with pytest.raises(ConfigurationError):
        source(tmp_path, tmp_path, None)
    asked = (Condition(column="age", op=">", value=1),)
    with pytest.raises(InputError, match=r"input\.column-missing"):
        source(tmp_path, tmp_path, None, consent=False, where=asked).table()


@pytest.mark.parametrize("seed", range(30))
def test_damaged_files_never_pass_as_somebody_else(tmp_path: Path, seed: int) -> None:
    import random

    generator = random.Random(seed)  # noqa: S311
    data = bytearray(image("p1"))
    for _ in range(8):
        data[generator.randrange(128, 600)] = generator.randrange(256)
    root = folder(tmp_path, {"1": bytes(data)})
    s = source(tmp_path, root, "id,age,consent\np1,1,no\n")
    assert list(s.files()) == []


# --- disks that fail


class Failing:
    """A file whose blocks the disk does not give, from some byte on."""

    def __init__(self, file: Any) -> None:
        self._file = file

    def __enter__(self) -> Failing:
        return self

    def __exit__(self, *exc: object) -> None:
        self._file.close()

    def fileno(self) -> int:
        return int(self._file.fileno())

    def seek(self, *to: int) -> int:
        return int(self._file.seek(*to))

    def read(self, size: int = -1) -> bytes:
        if size < 0 or self._file.tell() + size > 4096:
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        return bytes(self._file.read(size))


def large(patient: str) -> bytes:
    return ct_series({"PatientID": patient, "PatientName": "PLANTED^NAME"}, seed=1, size=128, slices=1)[0]


@pytest.mark.parametrize("lane", [Lane.HARVEST, Lane.TRAIN])
def test_a_file_that_the_disk_does_not_give_is_set_aside_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, lane: Lane
) -> None:
    caplog.set_level("DEBUG")
    root = folder(tmp_path, {"1": image("p1"), "PLANTED/2": large("p1"), "3": image("p2")})
    bad, fdopen = (root / "PLANTED/2").stat().st_ino, os.fdopen

    def opened(descriptor: int, *more: Any, **named: Any) -> Any:
        file = fdopen(descriptor, *more, **named)
        return Failing(file) if os.fstat(descriptor).st_ino == bad else file

    monkeypatch.setattr(os, "fdopen", opened)
    s = source(tmp_path, root, TABLE, lane=lane)
    assert patients(s) == ["p1", "p2"]
    assert s.withheld["unreadable"] == 1
    assert "PLANTED" not in caplog.text


def refusing(name: str) -> Callable[[Any], Any]:
    """`os.scandir` of one to whom a folder of this name is closed; chmod closes nothing to root."""
    scandir = os.scandir

    def listed(path: Any) -> Any:
        if Path(path).name == name:
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))
        return scandir(path)

    return listed


@pytest.mark.parametrize("lane", [Lane.HARVEST, Lane.TRAIN])
def test_a_folder_that_is_closed_is_counted_and_the_others_are_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, lane: Lane
) -> None:
    caplog.set_level("DEBUG")
    root = folder(tmp_path, {"a/1": image("p1"), "b/PLANTED/2": image("p1"), "c/3": image("p2")})
    monkeypatch.setattr(os, "scandir", refusing("PLANTED"))
    s = source(tmp_path, root, TABLE, lane=lane)
    assert patients(s) == ["p1", "p2"]
    assert s.withheld[folders.UNREADABLE_FOLDER] == 1
    assert "PLANTED" not in caplog.text
    monkeypatch.setattr(os, "scandir", refusing(root.name))
    with pytest.raises(StorageError, match=r"storage\.failed") as error:
        patients(source(tmp_path, root, TABLE))
    assert str(root) not in str(error.value)


def packed() -> bytes:
    from pydicom.encaps import encapsulate

    one = pydicom.dcmread(BytesIO(image("p1")))
    one.file_meta.TransferSyntaxUID = "1.2.840.10008.1.2.4.90"
    one.PixelData = encapsulate([bytes(5000)])
    buffer = BytesIO()
    one.save_as(buffer, enforce_file_format=True)
    return buffer.getvalue()


def fewer() -> bytes:
    """A file that is whole, with fewer pixels than it says."""
    one = pydicom.dcmread(BytesIO(image("p1")))
    one.PixelData = one.PixelData[:-2]
    buffer = BytesIO()
    one.save_as(buffer)
    return buffer.getvalue()


@pytest.mark.filterwarnings("default::UserWarning")
def test_pixels_that_are_cut_short_set_their_instance_aside_alone(tmp_path: Path) -> None:
    whole = large("p1")
    assert instance.judge(whole) == instance.judge(packed()) == instance.judge(large("p1") + bytes(2)) == ""
    cut = [whole[:-1], whole[:-20000], image("p1")[:-3], packed()[:-9], packed()[:-3000], fewer()]
    assert all(instance.judge(data) for data in cut)
    files = {f"c{at}": data for at, data in enumerate(cut)}
    s = source(tmp_path, folder(tmp_path, {"1": whole, **files, "z": image("p2")}), TABLE)
    assert patients(s) == ["p1", "p2"]
    assert s.withheld["unreadable"] + s.withheld.get("empty-shell", 0) == len(cut)
