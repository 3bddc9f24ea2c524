"""A study's rows leave the vault by two operators: what the signer notes of it; the vault looks for itself."""

from __future__ import annotations

import hashlib
import time
from typing import Any

from sqlalchemy.orm import Session

from central.decisions import Export
from central.operators import Operator
from central.store import Store
from central.store.models import DecisionRow, StudyRow
from protocol.errors import InputError, StudyRefused
from protocol.study import Lane

__all__ = ["Exports"]

_LANES = {Lane.HARVEST.value, Lane.ANONYMIZE.value, Lane.EXTRACT.value}


class Exports:
    """The kind `export` of `central.signer.decisions`."""

    event, done = "export.proposed", "export.approved"

    def __init__(self, store: Store) -> None:
        self._store = store

    def standing(self, session: Session, asked: Export) -> None:
        """Whether there is this study, with rows of its own.

        Raises:
            StudyRefused: `study.unknown`, also when the id names other bytes than were signed for.
            InputError: `input.usage` for a lane that brings no rows.
            ConflictError: `conflict.state` when it was asked for too long ago, or is dated ahead.
        """
        asked.check_age(time.time())
        row = session.get(StudyRow, asked.study)
        if row is None or row.digest != asked.digest:
            raise StudyRefused("study.unknown")
        if row.lane not in _LANES:
            raise InputError("input.usage", f"a study of lane {row.lane} has no rows to export")

    def row(self, _session: Session, asked: Export) -> DecisionRow:
        """A new row: several operators may ask for the same study."""
        return DecisionRow(id=asked.id, kind=asked.action, subject=asked.study)

    def told(self, row: DecisionRow) -> dict[str, Any]:
        """The study."""
        return dict(row.outcome)

    def carry_out(self, session: Session, asked: Export, _asker: Operator, _approver: Operator) -> dict[str, Any]:
        """Log it, before a byte leaves: the digest is of what the first operator signed."""
        digest = hashlib.sha256(asked.to_bytes()).hexdigest()
        self._store.append_leaf(session, {"kind": "export", "id": asked.id, "study": asked.digest, "sha256": digest})
        return {"study": asked.study}
