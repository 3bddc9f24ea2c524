"""`corsia demo`: its line, what leaked, what reached out, the notebook over it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import pytest

from corsia.leaks import find_leaks, leaks_in
from corsia.opened import opened
from tests.e2e.running import Demo

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(1800)]
ROOT = Path(__file__).parents[2]
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
PROCESSES = tuple(f"central.{name}" for name in ("gateway", "vault", "signer", "federation", "web"))
HEART = ROOT.parent / "shared" / "data" / "heart-disease"


def planted(out: Path) -> list[str]:
    return [value for path in sorted(out.glob("sites/*/data/planted.json")) for value in json.loads(path.read_text())]


def test_the_line_has_the_agreed_keys_and_sane_figures(demo: Demo) -> None:
    s = demo.summary
    assert set(s) == {"sites", "lanes", "inference", "log", "seconds"}
    assert s["sites"] == 3
    harvest, anonymize, extract, train = (s["lanes"][lane] for lane in ("harvest", "anonymize", "extract", "train"))
    assert set(harvest) == {"records", "withheld", "parcels", "bytes"}
    assert harvest["records"] > 100
    assert harvest["withheld"] > 0
    assert harvest["parcels"] >= 3
    assert harvest["bytes"] > 1000
    assert set(anonymize) == {"files", "records", "identifiers_planted", "identifiers_left", "k", "documents",
                              "pictures_cleaned", "quarantined"}  # fmt: skip
    assert anonymize["documents"] >= 24
    assert anonymize["pictures_cleaned"] == 3
    assert anonymize["quarantined"]["burned-in"] == 3
    assert anonymize["files"] > 200
    assert anonymize["identifiers_planted"] > 1000
    assert anonymize["identifiers_left"] == 0
    assert anonymize["k"] >= 3
    assert extract["rows"] >= 24
    assert extract["columns"] > 100
    assert train["rounds"] == 5
    assert train["metric"] == "c-index"
    assert all(0.3 < train[k] < 1 for k in ("federated", "local_mean", "pooled"))
    assert train["model"].startswith("models:/lung-survival/")
    assert s["inference"]["centre"]["rows"] == harvest["records"]
    assert s["inference"]["edge"]["rows"] > 10
    assert s["log"]["verified"] is True
    assert s["log"]["entries"] >= harvest["parcels"]


def test_the_model_was_promoted_by_two_and_the_site_accepted_it_from_the_log(demo: Demo) -> None:
    token = demo.out / "centre" / "state" / "operator.token"
    where = ("--url", demo.url, "--token-file", str(token), "--json")

    def run(*args: str) -> dict[str, object]:
        done = demo.inside(sys.executable, "-m", "corsia", *args)
        assert done.returncode == 0, done.stderr
        return dict(json.loads(done.stdout.splitlines()[-1]))

    (model,) = run("model", "ls", *where)["models"]  # type: ignore[misc]
    assert (model["alias"], model["serial"], model["promotion"]) == ("champion", 2, "operator, reviewer")
    joining = demo.summary["inference"]["edge"]["site"]
    config = demo.out / "sites" / joining / "edge.toml"
    (accepted,) = run("edge", "models", "--config", str(config), "--json")["models"]  # type: ignore[misc]
    assert (accepted["alias"], accepted["version"], accepted["serial"], accepted["in_force"]) == (
        "champion", 1, 2, True,
    )  # fmt: skip
    rows = demo.out / "rows.csv"
    rows.write_text("age,sex,ph_ecog,ph_karno,pat_karno,meal_cal,wt_loss\n61,1,1,90,80,1100,5\n74,2,2,60,,600,20\n")
    features = run("model", "show", "lung-survival", *where)["features"]
    header = ",".join(features)  # type: ignore[arg-type]
    cells = ",".join("1" for _ in header.split(","))
    rows.write_text(f"{header},name\n{cells},x\n{cells},y\n")
    scored = ("--alias", "champion", "--input", str(rows), "--out", str(demo.out / "scores.csv"), *where)
    assert run("model", "predict", "lung-survival", *scored)["rows"] == 2
    assert (demo.out / "scores.csv").read_text().startswith("risk,survival,horizon\n")


def test_every_site_tells_of_its_data_in_tens_and_no_more(demo: Demo) -> None:
    code = "import corsia,json,sys\nwith corsia.connect(sys.argv[1], token_file=sys.argv[2]) as hub:\n"
    token = str(demo.out / "centre" / "state" / "operator.token")
    done = demo.inside(sys.executable, "-c", code + " print(json.dumps(list(hub.datasets)))", demo.url, token)
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    sites = {path.name for path in (demo.out / "sites").iterdir() if (path / "edge.toml").exists()}
    assert {(row["dataset"], row["site"]) for row in told} == {("lung", site) for site in sites}
    assert all(row["rows"] and row["rows"] % 10 == 0 for row in told)
    assert all({column["name"] for column in row["columns"]} >= {"age", "sex", "status"} for row in told)


def test_a_person_is_the_same_in_rows_images_and_records(demo: Demo, tmp_path: Path) -> None:
    """One pseudonym in all three, and the same days between a person's dates as at the hospital."""
    import pandas as pd
    from pydicom import dcmread

    folder = opened(demo.out / "centre" / "state" / "vault", "lung-anonymize", tmp_path)
    table = pd.concat([pd.read_parquet(path) for path in folder.glob("*/*.parquet")]).set_index("pseudonym")
    imaged = {str(d.PatientID): str(d.StudyDate) for d in (dcmread(p, stop_before_pixels=True)
              for p in folder.glob("*/*.dcm")) if "StudyDate" in d}  # fmt: skip
    met = 0
    for path in (p for p in folder.glob("*/P*.json")):
        found = [entry["resource"] for entry in json.loads(path.read_text())["entry"]]
        encounter = next(r for r in found if r["resourceType"] == "Encounter")
        who, seen = path.stem.split("-")[0], encounter["period"]["start"]
        if who in table.index:  # not of a class too small to leave
            met += 1
            assert str(table.loc[who, "visit_date"])[:10] == seen
        assert imaged.get(who, seen.replace("-", "")) == seen.replace("-", "")
    assert met >= 20
    assert len(imaged) >= 24


def test_no_file_outside_the_sites_sources_holds_a_planted_identity(demo: Demo, tmp_path: Path) -> None:
    """Logs, databases, spools, landing zone, lake, results, MLflow, temporary files: all but the sources.

    Lane 1 brings raw rows by its nature: patient ids are in its part of the lake, and only the lake key shows them.
    """
    sources = {path for site in demo.out.glob("sites/*") for path in (site / "data").rglob("*")}
    raw = opened(demo.out / "centre" / "state" / "vault", "lung-harvest", tmp_path)
    assert find_leaks([raw], planted(demo.out)), "the search finds nothing even where something is"
    searched = [
        path
        for path in demo.out.parent.rglob("*")  # with what was written to standard error, HOME and TMPDIR
        if path.is_file() and not path.is_socket() and path not in sources
    ]
    assert len(searched) > 300
    kinds = {
        "logs": "centre/state/logs/*.jsonl", "a site's log": "sites/*/state/log.jsonl", "outputs": "logs/*.out",
        "database": "centre/state/corsia.db", "its log": "centre/state/*-wal",
        "a site's databases": "sites/*/state/*.db",
        "MLflow": "mlflow/mlflow.db", "artifacts": "mlflow/artifacts/**/*.safetensors", "HOME of a worker":
        "sites/*/state/work/**/*", "spools": "sites/*/state/spool/**/*.json", "standard error": "../stderr.txt",
    }  # fmt: skip
    missed = [kind for kind, pattern in kinds.items() if not list(demo.out.glob(pattern))]
    assert not missed, "these are to be searched, and are not where they were"
    assert not [path for path in demo.out.parent.rglob("core*") if path.is_file() and path.suffix in ("", ".dump")]
    leaks = find_leaks(searched, planted(demo.out))
    assert not leaks, sorted({(str(leak.path.relative_to(demo.out)), leak.reading) for leak in leaks})


def test_no_answer_of_the_centre_holds_a_planted_identity(demo: Demo) -> None:
    """Pages and REST, with the operator's token: what a dashboard on the wall shows, and what scripts keep."""
    token = (demo.out / "centre" / "state" / "operator.token").read_text().strip()
    code = (
        "import sys,urllib.request as u,urllib.error as e\n"
        "for path in sys.argv[3:]:\n"
        "    r=u.Request(sys.argv[1]+path,headers={'Authorization':'Bearer '+sys.argv[2]})\n"
        "    try: print(u.urlopen(r).read().decode('utf-8','replace'))\n"
        "    except e.HTTPError as error: print(error.code, error.read().decode('utf-8','replace'))\n"
    )
    names = [study["id"] for study in json.loads(demo.inside(
        sys.executable, "-c", code, demo.url, token, "/api/v1/studies").stdout)]  # fmt: skip
    paths = ["/", "/healthz", "/api/v1/sites", "/api/v1/studies", "/api/v1/log", "/api/v1/models", "/api/v1/none",
             *(f"/api/v1/studies/{name}" for name in names), *(f"/studies/{name}" for name in names)]  # fmt: skip
    done = demo.inside(sys.executable, "-c", code, demo.url, token, *paths)
    assert done.returncode == 0, done.stderr
    assert len(done.stdout) > 10_000
    assert not leaks_in(done.stdout.encode(), planted(demo.out))


def test_every_process_of_the_product_is_guarded(demo: Demo) -> None:
    """The centre's five and their supervisor, agents and warm workers, as the kernel sees them."""
    import psutil

    found: dict[str, list[psutil.Process]] = {}
    for process in psutil.Process(demo.process.pid).children(recursive=True):
        with suppress(psutil.NoSuchProcess):  # a worker may end while we look
            words = " ".join(process.cmdline())
            names = [n for n in (*PROCESSES, "edge.worker", "edge run", "central serve") if n in words]
            if names:
                found.setdefault(names[0], []).append(process)
    assert set(found) >= {*PROCESSES, "edge run", "central serve", "edge.worker"}
    for process in (one for group in found.values() for one in group):
        folder = Path(f"/proc/{process.pid}")
        assert "Umask:\t0077" in (folder / "status").read_text(), process.cmdline()
        (limit,) = (line for line in (folder / "limits").read_text().splitlines() if "core file" in line)
        assert limit.split()[4:6] == ["0", "0"], process.cmdline()
        if os.geteuid() != 0:  # of a process that is not dumpable the kernel gives its files to root
            assert (folder / "status").stat().st_uid == 0, process.cmdline()


def test_the_harvested_rows_were_never_plaintext_before_the_vault(demo: Demo) -> None:
    state = demo.out / "centre" / "state"
    assert list((state / "landing").glob("*.parcel")) or not list((state / "landing").glob("*.part"))
    assert not find_leaks([state / "landing", *demo.out.glob("sites/*/state/spool")], planted(demo.out))


def test_every_site_journal_and_the_log_verify(demo: Demo) -> None:
    for site in sorted((demo.out / "sites").iterdir()):
        done = demo.inside(
            sys.executable, "-m", "corsia", "edge", "journal", "--verify", "--json", "--config", str(site / "edge.toml")
        )
        assert done.returncode == 0, done.stderr
    token = demo.out / "centre" / "state" / "operator.token"
    done = demo.inside(
        sys.executable, "-m", "corsia", "log", "verify", "--url", demo.url, "--token-file", str(token), "--json"
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout.splitlines()[-1])["verified"] is True


def test_rounds_cost_little_beyond_the_training(demo: Demo) -> None:
    """A bound far above what is measured (benchmarks say how much): catches a lost wake-up, not a slow machine."""
    token = (demo.out / "centre" / "state" / "operator.token").read_text().strip()
    code = (
        "import json,sys,urllib.request as u;"
        "r=u.Request(sys.argv[1]+'/api/v1/studies/lung-survival',headers={'Authorization':'Bearer '+sys.argv[2]});"
        "print(json.dumps(json.load(u.urlopen(r))['rounds']))"
    )
    done = demo.inside(sys.executable, "-c", code, demo.url, token)
    assert done.returncode == 0, done.stderr
    rounds = [r for r in json.loads(done.stdout) if r["round"] > 0]
    assert len(rounds) == 5
    assert all(r["finished_at"] > r["started_at"] for r in rounds)


@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_runs_over_the_demo(notebook: Path, demo: Demo, tmp_path: Path) -> None:
    if notebook.stem == "04-training" and not HEART.is_dir():
        pytest.skip(f"no data at {HEART}")
    done = demo.inside(
        sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-W", "default",
        "--nbmake", "--nbmake-timeout=800", str(notebook),
        CORSIA_URL=demo.url,
        CORSIA_TOKEN_FILE=str(demo.out / "centre" / "state" / "operator.token"),
        MLFLOW_TRACKING_URI=json.loads((demo.out / "demo.json").read_text())["mlflow"],
        MLFLOW_DISABLE_TELEMETRY="true",
        CORSIA_HEART_DATA=str(HEART),
        HOME=str(tmp_path),
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-4000:]


@pytest.mark.parametrize("sites", ["1", "5"])
def test_more_or_fewer_hospitals_than_the_data_carry_are_refused(sites: str, tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "corsia", "demo", "--sites", sites, "--out", str(tmp_path / "o"), "--json"],
        capture_output=True, text=True, timeout=180, env=os.environ,
    )  # fmt: skip
    assert done.returncode == 11
    assert json.loads(done.stdout.splitlines()[-1])["error"]["code"] == "input.usage"


def test_a_foreign_folder_is_not_overwritten(tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("keep me")
    done = subprocess.run(
        [sys.executable, "-m", "corsia", "demo", "--out", str(tmp_path), "--json"],
        capture_output=True, text=True, timeout=180, env=os.environ,
    )  # fmt: skip
    assert done.returncode == 24
    assert (tmp_path / "mine.txt").read_text() == "keep me"


def test_stopping_leaves_no_process(tmp_path: Path) -> None:
    """SIGINT in the middle of the start: nothing of it still runs afterwards."""
    import psutil

    process = subprocess.Popen(
        [sys.executable, "-m", "corsia", "demo", "--out", str(tmp_path / "o")],
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    marker = str(tmp_path / "o")
    until = time.monotonic() + 120
    while not any(
        marker in " ".join(p.info["cmdline"] or []) and p.pid != process.pid for p in psutil.process_iter(["cmdline"])
    ):
        assert time.monotonic() < until
        time.sleep(0.1)
    process.send_signal(2)
    process.wait(120)
    until = time.monotonic() + 60
    while left := [p.pid for p in psutil.process_iter(["cmdline"]) if marker in " ".join(p.info["cmdline"] or [])]:
        assert time.monotonic() < until, left
        time.sleep(0.1)
