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
    status = study.watch(timeout_s=30)
    thread.join()
    assert (status.state, status.final, status.sites) == ("done", True, {"site-a": "done", "site-b": "done"})
    assert status.totals["records"] == 12
    printed = capsys.readouterr().out
    assert "site-a: done" in printed
    assert "features: done" in printed
    frame = hub.features("features").to_pandas()
    assert list(frame.columns) == ["site", "age", "sex"]
    assert len(frame) == 12
    assert study.table().summary()["rows"] == 12
    assert [s.id for s in hub.studies] == ["features"]
    path = tmp_path / "study.toml"
    path.write_text(tomli_w.dumps(wanted))
    assert hub.studies.submit(path).id == hub.studies.submit(path.read_text()).id == "features"


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
    assert hub.log.verify()["verified"] is True
    assert hub.log.verify(running.log_key.public.to_base64())["entries"] == len(hub.log.export()["leaves"])
    with pytest.raises(IntegrityError):
        hub.log.verify(running.world.public().to_base64())
    assert hub.log.proof(0)["index"] == 0


def test_lists_show_themselves_escaped(running: Running, hub: corsia.Hub) -> None:
    hub.studies.submit(draft("xss", title="<script>alert(1)</script>"))
    shown = hub.studies._repr_html_() + hub.studies["xss"].status()._repr_html_()
    assert "<script>" not in shown
    assert "&lt;script&gt;" in shown
    assert "oncology" in hub.sites._repr_html_()
    assert set(hub.sites.to_pandas().name) == {"site-a", "site-b"}
    assert [row["lane"] for row in hub.lanes] == ["harvest", "anonymize", "extract", "train", "infer"]
    assert running.token not in repr(hub)
