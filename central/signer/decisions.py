"""What takes two operators: one asks, the question is kept, another's word carries it out.

    propose (A signs) -> a row -> approve (B signs) -> log leaf and what the kind does, in one transaction

The database only carries what A signed; it is verified again when B approves, so that nobody who can write the
database, or call this process, stands for a person. What is decided is the affair of a `Kind`: `promotions.py`,
`admissions.py`, `exports.py`.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping
from typing import Any, Protocol

from sqlalchemy.orm import Session

from central.decisions import Asked, agreed, check, read
from central.operators import Operator, Operators
from central.store import Store
from central.store.models import DecisionRow, PromotionRow
from protocol.errors import AuthenticationError, ConflictError, InputError

__all__ = ["Decisions", "Kind", "Row"]

Row = PromotionRow | DecisionRow
_log = logging.getLogger("central.signer")


class Kind(Protocol):
    """One thing that two operators decide."""

    event: str  # of a proposal; and of what was done, `done`
    done: str

    def standing(self, session: Session, asked: Any) -> None:
        """Raise why this cannot be asked as things stand now."""
        ...

    def row(self, session: Session, asked: Any) -> Row:
        """A new row for the question; open ones of the same matter are replaced."""
        ...

    def carry_out(self, session: Session, asked: Any, asker: Operator, approver: Operator) -> dict[str, Any]:
        """Do it; returns what is told of it. The transaction is committed after it."""
        ...

    def told(self, row: Any) -> dict[str, Any]:
        """What was told of a question that was carried out."""
        ...


class Decisions:
    """Takes questions and approvals.

    Args:
        store: the central database.
        operators: who may ask and approve.
        kinds: action of a statement -> what decides on it.
    """

    def __init__(self, store: Store, operators: Operators, kinds: Mapping[str, Kind]) -> None:
        self._store, self._operators, self._kinds = store, operators, kinds

    def propose(self, operator: Operator, statement: bytes, signature: bytes) -> dict[str, Any]:
        """Keep an operator's signed question.

        Raises:
            InputError: `input.message`; `input.usage` for what cannot be asked.
            AuthenticationError: `auth.operator`.
            ConflictError: `conflict.state` when it is so already; `conflict.exists` for another under this id.
            CorsiaError: what the kind raises.
        """
        asked = read(statement)
        if asked.operator != operator.name:
            raise AuthenticationError("auth.operator", "the proposal is signed in another operator's name")
        check(asked, signature, operator.public)
        kind = self._kinds[asked.action]
        with self._store.begin() as session:
            known = _row(session, asked.id)
            if known is None:
                kind.standing(session, asked)
                known = kind.row(session, asked)
                known.statement, known.signature = statement, signature
                known.proposed_by, known.proposed_at = operator.name, time.time()
                session.add(known)
                self._store.emit(session, kind.event, **_fields(asked))
            elif known.statement != statement:
                raise ConflictError("conflict.exists", "a proposal with this id exists")
        return {"id": asked.id, "state": known.state or "open"}

    def approve(self, operator: Operator, proposal_id: str, signature: bytes) -> dict[str, Any]:
        """Carry out what an open proposal asks for; again by the same person changes nothing.

        Raises:
            InputError: `input.usage` when there is no such proposal.
            PermissionRefused: `permission.second-person`.
            AuthenticationError: `auth.operator`, also when the proposer is no operator any more.
            ConflictError: `conflict.state` when it is not open, or things have changed since.
            CorsiaError: what the kind raises.
        """
        with self._store.begin() as session:
            row = _row(session, proposal_id)
            if row is None:
                raise InputError("input.usage", "no such proposal")
            asked, asker = agreed(row.statement, row.signature, operator, signature, self._operators.get)
            kind = self._kinds[asked.action]
            if row.state != "open":
                if (row.state, row.approved_by) == ("approved", operator.name):
                    return {"id": row.id, **kind.told(row)}
                raise ConflictError("conflict.state", "the proposal is not open any more")
            kind.standing(session, asked)
            told = kind.carry_out(session, asked, asker, operator)
            row.state, row.approved_by = "approved", operator.name
            if isinstance(row, DecisionRow):
                row.approval, row.outcome = signature, told
            else:
                row.serial = told["serial"]
            fields = _fields(asked) | {name: told[name] for name in ("serial",) if name in told}
            self._store.emit(session, kind.done, **fields)
        _log.info(kind.done, extra={"fields": fields})
        return {"id": asked.id, **told}


def _row(session: Session, name: str) -> Row | None:
    return session.get(PromotionRow, name) or session.get(DecisionRow, name)


def _fields(asked: Asked) -> dict[str, Any]:
    """What events and logs say of a question."""
    names = {"name": "model", "version": "version", "site": "site", "study": "study"}
    return {told: getattr(asked, name) for name, told in names.items() if hasattr(asked, name)}
