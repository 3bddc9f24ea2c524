"""Real proxies on loopback for tests: one that lets CONNECT through, and one that opens TLS on the way."""

from __future__ import annotations

import base64
import socket
import ssl
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

from tests.uplinkkit import Authority


@dataclass
class Proxy:
    """A CONNECT proxy. With a login it asks for it; with a certificate folder it answers TLS itself."""

    login: str = ""
    intercept: ssl.SSLContext | None = None
    heads: list[bytes] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.address = f"127.0.0.1:{self.listener.getsockname()[1]}"
        threading.Thread(target=self._accept, daemon=True).start()

    def close(self) -> None:
        self.listener.close()

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self.listener.accept()
            except OSError:
                return
            threading.Thread(target=self._serve, args=(connection,), daemon=True).start()

    def _serve(self, connection: socket.socket) -> None:
        with connection, suppress(OSError):
            head = b""
            while b"\r\n\r\n" not in head:
                head += connection.recv(4096) or b"\r\n\r\n"
            self.heads.append(head)
            wanted = b"Basic " + base64.b64encode(self.login.encode())
            if self.login and wanted not in head:
                connection.sendall(b"HTTP/1.1 407 Proxy Authentication Required\r\nContent-Length: 0\r\n\r\n")
                return
            host, _, port = head.split(b" ")[1].decode().rpartition(":")
            connection.sendall(b"HTTP/1.1 200 Connection established\r\n\r\n")
            if self.intercept is not None:
                with self.intercept.wrap_socket(connection, server_side=True) as opened:
                    opened.recv(1)
                return
            with socket.create_connection((host.strip("[]"), int(port))) as onward:
                back = threading.Thread(target=_pump, args=(onward, connection), daemon=True)
                back.start()
                _pump(connection, onward)
                back.join(5)


def _pump(source: socket.socket, target: socket.socket) -> None:
    with suppress(OSError):
        while data := source.recv(1 << 16):
            target.sendall(data)
    with suppress(OSError):
        target.shutdown(socket.SHUT_WR)


def interception(folder: Path, authority: Authority, *, newest: ssl.TLSVersion | None = None) -> ssl.SSLContext:
    """What a proxy presents that makes certificates for whatever is dialled."""
    key, chain = authority.server()
    (folder / "proxy.key").write_bytes(key)
    (folder / "proxy.pem").write_bytes(chain)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(folder / "proxy.pem", folder / "proxy.key")
    context.set_alpn_protocols(["h2"])
    if newest is not None:
        context.maximum_version = newest
    return context


@contextmanager
def proxying(login: str = "", intercept: ssl.SSLContext | None = None) -> Iterator[Proxy]:
    made = Proxy(login, intercept)
    try:
        yield made
    finally:
        made.close()
