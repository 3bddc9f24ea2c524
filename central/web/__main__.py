"""`python -m central.web --config central.toml`: REST API and dashboard, on loopback unless configured otherwise."""

from __future__ import annotations

import logging
import sys
import threading

import uvicorn

from central.config import enter_process
from central.operators import Operators
from central.store import Store
from central.web.app import create_app
from central.web.centre import Centre
from protocol.errors import CorsiaError

__all__ = ["main", "serve"]

log = logging.getLogger("central.web")


def main() -> int:
    """Serve until SIGTERM."""
    try:
        config, stop = enter_process("web")
        operators = Operators(config)
        operators.all()  # without a readable token nobody could ask
        centre = Centre(
            name=config.name,
            store=Store(config.state_dir),
            operators=operators,
            signer=config.socket("signer"),
            vault=config.socket("vault"),
            log_public=config.state_dir / "gateway" / "log.pub",
            log_origin=config.log_origin,
            mlflow_uri=config.mlflow.tracking_uri,
            identity=config.identity,
            web=config.web,
            stop=stop,
        )
    except CorsiaError as error:
        sys.stderr.write(f"error [{error.code}]: {error.message}\n")
        return error.exit_status
    return serve(centre, config.web.host, config.web.port)


def serve(centre: Centre, host: str, port: int) -> int:
    """Answer on an address until `centre.stop` is set; the exit status."""
    settings = uvicorn.Config(
        create_app(centre),
        host=host,
        port=port,
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,
        timeout_graceful_shutdown=3,
        limit_concurrency=512,
    )
    server = uvicorn.Server(settings)
    worker = threading.Thread(target=server.run, name="uvicorn")  # outside the main thread it leaves signals alone
    worker.start()
    log.info("web.start", extra={"fields": {"port": port}})
    while worker.is_alive() and not centre.stop.wait(0.2):
        pass
    stopped = centre.stop.is_set()
    server.should_exit = True
    worker.join()
    log.info("web.stop")
    return 0 if stopped else 1


if __name__ == "__main__":
    sys.exit(main())
