"""The centre's side of the seam: landing, opening into the lake, a round's checkpoint, gone wrong at each step."""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sqlalchemy import select
from sqlalchemy.exc import SQLAlchemyError

from central.config import LimitsConfig
from central.federation.checkpoint import Checkpoint, StoreCheckpoints
from central.gateway.delivery import Delivery
from central.gateway.landing import Landing
from central.gateway.receipts import Log
from central.store import Store
from central.store.models import CuratedRow, LogRow, ParcelRow, RunRow, StudyRow
from privacy.envelope import ParcelInfo, SecretKey, new_parcel_id, seal
from privacy.transparency import verify_receipt
from protocol.assignment import RoundPhase
from protocol.chunk import Chunk
from protocol.errors import StorageError, from_code
from protocol.medium import read_receipt
from protocol.parcel import canonical_json
from protocol.v1 import fleet_pb2 as pb
from tests.fault.sweep import Work, sweep
from tests.vaultkit import World, rows, table

SIGNING, SITE, LOG = SecretKey.generate(), SecretKey.generate(), SecretKey.generate()
ORIGIN = "test/log"
DISK = (StorageError, SQLAlchemyError)


def world(run: Path) -> World:
    return World(run / "state", signing=SIGNING, sites={"site-a": SITE})


def submitted(run: Path) -> World:
    """A centre with one site and one study, and that site's two parts sealed, beside the watched folder."""
    made = World(run / "state", signing=SIGNING)
    made.enrol("site-a")
    made.sites["site-a"] = SITE
    with made.store.begin() as session:
        from central.store.models import SiteRow

        session.get_one(SiteRow, "site-a").identity = SITE.public.to_base64()
    made.submit(sites=["site-a"])
    return made


# --- landing: one parcel in pieces, one that comes along with its announcement, two carried together; asked for again


class _Site:
    site = "site-a"

    def check(self) -> None:
        pass


class LandingRun:
    def __init__(self, run: Path) -> None:
        self.run = run
        self.store = Store(run / "state")
        self.log = Log(self.store, LOG, ORIGIN)
        self.delivery = Delivery(
            self.store, Landing(run / "state" / "landing"), self.log, LimitsConfig(max_parcel_bytes=1 << 20)
        )
        self.delivery.recover()

    def work(self) -> None:
        paths = sorted(self.run.glob("*.parcel"))
        for number, path in enumerate(paths[:2]):
            raw = path.read_bytes()
            about = json.loads(path.with_suffix(".json").read_text())
            opened = self.delivery.Open(pb.OpenRequest(**about, data=raw if number else b""), _Site())
            if not opened.committed and opened.offset < len(raw):
                self.delivery.Upload(_chunks(about["parcel_id"], raw, opened.offset), _Site())
            receipt = self.delivery.Commit(pb.CommitRequest(parcel_id=about["parcel_id"]), _Site())
            _tell(path, receipt, receipt.checkpoint)
        asked = [pb.OpenRequest(**json.loads(path.with_suffix(".json").read_text()), data=path.read_bytes())
                 for path in paths[2:]]  # fmt: skip
        reply = self.delivery.Carry(pb.CarryRequest(parcels=asked), _Site())
        for path, carried in zip(paths[2:], reply.parcels, strict=True):
            if carried.code:
                raise from_code(carried.code)
            _tell(path, carried.receipt, reply.checkpoint)

    def close(self) -> None:
        self.store.engine.dispose()


def _tell(path: Path, receipt: Any, checkpoint: str) -> None:
    value = {"parcel_id": receipt.parcel_id, "digest": receipt.digest, "index": receipt.index,
             "proof": list(receipt.proof), "checkpoint": checkpoint}  # fmt: skip
    told = path.with_suffix(".receipt")
    if told.exists():  # once given, a receipt's place never changes
        assert json.loads(told.read_text())["index"] == receipt.index
    told.write_bytes(canonical_json(value))


def _chunks(parcel_id: str, raw: bytes, offset: int) -> Iterator[Chunk]:
    for at in range(offset, len(raw), 3000):
        yield Chunk(parcel_id if at == offset else "", at, raw[at : at + 3000])


def landing_prepare(run: Path) -> None:
    made = submitted(run)
    study, key = made.digest(), made.keys.load("trial").public
    for _ in range(4):
        info = ParcelInfo(parcel_id=new_parcel_id(), study=study, site="site-a", content_type="records")
        target = io.BytesIO()
        seal([b"x" * 100], target, info=info, recipients=[key], signer=SITE)
        raw = target.getvalue()
        about = {"parcel_id": info.parcel_id, "study_digest": study, "content_type": "records", "size_bytes": len(raw),
                 "digest": hashlib.sha256(raw).hexdigest(), "assignment_id": "trial-site-a"}  # fmt: skip
        (run / f"{info.parcel_id}.parcel").write_bytes(raw)
        (run / f"{info.parcel_id}.json").write_text(json.dumps(about))
    made.store.engine.dispose()
    LandingRun(run).close()


def landing_outcome(run: Path) -> Any:
    made = LandingRun(run)
    try:
        with made.store.read() as session:
            parcels = session.scalars(select(ParcelRow).order_by(ParcelRow.log_index)).all()
            leaves = session.scalars(select(LogRow.leaf)).all()
        for path in run.glob("*.receipt"):
            verify_receipt(read_receipt(path.read_bytes()), LOG.public, ORIGIN)
        landed = {p.id: p.digest for p in parcels}
        files = [p for p in (run / "state" / "landing").rglob("*") if p.is_file()]
        assert {p.stem: hashlib.sha256(p.read_bytes()).hexdigest() for p in files} == landed
        return [p.log_index for p in parcels], len(leaves), len(list(run.glob("*.receipt")))
    finally:
        made.close()


# --- opening: two parts and one of them once more, into the lake, until the study is done


class OpeningRun:
    def __init__(self, run: Path) -> None:
        self.world = world(run)
        self.world.lake.recover()
        self.opener = self.world.opener()

    def work(self) -> None:
        self.opener._not_before.clear()  # the back-off is over
        self.opener._settle_at = 0.0
        while self.opener.step():
            pass
        assert not self.opener._not_before or self.world.state() == "open"

    def close(self) -> None:
        self.world.store.engine.dispose()


def opening_prepare(run: Path) -> None:
    made = submitted(run)
    for part, last in ((0, False), (0, False), (1, True)):
        made.land(made.batch(table(rows(6, start=50 + 10 * part)), part=part, last=last))
    made.finish()
    made.store.engine.dispose()


def opening_outcome(run: Path) -> Any:
    made = world(run)
    try:
        with made.store.read() as session:
            curated = session.scalars(select(CuratedRow).order_by(CuratedRow.part)).all()
            states = session.scalars(select(ParcelRow.state).order_by(ParcelRow.log_index)).all()
            study = session.scalar(select(StudyRow.state))
        paths = {row.path for row in curated}
        folders = {str(p.relative_to(made.lake.root)) for p in made.lake.root.glob("*/*")}
        assert paths == {f for f in folders if not f.endswith(".tmp")}
        files = [repr(t.to_pylist()) for p in sorted(paths) for t in made.lake.tables(p)]
        return [(row.part, row.rows, row.persons) for row in curated], sorted(files), states, study
    finally:
        made.store.engine.dispose()


# --- a run's checkpoints: the preparation and two rounds, each trained, kept, evaluated and kept again


class CheckpointRun:
    def __init__(self, run: Path) -> None:
        self.store = Store(run / "state")
        self.kept = StoreCheckpoints(self.store, "r" * 32, "trial")

    def work(self) -> None:
        latest = self.kept.latest()
        for number in range(3):
            if latest is not None and (latest.round > number or (latest.round == number and latest.metrics)):
                continue
            phase = RoundPhase.TRAIN if number else RoundPhase.PREPARE
            if latest is None or latest.round < number:
                if self.kept.begin(number, phase) == 0:
                    self.kept.retry(number, phase, 1)
                latest = _checkpoint(number, {})
                self.kept.save(latest)
            self.kept.begin(number, RoundPhase.EVALUATE)
            latest = _checkpoint(number, {"rows": 6.0 + number})
            self.kept.save(latest)

    def close(self) -> None:
        self.store.engine.dispose()


def _checkpoint(number: int, metrics: dict[str, float]) -> Checkpoint:
    return Checkpoint(
        round=number,
        model={"w": np.arange(4, dtype=np.float32) * number},
        preprocessing={"mean": np.ones(2)},
        state={"m": np.full(3, number, np.float64)},
        examples={"site-a": 6},
        metrics=metrics,
        sites=("site-a",),
        started_at=1.0,
    )


def checkpoint_prepare(run: Path) -> None:
    store = Store(run / "state")
    with store.begin() as session:
        session.add(RunRow(id="r" * 32, study_digest="d" * 64, updated_at=0.0))
    store.engine.dispose()


def checkpoint_outcome(run: Path) -> Any:
    made = CheckpointRun(run)
    try:
        reached = [made.kept.at(number) for number in range(3)]
        blobs = {p.name for p in (run / "state" / "blobs").iterdir() if not p.name.startswith(".")}
        for name in blobs:
            made.store.get_blob(name)
        with made.store.read() as session:
            row = session.get_one(RunRow, "r" * 32)
            place = (row.round, row.phase)
        bits = [[(n, a.tobytes()) for n, a in sorted({**c.model, **c.state}.items())] for c in reached]
        return bits, [dict(c.metrics) for c in reached], made.kept.history(), place, len(blobs)
    finally:
        made.close()


def _opened(found: Any) -> bool:
    curated, files, states, study = found
    return (curated, len(files), states, study) == ([(0, 6, 6), (1, 6, 6)], 2, ["opened"] * 3, "done")


def _kept(found: Any) -> bool:
    bits, metrics, _history, place, blobs = found
    return (len({str(one) for one in bits}), [m["rows"] for m in metrics], place, blobs) == (
        3, [6.0, 7.0, 8.0], (2, "evaluate"), 6,
    )  # fmt: skip


WORKS = {
    "landing": (
        Work(landing_prepare, LandingRun, landing_outcome, lambda found: found == ([0, 1, 2, 3], 4, 4), DISK),
        9,
    ),
    "opening": (Work(opening_prepare, OpeningRun, opening_outcome, _opened, (*DISK, OSError)), 9),
    "checkpoint": (Work(checkpoint_prepare, CheckpointRun, checkpoint_outcome, _kept, DISK), 9),
}


@pytest.mark.parametrize("name", WORKS)
def test_steps_of_the_centres_work(name: str, memory: Path) -> None:
    work, stride = WORKS[name]
    sweep(work, memory, stride)


@pytest.mark.full
@pytest.mark.parametrize("name", WORKS)
def test_every_step_of_the_centres_work(name: str, memory: Path) -> None:
    sweep(WORKS[name][0], memory)
