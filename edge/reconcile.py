"""After a state was put back: what left since is counted as spent, by the centre's signed receipts, before more leaves.

Place in the flow: each heartbeat, before the first word to the centre. The centre says which heads of ledger and
journal it heard last; when this site's chains lack one, its state is an older one and goes on hold (`edge.hold`). On
hold, every parcel of this site in the centre's log is looked up in the journal, and one that is not there is spent in
the ledger. What the centre says can only add: it cannot make this site forget a spend, and what is not proved by its
log, or cannot be priced by a study that the pinned key signed, leaves the hold as it is.

What no receipt tells is refused: rounds under masks, which were bound to one set of survivors in a state that is lost,
and sums of a dataset of which some left that its memory of cohorts lacks.
"""

from __future__ import annotations

import logging
from collections import Counter, defaultdict
from collections.abc import Sequence
from contextlib import suppress
from typing import TYPE_CHECKING

from edge import sums
from edge.callerrors import NotOffered
from edge.hold import hold, is_held, release
from edge.rounds import key_of
from edge.site import MEMORY_LOST, Site
from edge.spends import greatest
from edge.studies import parsed
from pipelines import noising
from privacy.dp.accountant import ZERO, Curve
from privacy.envelope import PublicKey
from privacy.inclusion import hashes
from privacy.transparency import open_checkpoint, verify_inclusion
from protocol.assignment import Assignment, AssignmentKind, MaskStep, RoundInstruction, RoundPhase, State
from protocol.errors import BudgetExceeded, CorsiaError, InputError, IntegrityError, PolicyRefused, StudyRefused
from protocol.landed import BEYOND
from protocol.parcel import ContentType, Receipt
from protocol.study import Lane, Study, study_digest
from protocol.trust import Purpose

if TYPE_CHECKING:
    from protocol.landed import LandedPage, LandedParcel

__all__ = ["Reconciliation"]

_RESTORE = "restore"  # who refused a study: not the steward
_log = logging.getLogger("edge.agent")


class Reconciliation:
    """One site's."""

    def __init__(self, site: Site) -> None:
        self._site = site

    def step(self) -> None:
        """Compare once after the start; while on hold, try to come off it.

        Raises:
            IntegrityError: `log.proof`: the hold stays.
            StudyRefused: `study.signature`: a parcel cannot be priced; the hold stays.
            BudgetExceeded: `budget.ledger`.
            UnavailableError, StorageError: try again.
        """
        site = self._site
        if not site.compared.is_set():
            self._compare()
            site.compared.set()
            site.send.set()
        if is_held(site.config.state_dir):
            self._reconcile()

    def _compare(self) -> None:
        """Whether the centre has heard of rows that are not here: then what is here was put back."""
        site = self._site
        try:
            page = site.link.landed(BEYOND)
        except NotOffered:  # a centre older than this question
            return
        if site.ledger is None or is_held(site.config.state_dir):
            return
        try:
            site.ledger.verify(page.ledger_head or None)
            site.journal.verify(page.journal_head or None)
        except (BudgetExceeded, IntegrityError) as error:
            hold(site.config.state_dir, "older", ledger_head=site.ledger.head(), journal_head=site.journal.head())
            site.journal.append("backup.older", code=error.code, error_id=error.id)
            site.note("backup.older", error)

    def _reconcile(self) -> None:
        site = self._site
        if site.ledger is None:
            raise BudgetExceeded("budget.ledger")
        landed, documents = self._landed()
        # Word that a consent was withdrawn spends nothing and answers no assignment.
        landed = [parcel for parcel in landed if parcel.content_type != ContentType.WITHDRAWAL.value]
        known, told = self._journalled()
        missing: dict[str, list[LandedParcel]] = defaultdict(list)
        total: Counter[str] = Counter()
        for parcel in landed:
            total[parcel.assignment_id] += parcel.size_bytes
            if parcel.parcel_id not in known:
                missing[parcel.assignment_id].append(parcel)
        for name, parcels in missing.items():
            self._count(documents, name, parcels, total[name])
        self._tell([parcel for parcel in landed if parcel.parcel_id in known - told], documents)
        self._settle(documents, {parcel.assignment_id for parcel in landed if parcel.done})
        site.remember()
        site.journal.append("backup.reconciled", parcels=len(landed), count=sum(map(len, missing.values())))
        release(site.config.state_dir)
        _log.warning("backup.reconciled", extra={"fields": {"parcels": len(landed), "count": len(missing)}})
        site.wake()

    def _journalled(self) -> tuple[set[str], set[str]]:
        """The parcels of which the journal knows at all, and those of which it, or the spool, tells that they left."""
        known, told = set(), {entry.parcel_id for _, entry in self._site.spool.entries()}
        for line in self._site.journal.tail(1 << 62):
            if "parcel" in line.fields:
                known.add(str(line.fields["parcel"]))
                if line.event in ("parcel.delivered", "backup.counted"):
                    told.add(str(line.fields["parcel"]))
        return known, told

    # --- what the centre shows

    def _landed(self) -> tuple[list[LandedParcel], dict[str, Assignment]]:
        """All of this site's parcels, each proved to be in a log that goes on from what was seen of it before."""
        site, start = self._site, 0
        landed: list[LandedParcel] = []
        documents: dict[str, Assignment] = {}
        while True:
            page = site.link.landed(start)
            self._verify(page, start)
            landed += page.parcels
            documents |= {assignment.id: assignment for assignment in page.assignments}
            if not page.more:
                break
            start = landed[-1].index + 1
        site.log_view.link(site.link)
        site.log_view.keep()
        return landed, documents

    def _verify(self, page: LandedPage, start: int) -> None:
        if page.more and not page.parcels:
            raise IntegrityError("log.proof", "the centre says that there is more, and shows nothing")
        if not page.parcels:
            return
        identity = self._site.identity
        checkpoint = open_checkpoint(page.checkpoint, identity.log_key, identity.trust.log_origin)
        for parcel in page.parcels:
            if parcel.index < start:
                raise IntegrityError("log.proof", "the centre's receipts are out of order")
            start = parcel.index + 1
            leaf = Receipt.leaf(parcel.parcel_id, parcel.digest)
            verify_inclusion(leaf, parcel.index, checkpoint.size, hashes(parcel.proof), checkpoint.root)
        self._site.log_view.note(checkpoint)
        self._site.log_view.link(self._site.link)

    # --- what is spent for it

    def _count(self, documents: dict[str, Assignment], name: str, parcels: Sequence[LandedParcel], total: int) -> None:
        """Spend what an assignment's unknown parcels have let out, unless the ledger holds all `total` bytes of it."""
        site, asked = self._site, documents.get(name)
        given = self._signed(documents, asked)
        study = parsed(given.document)
        rounds = any(parcel.content_type == ContentType.UPDATE.value for parcel in parcels)
        instruction = _instruction(study, asked) if rounds else None
        size, cost = sum(parcel.size_bytes for parcel in parcels), _cost(study, instruction, rounds=rounds)
        digest = "" if asked is None else asked.study_digest
        if site.ledger is None:
            raise BudgetExceeded("budget.ledger")
        held = site.ledger.spend(key_of(instruction) if instruction is not None else name)
        enough = held is not None and (held.study, held.dataset) == (digest, study.dataset.name)
        if not (enough and held is not None and held.bytes >= total and greatest([held.cost, cost]) == held.cost):
            site.ledger.reserve(
                f"restored/{name}",
                study.dataset.name,
                digest,
                k=study.privacy.k,
                cohort=study.privacy.min_cohort,
                bytes=size,
                cost=cost,
                persons=0,
            )
        if study.pipeline.name == sums.PIPELINE:
            site.state.set_fact(f"{MEMORY_LOST}{study.dataset.name}", name)
        for parcel in parcels:
            site.released.note(digest, name, parcel.parcel_id, None)
        self._unfollowed(digest, study)
        if site.state.study(digest) is None:  # whoever asks is to be told under which study it left
            with suppress(StudyRefused):
                site.state.store(given)
        self._tell(parcels, documents)

    def _tell(self, parcels: Sequence[LandedParcel], documents: dict[str, Assignment]) -> None:
        """Journal parcels that left since: for whoever asks what did."""
        lines: list[tuple[str, dict[str, object]]] = []
        for one in parcels:
            asked = documents.get(one.assignment_id)
            about = {"assignment": one.assignment_id, "study": asked.study_digest if asked else ""}
            lines.append(("backup.counted", {**about, "parcel": one.parcel_id, "bytes": one.size_bytes}))
        if lines:
            self._site.journal.append_all(lines)

    def _unfollowed(self, digest: str, study: Study) -> None:
        """About whom something left is lost, so nobody's withdrawal would be told: nothing more of the study leaves.

        Where a run's rows were noted before the backup, they are those of its later updates too.
        """
        site = self._site
        known = site.subjects.known(digest)
        if not (study.lane is Lane.TRAIN and known is not None) and not site.subjects.left(digest):
            site.journal.append("consent.unknown", study=digest)
            site.subjects.close(digest, study.dataset.name)

    def _signed(self, documents: dict[str, Assignment], asked: Assignment | None) -> Assignment:
        """The study of an assignment, by its signature alone: that it has expired does not unspend it."""
        digest = "" if asked is None else asked.study_digest
        found = [one for one in documents.values() if (one.kind, one.study_digest) == (AssignmentKind.STUDY, digest)]
        known = self._site.state.study(digest)
        for one in [*found, *([known.assignment] if known else [])]:
            if study_digest(one.document) != digest:
                continue
            try:
                self._site.identity.study_key.verify(Purpose.STUDY, one.document, one.signature)
            except IntegrityError:
                continue
            return one
        raise StudyRefused("study.signature", "a parcel has landed for a study that the pinned key did not sign")

    # --- what goes on

    def _settle(self, documents: dict[str, Assignment], done: set[str]) -> None:
        """What is over at the centre is not done again; no round under masks of before is answered any more."""
        site = self._site
        for record in site.state.open():
            if record.assignment.id in done:
                site.state.move(record.assignment.id, State.DONE)
                site.journal.append("assignment.done", assignment=record.assignment.id)
        known = [record.assignment for record in site.state.studies(1 << 30)]
        studies = {one.study_digest: one for one in (*documents.values(), *known)}
        for digest, one in studies.items():
            try:
                study = parsed(self._signed(documents, one).document)
            except CorsiaError:
                continue  # it cannot run either
            if study.lane is Lane.TRAIN and study.privacy.secure_aggregation and not site.approvals.refused(digest):
                site.state.set_approval(digest, "refused", _RESTORE, site.approvals.code(digest))
                site.journal.append("study.refused", study=digest, approver=_RESTORE)


def _instruction(study: Study, asked: Assignment | None) -> RoundInstruction | None:
    """The instruction that an update answers, if the study's own federation signed it."""
    key = study.recipient("federation")
    if asked is None or key is None or asked.kind is not AssignmentKind.ROUND:
        return None
    try:
        PublicKey.from_base64(key).verify(Purpose.ROUND, asked.document, asked.signature)
        made = RoundInstruction.from_bytes(asked.document)
    except (IntegrityError, InputError):
        return None
    return made if made.study_digest == asked.study_digest else None


def _cost(study: Study, instruction: RoundInstruction | None, *, rounds: bool) -> Curve | None:
    """What a release cost at most: by the study's own numbers, which a site's policy can only have lowered.

    An update of which it is not known what it answers costs as the dearest phase; one without noise has no bound.

    Raises:
        PolicyRefused, InputError: it cannot be priced.
    """
    if study.privacy.dp == "none" or not rounds:
        return noising.cost(study)
    if instruction is not None and instruction.step not in (None, MaskStep.MASK):
        return ZERO
    costs: list[Curve | None] = []
    for phase in RoundPhase if instruction is None else (instruction.phase,):
        try:
            costs.append(noising.cost(study, phase))
        except PolicyRefused:  # not noised, and so not answered
            continue
    return greatest(costs) if costs else noising.cost(study)
