"""Crypto-shredding of a study: what remains, who may still ask, and a crash at each step."""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import select

from central import erasure
from central.erasure import Eraser
from central.federation.keys import RunKeys
from central.federation.leftovers import forget, forget_rounds
from central.store.models import AssignmentRow, ErasureRow, LogRow, RoundRow, RunRow, StudyRow
from central.store.published import serving
from central.vault import Analysis, Lake, StudyKeys
from central.vault.closing import LANES
from privacy.envelope import unseal
from protocol import faults
from protocol.errors import ConfigurationError, ConflictError, IntegrityError, StudyRefused
from protocol.study import Lane
from tests.vaultkit import World, publish, rows, table

STEPS = ("erasure.begun", "erasure.keys", "erasure.parcels", "erasure.files")


class Cut(Exception):
    """The process dies here."""


@contextmanager
def cut_at(name: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    def point(reached: str) -> None:
        if reached == name:
            raise Cut

    with monkeypatch.context() as patch:
        patch.setattr(faults, "point", point)
        yield


@pytest.fixture
def world(tmp_path: Path) -> World:
    made = World(tmp_path / "state")
    made.submit()
    made.submit("other")
    for study in ("trial", "other"):
        made.land(made.batch(table(rows(6).assign(count=1)), study_id=study), study_id=study)
        made.land(made.batch(study_id=study, site="site-b"), study_id=study, site="site-b")
    made.drain()
    publish(made, made.signing, study_id="trial")
    return made


def _analysis(world: World) -> Analysis:
    return Analysis(world.store, world.lake, world.public)


def _of(world: World, study: str = "trial") -> tuple[ErasureRow, StudyRow, list[bytes]]:
    with world.store.read() as session:
        found = session.get_one(StudyRow, study)
        leaves = [leaf for leaf in session.scalars(select(LogRow.leaf)) if b'"erasure"' in leaf]
        return session.get_one(ErasureRow, found.digest), found, leaves


def _files(world: World, study: str) -> list[str]:
    with world.store.read() as session:
        from central.store.models import ParcelRow

        parcels = session.scalars(select(ParcelRow.id).where(ParcelRow.study_digest == world.digest(study))).all()
    found = [path for parcel in parcels if (path := world.landing / f"{parcel}.parcel").exists()]
    found += [path for path in (world.lake.root / study).rglob("*") if path.is_file()]
    return [str(path) for path in found]


def _check_erased(world: World) -> None:
    row, study, leaves = _of(world)
    assert (row.state, study.state, row.models) == (
        "done",
        "erased",
        [{"name": "risk", "version": 1, "decision": "kept"}],
    )
    assert len(leaves) == 1
    assert not _files(world, "trial")
    assert not list((world.root / "vault").glob("*/trial.key"))
    for ask in (_analysis(world).table, _analysis(world).summary, world.keys.create, world.keys.load):
        with pytest.raises(StudyRefused) as caught:
            ask("trial")
        assert caught.value.code == "study.erased"
    assert len(_files(world, "other")) > 3
    assert _analysis(world).table("other").num_rows == 12, "another study is untouched"


def test_an_erased_study_is_gone_and_the_log_says_so(world: World) -> None:
    _analysis(world).predict("risk", "trial")
    asked = erasure.ask(world.store, "trial", operator="anna")
    assert (asked["state"], asked["operator"], asked["models"]) == ("asked", "anna", [])
    world.drain()
    time.sleep(0.3)
    world.drain()
    _check_erased(world)
    assert erasure.ask(world.store, "trial", operator="berta", withdraw_models=True)["operator"] == "anna"
    world.drain()
    _check_erased(world)
    with world.store.read() as session:
        assert serving(session, "risk") is not None, "the model was kept"
        states = session.execute(select(AssignmentRow.state, AssignmentRow.code).where(
            AssignmentRow.study_digest == world.digest())).all()  # fmt: skip
    assert {tuple(state) for state in states} == {("expired", "study.erased")}


@pytest.mark.parametrize("step", STEPS)
def test_cut_off_at_any_step_it_is_finished_by_the_next_process(
    world: World, step: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    erasure.ask(world.store, "trial", operator="anna")
    with cut_at(step, monkeypatch), pytest.raises(Cut):
        world.opener()._closing.step()
    with pytest.raises(StudyRefused):  # from the first step on nothing is answered
        _analysis(world).table("trial")
    assert _of(world)[0].state == "begun"
    assert bool(_files(world, "trial")) is (step in STEPS[:3])
    world.opener()._closing.step()
    _check_erased(world)


def test_a_backup_of_the_ciphertext_stays_unreadable(world: World, tmp_path: Path) -> None:
    for name in ("landing", "vault/lake"):
        shutil.copytree(world.root / name, tmp_path / "backup" / name)
    erasure.ask(world.store, "trial", operator="anna")
    world.opener()._closing.step()
    for name in ("landing", "vault/lake"):
        shutil.rmtree(world.root / name)
        shutil.copytree(tmp_path / "backup" / name, world.root / name)
    with pytest.raises(StudyRefused):
        _analysis(world).table("trial")
    keys = StudyKeys(tmp_path / "made-anew")
    keys.create("trial")
    opened = Lake(world.lake.root, StudyKeys(tmp_path / "lake-keys-anew"))
    opened._keys.made("trial")
    (batch, *_) = (world.lake.root / "trial").iterdir()
    with pytest.raises(IntegrityError):
        opened.table(f"trial/{batch.name}/records.parquet")
    refused = 0
    for parcel in world.landing.glob("*.parcel"):
        with open(parcel, "rb") as source:
            try:
                list(unseal(source, key=keys.load("trial"), sender=world.sites["site-a"].public))
            except IntegrityError:
                refused += 1
    assert refused == 4
    assert _analysis(world).table("other").num_rows == 12


def test_withdrawn_models_predict_no_more(world: World) -> None:
    erasure.ask(world.store, "trial", operator="anna", withdraw_models=True)
    world.opener()._closing.step()
    assert _of(world)[0].models == [{"name": "risk", "version": 1, "decision": "withdrawn"}]
    with world.store.read() as session:
        for asked in ({}, {"version": 1}, {"alias": "champion"}):
            assert serving(session, "risk", **asked) is None  # type: ignore[arg-type]


def test_a_parcel_that_lands_meanwhile_is_refused_and_removed(world: World) -> None:
    late = world.land(world.batch(part=1))
    opener = world.opener()
    erasure.ask(world.store, "trial", operator="anna")
    opener._closing.step()
    assert world.parcel(late) == ("rejected", "study.erased")
    key = world.keys.load("other").public
    later = world.land(world.batch(part=2), recipient=key)
    world.drain()
    assert world.parcel(later) == ("rejected", "study.erased")
    assert not _files(world, "trial")


def test_an_expired_study_is_erased_by_itself_but_not_when_the_clock_jumps(world: World) -> None:
    soon = datetime.now(UTC) + timedelta(days=1)
    world.submit("short", expires=soon)
    world.land(world.batch(study_id="short"), study_id="short")
    world.finish(study_id="short")
    world.drain()
    destroyed: list[str] = []
    began = (time.time(), time.monotonic())
    eraser = Eraser(
        store=world.store, landing=world.landing, lanes=LANES, destroy_keys=destroyed.append,
        remove=lambda *_: None, began=began,
    )  # fmt: skip
    two_days = 2 * 86_400.0
    with world.store.begin() as session:
        session.get_one(StudyRow, "short").state = "done"
    assert eraser.step() == 0
    again = replace(eraser, looked=-1.0)
    assert replace(again, clock=lambda: (began[0] + two_days, began[1])).step() == 0, "somebody set the clock"
    assert not destroyed
    assert replace(again, clock=lambda: (began[0] + two_days, began[1] + two_days)).step() == 1
    assert destroyed == ["short"]
    with world.store.read() as session:
        assert session.get_one(ErasureRow, world.digest("short")).reason == "expired"


def test_who_asks_for_nothing_known_is_told_so(world: World) -> None:
    with pytest.raises(StudyRefused):
        erasure.ask(world.store, "nothing", operator="anna")
    with pytest.raises(StudyRefused):
        erasure.told(world.store, "trial")


def test_a_training_study_loses_run_key_answers_and_checkpoints(tmp_path: Path) -> None:
    world = World(tmp_path)
    study: dict[str, Any] = {
        "lane": "train", "pipeline": {"name": "train"}, "output": {},
        "training": {"learner": "survival", "features": ["age"], "outcome": ("time", "status"), "rounds": 2,
                     "publish": {"model": "risk"}},
    }  # fmt: skip
    world.submit("fed", **study)
    keys, digest = RunKeys(tmp_path / "federation" / "keys"), world.digest("fed")
    key = keys.public("fed")
    shared, own, published = (world.store.put_blob("x", data).digest for data in (b"shared", b"own", b"published"))
    with world.store.begin() as session:
        session.add(RunRow(id="1" * 32, study_digest=digest, updated_at=0.0))
        for run, number, arrays, state in (
            ("1" * 32, 1, own, shared),
            ("1" * 32, 2, published, ""),
            ("2" * 32, 1, shared, ""),
        ):
            session.add(RoundRow(run=run, round=number, arrays=arrays, state=state, started_at=0.0, finished_at=0.0))
    publish(world, world.signing, study_id="fed")
    with world.store.begin() as session:
        from central.store.models import ModelRow

        session.scalars(select(ModelRow)).one().weights = published
    with pytest.raises(ConflictError):
        erasure.ask(world.store, "fed", operator="anna")
    with world.store.begin() as session:
        session.get_one(StudyRow, "fed").state = "done"
    erasure.ask(world.store, "fed", operator="anna")

    def remove(_study: str, of: str) -> None:
        forget(world.store, world.landing, of)
        forget_rounds(world.store, of)

    eraser = Eraser.now(world.store, world.landing, (Lane.TRAIN,), keys.destroy, remove)
    assert world.opener()._closing._eraser.step() == 0, "the vault has no part in it"
    assert eraser.step() == 1
    assert eraser.step() == 0
    left = {path.name for path in (tmp_path / "blobs").iterdir()}
    assert own not in left
    assert {shared, published} <= left
    with pytest.raises(StudyRefused):
        keys.secret("fed")
    with pytest.raises(StudyRefused):
        keys.public("fed")
    assert key is not None
    with pytest.raises(ConfigurationError):
        keys.secret("never")
