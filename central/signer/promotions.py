"""A version of a model gets an alias by two operators: the manifest that comes of what `decisions.py` takes."""

from __future__ import annotations

import base64
import json
from typing import Any

from sqlalchemy import func, select, update
from sqlalchemy.orm import Session

from central.decisions import Proposal
from central.operators import Operator
from central.signer.authority import Authority
from central.store import Store
from central.store.models import ModelRow, PromotionRow
from central.store.published import is_withdrawn
from protocol.errors import ConflictError, InputError, IntegrityError
from protocol.parcel import canonical_json
from protocol.study import CANDIDATE
from protocol.trust import Purpose

__all__ = ["Promotions"]


class Promotions:
    """The kind `propose` of `central.signer.decisions`.

    Args:
        store: the central database.
        authority: the publication key.
    """

    event, done = "model.proposed", "model.promoted"

    def __init__(self, store: Store, authority: Authority) -> None:
        self._store, self._authority = store, authority

    def standing(self, session: Session, asked: Proposal) -> None:
        """Whether the proposal fits what stands now.

        Raises:
            InputError: `input.usage` for a model, version or alias that cannot be.
            IntegrityError: `model.rollback` for a lower version that is not proposed as a roll-back;
                `model.manifest`.
            ConflictError: `conflict.state` when the alias has moved, or leads to this version already.
        """
        self._standing(session, asked)

    def row(self, session: Session, asked: Proposal) -> PromotionRow:
        """A new row; an open one for the same name and alias is replaced."""
        session.execute(
            update(PromotionRow)
            .where(PromotionRow.name == asked.name, PromotionRow.alias == asked.alias)
            .where(PromotionRow.state == "open")
            .values(state="replaced")
        )
        return PromotionRow(
            id=asked.id, name=asked.name, version=asked.version, alias=asked.alias, rollback=asked.rollback
        )

    def told(self, row: PromotionRow) -> dict[str, Any]:
        """Name, version and serial of the manifest."""
        return {"name": row.name, "version": row.version, "serial": row.serial}

    def carry_out(self, session: Session, asked: Proposal, asker: Operator, approver: Operator) -> dict[str, Any]:
        """Sign, log and keep the manifest."""
        serial = self._promote(session, asked, asker, approver)
        return {"name": asked.name, "version": asked.version, "serial": serial}

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
