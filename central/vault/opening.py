"""From a landed parcel to rows in the lake: verify, unseal, check, write, record.

The way of one record at the centre reads here from top to bottom. Each step may be cut off by SIGKILL: a parcel is
`landed` until one transaction makes it `opened`, and the batch id makes doing it again harmless.
"""

from __future__ import annotations

import json
import logging
import os
import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

from sqlalchemy import bindparam, func, select
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.orm import Session

from central.landed import Landed
from central.store import Store
from central.store.changes import Changes
from central.store.models import CuratedRow, ParcelRow, StudyRow
from central.vault.ahead import Ahead, Prepared
from central.vault.closing import Closing
from central.vault.compute import Compute, Here
from central.vault.contents import Content
from central.vault.keys import StudyKeys
from central.vault.lake import Lake
from central.vault.remotes import Remotes
from central.vault.withdrawing import Withdrawing
from privacy.envelope import PublicKey
from protocol import faults
from protocol.errors import CorsiaError, DisclosureRefused, InputError, IntegrityError, StudyRefused, WorkerError
from protocol.parcel import Batch, ContentType
from protocol.study import Lane, Study
from protocol.withdrawal import Withdrawal

__all__ = ["CONTENT_OF_LANE", "Opener"]

log = logging.getLogger(__name__)

CONTENT_OF_LANE = {
    Lane.HARVEST: ContentType.RECORDS,
    Lane.ANONYMIZE: ContentType.DEIDENTIFIED,
    Lane.EXTRACT: ContentType.FEATURES,
}
_CONTENTS = [*CONTENT_OF_LANE.values(), ContentType.WITHDRAWAL]  # of the run of a training study: the federation's
_NEXT = (  # made once: it is asked at every look
    select(ParcelRow)
    .join(StudyRow, StudyRow.digest == ParcelRow.study_digest, isouter=True)
    .where(ParcelRow.state == "landed", ParcelRow.content_type.in_(_CONTENTS))
    .where(func.coalesce(StudyRow.lane, "") != Lane.TRAIN.value)
    .where(ParcelRow.id.not_in(bindparam("waiting", expanding=True)))
    .order_by(ParcelRow.content_type != ContentType.WITHDRAWAL.value, ParcelRow.log_index)
    .limit(bindparam("width"))
)
# Errors of the parcel itself, or of a study that is erased: trying again changes nothing.
_VERDICT = (IntegrityError, InputError, DisclosureRefused, StudyRefused)
_MAX_ATTEMPTS = 4  # a parcel on which this process died so often is set aside
_BACK_OFF_S = 5.0
_SETTLE_EVERY_S = 0.25
_LOOK_EVERY_S = 2.0
_PAUSE_S = 0.2


class Opener:
    """Opens landed parcels one after the other, in the order of the log.

    Args:
        store: the central database.
        landing: folder of `<parcel id>.parcel` files, ciphertext.
        state: this process's own folder, for the mark of the parcel under way.
        study_key: gives the public key that signs studies; asked for at each parcel.
        compute: where parcels are opened; here when None.
    """

    def __init__(
        self,
        store: Store,
        *,
        landing: Path,
        state: Path,
        keys: StudyKeys,
        lake: Lake,
        study_key: Callable[[], PublicKey],
        compute: Compute | None = None,
    ) -> None:
        self._store = store
        self._landing = landing
        self._mark = state / "opening.json"
        self._keys = keys
        self._lake = lake
        self._study_key = study_key
        self._not_before: dict[str, float] = {}
        self._unforeseen: Counter[str] = Counter()
        self._withdrawing = Withdrawing(store, landing, lake, state / "exports")
        self._closing = Closing(store, landing, keys, lake, state / "exports")
        self._remotes = Remotes(store, state.parent, lake)
        self._ahead = Ahead(store, landing, keys, compute or Here(), study_key)
        self._settle_at = time.monotonic()

    def run(self, stop: threading.Event, interval_s: float = 0.25) -> None:
        """Open what lands until told to stop; while nothing changes, look every few seconds only."""
        changes = Changes(self._store.engine, stop)
        unread = unsettled = True  # what is new stays so until it has been dealt with
        while not stop.is_set():
            due = self._settle_at + (0.0 if unsettled else _LOOK_EVERY_S)
            if changes.wait(0.0 if unread else max(0.0, due - time.monotonic())):
                unread = unsettled = True
            elif not unread and time.monotonic() < due:
                continue
            try:
                before = self._settle_at
                unread = self.step()
                unsettled = unsettled and self._settle_at == before
                if not unread:
                    stop.wait(_PAUSE_S)  # a round under way commits all the time
            except Exception as error:  # the vault outlives a locked or full database
                log.error("vault.step-failed", exc_info=error)
                stop.wait(interval_s)

    def step(self) -> bool:
        """Open the next landed parcel and settle finished studies; whether a parcel was dealt with."""
        parcel = self._next()
        if parcel is not None:
            self._attend(parcel)
        # Also while parcels come without a pause, only less often: studies end, and what is to be erased goes.
        if time.monotonic() >= self._settle_at + (0.0 if parcel is None else _LOOK_EVERY_S):
            self._closing.step()
            self._remotes.step()
            self._settle_at = time.monotonic() + (_SETTLE_EVERY_S if parcel is None else 0.0)
        return parcel is not None

    # -- one parcel ------------------------------------------------------------------------------------------------

    def _next(self) -> ParcelRow | None:
        """Whose turn it is; those after it, up to the next withdrawal, are begun with where there is more than one."""
        now = time.monotonic()
        waiting = [parcel for parcel, at in self._not_before.items() if at > now]
        with self._store.read() as session:
            found = session.scalars(_NEXT, {"waiting": waiting, "width": self._ahead.width}).all()
        if self._ahead.width > 1:
            self._ahead.look([row for row in found if row.content_type != ContentType.WITHDRAWAL])
        return next(iter(found), None)

    def _attend(self, parcel: ParcelRow) -> None:
        try:
            self._begin_attempt(parcel.id)
            self._open(parcel)
        except _VERDICT as error:
            if error.code == "lake.damaged":  # what lies there already: a backup mends it, a good parcel must wait
                self._delay(parcel, error)
            else:
                self._reject(parcel, error)
        except Exception as error:
            self._delay(parcel, error)
        self._mark.unlink(missing_ok=True)  # this process lives: the parcel did not kill it

    def _delay(self, parcel: ParcelRow, error: Exception) -> None:
        """Disk, database, key folder: not the parcel's fault, so it stays landed. What nobody foresaw: a few times."""
        self._not_before[parcel.id] = time.monotonic() + _BACK_OFF_S
        code = error.code if isinstance(error, CorsiaError) else ""
        log.error("parcel.delayed", extra={"fields": {"parcel": parcel.id, "code": code}}, exc_info=error)
        passing = isinstance(error, CorsiaError | SQLAlchemyError | OSError | MemoryError)
        if passing and not isinstance(error, WorkerError):  # a worker that died, died of the parcel
            return
        if parcel.content_type == ContentType.WITHDRAWAL:
            return  # the site has its receipt and says it once
        self._unforeseen[parcel.id] += 1
        if self._unforeseen[parcel.id] >= _MAX_ATTEMPTS:
            self._reject(parcel, IntegrityError("parcel.payload"))

    def _begin_attempt(self, parcel_id: str) -> None:
        """Count attempts on disk, so that a parcel that kills this process cannot do so for ever."""
        attempt = 1
        try:
            mark = json.loads(self._mark.read_bytes())
            attempt = mark["attempt"] + 1 if mark["parcel"] == parcel_id else 1
        except (FileNotFoundError, ValueError, KeyError, TypeError):
            pass
        half = self._mark.with_suffix(".tmp")
        half.write_text(json.dumps({"parcel": parcel_id, "attempt": attempt}))
        os.replace(half, self._mark)
        if attempt > _MAX_ATTEMPTS:
            raise IntegrityError("parcel.payload", "this parcel has stopped the vault too often")

    def _open(self, parcel: ParcelRow) -> None:
        landed = Landed.of(self._store, parcel, self._study_key())
        study, withdrawal = landed.study, parcel.content_type == ContentType.WITHDRAWAL
        if not withdrawal and CONTENT_OF_LANE.get(study.lane) != parcel.content_type:
            raise IntegrityError("parcel.context", "the lane sends another kind of content")
        if withdrawal:
            said = Withdrawal.of(landed.batch(self._landing, self._keys.load))
            finish = partial(self._withdrawing.carry_out, parcel, study, said)
        else:
            finish = partial(self._curate, parcel, study, self._ahead.take(landed))
        faults.point("vault.opened")
        finish()

    def _curate(self, parcel: ParcelRow, study: Study, prepared: Prepared) -> None:
        batch = prepared.batch
        if self._known(parcel, batch):
            return
        content = prepared.checked()
        left = self._withdrawing.filtered(study, parcel.site, content.entries)
        if left.changed:
            rows, files = content.rows - left.rows, left.images
            persons = min(content.persons, max(rows, files))
            content = replace(content, entries=left.entries, rows=rows, files=files, persons=persons)
        path = self._lake.write(study.id, batch.batch_id, content.entries)
        faults.point("vault.written")
        self._record(parcel, study, batch, content, path)
        if left.changed:
            (self._landing / f"{parcel.id}.parcel").unlink(missing_ok=True)

    def _known(self, parcel: ParcelRow, batch: Batch) -> bool:
        """Whether the batch is curated already; then the parcel counts as opened and adds nothing."""
        with self._store.begin() as session:
            known = session.get(CuratedRow, batch.batch_id)
            if known is None:
                return False
            if known.study_digest != parcel.study_digest or known.site != parcel.site:
                raise IntegrityError("parcel.replay", "the batch id belongs to another study or site")
            self._set_state(session, parcel, "opened")
        log.info("batch.duplicate", extra={"fields": {"parcel": parcel.id, "site": parcel.site}})
        return True

    def _record(self, parcel: ParcelRow, study: Study, batch: Batch, content: Content, path: str) -> None:
        with self._store.begin() as session:
            session.add(
                CuratedRow(
                    batch_id=batch.batch_id,
                    study_digest=parcel.study_digest,
                    site=parcel.site,
                    parcel_id=parcel.id,
                    part=batch.part,
                    last=batch.last,
                    path=path,
                    rows=content.rows,
                    files=content.files,
                    persons=content.persons,
                    withheld=content.withheld,
                    report=content.report,
                    created_at=time.time(),
                )
            )
            self._set_state(session, parcel, "opened")
            counts = {"rows": content.rows, "files": content.files, "withheld": sum(content.withheld.values())}
            self._store.emit(session, "batch.curated", site=parcel.site, study=study.id, parcel=parcel.id, **counts)
        fields = {"parcel": parcel.id, "site": parcel.site, "study": study.id, "part": batch.part, **counts}
        log.info("batch.curated", extra={"fields": fields})

    def _reject(self, parcel: ParcelRow, error: CorsiaError) -> None:
        with self._store.begin() as session:
            self._set_state(session, parcel, "rejected", error.code)
            study = session.scalar(select(StudyRow.id).where(StudyRow.digest == parcel.study_digest)) or ""
            self._store.emit(
                session, "parcel.rejected", site=parcel.site, study=study, parcel=parcel.id, code=error.code
            )
        fields = {"parcel": parcel.id, "site": parcel.site, "study": study, "code": error.code}
        log.warning("parcel.rejected", extra={"fields": fields})
        if error.code == "study.erased":  # it came while its study was erased
            (self._landing / f"{parcel.id}.parcel").unlink(missing_ok=True)

    @staticmethod
    def _set_state(session: Session, parcel: ParcelRow, state: str, code: str = "") -> None:
        row = session.get_one(ParcelRow, parcel.id)
        row.state, row.code = state, code
