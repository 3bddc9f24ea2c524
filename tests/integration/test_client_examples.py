"""The examples in the notebook client's docstrings, run at a centre; and how what it gives shows itself."""

from __future__ import annotations

import doctest
import importlib
import time
from collections.abc import Iterator
from typing import Any

import matplotlib.image
import pytest
from sqlalchemy import select

import corsia
from central.store.models import AdvertisedRow, RemoteRow, RoundRow, RunRow, SiteRow, StudyRow
from corsia.answers import ColumnSummary, Me, RoundStatus, RunStatus, TableSummary
from corsia.live import Progress, follow
from corsia.runs import RunEvent
from privacy.envelope import read_key
from tests.vaultkit import draft, publish, rows, table
from tests.webkit import Running, running_centre

MODULES = ("client", "features", "live", "log", "models", "runs", "studies", "tables")
XSS = "<script>alert(1)</script>"
COLUMNS = [{"name": "age", "dtype": "float"}, {"name": "sex", "dtype": "string"}]


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    root = tmp_path_factory.mktemp("centre")
    with running_centre(root) as made:
        world = made.world
        training = {"learner": "survival", "features": ["age"], "outcome": ["t", "s"], "publish": {"model": "risk"}}
        world.submit("fed", lane="train", pipeline={"name": "train"}, training=training, output={})
        world.submit("lung", lane="extract", pipeline={"name": "extract"}, output={"columns": COLUMNS})
        for site in ("site-a", "site-b"):
            world.land(world.batch(table(rows(6)), study_id="lung", site=site), study_id="lung", site=site)
        world.drain()
        publish(world, read_key(root / "signer" / "publication.key"))
        columns = [{"name": XSS, "role": "value", "type": "number"}]
        with world.store.begin() as session:
            session.add(
                AdvertisedRow(site="site-a", dataset="lung", rows=40, columns=columns, lanes=["train"], told_at=1.0)
            )
            session.add(
                RemoteRow(name="weather", state="curated", sha256="0" * 64, path="", rows=2, columns=["day", "heat"],
                          url="https://weather.example/heat.csv", licence="CC-BY-4.0", terms="", publisher="Office",
                          pulled_at=1.0)
            )  # fmt: skip
        made.sign_checkpoint()
        yield made


@pytest.fixture
def hub(running: Running) -> Iterator[corsia.Hub]:
    with corsia.connect(running.url, token_file=running.token_file) as made:
        yield made


@pytest.mark.parametrize("name", MODULES)
def test_the_examples_run(hub: corsia.Hub, name: str) -> None:
    module = importlib.import_module(f"corsia.{name}")
    given: dict[str, Any] = {"hub": hub, "corsia": corsia, "draft": draft(f"example-{name}")}
    found = doctest.DocTestFinder(exclude_empty=True).find(module, extraglobs=given)
    runner = doctest.DocTestRunner(optionflags=doctest.ELLIPSIS | doctest.IGNORE_EXCEPTION_DETAIL)
    results = [runner.run(test) for test in found if test.examples]
    assert sum(result.attempted for result in results) > 0
    assert sum(result.failed for result in results) == 0


def test_what_others_have_written_shows_as_text(running: Running, hub: corsia.Hub) -> None:
    with running.world.store.begin() as session:
        site = session.get(SiteRow, "site-b")
        assert site is not None
        site.version = XSS
    shown = [hub._repr_html_(), hub.sites._repr_html_(), hub.datasets._repr_html_(), hub.lanes._repr_html_()]
    shown += [hub.studies._repr_html_(), hub.models._repr_html_(), hub.studies["lung"].status()._repr_html_()]
    assert not [one for one in shown if "<script" in one]
    assert "&lt;script&gt;" in shown[2]
    assert "site-a" in repr(hub.datasets)
    assert running.token not in "".join([*shown, repr(hub), repr(hub.models["risk"])])


def test_a_study_and_its_run_show_how_they_stand(running: Running, hub: corsia.Hub) -> None:
    study = hub.studies["fed"]
    assert "<b>open</b>" in study._repr_html_()
    assert "not begun" in study.run._repr_html_()
    with running.world.store.begin() as session:
        digest = session.scalar(select(StudyRow.digest).where(StudyRow.id == "fed"))
        session.add(RunRow(id="r", study_digest=digest, state="paused", round=1, updated_at=1.0))
        metrics = {"auc": 0.8125, XSS: 1.0}
        session.add(RoundRow(run="r", round=1, arrays="", metrics=metrics, sites=[], started_at=1.0, finished_at=2.0))
    shown = study.run._repr_html_()
    told = study.run.status()
    assert set(told) == set(RunStatus.__annotations__)
    assert set(told["rounds"][0]) == set(RoundStatus.__annotations__)
    assert "<b>paused</b>" in shown
    assert "0.8125" in shown
    assert "<script" not in shown


def test_answers_have_the_fields_that_their_types_name(hub: corsia.Hub) -> None:
    assert set(hub.me) == set(Me.__annotations__)
    summary = hub.table("lung").summary()
    assert set(summary) == set(TableSummary.__annotations__)
    assert {key for column in summary["columns"] for key in column} == set(ColumnSummary.__annotations__)


def test_a_run_shows_itself_as_it_goes(capsys: pytest.CaptureFixture[str], tmp_path: Any) -> None:
    def events() -> Iterator[RunEvent]:
        for number in range(3):
            metrics = {"auc": 0.5 + number / 10, XSS: 1.0, "nan": float("nan"), "word": "x"}
            yield RunEvent(
                kind="round.finished", seq=number, at=time.time(), fields={"round": number, "metrics": metrics}
            )
        yield RunEvent(kind="study.done", seq=9, at=time.time())

    seen = follow("heart", events())
    assert isinstance(seen, Progress)
    assert (seen.last, seen.rounds[2]["auc"], seen.metrics) == ("study.done", 0.7, sorted(["auc", XSS]))
    assert capsys.readouterr().out.count("round.finished") == 3
    page = seen._repr_html_()
    assert "<script" not in page
    assert "0.7" in page
    from rich.console import Console

    console = Console(record=True, width=120)
    console.print(seen)
    assert "study.done" in console.export_text()
    picture = tmp_path / "curves.png"
    seen.plot().savefig(picture)
    assert matplotlib.image.imread(picture).std() > 0.01, "something is drawn"
