"""Federated statistics through a real daemon: what was released before decides what may be released next."""

from __future__ import annotations

import base64
import json
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from edge.config import EdgeConfig
from edge.ledger import Ledger
from edge.memory import KEY_FILE
from edge.preview import page, preview
from pipelines import aggregate
from protocol.assignment import SiteReport, State
from protocol.study import Study, dump_study
from tests.agentkit import Office, enrolled, running, site_config, study

ROOT = Path(__file__).parents[2]
ROWS = 60
MOMENTS = {"kind": "moments", "columns": ["score"], "origin": {"score": 4.0}}
POLICY: dict[str, Any] = {"pipelines": ["aggregate"], "require_consent": False}


def people(folder: Path, rows: int = ROWS, seed: int = 0) -> pd.DataFrame:
    draw = np.random.default_rng(seed)
    frame = pd.DataFrame(
        {
            "patient_id": [f"MRN{seed}{i:06d}" for i in range(rows)],
            "name": [f"Bardellini{i:04d} Rosetta" for i in range(rows)],
            "note": "stabile",
            "age": np.arange(rows) + 20,
            "sex": ["F", "M"] * (rows // 2),
            "score": np.round(draw.normal(4, 1, rows), 3),
            "time": draw.integers(1, 900, rows),
            "status": draw.integers(0, 2, rows),
            "consent": "yes",
        }
    )
    frame.to_csv(folder / "data" / "table.csv", index=False)
    return frame


def hospital(folder: Path, **policy: Any) -> EdgeConfig:
    folder.mkdir(exist_ok=True)
    config = site_config(folder, **(POLICY | policy))
    people(folder)
    return config


@pytest.fixture
def config(tmp_path: Path) -> EdgeConfig:
    return hospital(tmp_path)


@pytest.fixture
def office(config: EdgeConfig) -> Office:
    return enrolled(config)


def sums(name: str, *where: tuple[str, Any], statistics: list[dict[str, Any]] | None = None, **more: Any) -> Study:
    """A study of statistics about the patients with these ages."""
    conditions = [{"column": "age", "op": op, "value": value} for op, value in where]
    return study(
        name,
        lane="extract",
        dataset={"name": "cohort", "columns": ["age", "sex", "score", "time", "status"], "where": conditions},
        pipeline={"name": "aggregate", "parameters": {"statistics": statistics or [MOMENTS]}},
        output={"columns": [{"name": n, "dtype": t} for n, t in aggregate.OUTPUT.items()]},
        **more,
    )


def ask(config: EdgeConfig, office: Office, *studies: Study) -> list[tuple[str, str]]:
    """State and code of each, one after the other, by a daemon of its own."""
    with running(config, office):
        said = [office.wait(office.submit(one)) for one in studies]
    return [(one.state.value if one.state else "", one.code) for one in said]


def test_two_studies_that_differ_by_two_persons(config: EdgeConfig, office: Office) -> None:
    assert ask(config, office, sums("all")) == [("done", "")]
    assert ask(config, office, sums("but-two", ("<", 78))) == [("refused", "gate.differencing")]  # after a restart
    assert ask(config, office, sums("half", ("<", 50)), sums("again")) == [("done", ""), ("done", "")]
    assert len(office.parcels) == 3
    ledger = Ledger(config.state_dir / "ledger.db")
    assert ledger.verify() == 6
    assert [spend.persons for spend in ledger.spends()] == [60, 30, 60]
    held = (ledger.memory("cohort") or b"") + (config.state_dir / KEY_FILE).read_bytes()
    assert b"MRN" not in held
    assert (config.state_dir / KEY_FILE).stat().st_mode & 0o777 == 0o600


def test_three_studies_of_which_no_two_tell_anything(config: EdgeConfig, office: Office) -> None:
    """All - young - old leaves two persons."""
    said = ask(config, office, sums("young", ("<", 49)), sums("old", (">=", 51)), sums("all"))
    assert said == [("done", ""), ("done", ""), ("refused", "gate.differencing")]


def test_numbers_on_a_column_add_up_over_studies(tmp_path: Path) -> None:
    config = hospital(tmp_path, traps={"queries": 0.1})  # six numbers on a column of 60 persons; a study takes three
    said = ask(config, enrolled(config), sums("one"), sums("two"), sums("three"))
    assert said == [("done", ""), ("done", ""), ("refused", "gate.queries")]


@pytest.mark.parametrize(
    ("traps", "statistics", "code"),
    [
        ({"nfilter": {"tab": 31}}, [MOMENTS | {"by": {"column": "sex", "levels": ["F", "M"]}}], ""),
        ({"nfilter": {"levels": {"max": 2}}},
         [{"kind": "table", "rows": {"column": "sex", "levels": ["F", "M"]},
           "columns": {"column": "status", "levels": ["0", "1"]}}], ""),
        ({"nfilter": {"levels": {"density": 0.01}}},
         [{"kind": "table", "rows": {"column": "sex", "levels": ["F", "M"]},
           "columns": {"column": "status", "levels": ["0", "1"]}}], "gate.levels"),
        ({"nfilter.glm": 0.01}, [{"kind": "products", "columns": ["age", "score"]}], "gate.parameters"),
        ({"dominance_k": 0.01}, [MOMENTS], "gate.dominance"),
        ({"nfilter.tab": 61}, [MOMENTS], "gate.cohort"),
    ],
)  # fmt: skip
def test_a_sites_traps_fire(tmp_path: Path, traps: dict[str, Any], statistics: list[dict[str, Any]], code: str) -> None:
    config = hospital(tmp_path, traps=traps)
    made = preview(config, dump_study(sums("one", statistics=statistics)))
    assert made.code == code, made.reason
    if not code and "by" in statistics[0]:
        assert made.report["hidden"] > 0
    assert (made.hint != "") == (code != "")


def test_a_preview_asks_the_memory_and_changes_nothing(config: EdgeConfig, office: Office) -> None:
    whole, most = dump_study(sums("all")), dump_study(sums("most", ("<", 78)))
    before = preview(config, most)
    assert before.allowed
    assert [check.rule for check in before.gate if not check.ok] == []
    assert not (config.state_dir / KEY_FILE).exists()
    assert ask(config, office, sums("all")) == [("done", "")]
    path = config.state_dir / "ledger.db"
    ledger = Ledger(path)
    head, memory = ledger.head(), ledger.memory("cohort")
    made = preview(config, most)
    assert (made.allowed, made.code) == (False, "gate.differencing")
    assert ("memory", False) in [(check.rule, check.ok) for check in made.gate]
    assert "differs by more persons" in made.hint
    assert preview(config, whole).allowed
    assert (ledger.head(), ledger.memory("cohort")) == (head, memory)
    html = page(made)
    assert "gate.differencing" in html
    assert "differs by more persons" in html
    assert "<td>sum_squares</td>" in html
    assert "MRN" not in html
    assert "Bardellini" not in html


def test_an_older_memory_or_a_lost_key_stops_all_egress(config: EdgeConfig, office: Office) -> None:
    assert ask(config, office, sums("young", ("<", 49))) == [("done", "")]
    path = config.state_dir / "ledger.db"
    older = sqlite3.connect(path).execute("SELECT data FROM memories").fetchone()[0]
    assert ask(config, office, sums("old", (">=", 51))) == [("done", "")]
    copy = config.state_dir.parent / "copy.db"
    shutil.copy(path, copy)
    with sqlite3.connect(path) as db:
        db.execute("UPDATE memories SET data = ?", (older,))
    pending(config, office, sums("all"))
    with sqlite3.connect(path) as db:
        db.execute("DELETE FROM memories")
    pending(config, office, sums("all-2"))
    shutil.copy(copy, path)
    (config.state_dir / KEY_FILE).unlink()
    pending(config, office, sums("all-3"))
    assert len(office.parcels) == 2


def pending(config: EdgeConfig, office: Office, asked: Study) -> SiteReport:
    office.parcels, before = dict(office.parcels), len(office.parcels)
    with running(config, office):
        said = office.wait(office.submit(asked), State.PENDING, code="budget.ledger")
    assert len(office.parcels) == before
    return said


_RUN = """
import base64, json, sys
from pathlib import Path
from edge.config import load
from privacy.envelope import SecretKey
from protocol.assignment import Assignment, AssignmentKind
from tests.agentkit import Office, running
from tests.uplinkkit import Centre
folder = Path(sys.argv[1])
value = json.loads((folder / "office.json").read_text())
seed = lambda name: SecretKey.from_bytes(bytes.fromhex(value[name]))
office = Office(Centre(study_key=seed("study"), other_key=seed("other")))
with running(load(folder / "edge.toml"), office):
    for one in value["asked"]:
        asked = Assignment(id=one["id"], kind=AssignmentKind.STUDY, study_digest=one["digest"],
                           document=base64.b64decode(one["document"]), signature=base64.b64decode(one["signature"]))
        office.assign(asked)
        said = office.wait(asked)
        print(json.dumps([said.state.value, said.code]), flush=True)
"""


def test_a_kill_between_reserve_and_release_counts_as_released(
    tmp_path: Path, config: EdgeConfig, office: Office
) -> None:
    asked = [office.submit(sums("all")), office.submit(sums("but-two", ("<", 78)))]
    keys = {"study": office.keys.study_key, "other": office.keys.other_key}
    documents = [
        {
            "id": one.id,
            "digest": one.study_digest,
            "document": base64.b64encode(one.document).decode(),
            "signature": base64.b64encode(one.signature).decode(),
        }
        for one in asked
    ]
    value = {name: key.to_bytes().hex() for name, key in keys.items()} | {"asked": documents[:1]}
    (tmp_path / "office.json").write_text(json.dumps(value))
    env = {**os.environ, "PYTHONPATH": str(ROOT), "CORSIA_FAULTS": f"edge.reserved={tmp_path / 'fired'}"}
    command = [sys.executable, "-c", _RUN, str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, env=env, cwd=ROOT)
    assert done.returncode == -signal.SIGKILL, done.stderr[-3000:]
    assert Ledger(config.state_dir / "ledger.db").memory("cohort") is not None
    # The steward gives the killed study up; what it would have told counts as told.
    seen = preview(config, asked[1].document)
    assert (seen.allowed, seen.code) == (False, "gate.differencing")
    (tmp_path / "office.json").write_text(json.dumps(value | {"asked": documents}))
    env.pop("CORSIA_FAULTS")
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, env=env, cwd=ROOT)
    assert done.returncode == 0, done.stderr[-3000:]
    assert [json.loads(line) for line in done.stdout.splitlines()] == [["done", ""], ["refused", "gate.differencing"]]
    assert Ledger(config.state_dir / "ledger.db").verify() == 2, "the same release was remembered and spent once"


def test_three_sites_through_the_vault_give_the_pooled_values(tmp_path: Path) -> None:
    from sqlalchemy import select

    import corsia
    from central.store.models import StudyRow
    from edge.lane import LaneRun
    from edge.policy import decide
    from edge.worker import Worker
    from pipelines import registry
    from protocol.parcel import Item
    from protocol.study import parse_study, study_digest
    from tests.webkit import running_centre

    names = ("site-a", "site-b", "site-c")
    statistics = [
        MOMENTS | {"by": {"column": "sex", "levels": ["F", "M"]}},
        {"kind": "products", "columns": ["age", "score"]},
        {"kind": "histogram", "column": "score", "edges": [3.0, 3.5, 4.0, 4.5, 5.0]},
    ]
    frames = []
    with running_centre(tmp_path) as centre, corsia.connect(centre.url, token_file=centre.token_file) as hub:
        centre.world.enrol(*names)
        wanted = sums("blood", statistics=statistics, sites=list(names)).model_dump(by_alias=True, mode="json")
        made = hub.studies.submit(
            {k: v for k, v in wanted.items() if v is not None and k not in ("recipients", "roster")}
        )
        with centre.world.store.begin() as session:
            document = session.scalars(select(StudyRow.document).where(StudyRow.id == made.id)).one()
        for seed, name in enumerate(names):
            config = hospital(tmp_path / name).model_copy(update={"site": name})
            config.state_dir.mkdir()
            frames.append(people(tmp_path / name, ROWS + 20 * seed, seed))
            asked = parse_study(document)
            lane = LaneRun.prepare(asked, study_digest(document), config, decide(asked, config, registry.INSTALLED))
            source, items = lane.source(), list[Item]()
            worker, gate = Worker(config.limits, tmp_path / "scratch"), lane.gate(source)
            lane.run(worker, source, gate, items.append)
            assert gate.finish().persons == len(frames[-1])
            centre.world.land(centre.world.batch(*items, study_id=made.id, site=name), study_id=made.id, site=name)
        centre.world.drain()
        pooled, whole = hub.statistics(made.id), pd.concat(frames)
        moments = pooled.moments()
        assert moments.loc[("score", ""), "n"] == len(whole)
        assert moments.loc[("score", ""), "mean"] == pytest.approx(whole["score"].mean(), rel=1e-12)
        women = whole[whole["sex"] == "F"]["score"]
        assert moments.loc[("score", "sex=F"), "sd"] == pytest.approx(women.std(), rel=1e-9)
        correlation = pooled.correlation(["age", "score"]).loc["age", "score"]
        assert correlation == pytest.approx(whole[["age", "score"]].corr().iloc[0, 1], rel=1e-9)
        assert pooled.quantiles("score", [0.5])[0.5] == pytest.approx(whole["score"].median(), abs=0.5)


def test_rows_of_lane_extract_need_k_of_what_others_may_know(tmp_path: Path) -> None:
    def rows(columns: list[str], **parameters: Any) -> bytes:
        made = [{"name": "pseudonym", "dtype": "string"}, *({"name": c, "dtype": "float"} for c in columns)]
        asked = {"name": "cohort", "columns": columns}
        pipeline = {"name": "extract", "parameters": parameters}
        return dump_study(study("rows", lane="extract", dataset=asked, pipeline=pipeline, output={"columns": made}))

    config = hospital(tmp_path, pipelines=["extract"])
    refused = preview(config, rows(["age", "score"]))
    assert (refused.allowed, refused.code) == (False, "gate.k")
    assert "alike in age" in refused.reason
    assert "band" in refused.reason
    assert refused.summary["uniqueness"]["unique"] == ROWS
    assert preview(config, rows(["score"])).allowed
    assert preview(config, rows(["age", "score"], bands={"age": 20})).allowed
    assert preview(hospital(tmp_path, pipelines=["extract"], feature_k=1), rows(["age", "score"])).allowed
    assert (
        preview(hospital(tmp_path, pipelines=["extract"], feature_k=30), rows(["age"], bands={"age": 20})).code
        == "gate.k"
    )
    html = page(refused)
    assert "alike in age" in html
    assert "MRN" not in html


@pytest.fixture(autouse=True)
def _no_leftovers(tmp_path: Path) -> Iterator[None]:
    yield
    assert not list(tmp_path.glob("state/preview-*"))
