"""The site's TOML: strict, bounded, complete, and the environment above it."""

from __future__ import annotations

import json
import tomllib
from pathlib import Path
from typing import Any

import pytest
import tomli_w

from corsia.cli.init_edge import Answers, init_edge
from corsia.cli.init_edge import _ask as ask
from edge.config import EdgeConfig, load
from protocol.errors import ConfigurationError, ConflictError

GOOD: dict[str, Any] = {
    "site": "site-a",
    "state_dir": "state",
    "datasets": {
        "lung": {
            "table": "data/lung.csv",
            "columns": {"pid": "patient"},
            "consent": {"column": "consent", "granted": ["yes"]},
            "policy": {"lanes": ["harvest"], "min_k": 3},
        }
    },
}


def write(folder: Path, value: dict[str, Any]) -> Path:
    path = folder / "edge.toml"
    path.write_text(tomli_w.dumps(value))
    return path


def test_paths_are_relative_to_the_file(tmp_path: Path) -> None:
    made = load(write(tmp_path, GOOD))
    assert made.state_dir == tmp_path / "state"
    assert made.datasets["lung"].table == tmp_path / "data" / "lung.csv"
    assert made.limits.heartbeat_s == 10.0
    assert (made.datasets["lung"].policy.approve, made.datasets["lung"].policy.allow_unbounded_epsilon) == (
        "manual",
        False,
    )


def test_every_kind_of_source_is_relative_to_the_file_and_enough_alone(tmp_path: Path) -> None:
    for kind in ("dicom", "fhir", "genotypes", "matrix", "omop"):
        made = load(write(tmp_path, {"site": "a", "datasets": {"d": {kind: "data/x"}}}))
        assert getattr(made.datasets["d"], kind) == tmp_path / "data" / "x"


def test_the_environment_is_above_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CORSIA_EDGE_STATE_DIR", "/var/lib/x")
    monkeypatch.setenv("CORSIA_EDGE_FLEET", "centre.example:7443")
    made = load(write(tmp_path, GOOD | {"centre": {"fleet": "other:1"}}))
    assert made.state_dir == Path("/var/lib/x")
    assert made.centre is not None
    assert made.centre.fleet == "centre.example:7443"


def changed(path: str, value: Any) -> dict[str, Any]:
    made = json.loads(json.dumps(GOOD))
    at = made
    *parents, last = path.split(".")
    for part in parents:
        at = at.setdefault(part, {})
    at[last] = value
    return made


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("colour", "red"),
        ("site", "Site A"),
        ("limits.heartbeat_s", 0),
        ("limits.spool_bytes", -1),
        ("limits.worker_timeout_s", float("inf")),
        ("limits.other", 1),
        ("centre.fleet", "no-port"),
        ("datasets.lung.columns.age", "secret"),
        ("datasets.lung.columns.pid2", "patient"),
        ("datasets.lung.policy.lanes", ["harvest", "other"]),
        ("datasets.lung.policy.min_l", 2),
        ("datasets.lung.policy.max_t", 2.0),
        ("datasets.lung.policy.sensitive", ["pid"]),
        ("datasets.lung.signals", "data/ecg"),
        ("datasets.lung.policy.min_k", 0),
        ("datasets.lung.policy.approve", "maybe"),
        ("datasets.lung.policy.max_bytes", 0),
        ("datasets.lung.consent.granted", []),
        ("datasets.lung.table", 7),
        ("datasets", 7),
    ],
)
def test_what_is_wrong_is_named(tmp_path: Path, path: str, value: Any) -> None:
    with pytest.raises(ConfigurationError) as caught:
        load(write(tmp_path, changed(path, value)))
    assert caught.value.code == "config.invalid"
    named = path.rpartition(".")[2] if path not in ("datasets.lung.columns.pid2",) else "lung"
    assert named in caught.value.message


def test_a_table_needs_a_patient_and_a_dataset_a_source(tmp_path: Path) -> None:
    for path, value in (("datasets.lung.columns", {"age": "quasi"}), ("datasets.other", {"columns": {}})):
        with pytest.raises(ConfigurationError):
            load(write(tmp_path, changed(path, value)))


def test_no_file_no_toml(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError) as caught:
        load(tmp_path / "none.toml")
    assert caught.value.code == "config.missing"
    for raw in (b"site = ", b"\xff\xfe", b"a = " + b"[" * 100_000):
        (tmp_path / "bad.toml").write_bytes(raw)
        with pytest.raises(ConfigurationError) as caught:
            load(tmp_path / "bad.toml")
        assert caught.value.code == "config.invalid"


def test_init_writes_a_file_that_loads_and_never_overwrites(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "edge.toml"
    init_edge(out, as_json=True)
    lines = capsys.readouterr().out.splitlines()
    assert json.loads(lines[-1]) == {"written": str(out), "site": "site-a", "dataset": "cohort"}
    made: EdgeConfig = load(out)
    assert made.datasets["cohort"].policy.approve == "manual"
    with pytest.raises(ConflictError):
        init_edge(out)
    init_edge(out, force=True, as_json=True)
    assert tomllib.loads(out.read_text())


def test_init_asks_and_guesses_roles_from_the_header(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "t.csv").write_text(
        "patient_id;nome;data_nascita;visit_date;note;age;ph.ecog;consent\n1;a;b;c;d;5;1;y\n"
    )
    said = iter(["roma", "lung", "t.csv", "", "consent"])
    monkeypatch.setattr("typer.prompt", lambda *_a, **_k: next(said))
    answers = Answers()
    ask(answers, tmp_path)
    assert answers.columns == {
        "patient_id": "patient",
        "nome": "identifier",
        "data_nascita": "birthdate",
        "visit_date": "date",
        "note": "text",
        "age": "quasi",
        "ph.ecog": "value",
    }
    assert (answers.site, answers.consent) == ("roma", "consent")


def policy(folder: Path, text: str) -> Any:
    path = folder / "edge.toml"
    head = '[datasets.d]\ndicom = "x"\n[datasets.d.policy]\nmin_k = 3\n'
    path.write_text(f'site = "a"\n{head}{text}')
    return load(path).datasets["d"].policy


def test_traps_bear_the_names_of_datashield_or_ours(tmp_path: Path) -> None:
    text = '[datasets.d.policy.traps]\nnfilter.tab = 5\nnfilter.levels.max = 9\n"nfilter.stringShort" = 7\nmissing = 4'
    traps = policy(tmp_path, text).traps
    assert (traps.tab, traps.levels_max, traps.string_short, traps.missing, traps.subset) == (5, 9, 7, 4, 3)
    assert policy(tmp_path, "feature_k = 1").feature_k == 1
    assert policy(tmp_path, "").feature_k is None


@pytest.mark.parametrize(
    "text",
    ["nfilter.tab = 0", "nfilter.tab = 3.5", "nfilter.tab = true", "nfilter.tab = '3'", "nfilter.tabs = 3",
     "queries = nan", "glm = 2", "quantile_low = 0.99", "tab = 3\nnfilter.tab = 4", "nfilter = 3", "tab = inf"],
)  # fmt: skip
def test_a_trap_that_is_none_stops_the_start(tmp_path: Path, text: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        policy(tmp_path, f"[datasets.d.policy.traps]\n{text}")
    assert caught.value.code == "config.invalid"
    assert "traps" in caught.value.message


def test_the_written_file_names_every_trap_at_its_default(tmp_path: Path) -> None:
    from dataclasses import fields

    from privacy.disclosure.traps import Traps

    out = tmp_path / "edge.toml"
    init_edge(out, as_json=True)
    head, _, tail = out.read_text().partition("# [datasets.cohort.policy.traps]\n")
    lines = [line.removeprefix("# ") for line in tail.splitlines() if " = " in line]
    assert len(lines) == len(fields(Traps))
    out.write_text("\n".join([head, "[datasets.cohort.policy.traps]", *lines]))
    assert load(out).datasets["cohort"].policy.traps == Traps()
