"""From released parcels to verified receipts: the only thread that sends a hospital's results.

Place in the flow: spool -> uplink -> receipt verified against the pinned log key -> journal -> spool `sent` ->
assignment done. It handles ciphertext; a receipt that does not verify is kept as evidence and the parcel set aside.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, BinaryIO, Protocol

from edge.journal import Journal
from edge.logview import LogView
from edge.spool import Spool, SpoolEntry
from edge.state import SiteState
from privacy.envelope import PublicKey
from privacy.transparency import verify_receipt
from protocol.assignment import AssignmentKind, State
from protocol.errors import AuthenticationError, CorsiaError, IntegrityError, Paused, StorageError, UnavailableError
from protocol.parcel import ContentType, Receipt

if TYPE_CHECKING:
    from edge.site import Site

__all__ = ["Delivery", "Sender"]

_log = logging.getLogger("edge.deliver")


class Sender(Protocol):
    """What delivery needs of the uplink."""

    def deliver(self, entry: SpoolEntry, read: BinaryIO, should_stop: Callable[[], bool]) -> Receipt:
        """Send a parcel and commit; idempotent."""
        ...


@dataclass(slots=True, kw_only=True)
class Delivery:
    """Delivers what the spool holds released.

    Args:
        log_key: the key that signs the log's checkpoints, `log_origin` its name.
        should_stop: asked before each parcel and each chunk: the daemon stops, or egress is paused.
        may_leave: raises when the site has withdrawn a study's approval, or it has expired, since the release.
        view: what this site has seen of the log.
    """

    spool: Spool
    journal: Journal
    state: SiteState
    log_key: PublicKey
    log_origin: str
    should_stop: Callable[[], bool]
    may_leave: Callable[[str], None]
    view: LogView

    @classmethod
    def of(cls, site: Site, may_leave: Callable[[str], None]) -> Delivery:
        """A site's own."""
        return cls(
            spool=site.spool,
            journal=site.journal,
            state=site.state,
            log_key=site.identity.log_key,
            log_origin=site.identity.trust.log_origin,
            should_stop=site.halted,
            may_leave=may_leave,
            view=site.log_view,
        )

    def run_once(self, sender: Sender) -> bool:
        """Deliver everything that waits, in order; returns whether anything became of it that is worth a report.

        An update that arrives is not: the centre has it, and need not be told so.

        A parcel that the centre refuses for good is set aside and the next one tried; anything that passes by
        itself ends this pass.

        Raises:
            UnavailableError, AuthenticationError, StorageError: try again later; nothing is lost.
        """
        moved = False
        try:
            for entry in self.spool.pending():
                if self.should_stop():
                    break
                moved = self._attempt(entry, sender) or moved
        except Paused:
            pass
        finally:
            self.view.keep()
            moved = self.settle() or moved
        return moved

    def settle(self) -> bool:
        """Bring assignments to their end whose parcels have all gone: also after a crash in between.

        Returns:
            Whether there were any that are worth a report.
        """
        delivering = {
            record.assignment.id: record.assignment.kind
            for record in self.state.open()
            if record.state is State.DELIVERING
        }
        waiting = {entry.assignment_id for entry in self.spool.pending()} if delivering else set()
        done = [name for name in delivering if name not in waiting]
        for name in done:
            self.journal.append("assignment.done", assignment=name)
            self.state.move(name, State.DONE)
        return any(delivering[name] is AssignmentKind.STUDY for name in done)

    def _attempt(self, entry: SpoolEntry, sender: Sender) -> bool:
        """Deliver one parcel or set it aside; returns whether that is worth a report."""
        try:
            self._deliver(entry, sender)
            return entry.content_type != ContentType.UPDATE.value
        except (Paused, UnavailableError, AuthenticationError, StorageError):
            raise
        except CorsiaError as error:
            if self.spool.has(entry):  # else it was removed meanwhile: its study's time is over
                self._set_aside(entry, error)
            return True

    def _deliver(self, entry: SpoolEntry, sender: Sender) -> None:
        if entry.content_type != ContentType.WITHDRAWAL.value:  # that word may leave whatever the site has refused
            self.may_leave(entry.study_digest)
        entry = self.spool.sending(entry)
        with self.spool.open(entry) as source:
            receipt = sender.deliver(entry, source, self.should_stop)
        if (receipt.parcel_id, receipt.digest) != (entry.parcel_id, entry.digest):
            raise IntegrityError("log.proof", "the receipt is for another parcel")
        checkpoint = verify_receipt(receipt, self.log_key, self.log_origin)
        self.view.note(checkpoint)
        self.journal.append(
            "parcel.delivered",
            assignment=entry.assignment_id,
            parcel=entry.parcel_id,
            sha256=entry.digest,
            index=receipt.index,
            checkpoint=checkpoint.root.hex(),
            bytes=entry.size_bytes,
        )
        self.spool.sent(entry, receipt)
        _log.info("parcel.delivered", extra={"fields": {"parcel": entry.parcel_id, "size_bytes": entry.size_bytes}})

    def _set_aside(self, entry: SpoolEntry, error: CorsiaError) -> None:
        """State first: an assignment with a parcel set aside must never look done, whenever the machine stops.

        A late answer to a round is not kept: it is of no use to anybody, and a slow site has one each round. Neither
        is what must not leave any more because a person has withdrawn, or the study's time is over.
        """
        refused = error.code.startswith("policy.") or error.code == "study.withdrawn"
        state = State.REFUSED if refused else State.FAILED
        state = State.EXPIRED if error.code in ("study.expired", "study.late", "study.erased") else state
        self.journal.append("parcel.bad", parcel=entry.parcel_id, code=error.code, error_id=error.id)
        self.state.move(entry.assignment_id, state, code=error.code, error_id=error.id)
        late = error.code == "study.late" and entry.content_type == ContentType.UPDATE.value
        if late or error.code in ("study.withdrawn", "study.expired", "study.erased"):
            self.spool.drop(entry)
        else:
            self.spool.bad(entry, error.code)
        _log.error("parcel.bad", extra={"fields": {"parcel": entry.parcel_id, "code": error.code}})
