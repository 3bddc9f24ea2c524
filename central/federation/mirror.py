"""MLflow's aliases follow promotions. People look there; nobody trusts it, so it may come late.

The signer decides and has no network; this process has MLflow's. What is not shown yet is in the database, so a
promotion made while MLflow was away, or this process was, is shown later.
"""

from __future__ import annotations

import logging
import threading

from sqlalchemy import select

from central.registry import Registry
from central.store import Store
from central.store.changes import Changes
from central.store.models import ModelRow, PromotionRow
from protocol.errors import CorsiaError
from protocol.study import CANDIDATE

__all__ = ["Mirror"]

_PAUSE_S, _RETRY_S = 0.25, 5.0
_APPROVED = (  # made once: it is asked after every commit
    select(PromotionRow)
    .where(PromotionRow.state == "approved", PromotionRow.shown.is_(False))
    .order_by(PromotionRow.serial)
)
_log = logging.getLogger("central.federation")


class Mirror:
    """Shows approved promotions in MLflow, oldest first.

    Args:
        store: the central database.
        registry: MLflow.
        stop: ends it.
    """

    def __init__(self, store: Store, registry: Registry, stop: threading.Event) -> None:
        self._store, self._registry, self._stop = store, registry, stop

    def run(self) -> None:
        """Until `stop`; a failure is tried again."""
        changes, due = Changes(self._store.engine, self._stop), True
        while not self._stop.is_set():
            try:
                due = changes.wait(0.0 if due else _RETRY_S) or due
                if due:
                    self.step()
                    due = False
                    self._stop.wait(_PAUSE_S)  # a round under way commits all the time
            except Exception as error:  # MLflow away, database locked
                code = error.code if isinstance(error, CorsiaError) else "unavailable.mlflow"
                _log.warning("mirror.waits", extra={"fields": {"code": code}})
                self._stop.wait(_RETRY_S)

    def step(self) -> int:
        """Show what is not shown yet; returns how many.

        Raises:
            UnavailableError: `unavailable.mlflow`.
        """
        with self._store.read() as session:
            waiting = session.scalars(_APPROVED).all()
        for row in waiting:
            self._show(row)
        return len(waiting)

    def _show(self, row: PromotionRow) -> None:
        with self._store.read() as session:
            holder = session.scalar(select(ModelRow).where(ModelRow.name == row.name, ModelRow.alias == row.alias))
        version = holder.version if holder else row.version  # a later promotion may have moved it on
        tags = {"corsia.serial": str(row.serial), "corsia.promoted_by": f"{row.proposed_by}, {row.approved_by}"}
        if version == row.version:
            self._registry.point(row.name, row.alias, version, instead_of=CANDIDATE, tags=tags)
        with self._store.begin() as session:
            session.get_one(PromotionRow, row.id).shown = True
        fields = {"model": row.name, "version": row.version, "serial": row.serial}
        _log.info("mirror.shown", extra={"fields": fields})
