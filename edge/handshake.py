"""One TLS handshake, to see which certificates a server presents before anything is trusted.

Place in the flow: enrolment alone. The join code pins the CA by its fingerprint; its bytes come from here, are
compared with the pin by `edge/identity.py`, and only then serve as the root of a verified connection. Nothing is
sent over this connection and nothing else may use it.
"""

from __future__ import annotations

import base64
import http.client
import ipaddress
import os
import socket
import ssl
from typing import Any
from urllib.parse import unquote, urlsplit
from urllib.request import proxy_bypass_environment  # type: ignore[attr-defined]

from protocol.errors import AuthenticationError, InputError, UnavailableError

__all__ = ["is_loopback", "presented_certificates"]

MAX_CHAIN = 10


def presented_certificates(address: str, timeout_s: float) -> list[bytes]:
    """The chain (DER, leaf first) that the server at `host:port` presents in a TLS 1.3 handshake; not verified.

    An HTTP proxy is used as grpc uses it: `grpc_proxy`, `https_proxy`, `http_proxy`, but `no_proxy`; never for
    loopback.

    Raises:
        InputError: `input.usage` when the address is not `host:port`.
        UnavailableError: `unavailable.centre` when nothing answers.
        AuthenticationError: `auth.tls-version` when the server does not speak TLS 1.3.
    """
    host, _, port = address.rpartition(":")
    host = host.strip("[]")
    if not host or not port.isdigit() or not 0 < int(port) < 65_536:
        raise InputError("input.usage", "the address is not host:port")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE  # compared with the pinned fingerprint by the caller
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.set_alpn_protocols(["h2"])
    try:
        with (
            _connected(host, int(port), timeout_s) as raw,
            context.wrap_socket(raw, server_hostname=host) as secure,
        ):
            return _chain(secure)[:MAX_CHAIN]
    except ssl.SSLError as error:
        if error.reason and ("PROTOCOL_VERSION" in error.reason or "UNSUPPORTED_PROTOCOL" in error.reason):
            raise AuthenticationError("auth.tls-version") from error
        raise UnavailableError("unavailable.centre", "the TLS handshake failed") from error
    except (OSError, http.client.HTTPException) as error:
        raise UnavailableError("unavailable.centre") from error


def is_loopback(address: str) -> bool:
    """Whether `host:port` is this machine by its literal name or address (no name is looked up)."""
    host = address.rpartition(":")[0].strip("[]")
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _chain(secure: ssl.SSLSocket) -> list[bytes]:
    public: Any = getattr(secure, "get_unverified_chain", None)
    if public is not None:  # Python 3.13 and later
        return [bytes(der) for der in public()]
    import _ssl

    inner: Any = getattr(secure, "_sslobj")  # noqa: B009 - private before 3.13
    encoding = _ssl.ENCODING_DER
    return [bytes(certificate.public_bytes(encoding)) for certificate in inner.get_unverified_chain() or ()]


def _connected(host: str, port: int, timeout_s: float) -> socket.socket:
    proxy = _proxy(host, port)
    if proxy is None:
        return socket.create_connection((host, port), timeout=timeout_s)
    via = urlsplit(proxy if "//" in proxy else f"//{proxy}")
    headers = {}
    if via.username:
        user = f"{unquote(via.username)}:{unquote(via.password or '')}".encode()
        headers["Proxy-Authorization"] = "Basic " + base64.b64encode(user).decode("ascii")
    connection = http.client.HTTPConnection(via.hostname or "", via.port or 80, timeout=timeout_s)
    connection.set_tunnel(host, port, headers)
    connection.connect()
    return connection.sock


def _proxy(host: str, port: int) -> str | None:
    if is_loopback(f"{host}:{port}") or proxy_bypass_environment(host):
        return None
    return next(
        (value for name in ("grpc_proxy", "https_proxy", "http_proxy") if (value := os.environ.get(name))), None
    )
