"""An HTTPS server of its own process for tests: `python -m tests.https_process FOLDER PORT`.

Gives each file of FOLDER/www; `FOLDER/status` holds another status (and the address of a redirect). Its chain and key
are FOLDER/chain and FOLDER/key.
"""

from __future__ import annotations

import ssl
import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any


class Page(BaseHTTPRequestHandler):
    """One file, or the status that the test asks for."""

    folder: Path

    def do_GET(self) -> None:
        """Answer."""
        told, path = self.folder / "status", self.folder / "www" / self.path.rpartition("/")[2]
        status, _, elsewhere = told.read_text().partition(" ") if told.exists() else ("200", "", "")
        data = path.read_bytes() if path.is_file() else b""
        self.send_response(int(status) if path.is_file() else 404)
        if elsewhere:
            self.send_header("Location", elsewhere)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *_: Any) -> None:
        """Say nothing."""


def main(folder: Path, port: int) -> None:
    """Serve until killed."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(folder / "chain", folder / "key")
    Page.folder = folder
    server = ThreadingHTTPServer(("127.0.0.1", port), Page)
    server.socket = context.wrap_socket(server.socket, server_side=True)
    server.serve_forever()


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
