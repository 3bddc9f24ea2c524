"""A centre for measuring the wall: real signer and gateway processes, and this process in the vault's place.

The vault's key lies in a file that the opening process of the benchmark reads; sites enrol over the real wire.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import tomli_w

from corsia.fleet import QUIET, free_port
from privacy.envelope import SecretKey, write_key
from protocol.errors import UnavailableError

__all__ = ["BenchCentre", "Program", "cpu_s", "peak_mb"]

STUDY = "bench-wall"
_PATIENCE_S = 300.0
_WATCHED = "VmHWM:"


def peak_mb(pid: int) -> float:
    """The most memory that a process has had resident, in MB; 0 when it is gone."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:
        return 0.0
    return next((int(line.split()[1]) / 1024 for line in lines if line.startswith(_WATCHED)), 0.0)


def cpu_s(pid: int) -> float:
    """CPU seconds that a process has used, its threads included; 0 when it is gone."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return 0.0
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


class Program:
    """A process of the benchmark that takes one JSON command a line and answers with one JSON object."""

    def __init__(self, module: str, *args: str) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", module, *args],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=_environment(), start_new_session=True,
        )  # fmt: skip

    @property
    def pid(self) -> int:
        """Its process id."""
        return self._process.pid

    def begin(self, do: str, **values: Any) -> None:
        """Send a command."""
        if self._process.stdin is None:
            raise AssertionError("a program has a standard input")
        self._process.stdin.write(json.dumps({"do": do, **values}) + "\n")
        self._process.stdin.flush()

    def end(self) -> dict[str, Any]:
        """Wait for the answer.

        Raises:
            UnavailableError: `unavailable.process`: it died.
        """
        line = self._process.stdout.readline() if self._process.stdout is not None else ""
        if not line:
            raise UnavailableError("unavailable.process", "a process of the benchmark died")
        return dict(json.loads(line))

    def ask(self, do: str, **values: Any) -> dict[str, Any]:
        """Send a command and wait."""
        self.begin(do, **values)
        return self.end()

    def close(self) -> None:
        """End it."""
        if self._process.stdin is not None:
            self._process.stdin.close()
        try:
            self._process.wait(20)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        if self._process.stdout is not None:
            self._process.stdout.close()


@dataclass(slots=True)
class BenchCentre:
    """Signer and gateway over a new folder; a context manager.

    Attributes:
        gateway: the module that is run as the gateway.
    """

    root: Path
    sites: tuple[str, ...]
    gateway: str = "central.gateway"
    key: SecretKey = field(default_factory=SecretKey.generate)
    processes: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)
    _stop: threading.Event = field(default_factory=threading.Event)
    _keys: threading.Thread | None = None

    def __enter__(self) -> BenchCentre:
        try:
            self._start()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_exc: object) -> None:
        for process in self.processes.values():
            process.terminate()
        for process in self.processes.values():
            try:
                process.wait(15)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        self._stop.set()
        if self._keys is not None:
            self._keys.join(10)

    @property
    def landing(self) -> Path:
        """Where parcels land."""
        return self.root / "state" / "landing"

    @property
    def key_file(self) -> Path:
        """The study's secret key."""
        return self.root / "study.key"

    def site(self, name: str) -> Path:
        """A site's state folder."""
        return self.root / "sites" / name

    def _start(self) -> None:
        from central import ipc
        from central.config import load_config, operator_token
        from corsia.cli.init_central import init_central
        from edge.identity import enrol

        path = self.root / "central.toml"
        self.root.mkdir(parents=True, exist_ok=True)
        write_key(self.key_file, self.key)
        _quietly(lambda: init_central(path, as_json=True))
        ports = {"port": free_port(), "enrolment_port": free_port(), "host": "127.0.0.1", "names": ["127.0.0.1"]}
        path.write_text(tomli_w.dumps({"name": "bench", "state_dir": "state", "gateway": ports}))
        config = load_config(path)
        public = self.key.public.to_base64()
        handlers: Mapping[str, ipc.Handler] = {"new_study_key": lambda _: {"key": public}}
        self._keys = threading.Thread(
            target=ipc.serve, args=(config.socket("vault"), handlers, self._stop), daemon=True
        )
        self._keys.start()
        for name, module in (("signer", "central.signer"), ("gateway", self.gateway)):
            command = [sys.executable, "-m", module, "--config", str(path)]
            self.processes[name] = subprocess.Popen(
                command, env=_environment(), stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, start_new_session=True
            )
            _await(lambda name=name: self._answers(config, name), name)
        token = operator_token(config)
        for site in self.sites:
            reply = ipc.call(config.socket("signer"), "invite", token=token, site=site)
            _patiently(lambda site=site, reply=reply: enrol(site, self.site(site), str(reply["code"])))
        ipc.call(config.socket("signer"), "submit", 60.0, token=token, draft=_draft(self.sites))

    def _answers(self, config: Any, name: str) -> bool:
        from central.supervisor import answers

        if self.processes[name].poll() is not None:
            raise UnavailableError("unavailable.process", f"{name} ended")
        return answers(config, name)

    def connected(self) -> int:
        """How many sites have a stream open."""
        from central import ipc
        from central.config import load_config

        return len(ipc.call(load_config(self.root / "central.toml").socket("gateway"), "status")["connected"])


def _await(ready: Any, what: str) -> None:
    until = time.monotonic() + _PATIENCE_S
    while not ready():
        if time.monotonic() > until:
            raise UnavailableError("unavailable.process", f"{what} did not become ready in {_PATIENCE_S:.0f} s")
        time.sleep(0.05)


def _patiently(call: Any) -> None:
    """Enrolment takes a hundred from one address at once and then one a second."""
    until = time.monotonic() + _PATIENCE_S
    while True:
        try:
            call()
            return
        except UnavailableError:
            if time.monotonic() > until:
                raise
            time.sleep(1.5)  # asking more often would be refused for ever


def _quietly(call: Any) -> None:
    """Call what prints a JSON object, without that object: ours is to be the only one."""
    from contextlib import redirect_stdout
    from io import StringIO

    with redirect_stdout(StringIO()):
        call()


def _environment() -> dict[str, str]:
    return {k: v for k, v in os.environ.items() if k != "CORSIA_FAULTS" and "proxy" not in k.lower()} | QUIET


def _draft(sites: Iterable[str]) -> str:
    expires = datetime.now(UTC).replace(microsecond=0) + timedelta(days=2)
    return tomli_w.dumps(
        {
            "schema": 1, "id": STUDY, "title": "Speed of the wall", "lane": "extract", "purpose": "research",
            "legal_basis": "scientific-research", "controller": "Corsia bench",
            "ethics_reference": "none: invented data", "expires": expires, "sites": list(sites),
            "dataset": {"name": "noise", "columns": ["value"]}, "pipeline": {"name": "extract"},
            "output": {"columns": [{"name": "value", "dtype": "int"}]},
        }
    )  # fmt: skip
