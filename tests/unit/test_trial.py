"""`corsia study try`: what it makes of folder and files before anything is started."""

from __future__ import annotations

from pathlib import Path

import pytest

from corsia.cli import main
from corsia.trial import _checked, _prepare
from protocol.errors import ConflictError
from protocol.study import parse_study


def test_a_further_trial_replaces_what_the_last_one_wrote_and_nothing_else(tmp_path: Path) -> None:
    out = tmp_path / "out"
    _prepare(out)
    (out / "sites" / "a").mkdir(parents=True)
    (out / "patients.csv").write_text("x\n1\n")
    _prepare(out)
    assert not (out / "sites").exists()
    assert (out / "patients.csv").read_text() == "x\n1\n"
    other = tmp_path / "other"
    other.mkdir()
    (other / "sites").mkdir()
    with pytest.raises(ConflictError):
        _prepare(other)
    assert (other / "sites").exists()


def test_levels_that_the_study_names_are_no_numbers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The draft names `x` as a level of a column of codes; the trial's site must not count it as missing."""
    monkeypatch.chdir(tmp_path)
    grades = ["1", "2", "3", "1", "2", "3", "1", "2", "3", "1", "2", "x"]
    for name in "ab":
        rows = [f"{40 + i};{grades[i % 12]};{i % 2}" for i in range(72)]
        Path(f"{name}.csv").write_text("\n".join(["anni;grado;esito", *rows]) + "\n")
    args = ["--from-csv", "a.csv", "--from-csv", "b.csv", "--outcome", "esito", "--categorical", "grado"]
    with pytest.raises(SystemExit) as left:
        main(["init", "study", *args, "--json"])
    assert not left.value.code
    study = parse_study(Path("study.toml").read_bytes())
    assert "x" in study.pipeline.parameters["categorical"]["grado"]
    assert _checked(study, Path("a.csv"), ()).form.numeric == ()
