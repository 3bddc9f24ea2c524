"""`python -m central.federation --config central.toml`: the federation process. A unix socket, no network listener."""

from __future__ import annotations

import base64
import logging
import os
import threading
from typing import Any

from central import ipc
from central.config import CentralConfig, enter_process
from central.federation.keys import RunKeys
from central.federation.mirror import Mirror
from central.federation.publish import Publisher
from central.federation.runs import Federation
from central.registry import Registry
from central.store import Store
from pipelines.learners.described import FOLDER as PLUGINS
from privacy.envelope import PublicKey
from protocol.errors import InputError

log = logging.getLogger("central.federation")


def main() -> None:
    """Run until SIGTERM; a round under way is found again by the next process."""
    config, stop = enter_process("federation")
    if config.plugins is not None:
        os.environ[PLUGINS] = str(config.plugins)
    store, keys = Store(config.state_dir), RunKeys(config.state_dir / "federation" / "keys")
    registry = Registry(config.mlflow.tracking_uri)
    publisher = Publisher(store=store, registry=registry, sign=lambda *asked: _sign(config, *asked))
    federation = Federation(store, config.state_dir / "landing", keys, publisher, lambda: _study_key(config), stop)

    def new_run_key(request: dict[str, Any]) -> dict[str, Any]:
        registry.warm()  # a training study is on its way
        return {"key": keys.public(_text(request)).to_base64()}

    workers = [
        threading.Thread(target=federation.run, name="federation"),
        threading.Thread(target=Mirror(store, registry, stop).run, name="mirror"),
    ]
    for worker in workers:
        worker.start()
    log.info("federation.start")
    try:
        handlers = {"new_run_key": new_run_key, "status": lambda request: federation.status(_text(request))}
        ipc.serve(config.socket("federation"), handlers, stop)
    finally:
        stop.set()
        for worker in workers:
            worker.join()
    log.info("federation.stop")


def _sign(config: CentralConfig, study_digest: str, manifest: str) -> bytes:
    reply = ipc.call(
        config.socket("signer"), "sign_manifest", timeout_s=30.0, study_digest=study_digest, manifest=manifest
    )
    return base64.b64decode(str(reply["signature"]))


def _study_key(config: CentralConfig) -> PublicKey:
    return PublicKey.from_base64(str(ipc.call(config.socket("signer"), "public_keys")["study_key"]))


def _text(request: dict[str, Any]) -> str:
    value = request.get("study")
    if not isinstance(value, str) or not 0 < len(value) <= 63:
        raise InputError("input.usage", "the request lacks study")
    return value


if __name__ == "__main__":
    main()
