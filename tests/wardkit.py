"""A centre and one hospital as services, which a `systemctl` in the commands' path stops and starts."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import tomli_w
from sqlalchemy import select

from central import ipc
from central.config import load_config, operator_token
from central.store import Store
from central.store.models import AssignmentRow, StudyRow
from corsia.cli.init_central import init_central
from protocol.assignment import State
from tests.agentkit import site_config, study
from tests.gatewaykit import at_free_ports, eventually

# The centre without federation and web, which start slowly and have no part in this.
_CENTRE = """
import sys
from pathlib import Path
from central.supervisor import Supervisor
Supervisor(Path(sys.argv[1]), processes=("signer", "gateway", "vault")).run()
"""
_SYSTEMCTL = '#!/bin/sh\nset -e\necho "$@" > "$SERVICES/asked"\nread answer < "$SERVICES/done"\n[ "$answer" = ok ]\n'


def _ready(told: socket.socket) -> bool:
    try:
        return told.recv(100) == b"READY=1"
    except TimeoutError:
        return False


class Ward:
    """A centre and one hospital as services, which a `systemctl` in the commands' path stops and starts."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.central, self.edge = folder / "centre" / "central.toml", folder / "site" / "edge.toml"
        self.central.parent.mkdir()
        init_central(self.central, as_json=True)
        at_free_ports(self.central)
        self.edge.parent.mkdir()
        site_config(self.edge.parent)
        self.corsia = [sys.executable, "-m", "corsia"]  # what runs the hospital's daemon
        self.python = [sys.executable]  # what runs the centre
        self.running: dict[str, subprocess.Popen[bytes]] = {}
        self.services = folder / "services"
        self.services.mkdir()
        for name in ("asked", "done"):
            os.mkfifo(self.services / name)
        (self.services / "systemctl").write_text(_SYSTEMCTL)
        (self.services / "systemctl").chmod(0o755)
        threading.Thread(target=self._obey, daemon=True).start()

    def _obey(self) -> None:
        while True:
            verb, *names = (self.services / "asked").read_text().split()
            try:
                for name in names:
                    getattr(self, verb)(name)
                answer = "ok"
            except Exception as error:
                answer = type(error).__name__
            (self.services / "done").write_text(answer + "\n")

    def start(self, name: str) -> None:
        command = {
            "corsia-central": [*self.python, "-c", _CENTRE, str(self.central)],
            "corsia-edge": [*self.corsia, "edge", "run", "--config", str(self.edge)],
        }[name]
        address = self.services / f"{name}.notify"
        address.unlink(missing_ok=True)
        with (
            (self.folder / f"{name}.err").open("ab") as errors,
            socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as told,
        ):
            told.bind(str(address))
            told.settimeout(0.1)
            env = os.environ | {"NOTIFY_SOCKET": str(address)}
            process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=errors, env=env, cwd=self.folder)
            self.running[name] = process
            eventually(lambda: _ready(told) or process.poll() is not None, 120)
        if process.poll() is not None:
            del self.running[name]
            raise ChildProcessError(name)

    def stop(self, name: str) -> None:
        process = self.running.pop(name, None)
        if process is not None:  # one that does not run is stopped
            process.terminate()
            assert process.wait(180) == 0

    def shell(self, commands: str, **more: str) -> str:
        """Run commands as the page has them; the first that fails ends it."""
        state = load_config(self.central).state_dir
        given = {
            "CENTRAL": str(self.central), "STATE": str(state), "SITE": "site-a", "EDGE": str(self.edge),
            "EDGE_STATE": str(self.edge.parent / "state"), "SERVICES": str(self.services),
            "PATH": f"{self.services}:{Path(sys.executable).parent}:{os.environ['PATH']}", **more,
        }  # fmt: skip
        done = subprocess.run(
            ["bash", "-euo", "pipefail", "-c", commands], cwd=self.folder, env=os.environ | given, capture_output=True,
            text=True, timeout=400, check=False,  # it stops a service and starts it
        )  # fmt: skip
        assert done.returncode == 0, f"{commands}\n{done.stdout}\n{done.stderr}"
        return done.stdout

    def submit(self, name: str) -> str:
        """Submit a harvest study; the site's final word on it."""
        self.send(name)
        return self.word(name)

    def send(self, name: str) -> None:
        """Submit a harvest study."""
        value = study(name).model_dump(mode="python", by_alias=True, exclude_none=True)
        draft = tomli_w.dumps({k: v for k, v in value.items() if k not in ("recipients", "roster")})
        config = load_config(self.central)
        ipc.call(config.socket("signer"), "submit", 60.0, token=operator_token(config), draft=draft)

    def word(self, name: str) -> str:
        """The site's final word on a study, once there is one."""
        store = Store(load_config(self.central).state_dir)
        query = select(AssignmentRow).join(StudyRow, StudyRow.digest == AssignmentRow.study_digest)

        def word() -> str:
            with store.read() as session:
                row = session.scalars(query.where(StudyRow.id == name)).one()
                return (row.code or row.state) if State(row.state).final else ""

        try:
            return str(eventually(word, 120))
        finally:
            store.engine.dispose()

    def status(self) -> dict[str, Any]:
        return dict(json.loads(self.shell('corsia central status --config "$CENTRAL" --json')))
