"""The way to the centre: straight, or by CONNECT through the site's HTTP proxy.

Place in the flow: made from the configuration; `edge/uplink.py` hands it to grpc, `edge/handshake.py` and the
doctor dial by it themselves. A proxy's credentials come from a private file, and
stand in no log, error or representation.
"""

from __future__ import annotations

import base64
import http.client
import ipaddress
import os
import socket
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import quote, unquote, urlsplit
from urllib.request import proxy_bypass_environment  # type: ignore[attr-defined]

from edge.secret import read_secret
from protocol.errors import AuthenticationError, ConfigurationError, InputError

if TYPE_CHECKING:
    from edge.config import Delivery

__all__ = ["DIRECT", "Route", "is_loopback", "place_of"]

_VARIABLES = ("grpc_proxy", "https_proxy", "http_proxy")
_REFUSED = (401, 403, 407)


@dataclass(frozen=True, slots=True, kw_only=True)
class Route:
    """How to dial.

    Attributes:
        proxy: `host:port` of the proxy that the site names; without it the environment's, never for loopback.
        credentials: `user:password` for it.
    """

    proxy: str | None = None
    credentials: str = field(default="", repr=False)

    @classmethod
    def of(cls, delivery: Delivery) -> Route:
        """What the site's configuration says.

        Raises:
            ConfigurationError: `config.key-mode` when others may read the credentials, `config.missing`.
        """
        if delivery.proxy is None:
            return DIRECT
        credentials = _credentials(delivery.proxy_auth) if delivery.proxy_auth else ""
        return cls(proxy=urlsplit(delivery.proxy).netloc, credentials=credentials)

    def proxy_of(self, address: str) -> str | None:
        """The URL of the proxy for `host:port`, credentials in it, as grpc takes it; None for none."""
        if self.proxy is not None:
            user, _, password = self.credentials.partition(":")
            login = f"{quote(user, safe='')}:{quote(password, safe='')}@" if self.credentials else ""
            return f"http://{login}{self.proxy}"
        host, _ = place_of(address)
        if is_loopback(address) or proxy_bypass_environment(host):
            return None
        return next((value for name in _VARIABLES if (value := os.environ.get(name))), None)

    def connected(self, address: str, timeout_s: float) -> socket.socket:
        """A TCP connection to `host:port`, through the proxy where there is one.

        Raises:
            OSError: nobody answers.
            AuthenticationError: `auth.proxy` when the proxy does not let us through.
        """
        host, port = place_of(address)
        proxy = self.proxy_of(address)
        if proxy is None:
            return socket.create_connection((host, port), timeout=timeout_s)
        via = urlsplit(proxy if "//" in proxy else f"//{proxy}")
        headers = {}
        if via.username:
            login = f"{unquote(via.username)}:{unquote(via.password or '')}".encode()
            headers["Proxy-Authorization"] = "Basic " + base64.b64encode(login).decode("ascii")
        connection = http.client.HTTPConnection(via.hostname or "", via.port or 80, timeout=timeout_s)
        connection.set_tunnel(host, port, headers)
        try:
            connection.connect()
        except http.client.HTTPException as error:
            raise OSError("the proxy speaks no HTTP") from error
        except OSError as error:
            if any(f"{status} " in str(error) for status in _REFUSED):  # http.client has no other word for it
                raise AuthenticationError("auth.proxy", "the proxy does not let this site through") from None
            raise
        return connection.sock


DIRECT = Route()


def place_of(address: str) -> tuple[str, int]:
    """Host and port of `host:port`.

    Raises:
        InputError: `input.usage`.
    """
    host, _, port = address.rpartition(":")
    host = host.strip("[]")
    if not host or not port.isdigit() or not 0 < int(port) < 65_536:
        raise InputError("input.usage", "the address is not host:port")
    return host, int(port)


def is_loopback(address: str) -> bool:
    """Whether `host:port` is this machine by its literal name or address (no name is looked up)."""
    host = address.rpartition(":")[0].strip("[]")
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _credentials(path: Path) -> str:
    line = read_secret(path)
    if not 0 < line.find(":"):
        raise ConfigurationError("config.invalid", f"{path}: one line, USER:PASSWORD")
    return line
