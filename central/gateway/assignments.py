"""Assignments: what a site is to do goes down one stream, what became of it comes back as reports.

One poller reads new rows for all sites and hands them to their streams. It relies on rows becoming visible in the
order of `seq`, which the store's immediate transactions give.
"""

from __future__ import annotations

import logging
import queue
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from sqlalchemy import bindparam, func, select, update
from sqlalchemy.orm import Session

from central import ipc
from central.config import CentralConfig
from central.gateway import catalogue, wire
from central.gateway.admission import Call
from central.gateway.quota import Rate
from central.gateway.receipts import Log
from central.gateway.versions import check_agent
from central.store import Store
from central.store.models import AssignmentRow, Base, SiteRow, StudyRow
from protocol.assignment import Assignment, AssignmentKind, Blob, SiteReport, State
from protocol.errors import IntegrityError, PermissionRefused, UnavailableError
from protocol.v1 import fleet_pb2 as pb

__all__ = ["Assignments", "Feed"]

MAX_WAITING = 4096
PAGE = 1000
ALONG_BYTES = 64 << 10
RENEW_TIMEOUT_S = 10.0
CHANGE_COST = 20.0  # of what is written down; a bare heartbeat is one call
_FINAL = [s.value for s in State if s.final]
_NEW = (  # made once: it is asked at every commit
    select(AssignmentRow).where(AssignmentRow.seq > bindparam("last")).order_by(AssignmentRow.seq).limit(PAGE)
)
_PAUSED = select(SiteRow.name, SiteRow.paused).where(SiteRow.name.in_(bindparam("names", expanding=True)))
_HEADS = ("ledger_head", "journal_head")
_SITES = Base.metadata.tables[SiteRow.__tablename__]
_BEAT = (
    update(_SITES)
    .where(_SITES.c.name == bindparam("of"))
    # A site whose state was put back names no head until it has asked for those that were heard before.
    .values({head: func.coalesce(func.nullif(bindparam(f"new_{head}"), ""), _SITES.c[head]) for head in _HEADS})
)
_NEWEST = select(func.max(AssignmentRow.seq))
_log = logging.getLogger("central.gateway")


class Feed:
    """New assignment rows, for as many streams as there are."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._lock = threading.Lock()
        self._streams: dict[Call, queue.SimpleQueue[AssignmentRow | None]] = {}
        with store.read() as session:
            self._last = session.scalar(_NEWEST) or 0

    def follow(self, call: Call) -> Iterator[AssignmentRow]:
        """All rows of the caller's site that are not final, then new ones until the call ends."""
        waiting: queue.SimpleQueue[AssignmentRow | None] = queue.SimpleQueue()
        with self._lock:
            self._streams[call] = waiting
        call.on_end(lambda: waiting.put(None))
        try:
            seen = 0
            for row in self._open_rows(call.site):
                call.check()
                seen = row.seq
                yield row
            while True:
                new = waiting.get()
                call.check()
                if new is None:
                    if not call.active():
                        return
                elif new.seq > seen:
                    seen = new.seq
                    yield new
        finally:
            with self._lock:
                del self._streams[call]

    def poll(self) -> bool:
        """Hand over what is new; returns whether there is more. Run often, by one thread."""
        ((newest,),) = self._store.rows(_NEWEST)
        if (newest or 0) <= self._last:
            return False
        with self._store.read() as session:
            rows = list(session.scalars(_NEW, {"last": self._last}))
        if not rows:
            return False
        with self._lock:
            streams = list(self._streams.items())
        for row in rows:
            for call, waiting in streams:
                if call.site == row.site:
                    _hand_over(call, waiting, row)
        self._last = rows[-1].seq
        return len(rows) == PAGE

    def _open_rows(self, site: str) -> list[AssignmentRow]:
        with self._store.read() as session:
            return list(
                session.scalars(
                    select(AssignmentRow)
                    .where(AssignmentRow.site == site, AssignmentRow.state.not_in(_FINAL))
                    .order_by(AssignmentRow.seq)
                )
            )


class Assignments:
    """The Assignments service."""

    def __init__(self, config: CentralConfig, store: Store, feed: Feed, log: Log) -> None:
        self._signer = config.socket("signer")
        self._store = store
        self._feed = feed
        self._log = log
        self._lock = threading.Lock()
        self._beats: dict[str, tuple[float, SiteReport]] = {}  # heard, and not written down yet
        self._paused: dict[str, bool] = {}  # as last heard
        self._renewals = Rate(burst=20, per_s=20 / 86_400)  # a certificate is for days

    def Watch(self, request: pb.WatchRequest, call: Call) -> Iterator[pb.Assignment]:
        """Stream assignments down for as long as the site listens.

        Raises:
            AuthenticationError: `auth.version`; the version is noted, so that the operator sees it.
        """
        version = wire.version(request.version)
        with self._store.begin() as session:
            row = session.get(SiteRow, call.site)
            if row is not None:
                row.last_seen, row.version = time.time(), version
            self._store.emit(session, "site.connected", site=call.site)
        check_agent(version)
        _log.info("site.connected", extra={"fields": {"site": call.site, "protocol": call.protocol}})
        for assignment in self._feed.follow(call):
            value = _value(assignment)
            yield wire.assignment_message(value, self._along(value))

    def _along(self, assignment: Assignment) -> dict[str, bytes]:
        """A round's message where it is small: it need not be fetched."""
        if assignment.kind is not AssignmentKind.ROUND or sum(b.size_bytes for b in assignment.blobs) > ALONG_BYTES:
            return {}
        try:
            return {b.digest: self._store.blob_path(b.digest).read_bytes() for b in assignment.blobs}
        except (OSError, IntegrityError):  # whoever asks for it by Fetch is told
            return {}

    def Report(self, request: pb.SiteReport, call: Call) -> pb.ReportReply:
        """Take a heartbeat, and the state of one of the site's own assignments; tell how the log has grown."""
        report, now = wire.site_report(request), time.time()
        with self._lock:
            paused, self._paused[call.site] = self._paused.get(call.site), report.paused
            self._beats[call.site] = (now, report)
        news = self._log.grown(report.log_sizes, report.witnessed) if report.log_sizes else None
        if report.state is None and paused is report.paused and report.catalogue is None:
            return wire.report_message(now, news)  # written down with the others', by `write_beats`
        call.charge(CHANGE_COST)
        with self._beating() as session:
            if report.catalogue is not None:
                catalogue.write(session, call.site, report.catalogue)
            if report.state is not None:
                row = session.scalar(select(AssignmentRow).where(AssignmentRow.id == report.assignment_id))
                if row is None or row.site != call.site:
                    raise PermissionRefused("permission.site", "not an assignment of this site")
                if _changed(row, report, now):
                    study = session.scalar(select(StudyRow.id).where(StudyRow.digest == row.study_digest)) or ""
                    fields = {"assignment": row.id, "state": row.state, "code": row.code, "assignment_kind": row.kind}
                    self._store.emit(session, "assignment.state", site=call.site, study=study, **fields)
        return wire.report_message(now, news)

    def write_beats(self) -> None:
        """Write down the heartbeats since the last time, all at once: fifty sites at rest are one commit."""
        if self._beats:
            with self._beating():
                pass

    @contextmanager
    def _beating(self) -> Iterator[Session]:
        """A transaction that writes the heartbeats down first; where it fails they stay in memory, of all sites."""
        with self._lock:
            beats, self._beats = self._beats, {}
        try:
            with self._store.begin() as session:
                self._write_beats(session, beats)
                yield session
        except BaseException:
            with self._lock:
                self._beats = beats | self._beats
            raise

    def _write_beats(self, session: Session, beats: Mapping[str, tuple[float, SiteReport]]) -> None:
        before: dict[str, bool] = dict(session.execute(_PAUSED, {"names": list(beats)}).tuples().all())
        for name, paused in before.items():
            if paused != beats[name][1].paused:
                self._store.emit(session, "site.resumed" if paused else "site.paused", site=name)
        if before:
            session.execute(_BEAT, [_beat(name, *beats[name]) for name in before])

    def Renew(self, request: pb.RenewRequest, call: Call) -> pb.RenewReply:
        """A new certificate for the caller's site; its identity key must have signed the request."""
        csr, signature = wire.renewal(request)
        self._renewals.take(call.site)
        params = {"site": call.site, "csr_der": ipc.text(csr), "signature": ipc.text(signature)}
        try:
            reply = ipc.call(self._signer, "renew", RENEW_TIMEOUT_S, **params)
        except UnavailableError:
            raise UnavailableError("unavailable.centre", "the signer does not answer") from None
        return pb.RenewReply(certificate_pem=str(reply["certificate_pem"]).encode())


def _changed(row: AssignmentRow, report: SiteReport, now: float) -> bool:
    """Apply a report to its row; a final state never goes back, whatever a restarted site says."""
    if report.state is None or State(row.state).final:
        return False
    before = (row.state, row.code, row.counts)
    row.state, row.code, row.error_id = report.state.value, report.code, report.error_id
    counts: dict[str, Any] = dict(report.counts) if report.counts else row.counts
    row.counts, row.updated_at = counts, now
    return before != (row.state, row.code, row.counts)


def _beat(name: str, at: float, report: SiteReport) -> dict[str, Any]:
    """A site's row after a heartbeat."""
    return {
        "of": name, "last_seen": at, "version": report.version, "paused": report.paused,
        "spool_parcels": report.spool_parcels, "spool_bytes": report.spool_bytes, "new_ledger_head": report.ledger_head,
        "new_journal_head": report.journal_head,
    }  # fmt: skip


def _hand_over(call: Call, waiting: queue.SimpleQueue[AssignmentRow | None], row: AssignmentRow) -> None:
    if waiting.qsize() >= MAX_WAITING:
        if call.closed is None:
            call.close(UnavailableError("unavailable.centre", "the site reads too slowly"))
    else:
        waiting.put(row)


def _value(row: AssignmentRow) -> Assignment:
    return Assignment(
        id=row.id,
        kind=AssignmentKind(row.kind),
        study_digest=row.study_digest,
        document=row.document,
        signature=row.signature,
        blobs=tuple(Blob(**blob) for blob in row.blobs),
    )
