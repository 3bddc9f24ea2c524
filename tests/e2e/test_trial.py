"""Four hospitals' CSV files become a published model by two commands, with every process real."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from corsia.leaks import find_leaks

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(900)]
SITES = ("bari", "forli", "pavia")


def corsia(*args: str, folder: Path) -> tuple[int, dict[str, Any], str]:
    done = subprocess.run(
        [sys.executable, "-m", "corsia", *args], capture_output=True, text=True, timeout=240, cwd=folder, env=os.environ
    )
    line = done.stdout.splitlines()[-1] if done.stdout.strip() else "{}"
    return done.returncode, json.loads(line), done.stderr


def hospital(folder: Path, name: str, number: int) -> None:
    """A spreadsheet's CSV: semicolons, decimal commas, Windows' letters, names of patients, words for the outcome."""
    draw = np.random.default_rng(number)
    lines = ["Cognome;Età;Glicemia;Città di cura;Decesso"]
    for i in range(70):
        sugar = draw.normal(100, 20)
        ill = draw.uniform() < 1 / (1 + np.exp(-(sugar - 100) / 12))
        shown = "?" if i % 11 == 3 else f"{sugar:.1f}".replace(".", ",")
        place = "Forlì" if i % 3 else "Cantù"
        lines.append(f"Cognomefinto{name}{i:03d};{draw.integers(40, 90)};{shown};{place};{'Sì' if ill else 'No'}")
    (folder / f"{name}.csv").write_bytes("\r\n".join(lines).encode("cp1252"))


def test_from_spreadsheets_to_a_published_model(tmp_path: Path) -> None:
    for number, name in enumerate(SITES):
        hospital(tmp_path, name, number)
    sources = [word for name in SITES for word in ("--from-csv", f"{name}.csv")]
    status, found, told = corsia(
        "init", "study", *sources, "--outcome", "Decesso", "--out", "decesso.toml", "--json", folder=tmp_path
    )
    assert status == 0, told
    assert found["features"] == ["Età", "Glicemia", "Città di cura"]
    study = tmp_path / "decesso.toml"
    text = study.read_text()
    assert "secure_aggregation = true" in text
    study.write_text(text.replace("rounds = 10", "rounds = 2"))
    data = [word for name in SITES for word in ("--data", f"{name}={name}.csv")]
    with kept("decesso.toml", *data, "--out", "out", folder=tmp_path) as (found, told):
        _new_patients(tmp_path, found)
    assert (found["study"], found["sites"], found["rounds"]) == ("decesso", list(SITES), 2)
    assert found["masked"] is True
    assert found["metrics"]["auc"] > 0.7
    assert found["metrics"]["rows"] == 210
    assert set(found["local"]) == set(SITES)
    assert all(0 < metrics["auc"] <= 1 for metrics in found["local"].values())
    assert found["model"] == "models:/decesso/1"
    assert found["log"]["verified"] is True
    card = Path(found["card"]).read_text()
    assert "decesso" in card
    assert "bari" in card
    assert any("round 2 of 2" in line for line in told)
    assert any("pavia approved" in line for line in told)
    names = ["Cognomefintonuovo", *(f"Cognomefinto{name}{i:03d}" for name in SITES for i in range(70))]
    assert not find_leaks([path for path in (tmp_path / "out").rglob("*") if path.is_file()], names)
    _refusals(tmp_path, data)


@contextmanager
def kept(*args: str, folder: Path) -> Iterator[tuple[dict[str, Any], list[str]]]:
    """`corsia study try ... --keep` while its consortium runs: its line, and what it told."""
    told: list[str] = []
    with (folder / "told.txt").open("w+") as errors:
        process = subprocess.Popen(
            [sys.executable, "-m", "corsia", "study", "try", *args, "--keep", "--json"],
            stdout=subprocess.PIPE, stderr=errors, text=True, cwd=folder, start_new_session=True,
        )  # fmt: skip
        assert process.stdout is not None
        try:
            line = process.stdout.readline()
            told += (folder / "told.txt").read_text().splitlines()
            assert line.startswith("{"), "\n".join(told)
            yield json.loads(line), told
        finally:
            process.send_signal(signal.SIGINT)
            try:
                process.wait(180)
            finally:
                if process.poll() is None:
                    os.killpg(process.pid, signal.SIGKILL)
                process.stdout.close()
    assert process.returncode == 0


def _new_patients(folder: Path, found: dict[str, Any]) -> None:
    """A fifth hospital's spreadsheet is scored: its own spelling, and a level and a value that nobody had."""
    rows = [
        "Cognome;Età;Glicemia;Città di cura",
        "Cognomefintonuovo;61;150,5;FORLI",
        "Altro;70;?;Roma",
        "Terzo;61;60,0;Forlì",
    ]
    (folder / "nuovi.csv").write_bytes("\r\n".join(rows).encode("cp1252"))
    status, made, told = corsia(
        "model", "predict", "decesso", "--input", "nuovi.csv", "--out", "scores.csv", "--json",
        "--url", found["url"], "--token-file", found["token_file"], folder=folder,
    )  # fmt: skip
    assert (status, made.get("rows")) == (0, 3), told
    scores = pd.read_csv(folder / "scores.csv")["probability"]
    assert scores.between(0, 1).all()
    assert scores[0] > scores[2]


def _refusals(folder: Path, data: list[str]) -> None:
    """What cannot work is said before anything starts."""
    for args, status, code in (
        (["decesso.toml", *data[:4], "--data", "nowhere.csv"], 11, "input.table"),
        (["absent.toml", *data], 11, "input.study"),
        (["decesso.toml", *data, "--data", "bari=forli.csv"], 11, "input.usage"),
    ):
        got, found, _ = corsia("study", "try", *args, "--out", "other", "--json", folder=folder)
        assert (got, found["error"]["code"]) == (status, code)
    (folder / "bari.csv").write_text("Eta,Glicemia\n1,2\n")
    got, found, _ = corsia("study", "try", "decesso.toml", *data, "--out", "other", "--json", folder=folder)
    assert (got, found["error"]["code"]) == (11, "input.column-missing")
    assert "'Età'; did you mean 'Eta'?" in found["error"]["message"]
    (folder / "mine").mkdir()
    (folder / "mine" / "file").write_text("keep")
    hospital(folder, "bari", 0)
    got, found, _ = corsia("study", "try", "decesso.toml", *data, "--out", "mine", "--json", folder=folder)
    assert (got, found["error"]["code"]) == (24, "conflict.exists")
    assert (folder / "mine" / "file").read_text() == "keep"
    two = data[2:]
    got, found, _ = corsia("study", "try", "decesso.toml", *two, "--out", "other", "--json", folder=folder)
    assert (got, found["error"]["code"]) == (11, "input.study"), "masks need three sites"
