"""Consent that is withdrawn after a study has run: found in the hospital's table, kept, and told to the centre.

    the table changed, or a new day -> who stands how -> of each study, who is among its persons -> kept, durably
    -> what still waits here of it is removed, a run's worker too -> a sealed, signed parcel -> the usual delivery

Nothing more of a study leaves then, and the site leaves a run of which a person's rows were part: its preparation
rests on them, and rows that change under masks spoil every total (docs/adr/0017). What is told names a person by the
study's pseudonym alone, and where nothing about single persons has left (training, sums), by nothing.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Mapping
from datetime import UTC, date, datetime
from typing import TYPE_CHECKING

from edge import sums
from edge.entry import ParcelMeta
from edge.lane import LaneRun, SiteSource, job_key
from edge.sealing import recipient_of
from edge.sources.consent import persons_of
from edge.sources.standing import PARTLY, standing
from edge.sources.tabular import Stamp, stamp
from edge.studies import parsed
from edge.subjects import Known
from privacy.deid.pseudonym import Pseudonymizer
from privacy.envelope import ParcelInfo, new_parcel_id, seal
from protocol.errors import CorsiaError, StudyRefused, UnavailableError
from protocol.faults import point
from protocol.parcel import Batch, ContentType, pack_batch
from protocol.study import Lane
from protocol.withdrawal import PREFIX, Withdrawal

if TYPE_CHECKING:
    from edge.config import DatasetConfig, EdgeConfig
    from edge.site import Site

__all__ = ["Withdrawals", "gone_now"]

_log = logging.getLogger("edge.agent")


class Withdrawals:
    """Looks when a table has changed; for the daemon's threads.

    Args:
        site: the opened site.
    """

    def __init__(self, site: Site) -> None:
        self._site = site
        self._lock = threading.Lock()
        self._judged: dict[str, Stamp] = {}  # study -> the table that its persons were last held against

    def look(self) -> None:
        """Judge what has changed since the last look, and tell the centre what it does not know.

        Raises:
            CorsiaError: `storage.full`, `storage.spool-full`, `storage.failed`, or what ails one study, after all
                others have been told of; to be looked at again.
        """
        self._hold_all()
        failed: list[CorsiaError] = []
        with self._lock:
            for digest, brief in self._site.subjects.briefs().items():
                try:
                    if brief.due:
                        self._tell(digest)
                except CorsiaError as error:
                    failed.append(error)
        if failed:
            raise failed[0]

    def check(self, digest: str, *, sure: bool = False) -> None:
        """Look, at the last moment, whether anything more of a study may leave.

        Args:
            sure: not without having read who consents; else a table that is not there just now hinders nothing, for
                what was made with it is older than that.

        Raises:
            StudyRefused: `study.withdrawn`.
            UnavailableError: `unavailable.process`, when it is to be sure and the table cannot be read now.
            StorageError: `storage.failed`.
        """
        unread = self._hold_all()
        if self._site.subjects.left(digest):
            raise StudyRefused("study.withdrawn")
        if sure and digest in unread:
            raise UnavailableError("unavailable.process", "who consents cannot be read now")

    def _hold_all(self) -> set[str]:
        """Hold each study's persons against its table, if either is new; returns studies whose table cannot be read."""
        unread: set[str] = set()
        with self._lock:
            today, stands = datetime.now(UTC).date(), dict[str, Mapping[str, str] | None]()
            stamps: dict[str, Stamp | None] = {}  # before the read: a table that is written meanwhile is read again
            for digest, brief in self._site.subjects.briefs().items():
                dataset = self._site.config.datasets.get(brief.dataset)
                if dataset is None or not dataset.tabular:
                    continue
                if brief.dataset not in stamps:
                    stamps[brief.dataset] = stamp(dataset, today)
                now = stamps[brief.dataset]
                if now is not None and self._judged.get(digest) == now:
                    continue
                if brief.dataset not in stands:
                    stands[brief.dataset] = self._read(dataset, today)
                found = stands[brief.dataset]
                if now is None or found is None:
                    unread.add(digest)
                else:
                    self._judge(digest, found, now)
        return unread

    def note(self, digest: str, lane: LaneRun, source: SiteSource) -> None:
        """Note a study's persons before anything about them leaves.

        Raises:
            UnavailableError: `unavailable.process` when one of them has withdrawn since the rows were read: the study
                is to be run again, without him.
            StorageError: `storage.failed`; nothing may leave.
        """
        frame, patient = source.table(), lane.job.column("patient")
        stands = standing(lane.dataset, datetime.now(UTC).date())
        persons: set[str] = set()
        if frame is not None and patient is not None and patient in frame.columns:
            persons = set(persons_of(frame, patient)) - {""}
        if any(stands.get(person) in ("withdrawn", "consent") for person in persons):
            raise UnavailableError("unavailable.process", "consent has changed while the study ran")
        keys = Pseudonymizer(lane.job.key)
        released = {keys.pseudonym(person): stands.get(person, "") == "" for person in persons}
        self._site.subjects.add(digest, lane.study.dataset.name, released)
        with self._lock:
            self._judged.pop(digest, None)  # the table may have changed since it was read, and been judged without them

    def _read(self, dataset: DatasetConfig, today: date) -> Mapping[str, str] | None:
        """None when the table cannot be read now: it is looked at again, and the study's own job says why."""
        try:
            return standing(dataset, today)
        except CorsiaError as error:
            self._site.note("consent.unread", error)
            return None

    def _judge(self, digest: str, stands: Mapping[str, str], now: Stamp) -> None:
        known = self._site.subjects.known(digest)
        if known is None:
            return
        gone = _gone(known, stands, Pseudonymizer(job_key(self._site.config.state_dir, digest)))
        if gone:
            self._site.subjects.withdraw(digest, gone)
            self._site.journal.append("consent.withdrawn", study=digest, persons=len(gone))
            self._remove(digest)
        self._judged[digest] = now

    def _remove(self, digest: str) -> None:
        """What was made with the person's rows and has not left: it never does."""
        self._site.draws.drop(digest)
        self._site.send.set()  # the delivery thread sets parcels of it aside

    def _tell(self, digest: str) -> None:
        """Spool the parcel that says who withdrew; a crash after it tells the same once more, which changes nothing."""
        site, known, record = self._site, self._site.subjects.known(digest), self._site.state.study(digest)
        if known is None or not known.due or record is None:
            return
        study = parsed(record.assignment.document)
        personal = study.lane is not Lane.TRAIN and study.pipeline.name != sums.PIPELINE
        told = Withdrawal(subjects=frozenset(known.due if personal else ()))
        name, content = new_parcel_id(), ContentType.WITHDRAWAL.value
        info = ParcelInfo(parcel_id=name, study=digest, site=site.config.site, content_type=content)
        batch = Batch(
            batch_id=name, study_digest=digest, site=site.config.site, part=0, last=True, items=(told.item(),)
        )
        meta = ParcelMeta(parcel_id=name, assignment_id=f"{PREFIX}{name}", study_digest=digest, content_type=content)
        site.journal.append("parcel.planned", parcel=name, study=digest)
        site.spool.hold(
            meta,
            lambda target: seal(
                pack_batch(batch), target, info=info, recipients=[recipient_of(study)], signer=site.identity.key
            ),
        )
        site.spool.release(meta.assignment_id)
        point("edge.withdrawn")
        site.subjects.told(digest, known.due)
        site.send.set()
        _log.info("consent.withdrawn", extra={"fields": {"study": digest, "parcel": name}})


def gone_now(config: EdgeConfig, known: Known | None, digest: str) -> bool:
    """Whether a person of a study has withdrawn by the table as it is, for who looks without the daemon; notes nothing.

    A table that is not there just now hinders nothing, for what was made with it is older than that.

    Raises:
        ConfigurationError, StorageError: as `job_key`.
    """
    dataset = config.datasets.get(known.dataset) if known is not None else None
    if known is None or dataset is None or not dataset.tabular:
        return False
    try:
        stands = standing(dataset, datetime.now(UTC).date())
    except CorsiaError:
        return False
    return bool(_gone(known, stands, Pseudonymizer(job_key(config.state_dir, digest))))


def _gone(known: Known, stands: Mapping[str, str], keys: Pseudonymizer) -> set[str]:
    """Who of a study's persons may not be in it any more: who withdrew, or whom a row has come to refuse.

    A person who is not in the table any more has said nothing: tables are often an excerpt of the last months.
    """
    gone = set()
    for person, stand in stands.items():
        if stand and (name := keys.pseudonym(person)) in known.released and (stand != PARTLY or known.released[name]):
            gone.add(name)
    return gone - set(known.withdrawn)
