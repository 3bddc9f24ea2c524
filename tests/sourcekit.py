"""Real servers of a hospital for tests: Orthanc, PostgreSQL, a FHIR server, each a process of its own on loopback.

Orthanc 1.10 listens on every address: it refuses HTTP from elsewhere, and DICOM from any host that it does not know.
"""

from __future__ import annotations

import http.client
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from base64 import b64encode
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest

from corsia.fleet import free_port

LOGIN = "edge:edge-SECRET-7f3a"
PASSWORD = LOGIN.partition(":")[2]
_BASIC = "Basic " + b64encode(LOGIN.encode()).decode()


def need(program: str, package: str) -> str:
    """The path of a program; skips the test, telling the command, without it."""
    found = shutil.which(program) or next(
        (str(p) for p in sorted(Path("/usr/lib/postgresql").glob(f"*/bin/{program}"))), None
    )
    if found is None:
        pytest.skip(f"no {program}: sudo apt-get install -y --no-install-recommends {package}")
    return found


def until(ready: Callable[[], bool], what: str, seconds: float = 60.0) -> None:
    """Poll until something holds."""
    end = time.monotonic() + seconds
    while not ready():
        if time.monotonic() > end:
            raise AssertionError(f"{what} did not come about in {seconds:.0f} s")
        time.sleep(0.02)


def private(path: Path, text: str) -> Path:
    path.write_text(text + "\n")
    path.chmod(0o600)
    return path


class Orthanc:
    """A PACS with DICOMweb and DIMSE; `move_port` is where it may send what EDGE asks for; `more`: of its settings."""

    def __init__(self, folder: Path, **more: object) -> None:
        self.program = need("Orthanc", "orthanc orthanc-dicomweb")
        self.folder = folder
        self.http_port, self.dicom_port, self.move_port = free_port(), free_port(), free_port()
        folder.mkdir(parents=True, exist_ok=True)
        user, _, password = LOGIN.partition(":")
        (folder / "orthanc.json").write_text(
            json.dumps({
                "Name": "pacs", "StorageDirectory": str(folder / "db"), "IndexDirectory": str(folder / "db"),
                "Plugins": ["/usr/share/orthanc/plugins"], "HttpPort": self.http_port, "RemoteAccessAllowed": False,
                "AuthenticationEnabled": True, "RegisteredUsers": {user: password}, "DicomAet": "ORTHANC",
                "DicomPort": self.dicom_port, "DicomCheckCalledAet": True, "DicomCheckModalityHost": True,
                "DicomAlwaysAllowStore": False, "DicomAlwaysAllowEcho": False,
                "DicomModalities": {"edge": {
                    "AET": "EDGE", "Host": "127.0.0.1", "Port": self.move_port, "AllowEcho": True, "AllowStore": True,
                    "AllowFind": True, "AllowGet": True, "AllowMove": True}},
                "UnknownSopClassAccepted": True, "ExecuteLuaEnabled": False, "SyncStorageArea": False,
                "StorageAccessOnFind": "Never", "StableAge": 1, "ConcurrentJobs": 2,
                "DicomWeb": {"Enable": True, "Root": "/dicom-web/"}, **more,
            })
        )  # fmt: skip
        self.process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.http_port}/dicom-web"

    def start(self) -> None:
        with (self.folder / "log").open("ab") as log:
            self.process = subprocess.Popen(
                [self.program, str(self.folder / "orthanc.json")], stdout=log, stderr=log,
                env={**os.environ, "TCP_NODELAY": "1"},
            )  # fmt: skip
        until(self._ready, "Orthanc")

    def stop(self, number: int = signal.SIGTERM) -> None:
        if self.process is not None:
            self.process.send_signal(number)
            self.process.wait(30)
            self.process = None

    def put(self, *files: bytes) -> None:
        """Store files, over one connection."""
        link = http.client.HTTPConnection("127.0.0.1", self.http_port, timeout=60)
        with closing(link):
            for data in files:
                link.request("POST", "/instances", data, {"Authorization": _BASIC})
                answer = link.getresponse()
                assert (answer.status, answer.read()[:0]) == (200, b"")

    def count(self) -> int:
        return int(json.loads(self._ask("/statistics"))["CountInstances"])

    def lose(self, uid: str) -> None:
        """Damage the PACS: an instance stays in its lists, its file is gone."""
        found = json.loads(self._ask("/tools/lookup", uid.encode()))
        info = json.loads(self._ask(f"{found[0]['Path']}/attachments/dicom/info"))
        (self.folder / "db" / info["Uuid"][:2] / info["Uuid"][2:4] / info["Uuid"]).unlink()

    def delete(self, uid: str) -> None:
        found = json.loads(self._ask("/tools/lookup", uid.encode()))
        self._ask(found[0]["Path"], method="DELETE")

    def _ready(self) -> bool:
        try:
            self._ask("/system")
        except (OSError, urllib.error.URLError):
            return False
        return True

    def _ask(self, path: str, data: bytes | None = None, method: str | None = None) -> bytes:
        request = urllib.request.Request(f"http://127.0.0.1:{self.http_port}{path}", data=data, method=method)
        request.add_header("Authorization", _BASIC)
        with urllib.request.urlopen(request, timeout=30) as answer:  # noqa: S310 - loopback
            return bytes(answer.read())


class Postgres:
    """A throw-away server; `owner` may do all. Its folder is its own: pytest closes its folders to other users."""

    def __init__(self) -> None:
        self.bin = Path(need("initdb", "postgresql")).parent
        self.folder, self.port = Path(tempfile.mkdtemp(prefix="corsia-pg-")), free_port()
        self.drop = ["setpriv", "--reuid=postgres", "--regid=postgres", "--clear-groups"] if os.getuid() == 0 else []
        password = private(self.folder / "pw", "owner-SECRET")
        if self.drop:
            shutil.chown(self.folder, "postgres", "postgres")
            shutil.chown(password, "postgres", "postgres")
        words = ("-A", "scram-sha-256", "-U", "owner", f"--pwfile={password}", "--locale=C.UTF-8", "--no-sync")
        self._run("initdb", "-D", str(self.folder / "data"), *words)

    def start(self) -> None:
        options = f"-p {self.port} -c listen_addresses=127.0.0.1 -c unix_socket_directories={self.folder} -c fsync=off"
        self._run(
            "pg_ctl", "-D", str(self.folder / "data"), "-w", "-l", str(self.folder / "log"), "-o", options, "start"
        )

    def stop(self) -> None:
        self._run("pg_ctl", "-D", str(self.folder / "data"), "-m", "fast", "stop")
        shutil.rmtree(self.folder, ignore_errors=True)

    def url(self, user: str, password: str, database: str = "postgres") -> str:
        return f"postgresql+psycopg://{user}:{password}@127.0.0.1:{self.port}/{database}"

    def _run(self, *words: str) -> None:
        subprocess.run([*self.drop, str(self.bin / words[0]), *words[1:]], check=True, stdout=subprocess.DEVNULL)


@contextmanager
def fhir_server(folder: Path, *words: str) -> Iterator[str]:
    """A FHIR server process over NDJSON files of a folder; gives its base URL. See tests/fhir_process.py."""
    port = free_port()
    command = [sys.executable, "-m", "tests.fhir_process", str(folder), str(port), *words]
    with (folder.parent / "fhir.log").open("ab") as log:
        process = subprocess.Popen(command, cwd=Path(__file__).parents[1], stdout=log, stderr=log)
    try:
        until(lambda: answers(port), "the FHIR server")
        yield f"http://127.0.0.1:{port}/fhir"
    finally:
        process.kill()
        process.wait()


def answers(port: int) -> bool:
    """Whether somebody listens there."""
    try:
        socket.create_connection(("127.0.0.1", port), timeout=1).close()
    except OSError:
        return False
    return True
