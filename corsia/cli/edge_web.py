"""`corsia edge web`: the site's own page in a browser at this machine."""

from __future__ import annotations

import signal
import threading
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated

import typer

from corsia.cli.show import show
from protocol.errors import ConfigurationError, InputError

__all__ = ["web"]

Config = Annotated[Path, typer.Option("--config", help="The site's edge.toml.")]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON object.")]


def web(
    config: Config = Path("edge.toml"),
    port: Annotated[int, typer.Option("--port", help="On 127.0.0.1; 0 takes any.", min=0, max=65535)] = 7481,
    json_out: Json = False,
) -> None:
    """Serve the site's page until Ctrl-C: requests in words, previews, approvals, journal, budgets, pause.

    Prints the address with its token. Only a browser on this machine can open it.

    Example: corsia edge web --config edge.toml
    """
    if find_spec("jinja2") is None:
        raise ConfigurationError("config.extra-missing", "corsia[edge] is needed for the page")
    from corsia.siteweb import SiteServer
    from edge.config import load

    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    try:
        server = SiteServer(load(config), port)
    except OSError:
        raise InputError("input.usage", f"port {port} of 127.0.0.1 cannot be had: choose another by --port") from None
    show({"url": server.url}, json_out, server.url)
    server.until(stop)
