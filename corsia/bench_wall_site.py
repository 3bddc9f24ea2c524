"""Hospitals of the wall's benchmark, many in one process: the real uplink, spool, journal and delivery of each.

`python -m corsia.bench_wall_site FOLDER...` takes commands as `corsia.bench_wall_centre.Program` sends them. What is
sealed is noise; everything after it is the product's own code.
"""

from __future__ import annotations

import json
import os
import queue
import sys
import threading
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO, cast

from corsia.bench_wall_memory import Memory, Pool
from edge.deliver import Delivery
from edge.entry import ParcelMeta, SpoolEntry
from edge.identity import Identity
from edge.journal import Journal
from edge.logview import LogView
from edge.sealing import sealed_bound
from edge.spool import Spool
from edge.state import SiteState
from edge.uplink import Uplink
from privacy.envelope import ParcelInfo, PublicKey, new_parcel_id, seal
from privacy.inclusion import verify_growth
from protocol.assignment import Assignment, SiteReport
from protocol.errors import CorsiaError, IntegrityError
from protocol.heap import keep_buffers
from protocol.parcel import ContentType
from protocol.study import parse_study

__all__ = ["Hospital", "main"]

_SENDERS = 3
_ROOM = 3  # sealed parcels that wait in memory


def _raised(error: IntegrityError) -> None:
    raise error


class Hospital:
    """One enrolled site, connected.

    Args:
        folder: its state folder.
    """

    def __init__(self, folder: Path) -> None:
        self.stop, self.first = threading.Event(), threading.Event()
        self.identity = Identity.load(folder)
        self.state = SiteState(folder / "state.db")
        self.journal = Journal(folder / "journal.jsonl")
        self.spool = Spool(folder / "spool", 1 << 40)
        self.view = LogView(self.state)
        self.uplink = Uplink(self.identity)
        self.pool = Pool()
        self.assignment: Assignment | None = None
        threading.Thread(target=self._watch, daemon=True).start()

    def _watch(self) -> None:
        while not self.stop.is_set():
            try:
                for assignment in self.uplink.watch():
                    self.assignment = assignment
                    self.first.set()
            except CorsiaError:
                self.stop.wait(0.2)

    def ready(self) -> Assignment:
        """The study's assignment, once it has come."""
        self.first.wait(60)
        if self.assignment is None:
            raise RuntimeError("no assignment came")
        return self.assignment

    def sealed(self, payload: bytes, pieces: int, write: Callable[[ParcelMeta, Callable[[Any], str]], Any]) -> Any:
        """Seal a payload, repeated, to the study's key, to where `write` says."""
        assignment = self.ready()
        recipient = PublicKey.from_base64(parse_study(assignment.document).recipient("vault") or "")
        meta = ParcelMeta(
            parcel_id=new_parcel_id(), assignment_id=assignment.id, study_digest=assignment.study_digest,
            content_type=ContentType.FEATURES.value,
        )  # fmt: skip
        info = ParcelInfo(
            parcel_id=meta.parcel_id, study=meta.study_digest, site=self.identity.site, content_type=meta.content_type
        )
        key = self.identity.key
        return write(
            meta, lambda target: seal([payload] * pieces, target, info=info, recipients=[recipient], signer=key)
        )

    def hold(self, payload: bytes, count: int, pieces: int = 1) -> None:
        """Seal so many parcels into the spool and release them together."""
        for _ in range(count):
            self.sealed(payload, pieces, self.spool.hold)
        self.spool.release(self.ready().id)

    def deliver(self) -> int:
        """Deliver what waits; how many parcels have a verified receipt."""
        delivery = Delivery(
            spool=self.spool, journal=self.journal, state=self.state,
            trust=lambda: (self.identity.log_key, self.identity.trust.log_origin), should_stop=self.stop.is_set,
            may_leave=lambda _digest: None, view=self.view, distrust=_raised,
        )  # fmt: skip
        delivery.run_once(self.uplink)
        return sum(1 for _ in self.spool.receipts())

    def stream(self, payload: bytes, size_bytes: int) -> int:
        """Seal parcel after parcel in memory while those before are sent; how many bytes left."""
        sealed: queue.Queue[tuple[SpoolEntry, Memory] | None] = queue.Queue(_ROOM)
        errors: list[BaseException] = []
        pool = self.pool

        def send() -> None:
            try:
                while (one := sealed.get()) is not None:
                    entry, data = one
                    self.uplink.deliver(entry, cast(BinaryIO, data), self.stop.is_set)
                    pool.give(data)
            except BaseException as error:
                errors.append(error)
                while sealed.get() is not None:
                    pass

        threads = [threading.Thread(target=send) for _ in range(_SENDERS)]
        for thread in threads:
            thread.start()
        left = 0
        while left < size_bytes and not errors:
            sealed.put(self.sealed(payload, 1, partial(_in_memory, pool, len(payload))))
            left += len(payload)
        for _ in threads:
            sealed.put(None)
        for thread in threads:
            thread.join()
        if errors:
            raise errors[0]
        return left

    def beat(self) -> None:
        """A heartbeat, as an agent's at rest: the centre also proves that its log has only grown."""
        head, view = self.journal.head(), self.view.look()
        heard = self.uplink.report(
            SiteReport(
                version="bench", paused=False, spool_parcels=0, spool_bytes=0, ledger_head="0" * 64, journal_head=head,
                log_sizes=view.sizes,
            )
        )  # fmt: skip
        if heard.log is None:
            raise IntegrityError("log.proof", "the centre says nothing of its log")
        key, origin = self.identity.log_key, self.identity.trust.log_origin
        newest = verify_growth(heard.log, view.linked, view.apart, key, origin)
        if newest != view.linked:
            self.view.learn(view, newest)


def _in_memory(pool: Pool, size_bytes: int, meta: ParcelMeta, write: Callable[[Any], str]) -> tuple[SpoolEntry, Memory]:
    target = pool.take(sealed_bound(size_bytes))
    digest = write(target)
    entry = SpoolEntry(
        parcel_id=meta.parcel_id, sequence=0, assignment_id=meta.assignment_id, study_digest=meta.study_digest,
        content_type=meta.content_type, digest=digest, size_bytes=target.at, path=Path("memory"),
    )  # fmt: skip
    return entry, target


def _all(hospitals: list[Hospital], work: Callable[[Hospital], int]) -> dict[str, Any]:
    """The same for every hospital at once: sum and seconds, and the codes of those that failed."""
    made: list[int] = []
    failed: list[str] = []

    def one(hospital: Hospital) -> None:
        try:
            made.append(work(hospital))
        except CorsiaError as error:
            failed.append(error.code)

    began = time.monotonic()
    threads = [threading.Thread(target=one, args=(hospital,)) for hospital in hospitals]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return {"count": sum(made), "failed": failed, "seconds": time.monotonic() - began}


def _beat(hospitals: list[Hospital], seconds: float, every_s: float) -> dict[str, Any]:
    """Heartbeats of all, evenly spread, for so long."""
    until, beats = time.monotonic() + seconds, 0
    while time.monotonic() < until:
        for hospital in hospitals:
            hospital.beat()
            beats += 1
            time.sleep(every_s / len(hospitals))
    return {"beats": beats}


def _held(hospital: Hospital, payload: bytes, count: int, pieces: int) -> int:
    hospital.hold(payload, count, pieces)
    return count


def main() -> int:
    """Serve commands until standard input ends."""
    keep_buffers()
    hospitals = [Hospital(Path(folder)) for folder in sys.argv[1:]]
    for line in sys.stdin:
        sys.stdout.write(json.dumps(_done(hospitals, json.loads(line))) + "\n")
        sys.stdout.flush()
    for hospital in hospitals:
        hospital.stop.set()
        hospital.uplink.close()
    return 0


def _done(hospitals: list[Hospital], command: dict[str, Any]) -> dict[str, Any]:
    """Do what a command says; its answer."""
    payload = os.urandom(int(command.get("bytes", 0)))
    do, count, total = command["do"], int(command.get("count", 0)), int(command.get("total", 0))
    if do == "ready":
        return {"sites": sum(bool(hospital.ready().id) for hospital in hospitals)}
    if do == "hold":
        return _all(hospitals, lambda hospital: _held(hospital, payload, count, int(command.get("pieces", 1))))
    if do == "deliver":
        return _all(hospitals, Hospital.deliver)
    if do == "stream":
        return _all(hospitals, lambda hospital: hospital.stream(payload, total))
    return _beat(hospitals, float(command["seconds"]), float(command["every_s"]))


if __name__ == "__main__":
    sys.exit(main())
