"""`corsia deid dicom` as it is called from outside."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from typer.testing import CliRunner

from corsia.cli.deid import app
from protocol.errors import ConfigurationError, ConflictError, InputError
from tests.unit.test_deid_dicom import SHIPPED


@pytest.fixture
def key(tmp_path: Path) -> Path:
    path = tmp_path / "key"
    path.write_bytes(b"k" * 32)
    path.chmod(0o600)
    return path


def call(*words: object) -> object:
    return CliRunner().invoke(app, ["dicom", *map(str, words)], catch_exceptions=True)


def test_one_file_and_its_report(key: Path, tmp_path: Path) -> None:
    report = tmp_path / "report.json"
    done = call(SHIPPED / "CT_small.dcm", tmp_path / "out", "--key", key, "--report", report, "--json")
    assert done.exit_code == 0
    value = json.loads(done.stdout)
    assert done.stdout.count("\n") == 1
    assert (value["passed"], value["quarantined"]) == (1, 0)
    written = json.loads(report.read_text())
    written.pop("finished")
    assert written == value
    assert "Pseudonymous" in report.with_suffix(".html").read_text()
    assert [path.suffix for path in (tmp_path / "out").iterdir()] == [".dcm"]


def test_a_report_is_put_in_the_place_of_no_device_and_nothing_is_done(key: Path, tmp_path: Path) -> None:
    report = tmp_path / "stdout.json"
    report.symlink_to("/dev/null")
    done = call(SHIPPED / "CT_small.dcm", tmp_path / "out", "--key", key, "--report", report)
    assert isinstance(done.exception, ConflictError)
    assert report.is_symlink()
    assert not (tmp_path / "out").exists()


def test_what_is_set_aside_is_told_and_the_exit_is_zero(key: Path, tmp_path: Path) -> None:
    source = tmp_path / "in"
    source.mkdir()
    shutil.copy(SHIPPED / "CT_small.dcm", source)
    (source / "x").write_bytes(b"nothing")
    done = call(source, tmp_path / "out", "--key", key, "--jobs", 1)
    assert done.exit_code == 0
    assert "1 passed, 1 quarantined" in done.stderr
    assert done.stdout == ""


def test_wrong_use_is_refused_before_anything_is_written(key: Path, tmp_path: Path) -> None:
    file, out = SHIPPED / "CT_small.dcm", tmp_path / "out"
    for words in (
        (tmp_path / "absent", out, "--key", key),
        (file, out, "--key", key, "--option", "no-such-option"),
        (file, out, "--key", key, "--profile", "other"),
        (file, out, "--key", key, "--lang", "fr"),
    ):
        assert isinstance(call(*words).exception, InputError)
    key.chmod(0o644)
    assert isinstance(call(file, out, "--key", key).exception, ConfigurationError)
    assert call(file, out, "--key", key, "--jobs", -1).exit_code == 2
    assert not out.exists()


@pytest.mark.parametrize("from_file", [True, False])
def test_text_keeps_its_line_ends(tmp_path: Path, from_file: bool) -> None:
    raw = b"Il sig. Mario Rossi\r\n\r\nin buone condizioni\nfine"
    (tmp_path / "note.txt").write_bytes(raw)
    source = str(tmp_path / "note.txt") if from_file else "-"
    done = CliRunner().invoke(app, ["text", source, "--lang", "it"], input=raw)
    assert done.exit_code == 0
    assert done.stdout_bytes == b"Il sig. [NOME]\r\n\r\nin buone condizioni\nfine"


def test_text_that_is_not_utf8_is_one_clear_error(tmp_path: Path) -> None:
    done = CliRunner().invoke(app, ["text", "-", "--lang", "it"], input=b"caff\xe8")
    assert isinstance(done.exception, InputError)


def test_dates_of_a_text_move_as_those_of_the_patients_images(key: Path, tmp_path: Path) -> None:
    from privacy.deid.dates import shift_da
    from privacy.deid.pseudonym import Pseudonymizer

    words = ["text", "-", "--key", str(key), "--patient", "PZ-1"]
    done = CliRunner().invoke(app, words, input=b"visto il 17/03/2024")
    moved = shift_da("20240317", Pseudonymizer(b"k" * 32).shift_days("PZ-1"))
    assert moved is not None
    assert done.stdout.rstrip().endswith(f"visto il {moved[6:]}/{moved[4:6]}/{moved[:4]}")
