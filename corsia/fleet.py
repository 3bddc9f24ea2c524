"""A whole consortium on this machine: centre, MLflow and sites as real processes on loopback with real TLS.

Used by the demo, the notebooks' tests and the fault tests. A process that dies is started again, as systemd would.
"""

from __future__ import annotations

import json
import os
import secrets
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

import tomli_w

from protocol.errors import ConfigurationError, UnavailableError

__all__ = ["QUIET", "Fleet", "free_port"]

# No telemetry, no update checks, one thread a process: the demo shares two cores among a dozen processes.
QUIET = {
    "DO_NOT_TRACK": "1",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
    "FLWR_TELEMETRY_ENABLED": "0",
    "FLWR_DISABLE_UPDATE_CHECK": "1",
    "RAY_USAGE_STATS_ENABLED": "0",
    "OMP_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
    "TOKENIZERS_PARALLELISM": "false",
    "PYTHONUNBUFFERED": "1",
}

_PATIENCE_S = 600.0  # no measure: of a machine that is busy with other things
_MOST_STARTS = 10
# Browsers refuse to open 10080 and others below it ("bad port", https://fetch.spec.whatwg.org).
_FIRST_PORT, _PORT_TRIES = 10_081, 100
_PROCESSES = 16  # that deal out ports at once, as those of a test run do
_given: set[int] = set()  # its server may not listen yet


def free_port() -> int:
    """A port that is free on loopback now and that the kernel deals out to nobody: a server can be started on it anew.

    Until it listens nobody sees that the port is given: processes started one after the other choose among different
    ones.

    Source: ip(7), `ip_local_port_range`.
    """
    dealt = Path("/proc/sys/net/ipv4/ip_local_port_range")
    first = int(dealt.read_text().split()[0]) if dealt.is_file() else _FIRST_PORT
    choices = range(_FIRST_PORT + os.getpid() % _PROCESSES, first, _PROCESSES)
    for port in [*(secrets.choice(choices) for _ in range(_PORT_TRIES if choices else 0)), 0]:
        with socket.socket() as probe, suppress(OSError):
            probe.bind(("127.0.0.1", port))
            found = int(probe.getsockname()[1])
            if found not in _given:
                _given.add(found)
                return found
    raise UnavailableError("unavailable.process", "no port is free on loopback")


@dataclass
class Process:
    """One child with its command and output file; `restart` says whether to start it again when it dies."""

    name: str
    command: list[str]
    log: Path
    restart: bool = True
    starts: int = 0
    child: subprocess.Popen[bytes] | None = None
    output: IO[bytes] | None = None


@dataclass
class Fleet:
    """Centre, MLflow and sites under one folder.

    Attributes:
        out: the folder; `centre/`, `mlflow/` and `sites/NAME/` are made in it.
        faults: site name, or `centre`, -> CORSIA_FAULTS for its processes (fault tests).
    """

    out: Path
    faults: Mapping[str, str] = field(default_factory=dict)
    _processes: dict[str, Process] = field(default_factory=dict)
    _stopping: threading.Event = field(default_factory=threading.Event)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def __post_init__(self) -> None:
        self.out = self.out.resolve()
        self.ports = {name: free_port() for name in ("fleet", "enrolment", "web", "mlflow")}
        self.url = f"http://127.0.0.1:{self.ports['web']}"
        self.mlflow_uri = f"http://127.0.0.1:{self.ports['mlflow']}"
        self.central_toml = self.out / "centre" / "central.toml"
        self.token_file = self.out / "centre" / "state" / "operator.token"

    # --- starting

    def start_mlflow(self) -> None:
        """Start an MLflow server with a SQLite store, local artifacts and no jobs."""
        folder = self.out / "mlflow"
        folder.mkdir(parents=True, exist_ok=True)
        self._start(
            "mlflow",
            [
                sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(self.ports["mlflow"]),
                "--backend-store-uri", f"sqlite:///{folder / 'mlflow.db'}",
                "--artifacts-destination", str(folder / "artifacts"), "--workers", "1",
            ],
        )  # fmt: skip

    def start_centre(self, networks: Mapping[str, str]) -> None:
        """Write central.toml and start the centre's processes; returns when they answer."""
        folder = self.central_toml.parent
        folder.mkdir(parents=True, exist_ok=True)
        config = {
            "name": "demo",
            "state_dir": "state",
            "two_person": ["models", "exports"],  # one person invites the demo's hospitals
            "gateway": {
                "host": "127.0.0.1",
                "port": self.ports["fleet"],
                "enrolment_port": self.ports["enrolment"],
                "names": ["127.0.0.1", "localhost"],
            },
            "web": {"host": "127.0.0.1", "port": self.ports["web"], "sign_in_browser": True},
            "mlflow": {"tracking_uri": self.mlflow_uri},
            "sites": dict(networks),
        }
        if not self.token_file.exists():
            self.corsia("init", "central", "--out", str(self.central_toml), "--json")
        self.central_toml.write_text(tomli_w.dumps(config))
        self._start("centre", [sys.executable, "-m", "corsia", "central", "serve", "--config", str(self.central_toml)])
        self.wait(lambda: self._up("centre", f"{self.url}/healthz"), "the centre", timeout_s=_PATIENCE_S)

    def enrol_site(self, name: str, config: Mapping[str, Any]) -> Path:
        """Write edge.toml, ask the centre for a join code and enrol with it."""
        folder = self.out / "sites" / name
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / "edge.toml"
        path.write_text(tomli_w.dumps({"site": name, "state_dir": "state", **config}))
        code = self.corsia("central", "invite", name, "--config", str(self.central_toml)).strip()
        self.corsia("edge", "enroll", "--config", str(path), "--code", code)
        return path

    def promote(self, model: str) -> None:
        """Two operators make the newest version the champion: the first one asks, a second, named one agrees.

        Raises:
            ConfigurationError: a command failed.
        """
        token = self.out / "centre" / "reviewer.token"
        if not token.exists():
            config = ("--config", str(self.central_toml), "--out", str(token))
            self.corsia("central", "operator", "add", "reviewer", *config)
        where = ("--url", self.url, "--json", "--token-file")
        self.corsia("model", "promote", model, *where, str(self.token_file))
        self.corsia("model", "approve", model, *where, str(token))

    def start_site(self, name: str) -> None:
        """Start a site's daemon."""
        path = self.out / "sites" / name / "edge.toml"
        self._start(name, [sys.executable, "-m", "corsia", "edge", "run", "--config", str(path)])

    def corsia(self, *args: str) -> str:
        """Run a command of the product; returns its standard output.

        Raises:
            ConfigurationError: the command failed; the message is its own.
        """
        done = subprocess.run(
            [sys.executable, "-m", "corsia", *args],
            env=self._environment(""),
            capture_output=True,
            text=True,
            timeout=_PATIENCE_S,
        )
        if done.returncode != 0:
            raise ConfigurationError(
                "config.invalid", f"corsia {args[0]} {args[1]} failed: {done.stderr.strip()[-800:]}"
            )
        return done.stdout

    # --- watching

    def wait(self, ready: Callable[[], bool], what: str, timeout_s: float) -> None:
        """Poll until `ready`.

        Raises:
            UnavailableError: `unavailable.process` after `timeout_s`.
        """
        until = time.monotonic() + timeout_s
        while not ready():
            if time.monotonic() > until:
                raise UnavailableError("unavailable.process", f"{what} did not become ready in {timeout_s:.0f} s")
            time.sleep(0.1)

    def mlflow_ready(self) -> bool:
        """Whether MLflow answers."""
        return self._answers(f"{self.mlflow_uri}/health")

    def api(self, path: str) -> Any:
        """GET a path of the REST API with the operator's token."""
        request = urllib.request.Request(  # noqa: S310 - loopback
            f"{self.url}/api/v1{path}", headers={"Authorization": f"Bearer {self.token_file.read_text().strip()}"}
        )
        with urllib.request.urlopen(request, timeout=_PATIENCE_S) as answer:  # noqa: S310
            return json.load(answer)

    def post(self, path: str, body: Mapping[str, Any]) -> Any:
        """POST JSON to a path of the REST API with the operator's token."""
        request = urllib.request.Request(  # noqa: S310 - loopback
            f"{self.url}/api/v1{path}",
            data=json.dumps(body).encode(),
            headers={
                "Authorization": f"Bearer {self.token_file.read_text().strip()}", "Content-Type": "application/json",
            },
        )  # fmt: skip
        with urllib.request.urlopen(request, timeout=_PATIENCE_S) as answer:  # noqa: S310
            return json.load(answer)

    def submit(self, study_id: str, document: bytes) -> Path:
        """Write a study's file and submit it by the command line; returns the file."""
        path = self.out / "studies" / f"{study_id}.toml"
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(document)
        self.corsia("study", "submit", str(path), "--url", self.url, "--token-file", str(self.token_file), "--json")
        return path

    def kill(self, name: str) -> None:
        """SIGKILL one process; it is started again."""
        child = self._processes[name].child
        if child is not None:
            child.kill()

    def pids(self) -> list[int]:
        """The ids of the processes that were started here and run now."""
        children = [process.child for process in self._processes.values()]
        return [child.pid for child in children if child is not None and child.poll() is None]

    def starts(self, name: str) -> int:
        """How often a process has been started."""
        return self._processes[name].starts

    # --- stopping

    def drop(self, name: str) -> None:
        """Stop one process for good."""
        process = self._processes[name]
        process.restart = False
        if process.child is not None:
            process.child.terminate()
            process.child.wait(30)

    def stop(self) -> None:
        """SIGTERM all, sites first; SIGKILL what does not obey in 20 s."""
        self._stopping.set()
        order = sorted(
            self._processes.values(),
            key=lambda p: ("mlflow", "centre").index(p.name) if p.name in ("mlflow", "centre") else -1,
        )
        with self._lock:
            for process in order:
                if process.child is not None and process.child.poll() is None:
                    process.child.send_signal(signal.SIGTERM)
        until = time.monotonic() + 20
        for process in order:
            if process.child is not None:
                try:
                    process.child.wait(max(0.1, until - time.monotonic()))
                except subprocess.TimeoutExpired:
                    os.killpg(process.child.pid, signal.SIGKILL)
                    process.child.wait()
            if process.output is not None:
                process.output.close()

    def __enter__(self) -> Fleet:
        return self

    def __exit__(self, *_exc: object) -> None:
        self.stop()

    # --- inside

    def _start(self, name: str, command: list[str]) -> None:
        log = self.out / "logs" / f"{name}.out"
        log.parent.mkdir(parents=True, exist_ok=True)
        self._processes[name] = Process(name, command, log)
        begun: Future[None] = Future()
        threading.Thread(target=self._keep, args=(self._processes[name], begun), daemon=True).start()
        begun.result()

    def _spawn(self, process: Process) -> None:
        with self._lock:
            if self._stopping.is_set():
                return
            process.output = process.output or process.log.open("ab")
            process.child = subprocess.Popen(
                process.command,
                env=self._environment(process.name),
                stdin=subprocess.DEVNULL,
                stdout=process.output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
            process.starts += 1

    def _keep(self, process: Process, begun: Future[None]) -> None:
        """Start it, and again when it dies; no signal can cut a start off here, as it would in the main thread."""
        try:
            self._spawn(process)
        except BaseException as error:  # whoever asked for it is told
            begun.set_exception(error)
            return
        begun.set_result(None)
        while not self._stopping.is_set():
            if process.child is not None:
                process.child.wait()
            if not process.restart or self._stopping.wait(0.3):
                return
            self._spawn(process)

    def _environment(self, name: str) -> dict[str, str]:
        kept = {
            k: v for k, v in os.environ.items() if k not in ("CORSIA_FAULTS", "PYTHONPATH") and "proxy" not in k.lower()
        }
        faults = self.faults.get(name)
        return kept | QUIET | ({"CORSIA_FAULTS": faults} if faults else {})

    def _up(self, name: str, url: str) -> bool:
        if self.starts(name) > _MOST_STARTS:
            raise UnavailableError("unavailable.process", f"{name} ends as soon as it starts: see logs/{name}.out")
        return self._answers(url)

    def _answers(self, url: str) -> bool:
        try:
            with urllib.request.urlopen(url, timeout=2) as answer:  # noqa: S310 - loopback
                return bool(answer.status == 200)
        except (urllib.error.URLError, OSError):
            return False
