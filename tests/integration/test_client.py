"""The notebook's client against a running centre: the same words in Python, errors by their code."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest
import tomli_w

import corsia
from protocol.errors import AuthenticationError, InputError, IntegrityError, StudyRefused, UnavailableError
from tests.vaultkit import draft, rows, table
from tests.webkit import Running, running_centre


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    with running_centre(tmp_path_factory.mktemp("centre")) as made:
        made.world.enrol("site-a", "site-b")
        yield made


@pytest.fixture
def hub(running: Running) -> Iterator[corsia.Hub]:
    with corsia.connect(running.url, token_file=running.token_file) as made:
        yield made


def test_a_wrong_token_and_a_dead_centre_have_their_errors(running: Running, tmp_path: Path) -> None:
    with pytest.raises(AuthenticationError):
        corsia.connect(running.url, token="wrong")
    with pytest.raises(AuthenticationError):
        corsia.connect(running.url)
    with pytest.raises(AuthenticationError):
        corsia.connect(running.url, token_file=tmp_path / "none")
    with pytest.raises(UnavailableError) as caught:
        corsia.connect("http://127.0.0.1:1", token="x")
    assert caught.value.code == "unavailable.centre"


def _carry_out(running: Running, study_id: str) -> None:
    """What two sites do, in a thread: deliver and report."""
    world = running.world
    time.sleep(0.5)
    for site in ("site-a", "site-b"):
        world.land(world.batch(table(rows(6)), study_id=study_id, site=site), study_id=study_id, site=site)
    world.drain()
    world.finish(study_id=study_id)
    time.sleep(0.3)
    world.drain()


def test_submit_watch_and_read_the_table(
    running: Running, hub: corsia.Hub, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    wanted = draft("features", lane="extract", pipeline={"name": "extract"}, expires=datetime(2099, 1, 1, tzinfo=UTC))
    study = hub.studies.submit(wanted)
    thread = threading.Thread(target=_carry_out, args=(running, "features"))
    thread.start()
    status = study.watch(timeout_s=120)
    thread.join()
    assert (status.state, status.final, status.sites) == ("done", True, {"site-a": "done", "site-b": "done"})
    assert status.totals["records"] == 12
    printed = capsys.readouterr().out
    assert "site-a: done" in printed
    assert "features: done" in printed
    frame = hub.features("features").to_pandas()
    assert list(frame.columns) == ["site", "provenance", "age", "sex"]
    assert (len(frame), frame["provenance"].nunique()) == (12, 2)
    assert study.table().summary()["rows"] == 12
    assert [s.id for s in hub.studies] == ["features"]
    path = tmp_path / "study.toml"
    path.write_text(tomli_w.dumps(wanted))
    assert hub.studies.submit(path).id == hub.studies.submit(path.read_text()).id == "features"


def test_analyses_run_in_the_vault_and_come_back_to_the_notebook(
    running: Running, hub: corsia.Hub, tmp_path: Path
) -> None:
    columns = [{"name": "age", "dtype": "int"}, {"name": "time", "dtype": "float"}, {"name": "event", "dtype": "int"}]
    wanted = draft("joint", lane="extract", pipeline={"name": "extract"}, output={"columns": columns})
    study, world = hub.studies.submit(wanted), running.world
    for n, site in enumerate(("site-a", "site-b")):
        frame = rows(40, 30)[["age"]].assign(time=[float(1 + (i * 7 + n) % 31) for i in range(40)], event=[1, 0] * 20)
        world.land(world.batch(table(frame), study_id=study.id, site=site), study_id=study.id, site=site)
    world.drain()
    features = hub.features(study.id)
    answer = features.sql("SELECT site, count(*) AS n FROM features GROUP BY site ORDER BY site")
    assert answer.to_pandas().to_dict("list") == {"site": ["site-a", "site-b"], "n": [40, 40]}
    assert "site-a" in answer._repr_html_()
    with pytest.raises(InputError):
        features.sql("SELECT nothing FROM features")
    curves = features.kaplan_meier("time", "event", by="site")
    assert {c["group"] for c in curves.value["curves"]} == {"site-a", "site-b"}
    assert curves.to_pandas()["survival"].between(0, 1).all()
    cox = features.cox("time", "event", ["age"], strata=["site"])
    assert [t["term"] for t in cox.value["terms"]] == ["age"]
    assert features.logistic("event", ["age"]).to_pandas()["term"].tolist() == ["intercept", "age"]
    for figure in (curves.plot(), cox.plot(), features.plot()):
        assert figure.axes
    page = features.report(tmp_path / "report.html", by="site", analyses=[curves, cox]).read_text()
    assert page.count("data:image/png") == 3
    assert "<script" not in page
    with pytest.raises(InputError) as caught:
        features.logistic("nothing", ["age"])
    assert caught.value.code == "input.column-missing"


def test_a_study_that_does_not_end_in_time(hub: corsia.Hub) -> None:
    study = hub.studies.submit(draft("slow"))
    with pytest.raises(UnavailableError):
        study.wait(timeout_s=0.2)
    assert study.status().state == "open"


def test_errors_come_with_code_and_word(hub: corsia.Hub, tmp_path: Path) -> None:
    with pytest.raises(InputError) as caught:
        hub.studies.submit(draft("x", lane="dance"))
    assert caught.value.code == "input.study"
    assert "lane" in caught.value.message
    with pytest.raises(StudyRefused):
        hub.studies["nothing"]
    with pytest.raises(InputError):
        hub.table("../../log").to_arrow()
    with pytest.raises(InputError):
        hub.studies.submit(tmp_path / "none.toml")
    with pytest.raises(KeyError):
        hub.models["nothing"]


def test_features_are_of_lane_three(hub: corsia.Hub) -> None:
    hub.studies.submit(draft("raw"))
    with pytest.raises(StudyRefused):
        hub.features("raw")
    assert hub.table("raw").to_pandas().empty


def test_the_log_is_verified_on_this_side(running: Running, hub: corsia.Hub) -> None:
    hub.studies.submit(draft("logged"))
    running.sign_checkpoint()
    found, own = hub.log.verify(), running.log_key.public
    assert (found.pinned, found.key, found.pending) == (False, own.fingerprint, 0)
    pinned = hub.log.verify(own.to_base64())
    assert (pinned.pinned, pinned.entries) == (True, len(hub.log.export()["leaves"]))
    assert "the key is the one given" in repr(pinned)
    assert own.fingerprint in pinned._repr_html_()
    with pytest.raises(IntegrityError):
        hub.log.verify(running.world.public().to_base64())
    with pytest.raises(IntegrityError):
        hub.log.proof(0, running.world.public().to_base64())
    one = hub.log.proof(0, own.to_base64())
    assert (one.index, one.size) == (0, pinned.entries)
    assert f"entry 0 of {one.size}" in repr(one)
    assert f"<td>{one.size}</td>" in one._repr_html_()


def test_lists_show_themselves_escaped(running: Running, hub: corsia.Hub) -> None:
    hub.studies.submit(draft("xss", title="<script>alert(1)</script>"))
    shown = hub.studies._repr_html_() + hub.studies["xss"].status()._repr_html_()
    assert "<script>" not in shown
    assert "&lt;script&gt;" in shown
    assert "oncology" in hub.sites._repr_html_()
    assert set(hub.sites.to_pandas().name) == {"site-a", "site-b"}
    assert [row["lane"] for row in hub.lanes] == ["harvest", "anonymize", "extract", "train", "infer"]
    assert running.token not in repr(hub)
