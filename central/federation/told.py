"""What sites say of a training study besides its rounds: that a consent was withdrawn, of rows that were in the run.

Nothing is removed here, since no row ever came: the word is noted and logged, and lists the models of the run.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path

from sqlalchemy import select

from central import withdrawals
from central.federation.keys import RunKeys
from central.landed import Landed
from central.store import Store
from central.store.models import ParcelRow, StudyRow
from privacy.envelope import PublicKey
from protocol.errors import CorsiaError, InputError, IntegrityError, StudyRefused
from protocol.parcel import ContentType
from protocol.study import Lane
from protocol.withdrawal import Withdrawal

__all__ = ["Told"]

_LANDED = (  # made once: it is asked at every look
    select(ParcelRow, StudyRow.id)
    .join(StudyRow, StudyRow.digest == ParcelRow.study_digest)
    .where(ParcelRow.state == "landed", ParcelRow.content_type == ContentType.WITHDRAWAL.value)
    .where(StudyRow.lane == Lane.TRAIN.value)
    .order_by(ParcelRow.log_index)
)
log = logging.getLogger(__name__)


class Told:
    """Opens withdrawals of training studies.

    Args:
        landing: the gateway's landing folder.
        study_key: gives the study-signing public key.
    """

    def __init__(self, store: Store, landing: Path, keys: RunKeys, study_key: Callable[[], PublicKey]) -> None:
        self._store, self._landing, self._keys, self._study_key = store, landing, keys, study_key

    def step(self) -> int:
        """Note what has landed; returns how many parcels that were."""
        with self._store.read() as session:
            landed = session.execute(_LANDED).all()
        for parcel, study_id in landed:
            self._note(parcel, study_id)
        return len(landed)

    def _note(self, parcel: ParcelRow, study_id: str) -> None:
        try:
            self._carry_out(parcel, study_id)
        except Exception as error:  # disk, database, key folder: the words of other studies do not wait for it
            code = error.code if isinstance(error, CorsiaError) else ""
            log.error("parcel.delayed", extra={"fields": {"parcel": parcel.id, "code": code}}, exc_info=error)

    def _carry_out(self, parcel: ParcelRow, study_id: str) -> None:
        try:
            Withdrawal.of(Landed.of(self._store, parcel, self._study_key()).batch(self._landing, self._keys.secret))
        except (IntegrityError, InputError, StudyRefused) as error:
            with self._store.begin() as session:
                row = session.get_one(ParcelRow, parcel.id)
                row.state, row.code = "rejected", error.code
                fields = {"parcel": parcel.id, "code": error.code}
                self._store.emit(session, "parcel.rejected", site=parcel.site, study=study_id, **fields)
            log.warning("parcel.rejected", extra={"fields": {"study": study_id, **fields}})
            return
        with self._store.begin() as session:
            withdrawals.record(self._store, session, parcel, study_id)
        log.info("consent.withdrawn", extra={"fields": {"study": study_id, "site": parcel.site}})
