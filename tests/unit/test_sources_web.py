"""A hospital's HTTP server that is busy: when it says to come back, in any of the ways in which that is said."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from email.utils import formatdate
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from edge.sources.places import FhirServer
from edge.sources.web import Web
from protocol.errors import UnavailableError


class Busy(BaseHTTPRequestHandler):
    """Answers 429 with what stands in the path."""

    def do_GET(self) -> None:
        """Answer."""
        self.send_response(429)
        if told := self.headers.get("X-Wait", ""):
            self.send_header("Retry-After", told)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *_: Any) -> None:
        """Say nothing."""


@pytest.fixture(name="web", scope="module")
def _web() -> Iterator[Web]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Busy)
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    made = Web(FhirServer.model_validate({"url": f"http://127.0.0.1:{server.server_port}/fhir"}))
    yield made
    made.close()
    server.shutdown()
    server.server_close()


def waits(web: Web, told: str) -> float:
    with pytest.raises(UnavailableError, match=r"unavailable\.source") as error:
        web.get("Patient", accept="application/json", headers={"X-Wait": told})
    return error.value.retry_s


@pytest.mark.parametrize(
    ("told", "seconds"),
    [("", 0), ("7", 7), ("900", 300), ("soon", 0), ("-5", 0), ("1e9", 0), (formatdate(0, usegmt=True), 0)],
)
def test_the_time_is_followed_within_bounds(web: Web, told: str, seconds: float) -> None:
    assert waits(web, told) == seconds


def test_a_date_is_a_time_too(web: Web) -> None:
    assert 0 < waits(web, formatdate(time.time() + 280, usegmt=True)) <= 280
