"""Metrics for Prometheus on loopback, alike at both ends: numbers read when asked, events counted as logged.

Nothing identifies anybody: labels are words out of fixed lists (event names, error codes, lanes, states), never a
site, a study, a dataset, a column or an id. An event's fields are not looked at, but for its code. The port is off
until the configuration names it, and is on 127.0.0.1 alone; who may open a socket on this machine may read it.

Source: Prometheus exposition formats, text format 0.0.4 (through `prometheus_client`).
"""

from __future__ import annotations

import logging
import re
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from socketserver import TCPServer

from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, Counter, ProcessCollector, generate_latest
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from protocol.errors import CODES, ConflictError

__all__ = ["Gauge", "Metrics"]

_HOST = "127.0.0.1"
_WORD = re.compile(r"^[a-z0-9][a-z0-9._ -]{0,63}\Z")
_MOST_EVENTS = 256
_PATIENCE_S = 10.0  # with an asker that says nothing
_Read = Callable[[], Iterable["Gauge"]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Gauge:
    """One number as it is now. `labels` have values out of fixed lists, checked to be plain words."""

    name: str
    doc: str
    value: float
    labels: Mapping[str, str] = field(default_factory=dict)


class _Gauges(Collector):
    """Asks for the numbers at each scrape; a source that fails gives none and is counted."""

    def __init__(self, read: _Read) -> None:
        self._read = read
        self.failures = 0

    def collect(self) -> Iterator[Metric]:
        families: dict[str, GaugeMetricFamily] = {}
        try:
            for gauge in self._read():
                if not all(_WORD.match(value) for value in gauge.labels.values()):
                    continue
                family = families.get(gauge.name)
                if family is None:
                    family = families[gauge.name] = GaugeMetricFamily(gauge.name, gauge.doc, labels=tuple(gauge.labels))
                family.add_metric(tuple(gauge.labels.values()), gauge.value)
        except Exception:  # a locked database: the next scrape asks again
            self.failures += 1
            families = {}
        yield from families.values()
        yield GaugeMetricFamily(
            "corsia_scrape_failures", "Times that the numbers could not be read", value=float(self.failures)
        )


class _Events(logging.Handler):
    """Counts log records by the name of their event and by the code of their error."""

    def __init__(self, registry: CollectorRegistry) -> None:
        super().__init__(logging.INFO)
        self._events = Counter("corsia_events", "Events as logged", ["event"], registry=registry)
        self._errors = Counter("corsia_errors", "Errors as logged, by code", ["code"], registry=registry)
        self._known: set[str] = set()

    def emit(self, record: logging.LogRecord) -> None:
        """Count one; what is no event's name is not told apart."""
        name = record.msg if isinstance(record.msg, str) and _WORD.match(record.msg) and "." in record.msg else "other"
        if name not in self._known:
            name = name if len(self._known) < _MOST_EVENTS else "other"
            self._known.add(name)
        self._events.labels(name).inc()
        fields = getattr(record, "fields", None)
        if isinstance(fields, dict) and (code := fields.get("code")) in CODES:
            self._errors.labels(str(code)).inc()


class _Port(ThreadingHTTPServer):
    """A port that asks no name service for its own name, and says nothing of askers that go away."""

    def server_bind(self) -> None:
        """Without the look-up of `HTTPServer`, which may take minutes at a site without a resolver."""
        TCPServer.server_bind(self)
        self.server_name, self.server_port = _HOST, int(self.server_address[1])

    def handle_error(self, request: object, client_address: object) -> None:
        """No traceback on the daemon's output: the asker has hung up."""


class Metrics:
    """The numbers of one process, and the port that tells them.

    Args:
        read: gives the numbers; called in a thread of its own, at each scrape.
    """

    def __init__(self, read: _Read) -> None:
        self._registry = CollectorRegistry()
        self._registry.register(_Gauges(read))
        ProcessCollector(registry=self._registry)
        self._events = _Events(self._registry)
        self._server: ThreadingHTTPServer | None = None
        self._thread: threading.Thread | None = None

    def start(self, port: int) -> int:
        """Serve `/metrics` and `/healthz` on 127.0.0.1; returns the port (a free one for 0).

        Raises:
            ConflictError: `conflict.exists` when the port is taken.
        """
        pages: dict[str, Callable[[], bytes]] = {"/metrics": self.text, "/healthz": lambda: b"ok\n"}

        class Handler(BaseHTTPRequestHandler):
            server_version, sys_version, timeout = "corsia", "", _PATIENCE_S

            def do_GET(self) -> None:
                known = pages.get(self.path)
                body = known() if known is not None else b"not found\n"
                self.send_response(HTTPStatus.OK if known is not None else HTTPStatus.NOT_FOUND)
                self.send_header("Content-Type", CONTENT_TYPE_LATEST if self.path == "/metrics" else "text/plain")
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_args: object) -> None:
                """Scrapes are no events."""

        try:
            self._server = _Port((_HOST, port), Handler)
        except OSError:
            raise ConflictError("conflict.exists", f"metrics: port {port} of {_HOST} is taken") from None
        self._thread = threading.Thread(target=self._server.serve_forever, name="metrics", daemon=True)
        self._thread.start()
        logging.getLogger().addHandler(self._events)
        return int(self._server.server_address[1])

    def text(self) -> bytes:
        """What a scrape gets."""
        return bytes(generate_latest(self._registry))

    def stop(self) -> None:
        """Close the port."""
        logging.getLogger().removeHandler(self._events)
        if self._server is not None:
            self._server.shutdown()
            self._server.server_close()
        if self._thread is not None:
            self._thread.join()
        self._server = self._thread = None
