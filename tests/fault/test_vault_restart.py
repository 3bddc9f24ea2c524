"""The real vault process, killed at its points by SIGKILL, started again: the same lake, rows and study state."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from sqlalchemy import select

from central import erasure, ipc
from central.store.models import CuratedRow, EventRow, LogRow
from protocol.errors import StudyRefused
from protocol.faults import POINTS
from protocol.withdrawal import Withdrawal, subjects_item
from tests.vaultkit import World, table

_TIMEOUT_S = 60.0


@contextmanager
def _signer(world: World) -> Iterator[None]:
    """Something that answers `public_keys` as the signer does."""
    stop = threading.Event()
    keys = dict.fromkeys(("study_key", "publication_key"), world.public().to_base64())
    path = world.root / "run" / "signer.sock"
    thread = threading.Thread(target=ipc.serve, args=(path, {"public_keys": lambda _: keys}, stop))
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()


def _start(config: Path, faults: str = "") -> subprocess.Popen[bytes]:
    environment = {**os.environ, "CORSIA_FAULTS": faults}
    return subprocess.Popen([sys.executable, "-m", "central.vault", "--config", str(config)], env=environment)


def _until(true: Callable[[], bool]) -> None:
    end = time.monotonic() + _TIMEOUT_S
    while not true():
        assert time.monotonic() < end, "it did not happen in time"
        time.sleep(0.05)


@pytest.mark.parametrize("point", ["vault.opened", "vault.written"])
def test_killed_at_a_point_the_vault_ends_in_the_same_state(tmp_path: Path, point: str) -> None:
    config = tmp_path / "central.toml"
    config.write_text('name = "consortium"\n')
    world = World(tmp_path / "state")
    world.submit()
    parcels = [world.land(world.batch(part=n, last=n == 1)) for n in range(2)]
    parcels.append(world.land(world.batch(site="site-b"), site="site-b"))
    world.finish()
    with _signer(world):
        first = _start(config, f"{point}={tmp_path / 'marker'}")
        assert first.wait(_TIMEOUT_S) == -9
        assert world.state() == "open"
        leftover = world.lake.root / "trial" / "half.tmp"
        leftover.mkdir(parents=True)
        (leftover / "records.parquet").write_bytes(b"half")
        second = _start(config)
        try:
            _until(lambda: world.state() == "done")
            summary = ipc.call(world.root / "run" / "vault.sock", "summary", study="trial")
            key = ipc.call(world.root / "run" / "vault.sock", "new_study_key", study="trial")["key"]
        finally:
            second.terminate()
            assert second.wait(_TIMEOUT_S) == 0
    assert not leftover.exists()
    assert key == world.keys.create("trial")
    assert summary["rows"] == 18
    assert summary["sites"] == {"site-a": 12, "site-b": 6}
    with world.store.read() as session:
        rows = session.scalars(select(CuratedRow)).all()
        kinds = list(session.scalars(select(EventRow.kind)))
    assert sorted(row.parcel_id for row in rows) == sorted(parcels)
    assert kinds.count("batch.curated") == 3
    folders = {p.name for p in (world.lake.root / "trial").iterdir()}
    assert folders == {row.batch_id for row in rows}
    log = (tmp_path / "state" / "logs" / "vault.jsonl").read_text()
    assert "batch.curated" in log
    assert str(tmp_path) not in log


@pytest.mark.full  # tests/unit/test_erasure.py and test_withdrawal.py cut off at each of these steps in one process
def test_killed_at_every_step_of_a_withdrawal_and_an_erasure_both_are_finished(tmp_path: Path) -> None:
    config = tmp_path / "central.toml"
    config.write_text('name = "consortium"\n')
    world, gone = World(tmp_path / "state"), "P" + "A" * 16
    for study in ("trial", "ended"):
        world.submit(study)
        about = subjects_item({"records.parquet": [gone, *(f"P{letter * 16}" for letter in "BCDEF")]})
        world.land(world.batch(table(), about, study_id=study), study_id=study)
    world.drain()
    world.finish()
    word = world.batch(Withdrawal(subjects=frozenset([gone])).item(), batch_id="f" * 32)
    told = world.land(word, content_type="withdrawal")
    steps = [point for point in POINTS if point.startswith(("withdrawal.", "erasure."))]
    armed = ",".join(f"{step}={tmp_path / step}" for step in steps)
    erasure.ask(world.store, "ended", operator="anna")
    with _signer(world):
        for _ in steps:
            assert _start(config, armed).wait(_TIMEOUT_S) == -9
        last = _start(config, armed)
        try:
            _until(lambda: erasure.told(world.store, "ended")["state"] == "done")
            _until(lambda: world.parcel(told)[0] == "opened")
            summary = ipc.call(world.root / "run" / "vault.sock", "summary", study="trial")
            with pytest.raises(StudyRefused):
                ipc.call(world.root / "run" / "vault.sock", "summary", study="ended")
        finally:
            last.terminate()
            assert last.wait(_TIMEOUT_S) == 0
    assert all((tmp_path / step).exists() for step in steps)
    assert summary["rows"] == 5
    assert not (world.lake.root / "ended").exists()
    assert [path.name for path in (world.root / "vault").glob("*keys/ended.*")] == ["ended.erased"] * 2
    with world.store.read() as session:
        (row,) = session.scalars(select(CuratedRow).where(CuratedRow.study_digest == world.digest()))
        leaves = [json.loads(leaf)["kind"] for leaf in session.scalars(select(LogRow.leaf))]
    assert (row.rows, leaves.count("withdrawal"), leaves.count("erasure")) == (5, 1, 1)
    folders = {path.name for path in (world.lake.root / "trial").iterdir()}
    assert folders == {row.path.removeprefix("trial/"), f"withdrawn-{told}"}
