"""`corsia init study --from-csv` on files as hospitals send them."""

from __future__ import annotations

import json
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from central.federation.local import train_locally
from corsia.cli import main
from edge.config import load
from edge.sources import DatasetSource
from pipelines.train import load as load_rows
from protocol.study import Study, parse_study

HEART = Path(__file__).parents[3] / "shared" / "data" / "heart-disease"
SITES = ("nord", "centro", "sud")
Say = Callable[..., tuple[int, dict[str, Any], str]]


@pytest.fixture
def say(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Say:
    """`corsia init study ARGS --json` in a folder of its own: status, JSON, what was told."""
    monkeypatch.chdir(tmp_path)

    def run(*args: str) -> tuple[int, dict[str, Any], str]:
        with pytest.raises(SystemExit) as left:
            main(["init", "study", *args, "--json"])
        told = capsys.readouterr()
        line = told.out.splitlines()[-1] if told.out else "{}"
        return int(left.value.code or 0), json.loads(line), told.err

    return run


def rows(seed: int, count: int = 80) -> pd.DataFrame:
    draw = np.random.default_rng(seed)
    age, sex = draw.integers(30, 90, count), draw.choice(["M", "F"], count)
    marker = draw.normal(10, 3, count).round(2)
    ill = draw.uniform(size=count) < 1 / (1 + np.exp(-(marker - 10) / 2))
    time = np.ceil(draw.exponential(400, count)) + 1
    return pd.DataFrame({
        "codice_paziente": [f"P{seed}{i:04d}" for i in range(count)], "età": age, "sesso": sex, "marcatore": marker,
        "stadio": draw.choice(["I", "II", "III"], count), "esito": np.where(ill, "sì", "no"),
        "giorni": time.astype(int), "stato": np.where(draw.uniform(size=count) < 0.6, "deceduto", "vivo"),
        "costo": (100 * marker + draw.normal(0, 90, count)).round(1),
    })  # fmt: skip


def write(folder: Path, frames: dict[str, pd.DataFrame] | None = None, **how: Any) -> list[str]:
    args = []
    for i, site in enumerate(SITES):
        frame = rows(i) if frames is None or site not in frames else frames[site]
        path = folder / f"{site}.csv"
        frame.to_csv(path, index=False, **how)
        args += ["--from-csv", str(path)]
    return args


def drafted(path: str = "study.toml") -> Study:
    return parse_study(Path(path).read_bytes())


def test_words_are_a_yes_or_no(say: Say, tmp_path: Path) -> None:
    status, found, _ = say(*write(tmp_path), "--outcome", "esito")
    assert status == 0
    assert found["task"] == "binary"
    study = drafted()
    assert study.sites == ("nord", "centro", "sud")
    assert study.privacy.secure_aggregation
    assert study.pipeline.parameters["positive"] == "sì"
    assert study.pipeline.parameters["negative"] == "no"
    assert study.training is not None
    assert study.training.features == ("età", "sesso", "marcatore", "stadio", "giorni", "stato", "costo")
    assert set(study.pipeline.parameters["categorical"]["stadio"]) == {"I", "II", "III"}
    assert any("'codice_paziente': left out: it may name a person" in note for note in found["notes"])
    assert study.training.publish.model == "study"


def test_a_number(say: Say, tmp_path: Path) -> None:
    status, found, _ = say(*write(tmp_path), "--outcome", "costo")
    assert (status, found["task"]) == (0, "continuous")
    assert drafted().training.outcome == ("costo",)  # type: ignore[union-attr]


def test_time_and_event_in_words(say: Say, tmp_path: Path) -> None:
    status, found, told = say(*write(tmp_path), "--time", "giorni", "--event", "stato", "--out", "s.toml")
    assert (status, found["task"]) == (0, "survival")
    study = drafted("s.toml")
    assert study.training is not None
    assert (study.training.learner, study.training.outcome) == ("survival", ("giorni", "stato"))
    assert study.pipeline.parameters["event"] == "deceduto"
    assert study.pipeline.parameters["censored"] == "vivo"
    assert "probably days" in told


def test_the_files_of_a_folder_and_names_for_them(say: Say, tmp_path: Path) -> None:
    write(tmp_path / ".")
    status, found, _ = say("--from-csv", str(tmp_path), "--outcome", "esito", "--sites", "a,b,c", "--out", "h.toml")
    assert status == 0
    assert found["sites"] == ["a", "b", "c"]
    assert [Path(p).name for p in found["snippets"]] == ["h.a.edge.toml", "h.b.edge.toml", "h.c.edge.toml"]
    assert say("--from-csv", str(tmp_path), "--outcome", "esito", "--sites", "a,b", "--force")[0] == 11


def quirky(seed: int, count: int = 40) -> str:
    draw = np.random.default_rng(seed)
    lines = ["Età;Peso (kg);Località;Note;Emoglobina;Data visita;esito"]
    for i in range(count):
        weight = f"{draw.normal(70, 9):.1f}".replace(".", ",")
        blood = "n.d." if i % 9 == 4 else f"{draw.normal(12, 2):.2f}".replace(".", ",")
        note = f'"visita {i}\nsenza ""altro"" da dire, né da fare in tutto quel che resta"'
        place = ["Forlì", "Cantù"][i % 2]
        ill = "Sì" if draw.uniform() < 0.5 else "No"
        lines.append(f"{draw.integers(20, 90)};{weight};{place};{note};{blood};{i % 28 + 1:02d}/03/2021;{ill}")
    return "\r\n".join(lines) + "\r\n"


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "cp1252", "latin-1", "utf-16"])
def test_italian_spreadsheets(say: Say, tmp_path: Path, encoding: str) -> None:
    """Accents, decimal commas, semicolons, a byte order mark, line breaks in quotes; and the site reads the same."""
    args = []
    for i, site in enumerate(SITES):
        path = tmp_path / f"{site}.csv"
        path.write_bytes(quirky(i).encode(encoding))
        args += ["--from-csv", str(path)]
    status, found, told = say(*args, "--outcome", "esito", "--sites", "nord,centro,sud")
    assert status == 0, told
    assert found["features"] == ["Età", "Peso (kg)", "Località", "Emoglobina"]
    assert ("latin-1" in told) == (encoding in ("cp1252", "latin-1"))
    assert "'Data visita': left out: dates" in told
    study = drafted()
    snippet = tmp_path / "study.nord.edge.toml"
    edge = tmp_path / "edge.toml"
    edge.write_text('site = "nord"\n' + snippet.read_text().replace("data/nord.csv", "nord.csv"))
    config = load(edge).datasets["study"]
    frame = DatasetSource(config, study).table()
    assert frame is not None
    data = load_rows(study, "nord", frame)
    assert data.rows.count == 40
    x = data.rows.x  # type: ignore[attr-defined]
    assert 60 < np.nanmean(x[:, 1]) < 80
    assert np.isnan(x[:, 2]).sum() == sum(1 for i in range(40) if i % 9 == 4)
    assert x[:, 3:].sum(axis=1).tolist() == [1.0] * 40


def test_decimal_commas_between_quotes(say: Say, tmp_path: Path) -> None:
    frames = {site: rows(i).assign(marcatore=lambda f: f["marcatore"].map(lambda v: f"{v:.2f}".replace(".", ",")),
                                   costo=lambda f: f["costo"].map(lambda v: str(v).replace(".", ",")))
              for i, site in enumerate(SITES)}  # fmt: skip
    status, found, _ = say(*write(tmp_path, frames), "--outcome", "esito", "--sites", "a,b,c")
    assert status == 0
    assert {"marcatore", "costo"} <= set(found["features"])
    assert tomllib.loads((tmp_path / "study.a.edge.toml").read_text())["datasets"]["study"]["format"]["decimal"] == ","


def message(found: dict[str, Any]) -> str:
    return str(found["error"]["message"])


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "is empty"),
        (b"\xef\xbb\xbf\r\n\r\n", "is empty"),
        (b"eta,esito\n", "no rows"),
        (b"eta,esito,eta\n1,2,3\n", "'eta' occurs more than once"),
        (b"63.0,1.0,1.0,145.0,?,0\n67.0,1.0,4.0,160.0,?,1\n", "no header"),
        (b"PK\x03\x04xxxxxxx", "spreadsheet"),
        (b"eta,esito\n1,2\n3\n", "line 3 has 1 fields, the header has 2"),
        (b'eta,esito\n"1,2\n3,4\n', "check its quotes"),
        (b"eta,\0esito\n1,2\n", "no text"),
    ],
)
def test_a_file_that_cannot_be_used_is_named_with_the_reason(
    say: Say, tmp_path: Path, content: bytes, words: str
) -> None:
    (tmp_path / "cattivo.csv").write_bytes(content)
    status, found, _ = say(*write(tmp_path), "--from-csv", "cattivo.csv", "--outcome", "esito")
    assert status == 11
    assert found["error"]["code"] == "input.table"
    assert words in message(found)
    assert "cattivo.csv" in message(found)
    assert not Path("study.toml").exists()


def test_real_files_without_a_header(say: Say) -> None:
    if not HEART.is_dir():
        pytest.skip(f"no data at {HEART}")
    status, found, _ = say("--lane", "train", "--from-csv", str(HEART / "processed.va.data"), "--outcome", "num")
    assert (status, found["error"]["code"]) == (11, "input.table")
    assert "no header" in message(found)


def test_a_wrong_outcome_names_those_that_look_alike(say: Say, tmp_path: Path) -> None:
    status, found, _ = say(*write(tmp_path), "--outcome", "Esit")
    assert (status, found["error"]["code"]) == (11, "input.usage")
    assert "did you mean 'esito'" in message(found)
    _, found, _ = say(*write(tmp_path))
    assert "'esito'" in message(found)
    _, found, _ = say(*write(tmp_path), "--outcome", "codice_paziente")
    assert "it is identifier" in message(found)
    _, found, _ = say(*write(tmp_path), "--outcome", "stadio")
    assert "--positive" in message(found)
    _, found, _ = say(*write(tmp_path), "--time", "giorni")
    assert "go together" in message(found)
    assert say(*write(tmp_path), "--outcome", "stadio", "--positive", "III")[0] == 0
    assert drafted().pipeline.parameters == {"task": "binary", "positive": "III", "l2": 0.01} | {
        "categorical": drafted().pipeline.parameters["categorical"]
    }


def test_zero_against_the_rest(say: Say, tmp_path: Path) -> None:
    frames = {site: rows(i).assign(num=lambda f: f["età"] % 5) for i, site in enumerate(SITES)}
    status, found, told = say(*write(tmp_path, frames), "--outcome", "num")
    assert (status, found["task"]) == (0, "continuous")
    assert "--negative" in told
    status, found, _ = say(*write(tmp_path, frames), "--outcome", "num", "--negative", "0", "--force")
    assert (status, found["task"]) == (0, "binary")
    data = load_rows(drafted(), "nord", frames["nord"])
    assert data.rows.y.tolist() == (frames["nord"]["num"] > 0).astype(float).tolist()  # type: ignore[attr-defined]


def test_a_copy_of_the_outcome_is_told_and_left_out(say: Say, tmp_path: Path) -> None:
    frames = {
        site: rows(i).assign(icd=lambda f: f["esito"].map({"sì": "I21", "no": "Z00"}), euro=lambda f: f["costo"] * 0.9)
        for i, site in enumerate(SITES)
    }
    status, found, told = say(*write(tmp_path, frames), "--outcome", "esito")
    assert status == 0
    assert "icd" not in found["features"]
    assert "'icd': left out: it says the same as the outcome" in told
    _, found, _ = say(*write(tmp_path, frames), "--outcome", "costo", "--force")
    assert "euro" not in found["features"]
    assert "marcatore" in found["features"]


def test_small_and_one_sided_hospitals(say: Say, tmp_path: Path) -> None:
    frames = {"centro": rows(1, 1), "sud": rows(2).assign(esito="sì")}
    status, found, told = say(*write(tmp_path, frames), "--outcome", "esito")
    assert status == 0
    assert found["sites"] == ["nord", "sud"]
    assert "centro: left out: 1 rows with an outcome, 10 are needed" in told
    assert "sud: all rows have the same outcome" in told
    assert not drafted().privacy.secure_aggregation
    everywhere = {site: rows(i).assign(esito="no") for i, site in enumerate(SITES)}
    status, found, _ = say(*write(tmp_path, everywhere), "--outcome", "esito", "--force")
    assert status == 11
    assert "one value" in message(found)


def test_what_differs_between_files_is_told_and_the_common_part_used(say: Say, tmp_path: Path) -> None:
    nord = rows(0).assign(sesso=lambda f: f["sesso"].str.lower(), solo_qui=range(80))
    centro = rows(1).rename(columns={"marcatore": "marcatori"})
    sud = rows(2).assign(costo=lambda f: np.where(f["costo"] > 1000, "alto", "basso"), stadio=np.nan)
    args = write(tmp_path, {"nord": nord, "centro": centro, "sud": sud})
    status, found, told = say(*args, "--outcome", "esito")
    assert status == 0
    assert found["features"] == ["età", "sesso", "stadio", "giorni", "stato"]
    assert "'marcatore': left out: not at centro; is it 'marcatori' elsewhere?" in told
    assert "'solo_qui': left out: not at centro, sud" in told
    assert "'costo': left out: the files differ: number at nord, number at centro, category at sud" in told
    assert "'stadio': no value at sud" in told
    assert "spellings taken as one level" in told
    data = load_rows(drafted(), "nord", nord)
    assert data.rows.x[:, 2:4].sum() == 80  # type: ignore[attr-defined]
    nothing = {"sud": pd.DataFrame({"altro": [1, 2, 3]})}
    status, found, _ = say(*write(tmp_path, nothing), "--outcome", "esito", "--force")
    assert (status, found["error"]["code"]) == (11, "input.table")


def test_people_dates_constants_rare_levels_and_large_numbers_are_no_features(say: Say, tmp_path: Path) -> None:
    def spoilt(i: int) -> pd.DataFrame:
        frame = rows(i)
        frame["contatto"] = [f"persona{j}@esempio.it" for j in range(len(frame))]
        frame["cf"] = "RSSMRA85T10A562S"
        frame["Cognome"] = "Rossi"
        frame["progressivo"] = range(1, len(frame) + 1)
        frame["ricovero"] = [f"2021-0{j % 9 + 1}-11" for j in range(len(frame))]
        frame["nascita"] = [f"{j % 28 + 1}/02/19{50 + j % 40}" for j in range(len(frame))]
        frame["costante"] = 7
        frame["reparto"] = ["raro" if j == 3 else "medicina" if j % 2 else "chirurgia" for j in range(len(frame))]
        frame["epoca"] = 1.6e12 + np.arange(len(frame)) ** 2
        frame["colesterolo"] = [-9 if j % 10 == 0 else 150 + j for j in range(len(frame))]
        frame["infinito"] = ["inf" if j == 5 else "1e999" if j == 6 else str(j / 7) for j in range(len(frame))]
        frame["crp"] = ["<0.5" if j == 9 else str(j % 13 / 2) for j in range(len(frame))]
        return frame

    frames = {site: spoilt(i) for i, site in enumerate(SITES)}
    status, found, told = say(*write(tmp_path, frames), "--outcome", "esito", "--sites", "nord,centro,sud")
    assert status == 0
    kept = {"colesterolo", "infinito", "crp", "reparto"}
    gone = {"contatto", "cf", "Cognome", "progressivo", "ricovero", "nascita", "costante", "epoca"}
    assert kept <= set(found["features"])
    assert not gone & set(found["features"])
    for name in gone:
        assert f"'{name}': left out" in told
    assert "raro" not in Path("study.toml").read_text()
    assert "1 levels in fewer than 5 rows" in told or "raro" not in told
    assert "8 cells are -9: if that means missing, add --missing -9" in told
    assert "'crp': 1 cells are no numbers and count as missing" in told
    assert "esempio.it" not in told
    status, found, _ = say(*write(tmp_path, frames), "--outcome", "esito", "--missing", "-9", "--force",
                           "--sites", "nord,centro,sud")  # fmt: skip
    edge = tmp_path / "edge.toml"
    edge.write_text('site = "nord"\n' + (tmp_path / "study.nord.edge.toml").read_text().replace("data/", ""))
    frame = DatasetSource(load(edge).datasets["study"], drafted()).table()
    assert frame is not None
    assert frame["colesterolo"].isna().sum() == 8
    assert frame["crp"].isna().sum() == 1
    data = load_rows(drafted(), "nord", frame)
    assert data.rows.count == 80


def test_more_levels_than_are_named(say: Say, tmp_path: Path) -> None:
    frames = {
        site: pd.concat([rows(i).assign(icd=[f"C{(j + 40 * i) % 120:03d}" for j in range(80)]) for i in range(10)])
        for site in SITES
    }
    status, found, told = say(*write(tmp_path, frames), "--outcome", "esito")
    assert status == 0
    assert "the 100 commonest are named" in told
    assert len(drafted().pipeline.parameters["categorical"]["icd"]) == 100
    assert "icd" in found["features"]


def test_codes_are_named_as_such(say: Say, tmp_path: Path) -> None:
    frames = {site: rows(i).assign(cp=lambda f: f["età"] % 4 + 1) for i, site in enumerate(SITES)}
    _, _, told = say(*write(tmp_path, frames), "--outcome", "esito")
    assert "--categorical cp" in told
    status, _, _ = say(*write(tmp_path, frames), "--outcome", "esito", "--categorical", "cp", "--force")
    assert status == 0
    assert set(drafted().pipeline.parameters["categorical"]["cp"]) == {"1", "2", "3", "4"}
    assert say(*write(tmp_path, frames), "--outcome", "esito", "--categorical", "xx", "--force")[0] == 11


@pytest.mark.slow
@pytest.mark.parametrize(
    ("outcome", "metric", "least"),
    [
        (["--outcome", "esito"], "auc", 0.65),
        (["--outcome", "costo"], "r2", 0.5),
        (["--time", "giorni", "--event", "stato"], "c-index", 0.4),
    ],
)
def test_what_was_drafted_trains(say: Say, tmp_path: Path, outcome: list[str], metric: str, least: float) -> None:
    """By the files as they lie, each site's snippet, and masks: as `corsia study try` does with processes."""
    assert say(*write(tmp_path, sep=";", decimal=",", encoding="latin-1"), *outcome, "--sites", ",".join(SITES))[0] == 0
    study = drafted()
    assert study.training is not None
    study = study.model_copy(update={"training": study.training.model_copy(update={"rounds": 2})})
    data = {}
    for site in SITES:
        edge = tmp_path / "edge.toml"
        snippet = (tmp_path / f"study.{site}.edge.toml").read_text()
        edge.write_text(f'site = "{site}"\n' + snippet.replace("data/", ""))
        data[site] = load_rows(study, site, DatasetSource(load(edge).datasets["study"], study).table())
    reached = train_locally(study, data)
    assert reached.metrics[metric] > least
    assert sum(one.rows.count for one in data.values()) == 240


def test_one_file_is_described_by_the_same_reader(say: Say, tmp_path: Path) -> None:
    status, found, _ = say("--from-csv", "nessuno.csv")
    assert (status, found["error"]["message"]) == (11, "nessuno.csv: no such file or directory")
    Path("uno.csv").write_text('id|"peso, kg"|sesso\n1|70.5|M\n2|81|F\n')
    status, found, _ = say("--from-csv", "uno.csv")
    assert (status, found["columns"]) == (0, ["id", "peso, kg", "sesso"])


def test_odd_names_of_files_and_columns_make_a_study_that_reads(say: Say, tmp_path: Path) -> None:
    Path("Età_1 (nuova).csv").write_text('"a""b";c\\d;peso 🏥\n1;2;3\n', encoding="utf-8")
    status, found, _ = say("--from-csv", "Età_1 (nuova).csv", "--out", "Mio studio.toml")
    assert (status, found["columns"]) == (0, ['a"b', "c\\d", "peso 🏥"])
    study = parse_study(Path("Mio studio.toml").read_bytes())
    assert (study.id, study.dataset.name) == ("mio-studio", "eta-1-nuova")
    assert list(study.dataset.columns) == found["columns"]
    Path("senza.csv").write_text("a,,c\n1,2,3\n")
    status, found, _ = say("--from-csv", "senza.csv", "--out", "x.toml")
    assert (status, found["error"]["message"]) == (11, "senza.csv: column 2 has no name")
    assert not Path("x.toml").exists()


@pytest.mark.parametrize("columns", [4_000, 100_000])
def test_more_columns_than_a_study_can_name_are_refused(say: Say, tmp_path: Path, columns: int) -> None:
    Path("wide.csv").write_text(",".join(f"column_{i}" for i in range(columns)) + "\n")
    status, found, _ = say("--from-csv", "wide.csv", "--lane", "extract")
    assert (status, found["error"]["code"]) == (11, "input.table")
    assert not Path("study.toml").exists()
