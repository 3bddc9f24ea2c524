"""Hierarchies as built and from files; the table engine and its command with them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import typer
from typer.testing import CliRunner

from corsia.cli.deid_table import read_spec
from corsia.cli.deid_table import table as command
from privacy import disclosure
from privacy.deid.hierarchy import build, from_rows
from privacy.deid.pseudonym import Pseudonymizer
from privacy.deid.table import TableEngine, TableSpec
from protocol.errors import CorsiaError, DisclosureRefused, InputError

KEYS = Pseudonymizer(b"k" * 32)
SPEC = """
k = 5
l = 2
t = 0.6
suppression = 0.1
[columns]
id = "patient"
name = "identifier"
born = "birthdate"
age = "quasi"
cap = "quasi"
sex = "quasi"
dx = "sensitive"
[hierarchies]
age = { kind = "age" }
cap = { kind = "postal" }
born = { kind = "birth" }
sex = { file = "sex.csv" }
"""


def path(spec: dict[str, Any], value: Any) -> list[str | None]:
    ladder = build(spec, latest=2020).climb(pd.Series([value], dtype="object"), "x")
    return [ladder.labels_at(level)[0] for level in range(len(ladder))]


def frame(n: int = 60) -> pd.DataFrame:
    return pd.DataFrame(
        {
            "id": [f"PT-{1000 + i}" for i in range(n)],
            "name": [f"Zanzottera Ugo {i:04d}" for i in range(n)],
            "born": [f"{1940 + i % 40}-03-04" for i in range(n)],
            "age": [20 + i % 70 for i in range(n)],
            "cap": [f"{(118, 121, 20121, 20139)[i % 4]:05d}" for i in range(n)],
            "sex": ["M" if i % 2 else "F" for i in range(n)],
            "dx": [("I10", "E11.9", "C50")[i % 3] for i in range(n)],
        }
    )


def test_built_hierarchies() -> None:
    assert path({"kind": "age"}, 37) == ["37", "35-39", "30-39", "20-39", "0-39", "*"]
    assert path({"kind": "age"}, 90) == ["90+"] * 5 + ["*"]
    assert path({"kind": "age", "widths": [20]}, 88)[1] == "80-89"
    assert path({"kind": "number", "widths": [0.5, 2]}, 1.7) == ["1.7", "[1.5,2)", "[0,2)", "*"]
    assert path({"kind": "date"}, "12/05/2019") == ["2019-05-12", "2019-05", "2019-Q2", "2019", "2010-2019", "*"]
    assert path({"kind": "birth"}, "1952-01-02") == ["1952", "1950-1954", "1950-1959", "1940-1959", "*"]
    assert path({"kind": "birth"}, "1930-12-31") == ["before 1931"] * 4 + ["*"]
    assert path({"kind": "postal"}, "20121") == ["20121", "201**", "20***", "2****", "*"]
    assert path({"kind": "postal"}, 118)[0] == "00118"
    assert path({"kind": "icd10"}, "i109") == ["I10.9", "I10", "I10-I15", "I00-I99", "*"]
    assert path({"kind": "icd10"}, "C7A")[2] == "C76-C80"
    assert path({"kind": "prefix", "keep": [3, 1]}, "C09AA05") == ["C09AA05", "C09*", "C*", "*"]
    assert path({"kind": "suppress"}, "x") == ["x", "*"]
    assert path({"kind": "age"}, None) == [None]


def test_missing_is_a_value_of_its_own_until_all_are_one() -> None:
    ladder = build({"kind": "age", "widths": [10]}).climb(pd.Series([31.0, None, 38.0]), "age")
    assert ladder.labels_at(1) == ["30-39", None, "30-39"]
    assert ladder.labels_at(2) == ["*", "*", "*"]
    assert [cost.tolist() for cost in ladder.costs] == [[0, 0, 0], [1, 1, 0], [1, 1, 1]]


@pytest.mark.parametrize(
    "spec",
    [
        {"kind": "ages"},
        {"kind": "age", "widths": [5, 12]},
        {"kind": "age", "top": 95},
        {"kind": "number"},
        {"kind": "number", "widths": [5, float("nan")]},
        {"kind": "date", "levels": ["year", "day"]},
        {"kind": "postal", "keep": [2, 3]},
        {"kind": "suppress", "widths": [1]},
        {"file": "x.csv"},
    ],
)
def test_bad_hierarchies_are_refused(spec: dict[str, Any]) -> None:
    with pytest.raises(InputError) as caught:
        build(spec)
    assert caught.value.code == "input.usage"


def test_bad_files_are_refused() -> None:
    for rows in ([], [["a"]], [["a", "*"], ["b"]], [["a", "x"], ["a", "y"]],
                 [["a", "x", "1"], ["b", "x", "2"]]):  # fmt: skip
        with pytest.raises(InputError):
            from_rows(rows)


@pytest.mark.parametrize(
    ("spec", "value"),
    [({"kind": "postal"}, "2012"), ({"kind": "icd10"}, "zz"), ({"kind": "age"}, -1), ({"kind": "date"}, "n.d.")],
)
def test_values_a_hierarchy_does_not_know_are_refused_unnamed(spec: dict[str, Any], value: Any) -> None:
    with pytest.raises(InputError) as caught:
        build(spec).climb(pd.Series([value]), "x")
    assert caught.value.code == "input.table"
    assert "1 values" in caught.value.message
    assert str(value) not in caught.value.message.replace("'x'", "").replace("1 values", "")


# -- engine


def test_the_engine_recodes_and_holds_what_it_reports() -> None:
    roles = {"id": "patient", "name": "identifier", "born": "birthdate", "age": "quasi", "sex": "quasi", "dx": "value"}
    spec = TableSpec(
        roles=roles, k=4, l=2, t=0.7, sensitive=["dx"], suppression_limit=0.2,
        hierarchies={"age": {"kind": "age"}, "born": {"kind": "birth"}, "sex": {"kind": "suppress"}},
    )  # fmt: skip
    result = TableEngine(spec, KEYS).deidentify(frame())
    out, report = result.frame, result.report
    quasi = ["born", "age", "sex"]
    assert report["k"]["columns"] == quasi
    assert disclosure.k_anonymity(out, quasi, "pseudonym") == report["k"]["achieved"] >= 4
    assert disclosure.l_diversity(out, quasi, ["dx"]) == report["l"]["achieved"] >= 2
    assert disclosure.t_closeness(out, quasi, ["dx"]) == report["t"]["achieved"] <= 0.7
    assert len(frame()) - len(out) == report["suppressed"] <= 0.2 * len(frame())
    assert report["search"]["optimal"]
    assert 0 < report["loss"]["ncp"] < 1
    assert report["risk"]["prosecutor"]["max"] == 1 / report["k"]["achieved"]
    again = TableEngine(spec, KEYS).deidentify(frame())
    assert again.frame.equals(out)


def test_rows_of_one_person_do_not_make_a_class() -> None:
    table = frame(20).assign(id="PT-1")
    spec = TableSpec(roles={"id": "patient", "age": "quasi"}, k=2, hierarchies={"age": {"kind": "age"}})
    with pytest.raises(DisclosureRefused) as caught:
        TableEngine(spec, KEYS).deidentify(table)
    assert caught.value.code == "gate.k"


@pytest.mark.parametrize(
    "changes",
    [
        {"hierarchies": {"dx": {"kind": "icd10"}}},
        {"hierarchies": {"age": {"kind": "age"}}, "bands": {"age": 5}},
        {"sensitive": ["age"], "l": 2},
        {"l": 2},
        {"sensitive": ["dx"], "ordered": ["stage"]},
        {"roles": {"id": "patient", "pseudonym": "value"}},
    ],
)
def test_contradictions_are_refused(changes: dict[str, Any]) -> None:
    with pytest.raises(InputError):
        TableSpec(**{"roles": {"id": "patient", "age": "quasi", "dx": "value"}} | changes)


# -- command


def run(folder: Path, spec: str, table: pd.DataFrame, *more: str, name: str = "in.csv") -> Any:
    app = typer.Typer()
    app.command("table")(command)
    (folder / "sex.csv").write_text("M;*\nF;*\n")
    (folder / "spec.toml").write_text(spec)
    if name.endswith("parquet"):
        table.to_parquet(folder / name)
    else:
        table.to_csv(folder / name, index=False, sep=";")
    out = "out" + Path(name).suffix
    return CliRunner().invoke(
        app, [str(folder / name), str(folder / out), "--spec", str(folder / "spec.toml"), "--json", *more]
    )


@pytest.mark.parametrize("name", ["in.csv", "in.parquet"])
def test_command(tmp_path: Path, name: str) -> None:
    result = run(tmp_path, SPEC, frame(200), "--report", str(tmp_path / "r.json"), name=name)
    assert result.exit_code == 0, result.output
    report = json.loads(result.stdout.splitlines()[-1])
    assert report == json.loads((tmp_path / "r.json").read_text())
    assert {"k", "l", "t", "risk", "loss"} <= set(report)
    out = pd.read_csv(tmp_path / "out.csv", sep=";") if name == "in.csv" else pd.read_parquet(tmp_path / "out.parquet")
    assert list(out.columns) == ["pseudonym", "born", "age", "cap", "sex", "dx"]
    assert disclosure.k_anonymity(out, ["born", "age", "cap", "sex"], "pseudonym") >= 5
    assert not any(word in result.stdout for word in ("Zanzottera", "PT-1", "20121"))


@pytest.mark.parametrize(
    ("change", "code"),
    [
        (("k = 5", "k = 500"), "gate.k"),
        (("l = 2", "l = 9"), "gate.k"),
        (('sex = "quasi"', 'sesso = "quasi"\nsex = "quasi"'), "input.column-missing"),
        (("sex.csv", "none.csv"), "input.usage"),
        (('kind = "age"', 'kind = "agee"'), "input.usage"),
        (("k = 5", "k = true"), "input.usage"),
        (("k = 5", "k = 5\nkk = 1"), "input.usage"),
        (('age = "quasi"', 'age = "what"'), "input.usage"),
        (('cap = { kind = "postal" }', 'cap = { kind = "age" }'), "input.table"),
        (("[hierarchies]", "[hierarchies"), "input.usage"),
    ],
)
def test_command_refuses_and_leaves_no_output(tmp_path: Path, change: tuple[str, str], code: str) -> None:
    table = frame(100)
    if code == "input.table":
        table["cap"] = "x"
    result = run(tmp_path, SPEC.replace(*change), table)
    assert isinstance(result.exception, CorsiaError), result.output
    assert result.exception.code == code
    assert not (tmp_path / "out.csv").exists()
    assert not (tmp_path / "out.csv.part").exists()


def test_without_patient_each_row_is_a_person(tmp_path: Path) -> None:
    spec = 'k = 5\n[columns]\nage = "quasi"\nsex = "quasi"\n[hierarchies]\nage = { kind = "age" }\n'
    result = run(tmp_path, spec, frame(100))
    assert result.exit_code == 0, result.output
    out = pd.read_csv(tmp_path / "out.csv", sep=";")
    assert list(out.columns) == ["age", "sex"]
    assert disclosure.k_anonymity(out, ["age", "sex"]) >= 5


def test_the_spec_in_the_documentation_is_one(tmp_path: Path) -> None:
    page = (Path(__file__).parents[2] / "docs/deidentification.md").read_text()
    (tmp_path / "spec.toml").write_text(page.split("```toml\n")[1].split("```")[0])
    spec, language = read_spec(tmp_path / "spec.toml")
    assert language == "it"
    assert (spec.k, spec.l, spec.t, spec.suppression_limit) == (5, 3, 0.3, 0.02)
    for name, wanted in spec.hierarchies.items():
        if "file" not in wanted:
            build(wanted)
        assert spec.roles[name] in ("quasi", "birthdate")
