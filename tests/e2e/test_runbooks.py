"""Each runbook as it stands on its page: its commands in their order, then a study that has to go through.

One of them always; those that stop the centre in `make test-full` (what they stand on: `tests/unit/test_rotation.py`).
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import tomli_w
from sqlalchemy import select

from central import ipc
from central.config import load_config, operator_token
from central.store import Store
from central.store.models import AssignmentRow, StudyRow
from corsia.cli.init_central import init_central
from protocol.assignment import State
from tests.agentkit import site_config, study
from tests.gatewaykit import eventually, free_port

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(300)]
PAGES = Path(__file__).parents[2] / "docs" / "runbooks"

# The centre without federation and web, which start slowly and have no part in this.
_CENTRE = """
import sys
from pathlib import Path
from central.supervisor import Supervisor
Supervisor(Path(sys.argv[1]), on_ready=lambda c: print("ready", flush=True),
           processes=("signer", "gateway", "vault")).run()
"""
_SYSTEMCTL = '#!/bin/sh\nset -e\necho "$1 $2" > "$SERVICES/asked"\nread answer < "$SERVICES/done"\n[ "$answer" = ok ]\n'


class Ward:
    """A centre and one hospital as services, which a `systemctl` in the commands' path stops and starts."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.central, self.edge = folder / "centre" / "central.toml", folder / "site" / "edge.toml"
        self.central.parent.mkdir()
        init_central(self.central, as_json=True)
        text = self.central.read_text()
        for port in ("7443", "7444", "7480"):
            text = text.replace(port, str(free_port()))
        self.central.write_text(text)
        self.edge.parent.mkdir()
        site_config(self.edge.parent)
        self.running: dict[str, subprocess.Popen[str]] = {}
        self.services = folder / "services"
        self.services.mkdir()
        for name in ("asked", "done"):
            os.mkfifo(self.services / name)
        (self.services / "systemctl").write_text(_SYSTEMCTL)
        (self.services / "systemctl").chmod(0o755)
        threading.Thread(target=self._obey, daemon=True).start()

    def _obey(self) -> None:
        while True:
            verb, name = (self.services / "asked").read_text().split()
            try:
                getattr(self, verb)(name)
                answer = "ok"
            except Exception as error:
                answer = type(error).__name__
            (self.services / "done").write_text(answer + "\n")

    def start(self, name: str) -> None:
        command = {
            "corsia-central": [sys.executable, "-c", _CENTRE, str(self.central)],
            "corsia-edge": [sys.executable, "-m", "corsia", "edge", "run", "--config", str(self.edge)],
        }[name]
        with (self.folder / f"{name}.err").open("ab") as errors:
            process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=errors, text=True)
        self.running[name] = process
        if name == "corsia-central":
            assert process.stdout is not None
            assert process.stdout.readline() == "ready\n"

    def stop(self, name: str) -> None:
        process = self.running.pop(name)
        process.terminate()
        assert process.wait(60) == 0
        if process.stdout is not None:
            process.stdout.close()

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
            text=True, timeout=120, check=False,
        )  # fmt: skip
        assert done.returncode == 0, f"{commands}\n{done.stdout}\n{done.stderr}"
        return done.stdout

    def submit(self, name: str) -> str:
        """Submit a harvest study; the site's final word on it."""
        value = study(name).model_dump(mode="python", by_alias=True, exclude_none=True)
        draft = tomli_w.dumps({k: v for k, v in value.items() if k not in ("recipients", "roster")})
        config = load_config(self.central)
        ipc.call(config.socket("signer"), "submit", 60.0, token=operator_token(config), draft=draft)
        store = Store(config.state_dir)
        query = select(AssignmentRow).join(StudyRow, StudyRow.digest == AssignmentRow.study_digest)

        def word() -> str:
            with store.read() as session:
                row = session.scalars(query.where(StudyRow.id == name)).one()
                return (row.code or row.state) if State(row.state).final else ""

        try:
            return str(eventually(word, 60))
        finally:
            store.engine.dispose()

    def status(self) -> dict[str, Any]:
        return dict(json.loads(self.shell('corsia central status --config "$CENTRAL" --json')))


@pytest.fixture(scope="module")
def ward(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ward]:
    made = Ward(tmp_path_factory.mktemp("ward"))
    made.start("corsia-central")
    made.shell('corsia central invite "$SITE" --config "$CENTRAL" > code.txt')
    made.shell('corsia edge enroll --config "$EDGE" --code - < code.txt')
    made.start("corsia-edge")
    try:
        assert made.submit("before-all") == "done"
        yield made
    finally:
        for name in ("corsia-edge", "corsia-central"):
            if name in made.running:
                made.stop(name)


def steps(page: str) -> list[str]:
    found = re.findall(r"^```bash\n(.*?)^```", (PAGES / f"{page}.md").read_text(), re.MULTILINE | re.DOTALL)
    assert found
    return [str(block) for block in found]


def carry_out(ward: Ward, page: str, **more: str) -> str:
    return "".join(ward.shell(block, **more) for block in steps(page))


def fingerprint(ward: Ward) -> str:
    (site,) = ward.status()["sites"]
    return str(site["fingerprint"])


def test_every_page_is_listed_and_rehearsed() -> None:
    pages = {path.stem for path in PAGES.glob("*.md")} - {"README"}
    assert pages == set(re.findall(r"\]\(([a-z-]+)\.md\)", (PAGES / "README.md").read_text()))
    assert pages == {"lost-site-key", "compromised-gateway", "compromised-vault", "compromised-ca"}


def test_a_lost_site_key(ward: Ward) -> None:
    before = fingerprint(ward)
    ledger = (ward.edge.parent / "state" / "ledger.db").stat().st_ino
    carry_out(ward, "lost-site-key")
    assert fingerprint(ward) != before
    assert ward.submit("after-a-lost-key") == "done"
    assert (ward.edge.parent / "state" / "ledger.db").stat().st_ino == ledger, "what was spent stays spent"


@pytest.mark.full
def test_a_compromised_gateway(ward: Ward) -> None:
    state = load_config(ward.central).state_dir
    keys = [state / "gateway" / "log.pub", state / "signer" / "ca.pem"]
    before, who = [key.read_bytes() for key in keys], fingerprint(ward)
    carry_out(ward, "compromised-gateway")
    assert not set(before) & {key.read_bytes() for key in keys}
    assert fingerprint(ward) == who, "the identity stays"
    assert ward.submit("after-the-gateway") == "done"
    (last,) = (state / "retired").glob("log-*/last.checkpoint")
    assert last.read_text().startswith("corsia/")


@pytest.mark.full
def test_a_compromised_vault(ward: Ward) -> None:
    state = load_config(ward.central).state_dir
    old = (state / "vault" / "keys" / "before-all.key").read_bytes()
    carry_out(ward, "compromised-vault", STUDY="before-all")
    assert ward.submit("after-the-vault") == "done"
    fresh = [path.read_bytes() for path in (state / "vault" / "keys").glob("*.key")]
    assert len(fresh) == 1
    assert old not in fresh


@pytest.mark.full
def test_a_compromised_ca(ward: Ward) -> None:
    state = load_config(ward.central).state_dir
    keys = [state / "signer" / name for name in ("ca.pem", "ca.key", "study.key")]
    before = [key.read_bytes() for key in keys]
    said = carry_out(ward, "compromised-ca")
    assert '"before-all"' in said, "the studies to be looked through are listed"
    assert not set(before) & {key.read_bytes() for key in keys}
    assert ward.submit("after-the-ca") == "done"
    journal = ward.shell('corsia edge journal --verify --config "$EDGE" --json')
    assert json.loads(journal)["verified"] is True


def test_a_running_centre_replaces_no_key(ward: Ward) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "corsia", "central", "rotate", "log", "--config", str(ward.central), "--json"],
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert json.loads(done.stdout.splitlines()[-1])["error"]["code"] == "conflict.running"
