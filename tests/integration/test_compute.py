"""Opening and reading on Dask: the same lake as without, behind certificates, and a parcel that kills ends itself."""

from __future__ import annotations

import http.client
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack
from datetime import UTC, datetime, timedelta
from pathlib import Path

import psutil
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID
from pydantic import ValidationError

from central.config import ComputeConfig
from central.vault import Analysis, Opener
from central.vault.compute import Compute, Here, OnDask, compute_of
from corsia.fleet import free_port
from protocol.errors import ConfigurationError, IntegrityError, UnavailableError, WorkerError
from tests.vaultkit import World, rows, table

pytestmark = pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning")


def failing(code: str) -> None:
    raise IntegrityError(code, "over there")


def dying(_value: int) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def doubled(value: int) -> int:
    return 2 * value


def listening() -> set[tuple[str, int]]:
    """Where this process and what it has started listen."""
    mine = psutil.Process()
    return {one.laddr for process in (mine, *mine.children(recursive=True))
            for one in process.net_connections() if one.status == psutil.CONN_LISTEN}  # fmt: skip


@pytest.fixture(scope="module")
def others() -> set[tuple[str, int]]:
    """Who listens before the cluster does: servers of other files' tests, as the demo's, live to the session's end."""
    return listening()


@pytest.fixture(scope="module")
def two(others: set[tuple[str, int]]) -> Iterator[Compute]:
    made = compute_of(ComputeConfig(workers=2, worker_memory_bytes=1_000_000_000))
    yield made
    made.close()


PAGES = ("/info/main/workers.html", "/json/counts.json", "/metrics", "/health", "/status")


def told(ip: str, port: int, page: str) -> bool:
    """Whether a port answers whoever asks, without a certificate."""
    connection = http.client.HTTPConnection(ip, port, timeout=10)
    try:
        connection.request("GET", page)
        return connection.getresponse().status < 400
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()


def opener(world: World, compute: Compute) -> Opener:
    return Opener(world.store, landing=world.landing, state=world.root / "vault", keys=world.keys, lake=world.lake,
                  study_key=lambda: world.signing.public, compute=compute)  # fmt: skip


def filled(world: World, compute: Compute) -> list[str]:
    world.submit(privacy={"k": 5})
    made = [world.land(world.batch(table(rows(6, 20 + part)), part=part, last=part == 4)) for part in range(5)]
    made.append(world.land(b"no batch at all"))
    made.append(world.land(world.batch(table(rows(4)), site="site-b"), site="site-b"))
    working = opener(world, compute)
    while working.step():
        pass
    return made


def test_the_lake_is_the_same_wherever_it_was_opened(two: Compute, tmp_path: Path) -> None:
    told = []
    for name, compute in (("here", Here()), ("there", two)):
        world = World(tmp_path / name)
        landed = filled(world, compute)
        found = Analysis(world.store, world.lake, world.public, compute).table("trial").to_pandas()
        states = [world.parcel(parcel) for parcel in landed]
        told.append((states, found[["site", "age", "sex"]].values.tolist()))
    assert told[0] == told[1]
    assert told[0][0][5][0] == "rejected"
    assert [state for state, _code in told[0][0]].count("opened") == 6


def test_errors_come_back_by_code(two: Compute) -> None:
    with pytest.raises(IntegrityError) as caught:
        two.begin(failing, "parcel.chunk").result()
    assert caught.value.code == "parcel.chunk"


def test_no_worker_spills_and_nobody_enters_without_a_certificate(two: Compute, others: set[tuple[str, int]]) -> None:
    import dask
    from distributed import Client

    assert isinstance(two, OnDask)
    client = two._connected()
    assert client.scheduler.address.startswith("tls://127.0.0.1:")
    from central.vault.compute import _keeps_in_memory

    assert two.map(_keeps_in_memory, [()] * 6) == [True] * 6
    for nanny in client.cluster.workers.values():  # as it starts a worker again
        assert nanny.config["distributed"]["worker"]["http"]["routes"] == []
        assert nanny.config["distributed"]["worker"]["memory"]["spill"] is False
    ports = listening() - others
    assert len(ports) >= 5, "scheduler, nannies, workers"
    assert [(ip, page) for ip, port in ports for page in PAGES if told(ip, port, page)] == []
    assert {ip for ip, _port in ports} == {"127.0.0.1"}
    stranger = {"distributed.comm.require-encryption": False}
    with dask.config.set(stranger), pytest.raises((OSError, TimeoutError)):
        Client(client.scheduler.address.replace("tls://", "tcp://"), timeout=2, set_as_default=False)


@pytest.mark.full
def test_a_death_is_told_as_such(two: Compute) -> None:
    with pytest.raises(WorkerError):
        two.begin(dying, 1).result()
    wanted, until = [2 * n for n in range(20)], time.monotonic() + 300
    while True:
        try:
            assert two.map(doubled, [(n,) for n in range(20)]) == wanted
            return
        except UnavailableError:  # nannies that could not start a worker again: the next call begins a new cluster
            assert time.monotonic() < until


def test_a_configuration_without_certificates_is_refused(tmp_path: Path) -> None:
    for wrong in ({"scheduler": "tcp://127.0.0.1:8786"}, {"scheduler": "tls://127.0.0.1:8786"}):
        with pytest.raises(ValidationError):
            ComputeConfig.model_validate(wrong)
    files = {name: tmp_path / name for name in ("tls_ca", "tls_cert", "tls_key")}
    config = ComputeConfig(scheduler="tls://127.0.0.1:9", **files)
    with pytest.raises(ConfigurationError):
        compute_of(config).begin(doubled, 1)
    assert isinstance(compute_of(ComputeConfig()), Here)


def certificates(folder: Path) -> dict[str, Path]:
    """A CA and one certificate, as an administrator of a cluster makes them."""
    now, key = datetime.now(UTC), ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "cluster")])
    made = (
        x509.CertificateBuilder().subject_name(name).issuer_name(name).public_key(key.public_key())
        .serial_number(1).not_valid_before(now - timedelta(days=1)).not_valid_after(now + timedelta(days=1))
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )  # fmt: skip
    paths = {name: folder / f"{name}.pem" for name in ("tls_ca", "tls_cert", "tls_key")}
    for which in ("tls_ca", "tls_cert"):
        paths[which].write_bytes(made.public_bytes(Encoding.PEM))
    paths["tls_key"].write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    return paths


@pytest.mark.full
def test_a_cluster_elsewhere_opens_and_one_that_spills_is_refused(tmp_path: Path) -> None:
    files, port = certificates(tmp_path), free_port()
    config = ComputeConfig(scheduler=f"tls://127.0.0.1:{port}", **files)
    tls = [f"--tls-ca-file={files['tls_ca']}", f"--tls-cert={files['tls_cert']}", f"--tls-key={files['tls_key']}"]

    def started(*words: str, **settings: str) -> subprocess.Popen[bytes]:
        command = [sys.executable, "-m", f"distributed.cli.dask_{words[0]}", *words[1:], *tls]
        with (tmp_path / f"{words[0]}.log").open("ab") as log:
            return subprocess.Popen(command, env={**os.environ, **settings}, cwd=tmp_path, stdout=log, stderr=log)

    memory = {"DASK_DISTRIBUTED__WORKER__MEMORY__SPILL": "False", "DASK_DISTRIBUTED__WORKER__MEMORY__TARGET": "False"}
    worker = ["worker", f"tls://127.0.0.1:{port}", "--nworkers", "1", "--nthreads", "1", "--no-dashboard",
              "--local-directory", str(tmp_path)]  # fmt: skip
    with ExitStack() as stack:

        def running(process: subprocess.Popen[bytes]) -> subprocess.Popen[bytes]:
            stack.callback(process.wait, 30)
            stack.callback(process.terminate)
            return process

        with pytest.raises(UnavailableError):
            compute_of(config).begin(doubled, 1)
        running(started("scheduler", "--host", "tls://127.0.0.1", "--port", str(port), "--no-dashboard"))
        spilling = running(started(*worker, DASK_DISTRIBUTED__WORKER__MEMORY__SPILL="0.7"))
        refused = compute_of(config)
        until = time.monotonic() + 120
        while time.monotonic() < until:  # the worker joins in its own time
            try:
                refused.begin(doubled, 1).result()
            except ConfigurationError:
                break
            except UnavailableError:
                pass
            refused.close()
        else:
            pytest.fail("a worker that spills was let in")
        spilling.terminate()
        spilling.wait(30)
        running(started(*worker, **memory))
        compute = compute_of(config)
        world = World(tmp_path / "centre")
        filled(world, compute)
        assert Analysis(world.store, world.lake, world.public, compute).table("trial").num_rows == 34
        compute.close()
