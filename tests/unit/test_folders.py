"""Folders that appear whole or not at all, also when two at once put something there."""

from __future__ import annotations

from pathlib import Path

import pytest

from privacy.folders import placed
from protocol.errors import ConflictError


def test_of_two_that_put_something_back_at_once_one_is_refused_and_harms_nothing(tmp_path: Path) -> None:
    def other(_folder: Path) -> None:
        raise AssertionError("it was let in")

    def fill(folder: Path) -> str:
        (folder / "mine").write_text("whole")
        with pytest.raises(ConflictError) as caught:
            placed(tmp_path / "state", other)
        assert caught.value.code == "conflict.running"
        return (folder / "mine").read_text()

    assert placed(tmp_path / "state", fill) == "whole"
    assert [path.name for path in tmp_path.iterdir()] == ["state"]
    with pytest.raises(ConflictError, match="not empty"):
        placed(tmp_path / "state", other)


def test_what_a_killed_one_left_goes(tmp_path: Path) -> None:
    seen: list[Path] = []

    def killed(folder: Path) -> None:
        seen.append(folder)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        placed(tmp_path / "state", killed)
    seen[0].mkdir()
    (seen[0] / "half").write_text("left")
    placed(tmp_path / "state", lambda folder: (folder / "new").write_text("x"))
    assert [path.name for path in (tmp_path / "state").iterdir()] == ["new"]
    assert [path.name for path in tmp_path.iterdir()] == ["state"]
