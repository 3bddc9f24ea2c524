"""Composes and signs studies and model manifests: what a site will believe is decided here.

A draft says what is asked. Who may open the results (recipients) and who takes part under which identity (roster)
are filled in here, from the key holders and the register of sites, never from the caller.
"""

from __future__ import annotations

import json
import logging
import secrets
import threading
import time
from collections.abc import Callable
from dataclasses import asdict
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import select
from sqlalchemy.orm import Session

from central.signer.authority import Authority
from central.store import Store
from central.store.models import AssignmentRow, EntitlementRow, ModelRow, PromotionRow, SiteRow, StudyRow
from central.store.published import is_withdrawn
from privacy.envelope import PublicKey
from protocol.assignment import AssignmentKind, Blob, State
from protocol.errors import InputError, IntegrityError, PermissionRefused, StudyRefused, UnavailableError
from protocol.parcel import canonical_json
from protocol.study import Lane, Recipient, Study, dump_study, parse_study, study_digest
from protocol.trust import Purpose

__all__ = ["NewKey", "Studies"]

MAX_MANIFEST_BYTES = 1 << 20
NewKey = Callable[[str, str], str]  # (role, study id) -> base64 public key; the same key when asked again
_log = logging.getLogger("central.signer")


class Studies:
    """Signs drafts into studies, once per id.

    Args:
        store: the central database.
        authority: the signing keys.
        new_key: asks the process of a role for the study's key.
        admitted: raises for sites that may not take part under their fingerprints.
    """

    def __init__(
        self, store: Store, authority: Authority, new_key: NewKey, admitted: Callable[[dict[str, str]], None]
    ) -> None:
        self._store = store
        self._authority = authority
        self._new_key = new_key
        self._check_admitted = admitted
        self._lock = threading.Lock()

    def submit(self, raw: bytes, account: str = "") -> tuple[str, str]:
        """Sign a draft and assign it to its sites, in one transaction; returns id and digest.

        The same draft again returns the same digest and changes nothing.

        Args:
            account: who may read what comes of it, beside operators.

        Raises:
            InputError: `input.study`, also for a draft that brings recipients or a roster.
            StudyRefused: `study.expired`, or `study.exists` for another draft under the same id.
            PermissionRefused: `permission.site`, a site is not enrolled or is revoked; `permission.admission`.
            UnavailableError: the process that holds the study's key does not answer; nothing is signed.
        """
        draft = parse_study(raw)
        if draft.recipients or draft.roster:
            raise InputError("input.study", "recipients, roster: the centre's signer adds them; leave them out")
        draft.check_valid_at(datetime.now(UTC))
        with self._lock:
            known = self._known(draft)
            if known is not None:
                return known
            publish = draft.training.publish if draft.training else None
            if publish is not None and self._promoted(publish.model, publish.alias):  # else the end of the run says it
                raise InputError("input.study", f"training.publish.alias: two operators give {publish.alias!r} now")
            roster = self._roster(draft)
            study = draft.model_copy(update={"recipients": self._recipients(draft), "roster": roster})
            document = dump_study(study)
            parse_study(document)  # what is signed must read back
            self._write(study, document, self._authority.study_key.sign(Purpose.STUDY, document), account)
            return study.id, study_digest(document)

    def sign_manifest(self, digest: str, text: str) -> bytes:
        """Sign a model manifest, if a signed study publishes exactly this model.

        The signature (context `Purpose.MANIFEST`) covers the manifest's canonical JSON.

        Raises:
            StudyRefused: `study.unknown`, or `study.signature` when the stored study is not ours.
            InputError: `input.message`, no manifest.
            PermissionRefused: `permission.role`, another model, alias or study than the study names.
        """
        with self._store.read() as session:
            row = session.scalar(select(StudyRow).where(StudyRow.digest == digest))
        if row is None or study_digest(row.document) != digest:
            raise StudyRefused("study.unknown")
        try:
            self._authority.study_key.public.verify(Purpose.STUDY, row.document, row.signature)
        except IntegrityError:
            raise StudyRefused("study.signature") from None
        manifest = _manifest(text)
        training = parse_study(row.document).training
        if (
            training is None
            or (manifest.get("name"), manifest.get("alias")) != (training.publish.model, training.publish.alias)
            or manifest.get("study") not in (row.id, digest)
            or "promotion" in manifest
            or self._promoted(training.publish.model, training.publish.alias)
        ):
            raise PermissionRefused("permission.role", "the study does not publish this model")
        self._no_rollback(manifest, digest)
        return self._authority.publication_key.sign(Purpose.MANIFEST, canonical_json(manifest))

    def _promoted(self, name: str, alias: str) -> bool:
        """Whether two operators have given this alias before: then no study may take it."""
        query = select(PromotionRow.id).where(PromotionRow.name == name, PromotionRow.alias == alias)
        with self._store.read() as session:
            return session.scalar(query.where(PromotionRow.state == "approved").limit(1)) is not None

    def _no_rollback(self, manifest: dict[str, Any], digest: str) -> None:
        serial = manifest.get("serial")
        if not isinstance(serial, int) or isinstance(serial, bool) or serial < 1:
            raise InputError("input.message", "manifest: serial")
        with self._store.read() as session:
            newest = session.scalar(
                select(ModelRow).where(ModelRow.name == manifest["name"]).order_by(ModelRow.serial.desc()).limit(1)
            )
        if newest is not None and (
            serial < newest.serial or (serial == newest.serial and newest.study_digest != digest)
        ):
            raise IntegrityError("model.rollback", "the manifest's serial is not above the newest model's")

    def _known(self, draft: Study) -> tuple[str, str] | None:
        with self._store.read() as session:
            row = session.get(StudyRow, draft.id)
        if row is None:
            return None
        if parse_study(row.document).model_copy(update={"recipients": (), "roster": {}}) != draft:
            raise StudyRefused("study.exists", f"study {draft.id} exists with other content")
        return row.id, row.digest

    def _roster(self, draft: Study) -> dict[str, str]:
        with self._store.read() as session:
            rows = {row.name: row for row in session.scalars(select(SiteRow).where(SiteRow.name.in_(draft.sites)))}
        missing = sorted(s for s in draft.sites if s not in rows or rows[s].revoked)
        if missing:
            raise PermissionRefused("permission.site", f"not enrolled, or revoked: {', '.join(missing)}")
        roster = {site: PublicKey.from_base64(rows[site].identity).fingerprint for site in sorted(draft.sites)}
        self._check_admitted(roster)
        return roster

    def _recipients(self, draft: Study) -> tuple[Recipient, ...]:
        if draft.lane is Lane.INFER:  # results stay at the site
            return ()
        role: Any = "federation" if draft.lane is Lane.TRAIN else "vault"
        key = self._new_key(role, draft.id)
        try:
            PublicKey.from_base64(key)
        except (IntegrityError, InputError, ValueError):
            raise UnavailableError("unavailable.process", f"{role} gave no valid key") from None
        return (Recipient(role=role, key=key),)

    def _write(self, study: Study, document: bytes, signature: bytes, account: str) -> None:
        digest, now = study_digest(document), time.time()
        with self._store.begin() as session:
            blobs = [asdict(blob) for blob in _blobs(session, study)]
            session.add(
                StudyRow(
                    id=study.id,
                    digest=digest,
                    lane=study.lane.value,
                    title=study.title,
                    document=document,
                    signature=signature,
                    created_at=now,
                )
            )
            session.flush()
            for site in study.sites:
                session.add(
                    AssignmentRow(
                        id=secrets.token_hex(16),
                        site=site,
                        kind=AssignmentKind.STUDY.value,
                        study_digest=digest,
                        document=document,
                        signature=signature,
                        blobs=blobs,
                        state=State.RECEIVED.value,
                        created_at=now,
                        updated_at=now,
                    )
                )
            if account:
                session.add(EntitlementRow(study_digest=digest, account=account, given_by=account, given_at=now))
            self._store.append_leaf(session, {"kind": "study", "id": secrets.token_hex(16), "sha256": digest})
            self._store.emit(session, "study.submitted", study=study.id, lane=study.lane.value, sites=len(study.sites))
        _log.info("study.signed", extra={"fields": {"study": study.id, "digest": digest, "count": len(study.sites)}})


def _blobs(session: Session, study: Study) -> tuple[Blob, ...]:
    if study.model is None:
        return ()
    row = session.scalar(
        select(ModelRow)
        .where(ModelRow.name == study.model.name, ModelRow.alias == study.model.alias)
        .order_by(ModelRow.version.desc())
        .limit(1)
    )
    if row is None or is_withdrawn(session, row.name, row.version):
        raise InputError("input.study", f"model: no published model {study.model.name}@{study.model.alias}")
    return (
        Blob(name="manifest.json", digest=row.manifest, size_bytes=row.manifest_size),
        Blob(name="model.safetensors", digest=row.weights, size_bytes=row.weights_size),
    )


def _manifest(text: str) -> dict[str, Any]:
    try:
        if len(text) > MAX_MANIFEST_BYTES:
            raise ValueError("size")
        value = json.loads(text)
        if not isinstance(value, dict):
            raise ValueError("object")
        canonical_json(value)
    except (ValueError, RecursionError):
        raise InputError("input.message", "malformed manifest") from None
    return value
