"""What a phase of a run leaves on the disk, and when it goes: each instruction's message and each site's sealed answer.

    phase begins -> the phases before it are durable in their checkpoint -> `forget` -> files gone, then rows say so

A message holds the whole model, once a site and phase, so a run that kept them would fill any disk. Rows, receipts and
log entries stay: of an answer its digest, of an instruction its signed document. Files go first: a process that dies
in between finds the rows unchanged and does it again.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from sqlalchemy import String, cast, select, update
from sqlalchemy.orm import Session

from central.store import Store
from central.store.models import AssignmentRow, ModelRow, ParcelRow, RoundRow, RunRow
from protocol.assignment import AssignmentKind, RoundInstruction, RoundPhase
from protocol.parcel import ContentType

__all__ = ["forget", "forget_rounds"]

_ORDER = {phase: place for place, phase in enumerate((RoundPhase.PREPARE, RoundPhase.TRAIN, RoundPhase.EVALUATE))}
_NAMES_BLOBS = cast(AssignmentRow.blobs, String) != "[]"


def forget(store: Store, landing: Path, digest: str, before: tuple[int, RoundPhase] | None = None) -> int:
    """Remove messages and answers of a run's instructions that nothing reads again. Repeatable.

    Args:
        store: the central database.
        landing: the gateway's landing folder.
        digest: the study's.
        before: round and phase that begin now; None when the run is over.

    Returns:
        How many instructions were forgotten.
    """
    with store.begin() as session:
        rows = session.execute(
            select(AssignmentRow.seq, AssignmentRow.id, AssignmentRow.document, AssignmentRow.blobs).where(
                AssignmentRow.study_digest == digest, AssignmentRow.kind == AssignmentKind.ROUND.value, _NAMES_BLOBS
            )
        ).all()
        old = {
            made: (seq, blobs) for seq, made, document, blobs in rows if before is None or _earlier(document, before)
        }
        if not old:
            return 0
        for parcel in _answers(session, digest, old):
            (landing / f"{parcel}.parcel").unlink(missing_ok=True)
        messages = {name for _, blobs in old.values() for name in _digests(blobs)}
        for message in messages - _named(session, messages, old):
            store.drop_blob(message)
        emptied: list[dict[str, Any]] = [{"seq": seq, "blobs": []} for seq, _ in old.values()]
        session.execute(update(AssignmentRow), emptied)
    return len(old)


def forget_rounds(store: Store, digest: str) -> int:
    """Remove the checkpoints' blobs of an ended run, but what is published; metrics and sites stay. Repeatable.

    Returns:
        How many rounds had any.
    """
    with store.begin() as session:
        run = session.scalar(select(RunRow.id).where(RunRow.study_digest == digest))
        rows = session.scalars(select(RoundRow).where(RoundRow.run == run, RoundRow.arrays != "")).all()
        blobs = {blob for row in rows for blob in (row.arrays, row.state) if blob}
        others = select(RoundRow).where(RoundRow.run != run, RoundRow.arrays.in_(blobs) | RoundRow.state.in_(blobs))
        kept = {blob for row in session.scalars(others) for blob in (row.arrays, row.state)}
        for column in (ModelRow.manifest, ModelRow.weights):
            kept |= set(session.scalars(select(column).where(column.in_(blobs))))
        for blob in blobs - kept:
            store.drop_blob(blob)
        for row in rows:
            row.arrays = row.state = ""
        return len(rows)


def _earlier(document: bytes, than: tuple[int, RoundPhase]) -> bool:
    asked = RoundInstruction.from_bytes(document)
    return (asked.round, _ORDER[asked.phase]) < (than[0], _ORDER[than[1]])


def _answers(session: Session, digest: str, old: Iterable[str]) -> list[str]:
    wanted = set(old)
    parcels = session.execute(
        select(ParcelRow.id, ParcelRow.assignment_id)
        .join(AssignmentRow, AssignmentRow.id == ParcelRow.assignment_id)
        .where(AssignmentRow.study_digest == digest, ParcelRow.content_type == ContentType.UPDATE.value, _NAMES_BLOBS)
    )
    return [parcel for parcel, assignment in parcels if assignment in wanted]


def _named(session: Session, messages: set[str], old: Iterable[str]) -> set[str]:
    """Those that something else names too: blobs are kept by their content, whoever put them there."""
    others = set(old)
    named: set[str] = set()
    for made, blobs in session.execute(select(AssignmentRow.id, AssignmentRow.blobs).where(_NAMES_BLOBS)):
        if made not in others:
            named |= messages & _digests(blobs)
    for column in (ModelRow.manifest, ModelRow.weights, RoundRow.arrays, RoundRow.state):
        named |= set(session.scalars(select(column).where(column.in_(messages))))
    return named


def _digests(blobs: list[Any]) -> set[str]:
    return {str(blob["digest"]) for blob in blobs}
