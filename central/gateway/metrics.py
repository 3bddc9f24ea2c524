"""What the centre tells Prometheus on this machine: sites, parcels, studies, runs, log (docs/metrics.md).

Told by the gateway, which sees who is connected; the rest is counted in the database at each scrape. Numbers by lane
and state alone: no name of a site or study.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from sqlalchemy import func, select

from central.store import Store
from central.store.models import LogRow, ModelRow, ParcelRow, RoundRow, RunRow, SiteRow, StudyRow
from protocol.metrics import Gauge

__all__ = ["read"]

_SITES = select(
    func.count(), func.coalesce(func.sum(SiteRow.spool_parcels), 0), func.coalesce(func.sum(SiteRow.spool_bytes), 0)
).where(SiteRow.revoked.is_(False))
_PARCELS = select(ParcelRow.state, ParcelRow.content_type, func.count(), func.sum(ParcelRow.size_bytes)).group_by(
    ParcelRow.state, ParcelRow.content_type
)
_STUDIES = select(StudyRow.lane, StudyRow.state, func.count()).group_by(StudyRow.lane, StudyRow.state)
_RUNS = select(RunRow.state, func.count()).group_by(RunRow.state)
_LEAVES = select(func.max(LogRow.index))
_ROUNDS, _MODELS = (select(func.count()).select_from(row) for row in (RoundRow, ModelRow))


def read(store: Store, connected: Sequence[str], signed: int) -> Iterator[Gauge]:
    """The numbers as they are now.

    Args:
        store: the central database.
        connected: sites that have a stream open.
        signed: leaves under the newest checkpoint.
    """
    ((enrolled, parcels, size),) = store.rows(_SITES)
    sites = {"enrolled": enrolled, "connected": len(connected)}
    yield from _labelled("corsia_sites", "Sites: enrolled and not revoked, connected now", "state", sites.items())
    yield Gauge(name="corsia_sites_spool_parcels", doc="Parcels that wait at the sites, as last told", value=parcels)
    yield Gauge(name="corsia_sites_spool_bytes", doc="Bytes that wait at the sites, as last told", value=size)
    for state, content, count, total in store.rows(_PARCELS):
        labels = {"state": state, "content": content}
        yield Gauge(name="corsia_parcels", doc="Parcels that landed", value=count, labels=labels)
        yield Gauge(name="corsia_parcel_bytes", doc="Bytes of parcels that landed", value=total, labels=labels)
    for lane, state, count in store.rows(_STUDIES):
        yield Gauge(name="corsia_studies", doc="Studies", value=count, labels={"lane": lane, "state": state})
    yield from _labelled("corsia_runs", "Federated runs", "state", store.rows(_RUNS))
    yield Gauge(name="corsia_rounds", doc="Finished rounds", value=store.rows(_ROUNDS)[0][0])
    yield Gauge(name="corsia_models", doc="Published versions of models", value=store.rows(_MODELS)[0][0])
    last = store.rows(_LEAVES)[0][0]
    yield Gauge(name="corsia_log_leaves", doc="Leaves of the log", value=0 if last is None else last + 1)
    yield Gauge(name="corsia_log_signed", doc="Leaves under the newest checkpoint", value=signed)


def _labelled(name: str, doc: str, label: str, rows: Any) -> Iterator[Gauge]:
    for word, count in rows:
        yield Gauge(name=name, doc=doc, value=count, labels={label: word})
