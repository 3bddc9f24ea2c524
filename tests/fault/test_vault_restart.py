"""The real vault process, killed at its two points by SIGKILL, started again: the same lake, rows and study state."""

from __future__ import annotations

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

from central import ipc
from central.store.models import CuratedRow, EventRow
from tests.vaultkit import World

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
