"""A batch: any order, any number of processes, killed and run again, the same bytes; nothing else in the target."""

from __future__ import annotations

import errno
import json
import os
import shutil
import signal
import stat
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from pydicom import dcmread

from privacy.deid import batch, onefile
from privacy.deid.report import html
from protocol.errors import InputError, StorageError
from tests.unit.test_deid_dicom import SHIPPED

ROOT = Path(__file__).parents[2]
KEY = b"k" * 32
NAMES = ("CT_small.dcm", "MR_small.dcm", "MR_small_bigendian.dcm", "rtplan.dcm", "test-SR.dcm", "reportsi.dcm")


@pytest.fixture
def source(tmp_path: Path) -> Path:
    folder = tmp_path / "Zanzottera Ugo"
    (folder / "sub").mkdir(parents=True)
    for name in NAMES:
        shutil.copy(SHIPPED / name, folder / "sub" / f"zanzottera {name}")
    (folder / "a.txt").write_text("no DICOM")
    (folder / "b.zip").write_bytes(b"PK\3\4 packed")
    (folder / "cut.dcm").write_bytes((SHIPPED / "CT_small.dcm").read_bytes()[:9000])
    (folder / "link.dcm").symlink_to(SHIPPED / "CT_small.dcm")
    (folder / "linked").symlink_to(SHIPPED)
    os.mkfifo(folder / "pipe")
    return folder


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def run(source: Path, target: Path, **more: Any) -> dict[str, Any]:
    jobs = more.pop("jobs", 1)
    return batch.run(batch.Settings(key=KEY, target=target, **more), source, jobs=jobs)


def test_a_folder(source: Path, tmp_path: Path) -> None:
    held = tmp_path / "held"
    report = run(source, tmp_path / "out", quarantine=held)
    assert report["passed"] == len(NAMES) == len(contents(tmp_path / "out"))
    assert report["quarantined"] == 6
    assert report["same_uid"] == 1  # one image in two encodings: both stay
    assert report["kinds"] == {"archive": 1, "other": 1, "special": 1, "symlink": 2}
    assert report["files"] == report["passed"] + report["duplicates"] + report["quarantined"]
    for path in (tmp_path / "out").iterdir():
        clean = dcmread(path)
        assert path.name.startswith(f"{clean.SOPInstanceUID}")
        assert clean.PatientIdentityRemoved == "YES"
    copies = sorted(held.iterdir())
    assert len(copies) == 3
    assert all(stat.S_IMODE(path.stat().st_mode) == 0o600 for path in copies)
    assert stat.S_IMODE(held.stat().st_mode) == 0o700
    everything = json.dumps(report) + html(report) + (tmp_path / ".out.corsia-manifest").read_text()
    for word in ("Zanzottera", "CompressedSamples", "CT_small", "sub", "link.dcm", "b.zip"):
        assert word.lower() not in everything.lower()


def test_the_same_bytes_with_any_number_of_processes_and_any_names(source: Path, tmp_path: Path) -> None:
    one = run(source, tmp_path / "one")
    two = run(source, tmp_path / "two", jobs=2)
    assert contents(tmp_path / "one") == contents(tmp_path / "two")
    assert one == two
    again = run(source, tmp_path / "one", jobs=2)
    assert again == one
    assert contents(tmp_path / "one") == contents(tmp_path / "two")
    other = tmp_path / "renamed"
    other.mkdir()
    files = [path for path in source.rglob("*") if path.is_file() and not path.is_symlink()]
    for number, path in enumerate(sorted(files, reverse=True)):
        shutil.copy(path, other / f"{number}")
    run(other, tmp_path / "three")
    assert contents(tmp_path / "three") == contents(tmp_path / "two")


def test_a_result_that_was_changed_is_made_again(source: Path, tmp_path: Path) -> None:
    run(source, tmp_path / "out")
    before = contents(tmp_path / "out")
    victim = sorted((tmp_path / "out").iterdir())[0]
    victim.write_bytes(b"damaged")
    (tmp_path / "out" / ".7-99.part").write_bytes(b"half")
    run(source, tmp_path / "out")
    assert contents(tmp_path / "out") == before


def test_another_profile_does_not_take_over_old_results(source: Path, tmp_path: Path) -> None:
    run(source, tmp_path / "out")
    moved = frozenset({"retain-longitudinal-modified-dates"})
    run(source, tmp_path / "out", options=moved)
    run(source, tmp_path / "fresh", options=moved)
    fresh = contents(tmp_path / "fresh")
    assert {name: contents(tmp_path / "out")[name] for name in fresh} == fresh


def test_what_the_present_settings_would_not_pass_does_not_stay(source: Path, tmp_path: Path) -> None:
    """A run under other settings takes away what an earlier one made of the same inputs, and nothing else."""
    target = tmp_path / "out"
    run(source, target, options=frozenset({"retain-uids", "retain-longitudinal-full-dates"}))
    before = set(contents(target))
    (target / "foreign.dcm").write_bytes(b"of somebody else")
    other = batch.run(batch.Settings(key=b"o" * 32, target=target), source)
    assert other["others"] == len(before) + 1  # another key: the inputs are not told to be the same
    report = run(source, target)
    assert report["others"] == other["passed"] + 1
    run(source, tmp_path / "fresh")
    fresh = set(contents(tmp_path / "fresh"))
    assert not before & set(contents(target))
    assert fresh | {"foreign.dcm"} <= set(contents(target))
    assert len(contents(target)) == report["passed"] + report["others"]


def test_duplicates_are_one(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    for name in ("a", "b"):
        shutil.copy(SHIPPED / "CT_small.dcm", tmp_path / "in" / name)
    report = run(tmp_path / "in", tmp_path / "out")
    assert (report["passed"], report["duplicates"], report["quarantined"]) == (1, 1, 0)


def test_places_that_overlap_are_refused(source: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    for target, quarantine in ((source, None), (source / "x", None), (tmp_path, None), (out, out / "q"), (out, source)):
        with pytest.raises(InputError):
            run(source, target, quarantine=quarantine)
    (tmp_path / "link").symlink_to(source)
    with pytest.raises(InputError):
        run(tmp_path / "link", out)
    (tmp_path / "to").symlink_to(tmp_path / "held")
    with pytest.raises(InputError):
        run(source, tmp_path / "to")
    assert not out.exists()


def test_a_full_disk_stops_and_the_next_run_goes_on(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    writes = 0
    real = os.write

    def full(descriptor: int, data: Any) -> int:
        nonlocal writes
        writes += 1
        if writes > 2:
            raise OSError(errno.ENOSPC, "No space left on device")
        return real(descriptor, data)

    monkeypatch.setattr(onefile.os, "write", full)
    with pytest.raises(StorageError) as caught:
        run(source, tmp_path / "out")
    assert caught.value.code == "storage.full"
    assert 0 < len(contents(tmp_path / "out")) < len(NAMES)
    monkeypatch.undo()
    report = run(source, tmp_path / "out")
    assert report == run(source, tmp_path / "fresh")
    assert contents(tmp_path / "out") == contents(tmp_path / "fresh")


@pytest.mark.slow
def test_a_full_disk_under_a_process_is_told(source: Path, tmp_path: Path) -> None:
    """The limit on file size is the process's own disk full."""
    limit = "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (20000, 20000)); "
    done = command(source, tmp_path, "--jobs", "2", "--json", before=limit)
    assert done.stdout, done.stderr
    assert json.loads(done.stdout)["error"]["code"] == "storage.full"
    assert done.returncode >= 10
    assert command(source, tmp_path, "--json").returncode == 0
    run(source, tmp_path / "fresh")
    assert set(contents(tmp_path / "out")) == set(contents(tmp_path / "fresh"))


def command(source: Path, tmp_path: Path, *more: str, before: str = "") -> subprocess.CompletedProcess[str]:
    return subprocess.run(arguments(source, tmp_path, *more, before=before), **options())


def options() -> dict[str, Any]:
    return {"env": {**os.environ, "PYTHONPATH": str(ROOT)}, "capture_output": True, "text": True, "timeout": 120}


def arguments(source: Path, tmp_path: Path, *more: str, before: str = "") -> list[str]:
    key = tmp_path / "key"
    if not key.exists():
        key.write_bytes(KEY)
        key.chmod(0o600)
    start = f"{before}from corsia.cli import main; main()"
    return [sys.executable, "-c", start, "deid", "dicom", str(source), str(tmp_path / "out"), "--key", str(key), *more]


@pytest.mark.slow
def test_killed_in_the_middle_and_run_again(tmp_path: Path) -> None:
    source = tmp_path / "in"
    source.mkdir()
    data = (SHIPPED / "CT_small.dcm").read_bytes()
    uid = b"1.3.6.1.4.1.5962.1.1.1.1.1.20040119072730.12322"
    for number in range(60):
        (source / f"{number}").write_bytes(data.replace(uid, uid[:-4] + f"{1000 + number}".encode()))
    run(source, tmp_path / "whole")
    started = subprocess.Popen(
        arguments(source, tmp_path, "--jobs", "2"), env=options()["env"], stderr=subprocess.DEVNULL
    )
    target = tmp_path / "out"
    while started.poll() is None and not (target.is_dir() and len(list(target.glob("*.dcm"))) >= 3):
        time.sleep(0.005)
    started.send_signal(signal.SIGKILL)
    started.wait()
    done = command(source, tmp_path, "--json")
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    assert report["passed"] == 60
    assert contents(target) == contents(tmp_path / "whole")
    assert "60 passed, 0 quarantined" in done.stderr


def test_a_process_that_dies_costs_its_file_only(source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batch, "_work", _deadly)
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    report = run(source, tmp_path / "out", jobs=2)
    assert report["kinds"]["crash"] == 1
    assert report["passed"] == len(NAMES) - 1


def _deadly(path: str, number: int) -> Any:
    if path.endswith("rtplan.dcm"):
        os.kill(os.getpid(), signal.SIGKILL)
    return _REAL(path, number)


_REAL = batch._work


def test_what_this_key_made_is_told_apart(source: Path, tmp_path: Path) -> None:
    """A second run over results does not do them twice, and does not say that they cannot be read."""
    first = run(source, tmp_path / "out")
    report = run(tmp_path / "out", tmp_path / "again", quarantine=tmp_path / "held")
    assert report["reasons"] == {"input.deidentified": first["passed"]}
    assert (report["passed"], contents(tmp_path / "again")) == (0, {})
    assert "under this key already" in html(report)
    other = batch.Settings(key=b"o" * 32, target=tmp_path / "other")
    assert batch.run(other, tmp_path / "out")["passed"] == first["passed"]


def test_the_certificate_is_honest_and_holds_only_its_own_words(source: Path, tmp_path: Path) -> None:
    report = run(source, tmp_path / "out")
    page = html(report)
    assert "Pseudonymous, not anonymous" in page
    assert "not checked" in page
    assert "http" not in page
    assert "<script" not in page
    with pytest.raises(ValueError, match="own"):
        html({**report, "kinds": {"<b>Rossi</b>": 1}})
