"""`corsia central serve`: starts the centre's processes, starts a dead one again, stops all together.

The signer comes first, since the others ask it. Every child dies with the supervisor (PR_SET_PDEATHSIG), so none is
left behind when it is killed. The supervisor holds no key and reads no message.
"""

from __future__ import annotations

import ctypes
import logging
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from central import ipc
from central.backup import is_held
from central.config import PROCESSES, CentralConfig, load_config
from central.store.engine import database_url, open_engine
from central.store.schema import migrate
from protocol.errors import ConfigurationError, UnavailableError
from protocol.process import guard
from protocol.service import Service

__all__ = ["Supervisor", "answers", "environment"]

FIRST_DELAY_S = 0.2
LAST_DELAY_S = 5.0
SETTLED_S = 10.0
READY_TIMEOUT_S = 120.0
STOP_TIMEOUT_S = 15.0
EARLY_DEATHS = 5
WATCH_S = 0.2
QUIET = {
    "DO_NOT_TRACK": "1",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "FLWR_TELEMETRY_ENABLED": "0",
    "FLWR_DISABLE_UPDATE_CHECK": "1",
    "GRPC_VERBOSITY": "ERROR",
}
LOOPBACK = ("127.0.0.1", "localhost", "::1")
_PR_SET_PDEATHSIG = 1
_libc = ctypes.CDLL(None, use_errno=True)
_log = logging.getLogger("central.supervisor")


@dataclass(slots=True)
class _Child:
    name: str
    process: subprocess.Popen[bytes] | None = None
    started: float = 0.0
    delay_s: float = FIRST_DELAY_S
    due: float = 0.0
    deaths: int = 0


@dataclass
class Supervisor:
    """Runs the centre's processes until `stop` is set.

    Attributes:
        config_path: central.toml, handed to every process.
        on_ready: called once, when all of them answer.
        processes: which to run, in the order of their start.
    """

    config_path: Path
    on_ready: Callable[[CentralConfig], None] = lambda _: None
    processes: Sequence[str] = PROCESSES
    stop: threading.Event = field(default_factory=threading.Event)

    def run(self) -> None:
        """Start, watch, stop. Must be called from the main thread, which the children's lives are tied to.

        Raises:
            ConfigurationError: `config.missing`: data were put back here, the keys were not.
            StorageError: `storage.newer`: the database was written by a later version.
            ConflictError: `conflict.running`, another supervisor holds the state folder.
            UnavailableError: `unavailable.process`, a process never became ready; the others are stopped.
        """
        guard()
        service = Service.of_environment()
        config = load_config(self.config_path)
        with ipc.sole(config.state_dir / "run" / "supervisor.lock"):
            for number in (signal.SIGTERM, signal.SIGINT):
                signal.signal(number, lambda *_: self.stop.set())
            signal.signal(signal.SIGHUP, signal.SIG_IGN)
            if is_held(config.state_dir):
                raise ConfigurationError("config.missing", "the keys were not put back: corsia central keys restore")
            migrate(open_engine(database_url(config.state_dir)), config.state_dir)
            children = [_Child(name) for name in self.processes]
            try:
                self._become_ready(config, children)
                if not self.stop.is_set():
                    self.on_ready(config)
                    service.tell("READY=1")
                while not self.stop.wait(WATCH_S):
                    self._revive(children)
                    service.feed()
                service.tell("STOPPING=1")
            finally:
                _stop(children)

    def _become_ready(self, config: CentralConfig, children: list[_Child]) -> None:
        until = time.monotonic() + READY_TIMEOUT_S
        for group in (children[:1], children):
            for child in group:
                if child.process is None:
                    self._start(child)
            waiting = list(group)
            while waiting and not self.stop.wait(0.05):
                self._revive(children)
                waiting = [c for c in waiting if not answers(config, c.name)]
                hopeless = [c.name for c in children if c.deaths >= EARLY_DEATHS]
                if hopeless or time.monotonic() > until:
                    names = ", ".join(hopeless or [c.name for c in waiting])
                    raise UnavailableError("unavailable.process", f"did not start: {names}; see state/logs")

    def _start(self, child: _Child) -> None:
        command = [sys.executable, "-m", f"central.{child.name}", "--config", str(self.config_path.resolve())]
        child.process = subprocess.Popen(
            command,
            env=environment(os.environ),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            preexec_fn=_die_with(os.getpid()),
        )
        child.started = time.monotonic()
        _log.info("process.started", extra={"fields": {"process": child.name, "pid": child.process.pid}})

    def _revive(self, children: list[_Child]) -> None:
        now = time.monotonic()
        for child in children:
            if child.process is None or child.process.poll() is None:
                continue
            if child.due == 0.0:
                settled = now - child.started > SETTLED_S
                child.deaths = 1 if settled else child.deaths + 1
                child.delay_s = FIRST_DELAY_S if child.deaths == 1 else min(LAST_DELAY_S, child.delay_s * 2)
                child.due = now + child.delay_s
                fields = {"process": child.name, "status": child.process.returncode}
                _log.warning("process.died", extra={"fields": fields})
            elif now >= child.due:
                child.due = 0.0
                self._start(child)


def environment(outer: Mapping[str, str]) -> dict[str, str]:
    """What the processes get: telemetry off, and no proxy between this machine and itself (MLflow on loopback)."""
    direct = [word for name in ("NO_PROXY", "no_proxy") for word in outer.get(name, "").split(",") if word.strip()]
    words = ",".join(dict.fromkeys([*(word.strip() for word in direct), *LOOPBACK]))
    return {**QUIET, **outer, "NO_PROXY": words, "no_proxy": words}


def answers(config: CentralConfig, name: str) -> bool:
    """Whether a process of the centre answers now."""
    if name == "web":
        host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(config.web.host, config.web.host)  # noqa: S104
        try:
            with socket.create_connection((host, config.web.port), timeout=1.0):
                return True
        except OSError:
            return False
    try:
        ipc.call(config.socket(name), "ping", timeout_s=1.0)
    except UnavailableError:
        return False
    return True


def _die_with(parent: int) -> Callable[[], None]:
    def prepare() -> None:
        _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
        if os.getppid() != parent:  # the parent died before the call
            os._exit(1)

    return prepare


def _stop(children: list[_Child]) -> None:
    running = [c.process for c in children if c.process is not None and c.process.poll() is None]
    for process in reversed(running):  # the signer last: the others may still ask it
        process.send_signal(signal.SIGTERM)
    until = time.monotonic() + STOP_TIMEOUT_S
    for process in running:
        try:
            process.wait(max(0.1, until - time.monotonic()))
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
