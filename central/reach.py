"""Where the centre goes for a remote table: to a public address, or to an inner one where the configuration says so.

A name is looked up once, every address that it has is judged, and the connection is made to just the judged one, so
that a name server cannot answer twice. Through a proxy, which looks names up itself, the name alone is judged.

Source: RFC 6890 (special-purpose addresses).
"""

from __future__ import annotations

import ipaddress
import socket
import ssl
from collections.abc import Iterable
from typing import Any
from urllib.parse import urlsplit
from urllib.request import getproxies, proxy_bypass

import httpcore
import httpx

from protocol.errors import ConfigurationError

__all__ = ["client", "is_public"]


def client(url: str, verify: ssl.SSLContext, timeout_s: float, *, private: bool) -> httpx.Client:
    """A client for one address, which follows no redirect.

    Args:
        private: addresses of the inner network are meant.

    Raises:
        ConfigurationError: `config.invalid` for a private address; so does a connection.
    """
    host = urlsplit(url).hostname or ""
    plain: dict[str, Any] = {"verify": verify, "timeout": timeout_s, "follow_redirects": False}
    if private:
        return httpx.Client(**plain, trust_env=True)
    if "https" in getproxies() and not proxy_bypass(host):
        _check([host] if _is_address(host) else [])
        if host == "localhost" or host.endswith((".localhost", ".local", ".internal")):
            raise _refused()
        return httpx.Client(**plain, trust_env=True)
    return httpx.Client(**plain, trust_env=False, transport=_Transport(verify))


def is_public(address: str) -> bool:
    """Whether an address is one of the public network; one that stands for an IPv4 one is judged as that."""
    one = ipaddress.ip_address(address.partition("%")[0])
    if isinstance(one, ipaddress.IPv6Address):
        inner = one.ipv4_mapped or one.sixtofour or (one.teredo[1] if one.teredo else None)
        if inner is None and one in ipaddress.ip_network("64:ff9b::/96"):
            inner = ipaddress.IPv4Address(int(one) & 0xFFFFFFFF)
        if inner is not None:
            return is_public(str(inner))
    return one.is_global and not one.is_multicast


class _Transport(httpx.HTTPTransport):
    def __init__(self, verify: ssl.SSLContext) -> None:
        super().__init__(verify=verify, trust_env=False)
        self._pool = httpcore.ConnectionPool(ssl_context=verify, network_backend=_Judging())


class _Judging(httpcore.SyncBackend):
    def connect_tcp(self, host: str, port: int, *args: Any, **more: Any) -> httpcore.NetworkStream:
        try:
            found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
        except (OSError, UnicodeError):
            raise httpcore.ConnectError from None
        addresses = [str(one[4][0]) for one in found]
        _check(addresses)
        return super().connect_tcp(addresses[0], port, *args, **more)


def _is_address(host: str) -> bool:
    try:
        ipaddress.ip_address(host.partition("%")[0])
    except ValueError:
        return False
    return True


def _check(addresses: Iterable[str]) -> None:
    if not all(is_public(address) for address in addresses):
        raise _refused()


def _refused() -> ConfigurationError:
    return ConfigurationError("config.invalid", "a remote's address is a private one; private = true, if it is meant")
