"""From released parcels to verified receipts: the only thread that sends a hospital's results.

Place in the flow: spool -> uplink -> receipt verified against the pinned log key -> journal -> spool `sent` ->
assignment done. It handles ciphertext; a receipt that does not verify is kept as evidence and the parcel set aside.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import TYPE_CHECKING, BinaryIO, Protocol

from edge.arrivals import Arrivals
from edge.flight import Leg, fly, legs_of
from edge.journal import Journal
from edge.logview import LogView
from edge.spool import Spool, SpoolEntry
from edge.state import SiteState
from privacy.envelope import PublicKey
from privacy.transparency import Checkpoint, verify_receipt
from protocol.assignment import AssignmentKind, State
from protocol.errors import AuthenticationError, CorsiaError, IntegrityError, Paused, StorageError, UnavailableError
from protocol.parcel import ContentType, Receipt

if TYPE_CHECKING:
    from edge.site import Site

__all__ = ["Delivery", "Sender"]

_log = logging.getLogger("edge.deliver")


class Sender(Protocol):
    """What delivery needs of the uplink. For several threads at once."""

    def deliver(
        self, entry: SpoolEntry, read: BinaryIO, should_stop: Callable[[], bool], turn: Callable[[], None] = ...
    ) -> Receipt:
        """Send a parcel, wait for its `turn` and commit; idempotent."""
        ...

    def carry(
        self, parcels: Sequence[tuple[SpoolEntry, bytes]], should_stop: Callable[[], bool]
    ) -> list[Receipt | CorsiaError]:
        """Send and commit several small parcels in their order; idempotent."""
        ...


@dataclass(slots=True, kw_only=True)
class Delivery:
    """Delivers what the spool holds released.

    Args:
        trust: the key that signs the log's checkpoints, and the log's name; asked for each receipt, for the site may be
            enrolled anew meanwhile.
        should_stop: asked before each parcel and chunk: the daemon stops, egress is paused, or the hours are quiet.
        may_leave: raises when the site has withdrawn a study's approval, or it has expired, since the release.
        view: what this site has seen of the log.
        distrust: told that the log contradicts itself; stops all egress.
    """

    spool: Spool
    journal: Journal
    state: SiteState
    trust: Callable[[], tuple[PublicKey, str]]
    should_stop: Callable[[], bool]
    may_leave: Callable[[str], None]
    view: LogView
    distrust: Callable[[IntegrityError], None]
    arrivals: Arrivals = field(init=False)

    def __post_init__(self) -> None:
        self.arrivals = Arrivals(self.spool.root)

    @classmethod
    def of(cls, site: Site, may_leave: Callable[[str], None]) -> Delivery:
        """A site's own."""
        return cls(
            spool=site.spool,
            journal=site.journal,
            state=site.state,
            trust=lambda: (site.identity.log_key, site.identity.trust.log_origin),
            should_stop=lambda: site.brakes.halted() or site.config.delivery.resting(datetime.now()),  # noqa: DTZ005
            may_leave=may_leave,
            view=site.log_view,
            distrust=site.brakes.distrust,
        )

    def run_once(self, sender: Sender) -> bool:
        """Deliver everything that waits, each study's in order; returns whether that is worth a report.

        An update that arrives is not: the centre has it, and need not be told so.

        A parcel that the centre refuses for good is set aside and the next one tried; anything that passes by
        itself ends this pass.

        Raises:
            UnavailableError, AuthenticationError, StorageError: try again later; nothing is lost.
        """
        told: list[SpoolEntry] = []
        moved = self.take_in()
        if self.should_stop():  # all night, perhaps: nothing is listed that cannot be sent
            return self.settle() or moved if moved else False
        try:
            fly(legs_of(self.spool.pending()), lambda leg: told.extend(self._attempt(leg, sender)), self.should_stop)
        except Paused:
            pass
        finally:
            self.view.keep()
            moved = self.settle() or moved
        return moved or bool(told)

    def take_in(self) -> bool:
        """Let the parcels go of which receipts came by hand; returns whether there was one worth a report.

        Raises:
            StorageError: nothing is lost.
        """
        moved = False
        if receipts := self.arrivals.waiting():
            waiting = {entry.parcel_id: entry for entry in self.spool.pending()}
            for receipt in receipts:
                if (entry := waiting.get(receipt.parcel_id)) is not None:
                    self._land([entry], [receipt])
                    moved = moved or entry.content_type != ContentType.UPDATE.value
                self.arrivals.drop(receipt.parcel_id)
            self.view.keep()
        return moved

    def take_in_all(self) -> bool:
        """`take_in`, and bring assignments to their end whose parcels have all gone."""
        moved = self.take_in()
        return self.settle() or moved

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

    def _attempt(self, leg: Leg, sender: Sender) -> list[SpoolEntry]:
        """Deliver parcels or set them aside; returns those of which that is worth a report."""
        self.view.check_room()
        going: list[SpoolEntry] = []
        for entry in leg.entries:
            try:
                self._check([entry])
                going.append(self.spool.sending(entry))
            except (Paused, UnavailableError, AuthenticationError, StorageError):
                raise
            except CorsiaError as error:
                self._set_aside(entry, error)
        if going:
            self._land(going, self._sent(going, leg, sender))
        return [entry for entry in leg.entries if entry.content_type != ContentType.UPDATE.value]

    def _sent(self, entries: list[SpoolEntry], leg: Leg, sender: Sender) -> list[Receipt | CorsiaError]:
        """Each parcel's receipt, or why it will never have one."""

        def turn() -> None:
            leg.turn(self.should_stop)
            self._check(entries)  # once more: they may have waited long

        if len(entries) > 1:
            try:
                parcels = []
                for entry in entries:
                    with self.spool.open(entry) as source:
                        parcels.append((entry, source.read()))
                turn()
                return sender.carry(parcels, self.should_stop)
            except (Paused, UnavailableError, AuthenticationError, StorageError):
                raise
            except CorsiaError:
                pass  # of the whole call: one by one each parcel has its own outcome
        return [self._alone(entry, sender, turn) for entry in entries]

    def _alone(self, entry: SpoolEntry, sender: Sender, turn: Callable[[], None]) -> Receipt | CorsiaError:
        try:
            with self.spool.open(entry) as source:
                return sender.deliver(entry, source, self.should_stop, turn)
        except (Paused, UnavailableError, AuthenticationError, StorageError):
            raise
        except CorsiaError as error:
            return error

    def _check(self, entries: Sequence[SpoolEntry]) -> None:
        """Whether parcels may leave; word that a consent was withdrawn may, whatever else the site has refused."""
        for entry in entries:
            if entry.content_type != ContentType.WITHDRAWAL.value:
                self.may_leave(entry.study_digest)

    def _land(self, entries: list[SpoolEntry], outcomes: list[Receipt | CorsiaError]) -> None:
        """Keep the receipts that verify, all together, and set aside what was refused for good; then raise what passes.

        Raises:
            UnavailableError, AuthenticationError, StorageError: try again later.
        """
        landed: list[tuple[SpoolEntry, Receipt, Checkpoint]] = []
        passing: CorsiaError | None = None
        for entry, outcome in zip(entries, outcomes, strict=True):
            try:
                if isinstance(outcome, CorsiaError):
                    raise outcome
                landed.append((entry, outcome, self._verify(entry, outcome)))
            except (Paused, UnavailableError, AuthenticationError, StorageError) as error:
                passing = passing or error
            except CorsiaError as error:
                self._set_aside(entry, error)
        self._landed(landed)
        if passing is not None:
            raise passing

    def _verify(self, entry: SpoolEntry, receipt: Receipt) -> Checkpoint:
        if (receipt.parcel_id, receipt.digest) != (entry.parcel_id, entry.digest):
            raise IntegrityError("log.proof", "the receipt is for another parcel")
        try:
            checkpoint = verify_receipt(receipt, *self.trust())
            self.view.note(checkpoint)
            return checkpoint
        except IntegrityError as error:
            self.distrust(error)
            raise

    def _landed(self, parcels: list[tuple[SpoolEntry, Receipt, Checkpoint]]) -> None:
        """The centre has parcels, by receipts that verified: journal them and let the parcels go."""
        if not parcels:
            return
        self.journal.append_all(
            [
                (
                    "parcel.delivered",
                    {
                        "assignment": entry.assignment_id,
                        "parcel": entry.parcel_id,
                        "sha256": entry.digest,
                        "index": receipt.index,
                        "size": checkpoint.size,
                        "checkpoint": checkpoint.root.hex(),
                        "bytes": entry.size_bytes,
                    },
                )
                for entry, receipt, checkpoint in parcels
            ]
        )
        self.spool.all_sent([(entry, receipt) for entry, receipt, _ in parcels])
        for entry, _receipt, _checkpoint in parcels:
            fields = {"parcel": entry.parcel_id, "size_bytes": entry.size_bytes}
            _log.info("parcel.delivered", extra={"fields": fields})

    def _set_aside(self, entry: SpoolEntry, error: CorsiaError) -> None:
        """State first: an assignment with a parcel set aside must never look done, whenever the machine stops.

        A late answer to a round is not kept: it is of no use to anybody, and a slow site has one each round. Neither
        is what must not leave any more because a person has withdrawn, or the centre has erased the study. That a
        study's time is over is one clock's word: it is kept, and `edge/upkeep.py` removes it.
        """
        if not self.spool.has(entry):
            return  # removed meanwhile: its study's time is over
        refused = error.code.startswith("policy.") or error.code == "study.withdrawn"
        state = State.REFUSED if refused else State.FAILED
        state = State.EXPIRED if error.code in ("study.expired", "study.late", "study.erased") else state
        self.journal.append("parcel.bad", parcel=entry.parcel_id, code=error.code, error_id=error.id)
        self.state.move(entry.assignment_id, state, code=error.code, error_id=error.id)
        late = error.code == "study.late" and entry.content_type == ContentType.UPDATE.value
        if late or error.code in ("study.withdrawn", "study.erased"):
            self.spool.drop(entry)
        else:
            self.spool.bad(entry, error.code)
        _log.error("parcel.bad", extra={"fields": {"parcel": entry.parcel_id, "code": error.code}})
