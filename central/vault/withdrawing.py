"""A withdrawn consent at the vault: the person's rows and files leave the lake, and never come back.

    who it is, kept in the lake -> each batch of the site written anew without -> the database names it -> old folders,
    the landed parcels that held the rows, exports and predictions removed -> database and log, in one transaction

Each step may be cut off and is done again. What is opened later is held against the same list (`filtered`).
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterable
from pathlib import Path

from sqlalchemy import select

from central import withdrawals
from central.store import Store
from central.store.models import CuratedRow, ParcelRow, PredictionRow
from central.vault.contents import Entry
from central.vault.lake import Lake
from central.vault.persons import Left, without
from protocol import faults
from protocol.errors import IntegrityError
from protocol.parcel import ContentType, canonical_json
from protocol.study import Study
from protocol.withdrawal import Withdrawal

__all__ = ["Withdrawing"]

_PREFIX = "withdrawn-"
_LIST = "withdrawn.json"


class Withdrawing:
    """Carries out withdrawals.

    Args:
        landing: the gateway's landing folder.
        exports: folder of the sealed exports, one folder a study.
    """

    def __init__(self, store: Store, landing: Path, lake: Lake, exports: Path) -> None:
        self._store, self._landing, self._lake, self._exports = store, landing, lake, exports

    def carry_out(self, parcel: ParcelRow, study: Study, withdrawal: Withdrawal) -> None:
        """Remove what is about the persons, and note it.

        Raises:
            StorageError: the disk refused; to be done again.
            IntegrityError: `lake.damaged`: one batch cannot be read; all others are done.
        """
        said = canonical_json({"site": parcel.site, "subjects": sorted(withdrawal.subjects)})
        self._lake.write(study.id, _PREFIX + parcel.id, [Entry(name=_LIST, data=said)])
        faults.point("withdrawal.noted")
        damaged: IntegrityError | None = None
        for batch in self._curated(parcel):
            try:
                left = without(study, self._lake.entries(batch.path), withdrawal.subjects)
            except IntegrityError as error:
                damaged = error
                continue
            if left.changed:
                self._rewrite(parcel, study, batch, left)
        self._sweep(study, parcel)
        if damaged is not None:
            raise damaged
        faults.point("withdrawal.swept")
        with self._store.begin() as session:
            withdrawals.record(self._store, session, parcel, study.id)

    def filtered(self, study: Study, site: str, entries: Iterable[Entry]) -> Left:
        """What is opened now, without everybody of the site who has withdrawn."""
        return without(study, entries, self._gone(study.id, site))

    def _gone(self, study_id: str, site: str) -> set[str]:
        gone: set[str] = set()
        for folder in self._lake.folders(study_id):
            if folder.startswith(_PREFIX):
                said = json.loads(self._lake.read(f"{study_id}/{folder}/{_LIST}"))
                gone |= set(said["subjects"]) if said["site"] == site else set()
        return gone

    def _curated(self, parcel: ParcelRow) -> list[CuratedRow]:
        with self._store.read() as session:
            query = select(CuratedRow).where(
                CuratedRow.study_digest == parcel.study_digest, CuratedRow.site == parcel.site
            )
            return list(session.scalars(query.order_by(CuratedRow.part)))

    def _rewrite(self, parcel: ParcelRow, study: Study, batch: CuratedRow, left: Left) -> None:
        path = self._lake.write(study.id, f"{batch.batch_id}-{parcel.id}", left.entries)
        faults.point("withdrawal.rewritten")
        with self._store.begin() as session:
            row = session.get_one(CuratedRow, batch.batch_id)
            withdrawals.removed(session, parcel, rows=left.rows, files=left.files)
            row.path, row.rows, row.files = path, row.rows - left.rows, left.images
            row.persons = min(row.persons, max(row.rows, row.files))

    def _sweep(self, study: Study, parcel: ParcelRow) -> None:
        """Remove every folder and parcel that still holds the rows, and what was made of them."""
        with self._store.begin() as session:
            rows = session.scalars(select(CuratedRow).where(CuratedRow.study_digest == parcel.study_digest)).all()
            changed = [row for row in rows if row.path.endswith(f"-{parcel.id}")]
            predictions = select(PredictionRow).where(PredictionRow.study_digest == parcel.study_digest)
            for prediction in session.scalars(predictions):
                prediction.path = "" if changed else prediction.path
            others = select(ParcelRow.id).where(  # rejected, or a second time the same: nobody looks at them again
                ParcelRow.study_digest == parcel.study_digest,
                ParcelRow.site == parcel.site,
                ParcelRow.state != "landed",
                ParcelRow.content_type != ContentType.WITHDRAWAL.value,
            )
            kept = {row.parcel_id for row in rows if row not in changed}
            gone = set(session.scalars(others)) - kept
        for name in gone | {row.parcel_id for row in changed}:
            (self._landing / f"{name}.parcel").unlink(missing_ok=True)
        if changed:
            self._lake.drop_predictions(study.id)
            if (self._exports / parcel.study_digest).exists():  # the next one to ask has it made anew
                shutil.rmtree(self._exports / parcel.study_digest)
        self._lake.sweep(study.id, {row.path for row in rows}, keep=_PREFIX)
