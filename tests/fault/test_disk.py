"""A real file system that is full or read-only: one code, nothing lost, and on it goes when it is mended."""

from __future__ import annotations

import json
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner
from typer.main import get_command

from central.gateway.landing import RESERVE_BYTES
from corsia.cli.edge import app
from edge.agent import Agent
from edge.identity import enrol
from edge.spool import Spool
from edge.uplink import Uplink
from protocol.assignment import State
from protocol.errors import StorageError, UnavailableError
from tests.agentkit import Wire, enrolled, site_config, study
from tests.agentkit import running as at_work
from tests.fault.proxy import Proxy
from tests.fault.test_wire import Place
from tests.gatewaykit import Site, eventually, first, running

MIB = 1 << 20


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 24 MiB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=24m", "tmpfs", str(folder)], capture_output=True).returncode:
        pytest.skip("no right to mount a small file system: run as root")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


def writable(disk: Path, yes: bool) -> None:
    """Mount it so; the kernel may need a moment to let go of the files of processes that have just ended."""
    command = ["mount", "-o", f"remount,{'rw' if yes else 'ro'}", str(disk)]
    eventually(lambda: subprocess.run(command, capture_output=True).returncode == 0, 60)


def test_a_site_on_a_read_only_disk_says_so_keeps_all_and_goes_on(disk: Path) -> None:
    config = site_config(disk / "site")
    office = enrolled(config)

    def away() -> None:
        raise UnavailableError("unavailable.centre")

    office.fail["deliver"] = away
    with at_work(config, office):
        asked = office.submit(study())
        office.wait(asked, State.DELIVERING)
    writable(disk, False)
    with pytest.raises(StorageError, match=r"storage\.failed"):
        Agent(config, connect=lambda _identity, _fleet: Wire(office)).run(threading.Event())
    done = CliRunner().invoke(
        get_command(app), ["spool", "verify", "--config", str(disk / "site" / "edge.toml"), "--json"]
    )
    size = Spool(config.state_dir / "spool", 1).usage()[1]
    assert json.loads(done.stdout) == {"parcels": 1, "bytes": size, "damaged": 0}
    writable(disk, True)
    del office.fail["deliver"]
    with at_work(config, office):
        assert office.wait(asked).state is State.DONE
    assert len(office.parcels) == 1


def test_a_centre_on_a_full_disk_takes_nothing_and_all_when_there_is_room(disk: Path, tmp_path: Path) -> None:
    with running(disk / "centre") as centre, Proxy(centre.config.gateway.fleet_address) as proxy:
        identity = enrol("site-a", tmp_path / "edge", centre.ask("invite", site="site-a")["code"])
        centre.submit()
        uplink = Uplink(identity)
        assignment = first(uplink)
        site = Site("site-a", key=identity.key)
        parcel = site.parcel(assignment.study_digest, centre.keys["lung"], bytes(range(256)) * (3 * MIB // 256))
        place = Place(centre, proxy, identity, parcel, assignment.id)
        ballast = disk / "ballast"
        with ballast.open("wb") as file:
            for _ in range(24 - RESERVE_BYTES // MIB - 2):  # 3 MiB do not fit beside what is kept free
                file.write(bytes(MIB))
        with pytest.raises(UnavailableError, match="the centre's disk"):
            place.deliver(uplink)
        ballast.unlink()
        place.landed(place.deliver(uplink))
        uplink.close()
