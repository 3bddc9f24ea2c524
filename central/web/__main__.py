"""`python -m central.web --config central.toml`: REST API and dashboard, on loopback unless configured otherwise."""

from __future__ import annotations

import asyncio
import logging
import sys
import threading
from contextlib import suppress

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
    server, ended = _Server(settings), threading.Event()

    def work() -> None:
        try:
            server.run()
        finally:
            if not centre.stop.is_set():
                ended.set()  # by itself: the port is taken
                centre.stop.set()

    worker = threading.Thread(target=work, name="uvicorn")  # outside the main thread it leaves signals alone
    worker.start()
    log.info("web.start", extra={"fields": {"port": port}})
    centre.stop.wait()
    server.end()
    worker.join()
    log.info("web.stop")
    return 1 if ended.is_set() else 0


class _Server(uvicorn.Server):
    """Uvicorn, woken once a second for its date header and at the end, in place of ten times a second."""

    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self._loop: asyncio.AbstractEventLoop | None = None
        self._over = asyncio.Event()

    async def main_loop(self) -> None:
        """Until the end is asked for."""
        self._loop = asyncio.get_running_loop()
        while not await self.on_tick(0):
            with suppress(TimeoutError):
                await asyncio.wait_for(self._over.wait(), 1.0)

    def end(self) -> None:
        """From another thread: finish what is under way and return from `run`."""
        self.should_exit = True
        if self._loop is not None:
            with suppress(RuntimeError):  # it has ended already
                self._loop.call_soon_threadsafe(self._over.set)


if __name__ == "__main__":
    sys.exit(main())
