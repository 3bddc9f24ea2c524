"""What of a site's has landed: for a site whose state was put back and that must count what it no longer knows.

Rows, receipts and signed documents that the site has had before; the caller's own alone.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

from sqlalchemy import and_, or_, select
from sqlalchemy.orm import Session

from central.gateway.receipts import Log
from central.store import Store
from central.store.models import AssignmentRow, ParcelRow, SiteRow
from protocol.assignment import Assignment, AssignmentKind, State
from protocol.landed import LandedPage, LandedParcel

__all__ = ["Landed"]

PAGE = 200
MAX_DOCUMENT_BYTES = 3 << 20  # of one page; a message holds more


class Landed:
    """Answers with pages.

    Args:
        settle: writes down the heads of heartbeats that are in memory yet.
    """

    def __init__(self, store: Store, log: Log, settle: Callable[[], None]) -> None:
        self._store, self._log, self._settle = store, log, settle

    def page(self, site: str, start: int) -> LandedPage:
        """A site's parcels from a leaf of the log on, with proofs, and the heads that were heard of the site last."""
        self._settle()
        with self._store.read() as session:
            row = session.get(SiteRow, site)
            heads = (row.ledger_head, row.journal_head) if row is not None else ("", "")
            query = select(ParcelRow).where(ParcelRow.site == site, ParcelRow.log_index >= start)
            found = list(session.scalars(query.order_by(ParcelRow.log_index).limit(PAGE + 1)))
            parcels, documents = _bounded(found[:PAGE], _documents(session, site, found[:PAGE]))
        receipts = self._log.receipts(parcels)
        over = {name for name, row in documents.items() if State(row.state).final}
        return LandedPage(
            parcels=tuple(
                LandedParcel(
                    parcel_id=row.id,
                    digest=row.digest,
                    index=row.log_index,
                    proof=receipt.proof,
                    assignment_id=row.assignment_id,
                    content_type=row.content_type,
                    size_bytes=row.size_bytes,
                    done=row.assignment_id in over,
                )
                for row, receipt in zip(parcels, receipts, strict=True)
            ),
            assignments=tuple(_value(row) for row in _needed(parcels, documents)),
            checkpoint=receipts[0].checkpoint if receipts else "",
            more=len(parcels) < len(found),
            ledger_head=heads[0],
            journal_head=heads[1],
        )


def _documents(session: Session, site: str, parcels: list[ParcelRow]) -> dict[str, AssignmentRow]:
    """The assignments of parcels and their studies', by id."""
    studies = {row.study_digest for row in parcels}
    study = and_(AssignmentRow.kind == AssignmentKind.STUDY.value, AssignmentRow.study_digest.in_(studies))
    asked = AssignmentRow.id.in_([row.assignment_id for row in parcels])
    rows = session.scalars(select(AssignmentRow).where(AssignmentRow.site == site, or_(asked, study)))
    return {row.id: row for row in rows}


def _needed(parcels: Iterable[ParcelRow], documents: dict[str, AssignmentRow]) -> list[AssignmentRow]:
    ids, studies = {row.assignment_id for row in parcels}, {row.study_digest for row in parcels}
    return [
        row
        for row in documents.values()
        if row.id in ids or (row.kind == AssignmentKind.STUDY.value and row.study_digest in studies)
    ]


def _bounded(
    parcels: list[ParcelRow], documents: dict[str, AssignmentRow]
) -> tuple[list[ParcelRow], dict[str, AssignmentRow]]:
    """As many parcels, one at least, as have documents that fit into a message."""
    while len(parcels) > 1 and sum(len(row.document) for row in _needed(parcels, documents)) > MAX_DOCUMENT_BYTES:
        parcels = parcels[: len(parcels) // 2]
    return parcels, documents


def _value(row: AssignmentRow) -> Assignment:
    return Assignment(
        id=row.id,
        kind=AssignmentKind(row.kind),
        study_digest=row.study_digest,
        document=row.document,
        signature=row.signature,
    )
