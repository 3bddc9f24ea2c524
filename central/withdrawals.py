"""A withdrawn consent in database and log: that it was told, what was removed for it, which models rest on the data."""

from __future__ import annotations

import secrets
import time
from typing import Any

from sqlalchemy import select
from sqlalchemy.orm import Session

from central.store import Store
from central.store.models import ParcelRow, WithdrawalRow
from central.store.published import of_study

__all__ = ["record", "removed", "summary"]


def removed(session: Session, parcel: ParcelRow, *, rows: int, files: int) -> None:
    """Count what goes with the caller's transaction: curated rows; images and documents."""
    row = _row(session, parcel)
    row.rows, row.files = row.rows + rows, row.files + files


def record(store: Store, session: Session, parcel: ParcelRow, study_id: str) -> None:
    """Note that a withdrawal is carried out, once; its parcel is opened with the same transaction."""
    kept = session.get_one(ParcelRow, parcel.id)
    if kept.state == "opened":
        return
    kept.state = "opened"
    row = _row(session, parcel)
    row.models = of_study(session, parcel.study_digest)
    row.log_index = store.append_leaf(
        session, {"kind": "withdrawal", "id": secrets.token_hex(16), "sha256": parcel.digest}
    )
    fields = {"parcel": parcel.id, "models": len(row.models)}
    store.emit(session, "consent.withdrawn", site=parcel.site, study=study_id, **fields)


def _row(session: Session, parcel: ParcelRow) -> WithdrawalRow:
    row = session.get(WithdrawalRow, parcel.id)
    if row is None:
        row = WithdrawalRow(
            parcel_id=parcel.id, study_digest=parcel.study_digest, site=parcel.site, rows=0, files=0, models=[],
            log_index=-1, received_at=time.time(),
        )  # fmt: skip
        session.add(row)
    return row


def summary(session: Session, digest: str) -> list[dict[str, Any]]:
    """The withdrawals of a study as API and command line show them, with the models that were trained with its data."""
    query = select(WithdrawalRow).where(WithdrawalRow.study_digest == digest).order_by(WithdrawalRow.received_at)
    names = ("site", "rows", "files", "log_index", "received_at")
    models = of_study(session, digest)  # of now: one may have been published since
    return [{name: getattr(row, name) for name in names} | {"models": models} for row in session.scalars(query)]
