"""A running centre for tests of web and client: signer and vault on their sockets, the web server on loopback."""

from __future__ import annotations

import secrets
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
from sqlalchemy import func, select

from central import ipc
from central.config import CentralConfig, WebConfig
from central.identity.settings import IdentityConfig
from central.operators import Operators
from central.signer import Signer
from central.store.models import CheckpointRow, LogRow
from central.vault import Analysis
from central.vault.exports import Exports
from central.vault.service import handlers, pack
from central.web import Centre
from central.web.__main__ import serve
from corsia.fleet import free_port
from privacy.envelope import PublicKey, SecretKey, read_key, write_key, write_public
from privacy.transparency import Checkpoint, Tree, sign_checkpoint
from tests.vaultkit import World


@dataclass
class Running:
    """A centre that answers at `url`; `world` is its state folder."""

    url: str
    token: str
    token_file: Path
    world: World
    log_key: SecretKey
    centre: Centre

    def client(self, **headers: str) -> httpx.Client:
        return httpx.Client(base_url=self.url, headers=headers, trust_env=False, timeout=30.0)

    def operator(self) -> httpx.Client:
        return self.client(Authorization=f"Bearer {self.token}")

    def get(self, path: str) -> Any:
        with self.operator() as http:
            answer = http.get(f"/api/v1{path}")
            answer.raise_for_status()
            return answer.json()

    def sign_checkpoint(self) -> None:
        """What the gateway does whenever the log has grown."""
        with self.world.store.begin() as session:
            tree = Tree()
            for leaf in session.scalars(select(LogRow.leaf).order_by(LogRow.index)):
                tree.append(leaf)
            state = Checkpoint(origin=self.centre.log_origin, size=tree.size, root=tree.root(), time=int(time.time()))
            if not session.scalar(select(func.count()).where(CheckpointRow.size == tree.size)):
                session.add(CheckpointRow(size=tree.size, text=sign_checkpoint(state, self.log_key)))


@contextmanager
def running_centre(
    root: Path, identity: IdentityConfig | None = None, port: int = 0, *, sign_in_browser: bool = False
) -> Iterator[Running]:
    """Signer, vault and web over one state folder, as threads; all end with the context."""
    web = WebConfig(calls_per_s=1e5, failures_per_min=1e6, sign_in_browser=sign_in_browser)
    config = CentralConfig(name="consortium", state_dir=root, identity=identity, web=web)
    token = secrets.token_urlsafe(32)
    config.token_path.write_text(token)
    config.token_path.chmod(0o600)
    log_key = SecretKey.generate()
    (root / "gateway").mkdir()
    write_key(root / "gateway" / "log.key", log_key)
    write_public(root / "gateway" / "log.pub", log_key.public)
    signer = Signer(config)
    world = World(root, signing=read_key(root / "signer" / "study.key"))

    def publication_key() -> PublicKey:
        return read_key(root / "signer" / "publication.key").public

    stop = threading.Event()
    analysis = Analysis(world.store, world.lake, publication_key)
    exports = Exports(world.store, world.keys, Operators(config), analysis.table, pack, root / "vault" / "exports")
    centre = Centre(
        name=config.name,
        store=world.store,
        operators=Operators(config),
        signer=config.socket("signer"),
        vault=config.socket("vault"),
        log_public=root / "gateway" / "log.pub",
        log_origin=config.log_origin,
        mlflow_uri=config.mlflow.tracking_uri,
        identity=config.identity,
        web=config.web,
        stop=stop,
    )
    answers = handlers(world.keys, analysis) | exports.handlers
    port = port or free_port()
    threads = [
        threading.Thread(target=ipc.serve, args=(config.socket("signer"), signer.handlers, stop)),
        threading.Thread(target=ipc.serve, args=(config.socket("vault"), answers, stop)),
        threading.Thread(target=serve, args=(centre, "127.0.0.1", port)),
    ]
    for thread in threads:
        thread.start()
    running = Running(f"http://127.0.0.1:{port}", token, config.token_path, world, log_key, centre)
    try:
        _until_ready(running, config)
        yield running
    finally:
        stop.set()
        for thread in threads:
            thread.join()


def _until_ready(running: Running, config: CentralConfig) -> None:
    end = time.monotonic() + 120  # no measure: the machine may be busy
    while time.monotonic() < end:
        try:
            for process in ("signer", "vault"):
                ipc.call(config.socket(process), "ping")
            with running.client() as http:
                http.get("/healthz").raise_for_status()
            return
        except (httpx.HTTPError, Exception):  # noqa: S112, BLE001, RUF100
            time.sleep(0.05)
    raise AssertionError("the centre did not start")
