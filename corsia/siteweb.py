"""`corsia edge web`: the site's own page, for a steward at this machine. Loopback alone, by a token, without scripts.

    browser on 127.0.0.1 -> token -> status, request in words, preview, journal -> approve, refuse, pause, resume

It does what the commands do (`corsia.steward`), and stands beside the daemon as they do. The token is made anew at each
start. A page can be asked for under the address that was printed alone (no other `Host`: DNS rebinding), and changes
nothing without the form's own mark.
"""

from __future__ import annotations

import hashlib
import hmac
import secrets
import threading
from collections.abc import Callable
from http.cookies import CookieError, SimpleCookie
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import parse_qs, urlsplit

from corsia.sitedesk import Answer, Desk
from protocol.words import LANGUAGES, chosen

if TYPE_CHECKING:
    from edge.config import EdgeConfig

__all__ = ["SiteServer"]

HOST = "127.0.0.1"
_TOKEN, _LANGUAGE = "corsia_site", "corsia_language"
_MAX_FORM = 4096
_STATIC = Path(__file__).parents[1] / "central" / "web" / "static"
_FILES = {"/corsia.css": "text/css; charset=utf-8", "/corsia.svg": "image/svg+xml"}
_HEADERS = {
    "Content-Security-Policy": (
        "default-src 'none'; style-src 'self'; img-src 'self'; form-action 'self'; base-uri 'none'; "
        "frame-ancestors 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "same-origin",  # a form's Origin is then this page's
    "X-Frame-Options": "DENY",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "no-store",
}


class SiteServer(ThreadingHTTPServer):
    """Answers on loopback until `close`.

    Args:
        site: the site's configuration.
        port: 0 takes any.

    Attributes:
        url: where a browser enters, with the token.
    """

    daemon_threads = True

    def __init__(self, site: EdgeConfig, port: int = 0) -> None:
        self.token = secrets.token_urlsafe(32)
        self.mark = hmac.digest(self.token.encode(), b"corsia/v1/site-form", hashlib.sha256).hex()
        self.desk = Desk(site, self.mark)
        super().__init__((HOST, port), _Handler)
        self.host = f"{HOST}:{self.server_address[1]}"
        self.url = f"http://{self.host}/?token={self.token}"

    def until(self, stop: threading.Event) -> None:
        """Serve in a thread until the event is set."""
        worker = threading.Thread(target=self.serve_forever, name="site-page")
        worker.start()
        stop.wait()
        self.shutdown()
        worker.join()
        self.server_close()


class _Handler(BaseHTTPRequestHandler):
    """One request: who asks is checked before the path is looked at."""

    server: SiteServer
    server_version, sys_version = "", ""
    timeout = 60.0

    def do_GET(self) -> None:
        address = urlsplit(self.path)
        query = {name: values[0] for name, values in parse_qs(address.query, max_num_fields=20).items()}
        if not self._known(query):
            return
        if kind := _FILES.get(address.path):
            self._send(Answer(200, (_STATIC / address.path[1:]).read_text(encoding="utf-8"), kind=kind))
            return
        self._shown(lambda language: self.server.desk.get(address.path, query, language), query.get("lang", ""))

    def do_POST(self) -> None:
        if not self._known({}):
            return
        form = self._form()
        origin = self.headers.get("Origin", "")
        right = hmac.compare_digest(form.get("mark", "").encode(), self.server.mark.encode())
        if not right or origin not in ("", f"http://{self.server.host}"):
            self._closed(403, "foreign")
            return
        path = urlsplit(self.path).path
        self._shown(lambda language: self.server.desk.post(path, form, language), "")

    def _known(self, query: dict[str, str]) -> bool:
        """Whether a steward asks; else the answer is given here."""
        if self.headers.get("Host", "") != self.server.host:
            self._closed(421, "address")
            return False
        token = self.server.token.encode()
        if self.command == "GET" and hmac.compare_digest(query.get("token", "").encode(), token):
            self._redirect("/", f"{_TOKEN}={self.server.token}; HttpOnly; SameSite=Strict; Path=/")
            return False
        if not hmac.compare_digest(self._cookie(_TOKEN).encode(), token):
            self._closed(401, "door")
            return False
        return True

    def _shown(self, work: Callable[[str], Answer], wished: str) -> None:
        language = chosen(wished or self._cookie(_LANGUAGE), self.headers.get("Accept-Language", ""))
        answer = work(language)
        if answer.location:
            self._redirect(answer.location)
            return
        kept = f"{_LANGUAGE}={language}; SameSite=Strict; Path=/" if wished in LANGUAGES else ""
        self._send(answer, kept)

    def _form(self) -> dict[str, str]:
        try:
            size = int(self.headers.get("Content-Length", "0"))
            if not 0 <= size <= _MAX_FORM:
                raise ValueError("size")
            given = parse_qs(self.rfile.read(size).decode("utf-8"), max_num_fields=20)
        except ValueError:
            return {}
        return {name: values[0] for name, values in given.items()}

    def _cookie(self, name: str) -> str:
        try:
            morsel = SimpleCookie(self.headers.get("Cookie", "")).get(name)
        except CookieError:
            return ""
        return morsel.value if morsel else ""

    def _redirect(self, where: str, cookie: str = "") -> None:
        self.send_response(303)
        self.send_header("Location", where)
        self._finish(b"", cookie)

    def _closed(self, status: int, why: str) -> None:
        language = chosen(self._cookie(_LANGUAGE), self.headers.get("Accept-Language", ""))
        self._send(self.server.desk.closed(status, why, language))

    def _send(self, answer: Answer, cookie: str = "") -> None:
        self.send_response(answer.status)
        self.send_header("Content-Type", answer.kind)
        self._finish(answer.text.encode(), cookie)

    def _finish(self, body: bytes, cookie: str) -> None:
        for name, value in _HEADERS.items():
            self.send_header(name, value)
        if cookie:
            self.send_header("Set-Cookie", cookie)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        """Nothing: a path may name a study, and there is nobody to read it."""
