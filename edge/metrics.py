"""What the daemon tells Prometheus on this machine: spool, assignments, ledger (docs/metrics.md).

Read at each scrape from what the daemon keeps anyway. Counts and states alone: no study, dataset, parcel or person.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from protocol.metrics import Gauge, Metrics

if TYPE_CHECKING:
    from edge.site import Site

__all__ = ["observed", "read"]


def read(site: Site) -> Iterator[Gauge]:
    """The numbers as they are now."""
    status = site.status()
    yield Gauge(name="corsia_edge_spool_parcels", doc="Parcels that wait here", value=status.spool_parcels)
    yield Gauge(name="corsia_edge_spool_bytes", doc="Bytes of parcels that wait here", value=status.spool_bytes)
    yield Gauge(name="corsia_edge_spool_limit_bytes", doc="Where work waits", value=site.config.limits.spool_bytes)
    yield Gauge(name="corsia_edge_paused", doc="1 while nothing leaves", value=float(status.paused))
    yield Gauge(name="corsia_edge_ledger_sound", doc="1 while the ledger can be spent from",
                value=float(site.ledger is not None))  # fmt: skip
    yield Gauge(name="corsia_edge_certificate_seconds", doc="Until the certificate expires",
                value=site.identity.remaining_s())  # fmt: skip
    yield Gauge(name="corsia_edge_compared", doc="1 once the centre was reached since the start",
                value=float(site.compared.is_set()))  # fmt: skip
    for (kind, state), count in site.state.counts().items():
        yield Gauge(name="corsia_edge_assignments", doc="Assignments by kind and state", value=count,
                    labels={"kind": kind, "state": state})  # fmt: skip
    yield Gauge(name="corsia_edge_time_seconds", doc="This machine's clock", value=time.time())


@contextmanager
def observed(site: Site) -> Iterator[None]:
    """Serve the numbers meanwhile, where the configuration names a port.

    Raises:
        ConflictError: `conflict.exists` when the port is taken.
    """
    port = site.config.metrics.port
    if port is None:
        yield
        return
    metrics = Metrics(lambda: read(site))
    metrics.start(port)
    try:
        yield
    finally:
        metrics.stop()
