"""Out of the spool onto a medium, and the centre's receipts back: egress by hand, for a site without a line.

Place in the flow: released parcels -> `export` -> a folder -> `corsia central spool import` -> the same folder ->
`bring` -> delivery. It sees ciphertext alone. An export changes nothing in the spool; a verified receipt ends a parcel.
Source: `docs/spec/medium.md`, `docs/adr/0015-parcels-by-hand.md`.
"""

from __future__ import annotations

import hashlib
import os
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

from edge.approvals import Approvals
from edge.arrivals import Arrivals
from edge.brakes import Brakes
from edge.config import EdgeConfig
from edge.deliver import Delivery
from edge.identity import Identity
from edge.journal import Journal
from edge.ledger import Ledger
from edge.logview import LogView
from edge.plugins import PluginCode
from edge.site import is_paused, locked
from edge.spool import Spool, SpoolEntry
from edge.state import SiteState
from edge.storage import TEMPORARY, named_errors, sync_folder, write_file
from edge.studies import check_may_leave
from edge.subjects import Subjects
from edge.withdrawals import gone_now
from pipelines import registry
from privacy.transparency import verify_receipt
from protocol.errors import ConflictError, CorsiaError, IntegrityError, Paused, PolicyRefused, StudyRefused
from protocol.medium import Note, SignedNote, named, open_plain, read_document, read_receipt
from protocol.parcel import ContentType, Receipt
from protocol.trust import Purpose

__all__ = ["Brought", "Exported", "bring", "export"]

_PIECE_BYTES = 1 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Exported:
    """What lies on the medium now, and what was left out, by code."""

    parcels: tuple[str, ...]
    size_bytes: int
    left: dict[str, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Brought:
    """Receipts found on a medium: of parcels that may go now, of parcels that had gone, of others' parcels."""

    receipts: tuple[str, ...]
    known: int
    foreign: int
    running: bool  # a daemon has this site and takes them in; else it has been done


def export(config: EdgeConfig, folder: Path) -> Exported:
    """Copy what waits in the spool, with signed notes. Doing it again copies what is missing or damaged there.

    Args:
        config: the site's.
        folder: made when absent; what else lies there stays.

    Raises:
        Paused: `paused.site`.
        BudgetExceeded: `budget.ledger`; IntegrityError: `journal.chain`. Nothing leaves then.
        StorageError: `storage.full`, `storage.failed`: the medium or the site's disk; parcels with a note are whole.
        AuthenticationError: `auth.not-enrolled`.
    """
    if is_paused(config.state_dir):
        raise Paused("paused.site")
    identity = Identity.load(config.state_dir, offline=True)
    spool = Spool(config.state_dir / "spool", config.limits.spool_bytes)
    journal = Journal(config.state_dir / "journal.jsonl")
    subjects = Subjects(config.state_dir / "subjects")
    gone = cache(lambda digest: gone_now(config, subjects.known(digest), digest))  # no daemon may have looked yet
    done: list[SpoolEntry] = []
    left: Counter[str] = Counter()
    with _state(config) as state:
        journal.verify(state.fact("journal_head"))
        with closing(Ledger(config.state_dir / "ledger.db")) as ledger:
            ledger.verify(state.fact("ledger_head"))
        approvals = Approvals(state, registry.code_digest, PluginCode(config, state).digest)
        with named_errors():
            folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        for entry in spool.pending():
            if entry.content_type == ContentType.UPDATE.value:
                left["study.late"] += 1  # its round is over before a medium has been carried anywhere
                continue
            try:
                if entry.content_type != ContentType.WITHDRAWAL.value:  # which may leave whatever the site has refused
                    check_may_leave(state, approvals, entry.study_digest)
                    if subjects.left(entry.study_digest) or gone(entry.study_digest):
                        raise StudyRefused("study.withdrawn")
                _put(spool, journal, identity, entry, folder)
                done.append(entry)
            except (PolicyRefused, StudyRefused, IntegrityError, ConflictError) as error:
                if error.code == "journal.chain":
                    raise  # no word of it could be written down: nothing more leaves
                left[error.code] += 1
    size = sum(entry.size_bytes for entry in done)
    return Exported(parcels=tuple(entry.parcel_id for entry in done), size_bytes=size, left=dict(left))


def bring(config: EdgeConfig, folder: Path) -> Brought:
    """Take the centre's receipts from a medium: all that are this site's verify, or nothing changes.

    Raises:
        IntegrityError: `log.proof`.
        InputError: `input.medium`.
        StorageError: `storage.full`, `storage.failed`.
        AuthenticationError: `auth.not-enrolled`.
    """
    identity = Identity.load(config.state_dir, offline=True)
    spool = Spool(config.state_dir / "spool", config.limits.spool_bytes)
    arrivals = Arrivals(spool.root)
    waiting = {entry.parcel_id: entry for entry in spool.pending()}
    gone = {entry.parcel_id for at, entry in spool.entries() if at == "sent"}
    found: list[Receipt] = []
    known = foreign = 0
    with named_errors():
        for parcel_id, path in named(folder, "receipt"):
            entry = waiting.get(parcel_id)
            if entry is None:
                known, foreign = known + (parcel_id in gone), foreign + (parcel_id not in gone)
                continue
            receipt = read_receipt(read_document(path))
            if (receipt.parcel_id, receipt.digest) != (entry.parcel_id, entry.digest):
                raise IntegrityError("log.proof", "the receipt is for another parcel")
            verify_receipt(receipt, identity.log_key, identity.trust.log_origin)
            found.append(receipt)
    for receipt in found:
        arrivals.keep(receipt)
    ids = tuple(receipt.parcel_id for receipt in found)
    return Brought(receipts=ids, known=known, foreign=foreign, running=not _take_in(config, identity, spool))


def _take_in(config: EdgeConfig, identity: Identity, spool: Spool) -> bool:
    """What the daemon's delivery thread would do now; False when there is a daemon, which will."""
    with ExitStack() as held:
        try:
            held.enter_context(locked(config.state_dir))
        except ConflictError:
            return False
        state = held.enter_context(_state(config))
        spool.recover()
        journal = Journal(config.state_dir / "journal.jsonl")

        view = LogView(state)
        brakes = Brakes(config.state_dir, threading.Event(), journal, spool, view)
        delivery = Delivery(
            spool=spool,
            journal=journal,
            state=state,
            trust=lambda: (identity.log_key, identity.trust.log_origin),
            should_stop=lambda: True,
            may_leave=lambda _digest: None,
            view=view,
            distrust=brakes.distrust,
        )
        delivery.take_in_all()
        return True


def _put(spool: Spool, journal: Journal, identity: Identity, entry: SpoolEntry, folder: Path) -> None:
    """One parcel and its note onto the medium, journalled first; the parcel is read back from there."""
    target, note_path = folder / f"{entry.parcel_id}.parcel", folder / f"{entry.parcel_id}.note"
    note = Note(
        site=identity.site,
        sequence=entry.sequence,
        parcel_id=entry.parcel_id,
        study_digest=entry.study_digest,
        assignment_id=entry.assignment_id,
        content_type=entry.content_type,
        size_bytes=entry.size_bytes,
        digest=entry.digest,
    )
    journal.append(
        "parcel.exported",
        assignment=entry.assignment_id,
        parcel=entry.parcel_id,
        sha256=entry.digest,
        bytes=entry.size_bytes,
    )
    if not _is_there(target, entry):
        _copy(spool, entry, target)
    signature = identity.key.sign(Purpose.MEDIUM, note.document())
    with named_errors():
        write_file(note_path, SignedNote(note=note, signature=signature).to_bytes())


def _copy(spool: Spool, entry: SpoolEntry, target: Path) -> None:
    """Raises `parcel.chunk` when the spool's file is not what was sealed, StorageError for the medium."""
    half = target.with_name(TEMPORARY + target.name)
    digest = hashlib.sha256()
    with named_errors():
        try:
            half.unlink(missing_ok=True)
            handle = os.open(half, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
            with spool.open(entry) as source, os.fdopen(handle, "wb") as copy:
                while piece := source.read(_PIECE_BYTES):
                    digest.update(piece)
                    copy.write(piece)
                copy.flush()
                os.fsync(copy.fileno())
                os.posix_fadvise(copy.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)  # what is read next is the medium's
            if digest.hexdigest() != entry.digest:
                raise IntegrityError("parcel.chunk", "the parcel is damaged in the spool")
            if not _is_there(half, entry):
                raise OSError("the medium does not give back what was written")
            os.rename(half, target)
            sync_folder(target.parent)
        finally:
            half.unlink(missing_ok=True)


def _is_there(path: Path, entry: SpoolEntry) -> bool:
    try:
        with open_plain(path) as file:
            same = os.fstat(file.fileno()).st_size == entry.size_bytes
            return same and hashlib.file_digest(file, "sha256").hexdigest() == entry.digest
    except (OSError, CorsiaError):
        return False


@contextmanager
def _state(config: EdgeConfig) -> Iterator[SiteState]:
    state = SiteState(config.state_dir / "state.db")
    try:
        yield state
    finally:
        state.close()
