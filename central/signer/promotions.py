"""Two operators give a version of a model its alias: the proposal is kept, the second person's word makes a manifest.

    propose (A signs) -> promotions table -> approve (B signs) -> log leaf, manifest, row, in one transaction

The database only carries what A signed; it is verified again when B approves, so that nobody who can write the
database, or call this process, stands for a person.
"""

from __future__ import annotations

import base64
import json
import logging
import time
from typing import Any

from sqlalchemy import func, select, update
from sqlalchemy.orm import Session

from central.operators import Operator, Operators
from central.promotions import Approval, Proposal, check
from central.signer.authority import Authority
from central.store import Store
from central.store.models import ModelRow, PromotionRow
from central.store.published import is_withdrawn
from protocol.errors import (
    AuthenticationError,
    ConflictError,
    InputError,
    IntegrityError,
    PermissionRefused,
)
from protocol.parcel import canonical_json
from protocol.study import CANDIDATE
from protocol.trust import Purpose

__all__ = ["Promotions"]

_log = logging.getLogger("central.signer")


class Promotions:
    """Takes proposals and approvals.

    Args:
        store: the central database.
        authority: the publication key.
        operators: who may propose and approve.
    """

    def __init__(self, store: Store, authority: Authority, operators: Operators) -> None:
        self._store, self._authority, self._operators = store, authority, operators

    def propose(self, operator: Operator, statement: bytes, signature: bytes) -> dict[str, Any]:
        """Keep an operator's signed proposal; an open one for the same name and alias is replaced.

        Raises:
            InputError: `input.message`, or `input.usage` for a model, version or alias that cannot be.
            AuthenticationError: `auth.operator`.
            IntegrityError: `model.rollback` for a lower version that is not proposed as a roll-back;
                `model.manifest`.
            ConflictError: `conflict.state` when the alias has moved, or leads to this version already.
        """
        proposal = _proposal(statement)
        if proposal.operator != operator.name:
            raise AuthenticationError("auth.operator", "the proposal is signed in another operator's name")
        check(proposal, signature, operator.public)
        with self._store.begin() as session:
            known = session.get(PromotionRow, proposal.id)
            if known is None:
                self._standing(session, proposal)
                session.execute(
                    update(PromotionRow)
                    .where(PromotionRow.name == proposal.name, PromotionRow.alias == proposal.alias)
                    .where(PromotionRow.state == "open")
                    .values(state="replaced")
                )
                known = PromotionRow(
                    id=proposal.id,
                    name=proposal.name,
                    version=proposal.version,
                    alias=proposal.alias,
                    rollback=proposal.rollback,
                    statement=statement,
                    signature=signature,
                    proposed_by=operator.name,
                    proposed_at=time.time(),
                )
                session.add(known)
                self._store.emit(session, "model.proposed", model=proposal.name, version=proposal.version)
            elif known.statement != statement:
                raise ConflictError("conflict.exists", "a proposal with this id exists")
        return {"id": proposal.id, "state": known.state or "open"}

    def approve(self, operator: Operator, proposal_id: str, signature: bytes) -> dict[str, Any]:
        """Sign, log and keep the manifest that an open proposal asks for; again by the same person changes nothing.

        Raises:
            InputError: `input.usage` when there is no such proposal.
            PermissionRefused: `permission.second-person`.
            AuthenticationError: `auth.operator`, also when the proposer is no operator any more.
            ConflictError: `conflict.state` when it is not open, or the alias has moved since.
            IntegrityError: `model.manifest`.
        """
        with self._store.begin() as session:
            row = session.get(PromotionRow, proposal_id)
            if row is None:
                raise InputError("input.usage", "no such proposal")
            proposal = _proposal(row.statement)
            proposer = self._operators.get(proposal.operator)
            if proposer is None:
                raise AuthenticationError("auth.operator", "who proposed it is no operator any more: propose again")
            check(proposal, row.signature, proposer.public)
            if operator.name == proposer.name or operator.key == proposer.key or operator.access == proposer.access:
                raise PermissionRefused("permission.second-person")
            check(Approval.of(row.statement, operator.name), signature, operator.public)
            if row.state != "open":
                if (row.state, row.approved_by) == ("approved", operator.name):
                    return {"id": row.id, "name": row.name, "version": row.version, "serial": row.serial}
                raise ConflictError("conflict.state", "the proposal is not open any more")
            serial = self._promote(session, proposal, proposer, operator)
            row.state, row.approved_by, row.serial = "approved", operator.name, serial
        fields = {"model": proposal.name, "version": proposal.version, "serial": serial}
        _log.info("model.promoted", extra={"fields": fields})
        return {"id": proposal.id, "name": proposal.name, "version": proposal.version, "serial": serial}

    def _promote(self, session: Session, proposal: Proposal, proposer: Operator, approver: Operator) -> int:
        from pipelines.infer import log_leaf  # heavy

        model, value = self._standing(session, proposal)
        newest = session.scalar(select(func.max(ModelRow.serial)).where(ModelRow.name == proposal.name)) or 0
        value.pop("log", None)
        value |= {
            "alias": proposal.alias,
            "serial": newest + 1,
            "promotion": {
                "proposed_by": proposer.name,
                "approved_by": approver.name,
                "rollback": proposal.rollback,
                "replaces": proposal.replaces,
            },
        }
        value["log"] = {"index": self._store.append_leaf(session, log_leaf(value)), "leaf": log_leaf(value)}
        signature = self._authority.publication_key.sign(Purpose.MANIFEST, canonical_json(value))
        document = canonical_json({"manifest": value, "signature": base64.b64encode(signature).decode()})
        held = self._store.put_blob("manifest.json", document)
        session.execute(
            update(ModelRow)
            .where(ModelRow.name == proposal.name, ModelRow.alias == proposal.alias)
            .values(alias="")  # an alias names one version
        )
        model.alias, model.serial = proposal.alias, newest + 1
        model.manifest, model.manifest_size = held.digest, held.size_bytes
        fields: dict[str, Any] = {"model": proposal.name, "version": proposal.version, "serial": newest + 1}
        self._store.emit(session, "model.promoted", **fields)
        return newest + 1

    def _standing(self, session: Session, proposal: Proposal) -> tuple[ModelRow, dict[str, Any]]:
        """The version and its manifest as signed, if the proposal fits what stands now."""
        if proposal.alias == CANDIDATE:
            raise InputError("input.usage", f"alias {proposal.alias} is given by publishing alone")
        model = session.get(ModelRow, (proposal.name, proposal.version))
        if model is None:
            raise InputError("input.usage", f"no version {proposal.version} of {proposal.name} is published")
        if is_withdrawn(session, model.name, model.version):
            raise ConflictError("conflict.state", "this version was withdrawn with the data that it was trained with")
        value = self._signed(model)
        if value.get("weights", {}).get("sha256") != proposal.weights or model.weights != proposal.weights:
            raise IntegrityError("model.manifest", "the proposal names other weights than the version has")
        holder = session.scalar(
            select(ModelRow).where(ModelRow.name == proposal.name, ModelRow.alias == proposal.alias)
        )
        if proposal.replaces != (holder.serial if holder else 0):
            raise ConflictError("conflict.state", f"{proposal.alias} has moved since: propose again")
        if holder is not None and holder.version == proposal.version:
            raise ConflictError("conflict.state", f"version {proposal.version} is {proposal.alias} already")
        lower = holder is not None and proposal.version < holder.version
        if lower and not proposal.rollback:
            raise IntegrityError("model.rollback", "the version is lower than the present one")
        if proposal.rollback and not lower:
            raise InputError("input.usage", "not a roll-back: no higher version has the alias")
        return model, value

    def _signed(self, model: ModelRow) -> dict[str, Any]:
        from pipelines.infer import Manifest, sign_bytes

        read = Manifest.from_bytes(self._store.get_blob(model.manifest))
        try:
            self._authority.publication_key.public.verify(Purpose.MANIFEST, sign_bytes(read.value), read.signature)
        except IntegrityError:
            raise IntegrityError("model.manifest") from None
        if (read.name, read.version) != (model.name, model.version):
            raise IntegrityError("model.manifest", "the version's manifest is of another version")
        made: dict[str, Any] = json.loads(canonical_json(dict(read.value)))
        return made


def _proposal(statement: bytes) -> Proposal:
    proposal = Proposal.from_bytes(statement)
    if proposal.to_bytes() != statement:
        raise InputError("input.message", "the proposal is not canonical")
    return proposal
