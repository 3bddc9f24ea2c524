"""`corsia deid table` on tables as hospitals write them: read rightly, or one clear error and nothing in the target."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import typer
from typer.testing import CliRunner

from corsia.cli.deid_table import table as command
from protocol.errors import CorsiaError

SPEC = """k = 2
suppression = 0.5
[columns]
id = "patient"
name = "identifier"
age = "quasi"
dx = "sensitive"
w = "value"
[hierarchies]
age = { kind = "age" }
"""
ROWS = [(f"P{i}", f"Zanzottera Niccolò{i}", 30 + i, "I10" if i % 2 else "E11", f"{60 + i}.5") for i in range(8)]
HEAD = ("id", "name", "age", "dx", "w")
FRAME = pd.DataFrame(ROWS, columns=list(HEAD)).astype({"w": float})


def text(separator: str = ",", *, quote: str = "", rows: list[Any] = ROWS, head: tuple[str, ...] = HEAD) -> str:
    lines = [separator.join(f"{quote}{cell}{quote}" for cell in row) for row in [head, *rows]]
    return "\n".join(lines) + "\n"


def run(folder: Path, data: bytes | pd.DataFrame, spec: str = SPEC, *, target: str = "") -> Any:
    source = folder / ("in.csv" if isinstance(data, bytes) else "in.parquet")
    if isinstance(data, bytes):
        source.write_bytes(data)
    else:
        data.to_parquet(source)
    (folder / "spec.toml").write_text(spec)
    out, report = folder / (target or f"out{source.suffix}"), folder / "report.json"
    if out.parent == folder:
        out.write_text("from an earlier run")
    report.write_text("from an earlier run")
    app = typer.Typer()
    app.command("table")(command)
    return CliRunner().invoke(
        app, [str(source), str(out), "--spec", str(folder / "spec.toml"), "--report", str(report), "--json"]
    )


@pytest.mark.parametrize(
    ("data", "separator", "decimal"),
    [
        (text().encode(), ",", "."),
        (text(";").encode(), ";", "."),
        (text("\t").encode(), "\t", "."),
        (text(quote='"').encode(), ",", "."),
        (b"\xef\xbb\xbf" + text(";").encode(), ";", "."),
        (text(";").encode("latin-1"), ";", "."),
        (text(";").replace("E11", "E11 \u2013").encode("cp1252"), ";", "."),
        (text(";").encode("utf-16"), ";", "."),
        (text(";").replace(".5", ",5").encode(), ";", ","),
        (text(quote='"').replace(".5", ",5").encode(), ",", ","),
        (text().replace("\n", "\r\n").encode(), ",", "."),
    ],
)
def test_csv_of_every_kind(tmp_path: Path, data: bytes, separator: str, decimal: str) -> None:
    result = run(tmp_path, data)
    assert result.exit_code == 0, result.output
    out = pd.read_csv(tmp_path / "out.csv", sep=separator, decimal=decimal)
    assert out["w"].tolist() == FRAME["w"].tolist()
    assert out["age"].tolist() == ["30-34"] * 5 + ["35-39"] * 3
    report = json.loads(result.stdout)
    assert report == json.loads((tmp_path / "report.json").read_text())
    assert report["k"] == {"required": 2, "achieved": 3, "columns": ["age"]}
    assert {"l", "t", "risk", "loss", "search"} <= set(report)
    assert "Zanzottera" not in (tmp_path / "out.csv").read_text() + result.output


def test_missing_cells_are_values_of_their_own_but_ids_are_read_as_written(tmp_path: Path) -> None:
    ids = ["NA", "None", "007", "7", "", "P5", "P6", "P7"]
    rows = [
        (one, b, "" if i % 2 else c, x, "NA") for i, (one, (_a, b, c, x, _w)) in enumerate(zip(ids, ROWS, strict=True))
    ]
    result = run(tmp_path, text(rows=rows).encode())
    assert result.exit_code == 0, result.output
    out = pd.read_csv(tmp_path / "out.csv")
    report = json.loads(result.stdout)
    assert report["withheld"]["no-patient-id"] == 1
    assert out["pseudonym"].nunique() == report["persons"] == 7 - report["suppressed"]
    assert out["age"].isna().sum() == 4
    assert out["w"].isna().all()


def test_no_rows_give_no_rows(tmp_path: Path) -> None:
    result = run(tmp_path, text(rows=[]).encode())
    assert result.exit_code == 0, result.output
    assert (tmp_path / "out.csv").read_text() == "pseudonym,age,dx,w\n"
    assert json.loads(result.stdout)["k"]["achieved"] == 0


def test_parquet_keeps_its_types(tmp_path: Path) -> None:
    n = len(FRAME)
    frame = FRAME.assign(
        w=pd.array([None, *range(1, n)], dtype="Int64"),
        dx=pd.Categorical(FRAME["dx"]),
        sex=pd.Categorical(["F", "M"] * (n // 2)),
        age=pd.array([None, None, *range(32, 30 + n)], dtype="Int64"),
        seen=pd.date_range("2020-01-01", periods=n, tz="Europe/Rome"),
        born=[pd.Timestamp("1950-03-04").date()] * n,
    )
    more = 'sex = "quasi"\nseen = "date"\nborn = "birthdate"\n[hier'
    result = run(tmp_path, frame, SPEC.replace("[hier", more).replace("k = 2", "k = 1"))
    assert result.exit_code == 0, result.output
    out = pd.read_parquet(tmp_path / "out.parquet")
    assert str(out["w"].dtype) == "Int64"
    assert out["w"].isna().sum() == 1
    assert isinstance(out["dx"].dtype, pd.CategoricalDtype)
    assert set(out["born"]) == {"1950-1959"}
    assert len(set(out["seen"])) > 1


@pytest.mark.parametrize(
    ("data", "change", "code"),
    [
        (b"", ("", ""), "input.table"),
        (b"\x00\x01\xff", ("", ""), "input.table"),
        (text(rows=ROWS[:1]).encode(), ("", ""), "gate.k"),
        (text().encode(), ("k = 2", "k = 50"), "gate.k"),
        (text().encode(), ("k = 2\nsuppression = 0.5", "k = 50\nsuppression = 1.0"), "gate.k"),
        (text(head=("id", "name", "age", "dx", "dx")).encode(), ("", ""), "input.table"),
        (text(head=("id", "nome", "age", "dx", "w")).encode(), ("", ""), "input.column-missing"),
        (text(rows=[(*row, "more") for row in ROWS]).encode(), ("", ""), "input.table"),
        (text(rows=[(*ROWS[0], "more"), *ROWS]).encode(), ("", ""), "input.table"),
        (text().encode(), ("k = 2", "k = 2\nkk = 2"), "input.usage"),
        (text().encode(), ("k = 2", "k = 0"), "input.usage"),
        (text().encode(), ("k = 2", "k = 2\nt = 2"), "input.usage"),
        (text().encode(), ("k = 2", 'k = 2\nl = 2\nl_kind = "many"'), "input.usage"),
        (text().encode(), ("k = 2", 'k = 2\nloss = "all"'), "input.usage"),
        (text().encode(), ('"quasi"', '"quasy"'), "input.usage"),
        (text().encode(), ("[hierarchies]", "[hierarchy]"), "input.usage"),
        (text().encode(), ("k = 2", "k ="), "input.usage"),
        (text().encode(), ('"age" }', '"age", widths = [5, 7] }'), "input.usage"),
        (FRAME.assign(dx=[[1]] * 8), ("", ""), "input.table"),
        (FRAME.assign(dx=[np.arange(2)] * 8), ("", ""), "input.table"),
        (FRAME.assign(w=[b"x"] * 8), ("", ""), "input.table"),
        (FRAME.assign(w=[{"a": "Zanzottera"}] * 8), ("", ""), "input.table"),
    ],
)
def test_one_error_and_nothing_in_the_target(tmp_path: Path, data: Any, change: tuple[str, str], code: str) -> None:
    result = run(tmp_path, data, SPEC.replace(*change) if change[0] else SPEC)
    assert isinstance(result.exception, CorsiaError), result.output
    assert result.exception.code == code
    assert "Zanzottera" not in result.exception.message
    assert sorted(path.name for path in tmp_path.iterdir()) in (["in.csv", "spec.toml"], ["in.parquet", "spec.toml"])


def test_a_target_that_cannot_be_written_is_a_storage_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    result = run(tmp_path, text().encode(), target="file/out.csv")
    assert isinstance(result.exception, CorsiaError)
    assert result.exception.code == "storage.failed"


def test_the_source_and_the_spec_are_never_the_target(tmp_path: Path) -> None:
    for target in ("in.csv", "spec.toml"):
        result = run(tmp_path, text().encode(), target=target)
        assert isinstance(result.exception, CorsiaError)
        assert result.exception.code == "input.usage"
        assert (tmp_path / target).exists()


def test_a_table_is_put_in_the_place_of_no_device_or_link(tmp_path: Path) -> None:
    (tmp_path / "stdout").symlink_to("pipe")
    os.mkfifo(tmp_path / "pipe")
    for target in ("stdout", "pipe"):
        result = run(tmp_path, text().encode(), target=f"../{tmp_path.name}/{target}")
        assert isinstance(result.exception, CorsiaError)
        assert result.exception.code == "conflict.exists"
    assert (tmp_path / "stdout").is_symlink()
    assert (tmp_path / "pipe").is_fifo()
