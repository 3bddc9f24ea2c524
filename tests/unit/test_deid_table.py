"""Tables by role: what leaves, under which shift, in which classes; and the command line over all three engines."""

from __future__ import annotations

import io
import json
import os
from datetime import date
from pathlib import Path

import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydicom import dcmread
from pydicom.uid import ExplicitVRLittleEndian
from typer.testing import CliRunner

from corsia.cli.deid import app
from privacy import disclosure
from privacy.deid.pseudonym import Pseudonymizer
from privacy.deid.table import TableEngine, TableSpec, band, birth_band
from privacy.deid.text import TextEngine
from protocol.errors import CorsiaError, InputError
from tests.unit.test_deid_dicom import basic
from tests.unit.test_deid_dicom_leaks import encoded

KEYS = Pseudonymizer(b"k" * 32)
ROLES = {
    "id": "patient", "name": "identifier", "born": "birthdate", "seen": "date", "note": "text", "age": "quasi",
    "sex": "quasi", "dose": "value",
}  # fmt: skip


def frame(rows: int = 12) -> pd.DataFrame:
    return pd.DataFrame(
        {
            "id": [f"PT-{1000 + n}" for n in range(rows)],
            "name": [f"Zanzottera{'abcdefghijklmnop'[n]} Ugo" for n in range(rows)],
            "born": ["1950-04-03"] * rows,
            "seen": ["2020-01-10"] * rows,
            "note": [
                f"Zanzottera{'abcdefghijklmnop'[n]}, nato il 03/04/1950, visto il 10/01/2020" for n in range(rows)
            ],
            "age": [61 + n % 3 for n in range(rows)],
            "sex": ["M"] * rows,
            "dose": [1.5] * rows,
            "secret": ["x"] * rows,
        }
    )


def deidentify(table: pd.DataFrame, **changes: object) -> object:
    spec = TableSpec(**{"roles": ROLES, "bands": {"age": 10}, "k": 5} | changes)  # type: ignore[arg-type]
    return TableEngine(spec, KEYS, TextEngine("it")).deidentify(table)


def test_each_role_does_what_it_says() -> None:
    result = deidentify(frame())
    out = result.frame
    assert list(out.columns) == ["pseudonym", "born", "seen", "note", "age", "sex", "dose"]
    first = out.iloc[0]
    assert first["pseudonym"] == KEYS.pseudonym("pt-1000 ")
    moved = KEYS.shift_date(date(2020, 1, 10), "PT-1000")
    assert first["seen"] == moved
    assert first["note"] == f"[NOME], nato il [DATA], visto il {moved:%d/%m/%Y}"
    assert first["born"] == "1950-1959"
    assert first["age"] == "60-69"
    assert first["dose"] == 1.5
    assert result.report["k"] == {"required": 5, "achieved": 12, "columns": ["born", "age", "sex"]}
    assert result.report["rules"]["secret"] == "dropped"
    text = json.dumps(result.report)
    assert not any(word in text for word in ("Zanzottera", "PT-1", "1950", "60-69"))


def test_small_classes_go_and_persons_are_counted_not_rows() -> None:
    table = frame(12)
    table.loc[0:2, "age"] = 31
    result = deidentify(table)
    assert result.withheld == {"small-class": 3}
    assert len(result.frame) == 9
    table["id"] = "PT-1000"  # twelve rows of one person hide nobody
    table["name"] = "Zanzottera Ugo"
    assert deidentify(table).withheld == {"small-class": 12}


def test_released_columns_alone_make_the_classes() -> None:
    table = frame()
    table["sex"] = [f"S{n}" for n in range(12)]
    assert len(deidentify(table, release=["age"]).frame) == 12
    assert len(deidentify(table, release=["age", "sex"]).frame) == 0


def test_rows_that_still_hold_an_identifier_or_have_no_patient_are_withheld() -> None:
    table = frame().astype({"dose": "object"})
    table.loc[3, "dose"] = "vedi zanzotterad"
    table.loc[4, "dose"] = "PT 1004"
    table.loc[5, "id"] = None
    result = deidentify(table)
    assert result.withheld == {"no-patient-id": 1, "residual": 2}
    assert len(result.frame) == 9


def test_oldest_share_a_band_and_bad_dates_are_empty() -> None:
    table = frame()
    table.loc[0:5, "born"] = ["1900-01-01", "1921-02-03", "1930-12-31"] * 2
    table.loc[6, "seen"] = "n.d."
    result = deidentify(table, k=1)
    assert result.frame["born"].tolist()[:3] == ["before 1931"] * 3
    assert result.frame["seen"].isna().tolist().count(True) == 1
    assert birth_band(date(1933, 1, 1), 10, 1931) == "1931-1939"
    assert birth_band(None, 10, 1931) is None


def test_a_birth_date_among_other_dates_does_not_tell_the_shift() -> None:
    table = pd.DataFrame({"id": ["1", "2"], "born": ["1950-04-03"] * 2, "seen": ["03/04/1950", "2020-01-01"]})
    spec = TableSpec(roles={"id": "patient", "born": "birthdate", "seen": "date"}, k=1)
    result = TableEngine(spec, KEYS).deidentify(table)
    assert [value is None for value in result.frame["seen"]] == [True, False]


def test_numeric_ids_agree_with_dicom() -> None:
    table = frame(6).assign(id=[float(n) for n in range(70001, 70007)])
    assert deidentify(table).frame["pseudonym"][0] == KEYS.pseudonym("70001")


@pytest.mark.parametrize(
    "changes",
    [
        {"roles": {"id": "patient", "name": "friend"}},
        {"bands": {"dose": 10}},
        {"bands": {"age": 0}},
        {"bands": {"age": float("nan")}},
    ],
)
def test_bad_specs_are_refused(changes: dict[str, object]) -> None:
    with pytest.raises(InputError):
        deidentify(frame(), **changes)


def test_missing_columns_are_named() -> None:
    for table in (frame().drop(columns="seen"), frame().drop(columns="id")):
        with pytest.raises(InputError) as caught:
            deidentify(table)
        assert caught.value.code == "input.column-missing"


def test_bands() -> None:
    assert [band(v, 10) for v in (0, 9, 10, -1, 63.7)] == ["0-9", "0-9", "10-19", "-10--1", "60-69"]
    assert band(1.7, 0.5) == "[1.5,2)"
    assert [band(v, 10) for v in (None, "x", float("nan"), float("inf"))] == [None] * 4


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.tuples(st.integers(0, 5), st.sampled_from(["a", "b", None]), st.integers(0, 2)), max_size=40),
    st.integers(1, 6),
)
def test_what_is_left_is_k_anonymous(rows: list[tuple[int, str | None, int]], k: int) -> None:
    table = pd.DataFrame(rows, columns=["person", "q", "r"])
    kept, gone = disclosure.suppress_small_classes(table, ["q", "r"], k, "person")
    assert len(kept) + gone == len(table)
    groups: dict[tuple[object, object], set[int]] = {}
    for person, q, r in rows:
        groups.setdefault((q, r), set()).add(person)
    expected = [row for row in rows if len(groups[row[1], row[2]]) >= k]
    assert len(kept) == len(expected)
    assert disclosure.k_anonymity(kept, ["q", "r"], "person") == min(
        (len(groups[row[1], row[2]]) for row in expected), default=0
    )


def test_counts() -> None:
    table = pd.DataFrame({"p": ["a", "a", "b", None]})
    assert disclosure.cohort(table) == 4
    assert disclosure.cohort(table, "p") == 2
    assert disclosure.k_anonymity(table, []) == 4
    assert disclosure.k_anonymity(table.iloc[:0], ["p"]) == 0
    assert disclosure.small_counts({"a": 0, "b": 2, "c": 9}, 5) == {"a": 0, "b": None, "c": 9}


# -- the command line


@pytest.fixture
def key(tmp_path: Path) -> Path:
    path = tmp_path / "k"
    path.write_bytes(b"k" * 32)
    path.chmod(0o600)
    return path


def test_cli_dicom(tmp_path: Path, key: Path) -> None:
    source, target, quarantine = tmp_path / "in", tmp_path / "out", tmp_path / "bad"
    (source / "deep").mkdir(parents=True)
    (source / "a.dcm").write_bytes(encoded(basic(StudyDate="20200110"), ExplicitVRLittleEndian))
    (source / "deep" / "b").write_bytes(b"no dicom at all")
    (source / "c.dcm").write_bytes(encoded(basic(BurnedInAnnotation="YES"), ExplicitVRLittleEndian))
    arguments = ["dicom", str(source), str(target), "--key", str(key), "--json", "--report", str(tmp_path / "r.json")]
    arguments += ["--option", "retain-longitudinal-modified-dates", "--quarantine", str(quarantine)]
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 0
    value = json.loads(result.stdout.splitlines()[-1])
    assert (value["passed"], value["quarantined"]) == (1, 2)
    assert value["reasons"] == {"input.dicom": 1, "input.pixels": 1}
    (only,) = target.iterdir()
    assert dcmread(io.BytesIO(only.read_bytes())).PatientID == KEYS.pseudonym("ZZ-445566")
    assert len(list(quarantine.iterdir())) == 2
    assert json.loads((tmp_path / "r.json").read_text()).items() >= value.items()


def test_cli_text(tmp_path: Path, key: Path) -> None:
    known = tmp_path / "known.txt"
    known.write_text("Zanzottera Ugo\n")
    text = "Visto zanzottera il 10/01/2020\n\nTC torace\n"
    result = CliRunner().invoke(app, ["text", "-", "--lang", "it", "--known", str(known)], input=text)
    assert result.stdout == "Visto [NOME] il [DATA]\n\nTC torace\n"
    moved = CliRunner().invoke(app, ["text", "-", "--known", str(known), "--key", str(key)], input=text)
    assert "[DATA]" not in moved.stdout
    assert "10/01/2020" not in moved.stdout
    spans = CliRunner().invoke(app, ["text", "-", "--known", str(known), "--spans"], input=text)
    assert [json.loads(line)["label"] for line in spans.stdout.splitlines()] == ["name", "date"]


def test_cli_table(tmp_path: Path, key: Path) -> None:
    frame().to_csv(tmp_path / "in.csv", index=False)
    columns = "".join(f'{name} = "{role}"\n' for name, role in ROLES.items())
    (tmp_path / "spec.toml").write_text(f"k = 5\n[columns]\n{columns}[generalise]\nage = 10\n")
    arguments = ["table", str(tmp_path / "in.csv"), str(tmp_path / "out.csv"), "--spec", str(tmp_path / "spec.toml")]
    result = CliRunner().invoke(app, [*arguments, "--key", str(key), "--report", str(tmp_path / "r.json"), "--json"])
    assert result.exit_code == 0, result.output
    out = pd.read_csv(tmp_path / "out.csv")
    assert out["pseudonym"][0] == KEYS.pseudonym("PT-1000")
    assert json.loads((tmp_path / "r.json").read_text())["k"]["achieved"] == 12
    (tmp_path / "spec.toml").write_text("k = 5\nkk = 1\n[columns]\n")
    assert isinstance(CliRunner().invoke(app, arguments).exception, CorsiaError)


def test_cli_refuses_a_key_that_others_can_read(tmp_path: Path, key: Path) -> None:
    os.chmod(key, 0o644)
    result = CliRunner().invoke(app, ["dicom", str(tmp_path), str(tmp_path / "out"), "--key", str(key)])
    assert isinstance(result.exception, CorsiaError)
    assert result.exception.code == "config.key-mode"
