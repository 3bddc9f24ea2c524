"""What commands print and write: others' words are shown and not obeyed, and what is no file is not replaced."""

from __future__ import annotations

import io
import os
import sys
from pathlib import Path

import pytest

from corsia.cli.edge_journal import moment
from corsia.cli.edge_rights import _asked
from corsia.cli.show import plain, put
from protocol.errors import ConflictError, InputError


def test_words_stay_and_orders_to_a_terminal_do_not() -> None:
    assert plain("Età\tdi Niccolò\n— «ß» 数") == "Età\tdi Niccolò\n— «ß» 数"
    assert plain("\x1b[2J\r\x9b\u202e\udcff") == "\\x1b[2J\\r\\x9b\\u202e\\udcff"


def test_a_report_replaces_files_alone(tmp_path: Path) -> None:
    report = tmp_path / "left.csv"
    for _ in range(2):
        put(report, b"a")
        assert (report.read_bytes(), report.stat().st_mode & 0o777) == (b"a", 0o600)
    link, pipe = tmp_path / "stdout", tmp_path / "pipe"
    link.symlink_to("left.csv")
    os.mkfifo(pipe)
    for path in (link, pipe, tmp_path):
        with pytest.raises(ConflictError):
            put(path, b"b")
    assert link.is_symlink()
    assert pipe.is_fifo()
    assert report.read_bytes() == b"a"


def test_an_id_that_is_not_utf8_is_refused_and_not_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"Niccol\xf2\n"), encoding="utf-8"))
    with pytest.raises(InputError) as caught:
        _asked()
    assert "Niccol" not in str(caught.value)
    assert caught.value.__cause__ is None


@pytest.mark.parametrize("text", ["9999-12-31T23:59:59-12:00", "0001-01-01T00:00:00+12:00", "yesterday"])
def test_a_time_that_no_page_can_show_is_refused(text: str) -> None:
    assert moment("2026-01-31T12:00:00+01:00", "--since") == moment("2026-01-31T11:00:00", "--since")
    with pytest.raises(InputError):
        moment(text, "--since")
