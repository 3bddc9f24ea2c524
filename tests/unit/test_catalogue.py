"""`corsia edge dataset`: a schema that a person confirms, a profile for the site's eyes, what the centre may know."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from corsia.cli import app
from corsia.synthetic import ct_series
from edge.advertised import advertised
from edge.config import load

RUN = CliRunner()
ROWS = [
    f"MRN{n:05d},{20 + n % 17},{'F' if n % 2 else 'M'},2024-01-{1 + n % 28:02d},{n / 7:.3f},{'si' if n else 'no'}"
    for n in range(40)
]
CSV = "id_paziente;eta;sesso;data_visita;valore;consenso\n" + "\n".join(row.replace(",", ";") for row in ROWS)


@pytest.fixture(name="site")
def _site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "t.csv").write_text(CSV)
    (tmp_path / "dicom").mkdir()
    for at in range(3):
        data = ct_series({"PatientID": f"MRN{at:05d}", "PatientName": "SECRET^NAME"}, seed=at, size=8, slices=2)
        for number, one in enumerate(data):
            (tmp_path / "dicom" / f"{at}-{number}").write_bytes(one)
    (tmp_path / "dicom" / "x").write_bytes(b"none")
    (tmp_path / "edge.toml").write_text('# mine\nsite = "a"\n')
    return tmp_path


def run(*words: str, code: int = 0) -> dict[str, Any]:
    made = RUN.invoke(app, ["edge", "dataset", *words, "--json"])
    assert (made.exit_code, made.exception if code == 0 else None) == (code, None), made.output
    return json.loads(made.stdout.splitlines()[-1]) if made.stdout.strip() else {}  # type: ignore[no-any-return]


def added(*more: str) -> dict[str, Any]:
    words = ("add", "cohort", "--table", "t.csv", "--folder", "dicom=dicom", *more)
    proposal = run(*words)
    return run(*words, "--confirm", proposal["digest"])


def test_nothing_is_written_before_a_person_has_confirmed_it(site: Path) -> None:
    before = (site / "edge.toml").read_text()
    proposal = run("add", "cohort", "--table", "t.csv")
    assert proposal["columns"] == {
        "id_paziente": "patient", "eta": "quasi", "sesso": "quasi", "data_visita": "date", "valore": "value",
    }  # fmt: skip
    assert (proposal["consent"], proposal["granted"], proposal["written"]) == ("consenso", ["si"], None)
    assert (site / "edge.toml").read_text() == before
    stale = run("add", "cohort", "--table", "t.csv", "--role", "eta=value", "--confirm", proposal["digest"])
    assert stale["written"] is None
    assert stale["columns"]["eta"] == "value"
    run("add", "cohort", "--table", "t.csv", "--confirm", proposal["digest"])
    written = (site / "edge.toml").read_text()
    assert written.startswith(before.rstrip())
    dataset = load(site / "edge.toml").datasets["cohort"]
    assert dataset.policy.lanes == ()
    assert dataset.consent is not None
    assert dataset.consent.granted == ("si",)
    twice = RUN.invoke(app, ["edge", "dataset", "add", "cohort", "--table", "t.csv"])
    assert getattr(twice.exception, "code", "") == "conflict.exists"


def test_a_profile_counts_and_tells_of_nobody(site: Path) -> None:
    added()
    made = run("profile", "cohort", "--html", "report.html")
    assert made["counts"] == {
        "rows": 40, "persons": 40, "imaged persons": 3, "studies": 3, "series": 3, "instances CT": 6,
    }  # fmt: skip
    said = {line["what"]: line["count"] for line in made["quality"]}
    assert said["DICOM files set aside: unreadable"] == 1
    assert said["patients of the table without an image"] == 37
    assert said["rows that are withheld: consent"] == 1
    page = (site / "report.html").read_text()
    assert "<svg" in page
    for text in (page, json.dumps(made), (site / "state" / "catalogue" / "cohort.json").read_text()):
        assert "MRN00001" not in text
        assert "SECRET" not in text
    assert (site / "report.html").stat().st_mode & 0o077 == 0


def test_a_person_is_shown_the_very_value_that_the_centre_is_told(site: Path) -> None:
    added()
    assert run("profile", "cohort")["advertised"] is None
    text = (site / "edge.toml").read_text()
    (site / "edge.toml").write_text(
        text.replace("[datasets.cohort]", '[datasets.cohort]\nadvertise = ["kinds", "counts", "schema"]')
    )
    shown = run("profile", "cohort")["advertised"]
    told = advertised("cohort", load(site / "edge.toml").datasets["cohort"])
    assert shown == json.loads(json.dumps(asdict(told)))
    assert (shown["name"], shown["rows"], shown["kinds"], shown["lanes"]) == ("cohort", 40, ["table", "dicom"], [])
    assert {"name": "valore", "role": "value", "type": "number"} in shown["columns"]
    plain = RUN.invoke(app, ["edge", "dataset", "profile", "cohort"]).stdout
    assert json.dumps(shown, sort_keys=True) in plain


def test_check_says_what_cannot_be_read(site: Path) -> None:
    added()
    assert run("check", "cohort")["ok"] is True
    (site / "t.csv").write_text(CSV.replace("valore", "value"))
    made = RUN.invoke(app, ["edge", "dataset", "check", "cohort", "--json"])
    assert made.exit_code != 0
    line = json.loads(made.stdout.splitlines()[0])
    assert [one["code"] for one in line["checks"] if not one["ok"]] == ["input.column-missing"]


@pytest.mark.slow
def test_an_excel_table_and_a_redcap_dictionary(site: Path) -> None:
    from openpyxl import Workbook

    book = Workbook()
    assert book.active is not None
    for row in CSV.splitlines():
        book.active.append(row.split(";"))
    book.save(site / "t.xlsx")
    assert run("add", "sheet", "--table", "t.xlsx")["columns"]["id_paziente"] == "patient"
    (site / "dictionary.csv").write_text(
        "Variable / Field Name,Form Name,Field Type,Text Validation Type OR Show Slider Number,Identifier?\n"
        "id_paziente,b,text,,\neta,b,text,integer,\nsesso,b,radio,,y\ndata_visita,b,text,date_ymd,\nvalore,b,text,number,\n"
    )
    made = run("add", "export", "--table", "t.csv", "--redcap", "dictionary.csv")
    assert made["columns"]["sesso"] == "identifier"  # because the project says so
    bold = run("add", "export", "--table", "t.csv", "--redcap", "dictionary.csv", "--role", "sesso=quasi")
    run("add", "export", "--table", "t.csv", "--redcap", "dictionary.csv", "--role", "sesso=quasi", "--confirm",
        bold["digest"])  # fmt: skip
    made2 = RUN.invoke(app, ["edge", "dataset", "check", "export", "--json"])
    assert json.loads(made2.stdout.splitlines()[0])["ok"] is False
