"""The tables of the central database, on SQLite and PostgreSQL alike.

No column holds data of a patient: ids, digests of ciphertext, counts, codes and signed documents only. Who uses the
centre is in `accounts`, as the OpenID provider names him.
"""

from __future__ import annotations

from typing import Any

from sqlalchemy import JSON, BigInteger, ForeignKey, Index, Integer, LargeBinary, String
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

__all__ = [
    "AccessRow",
    "AccountRow",
    "AdvertisedRow",
    "AssignmentRow",
    "Base",
    "CertificateRow",
    "CheckpointRow",
    "ControlRow",
    "CuratedRow",
    "DecisionRow",
    "EntitlementRow",
    "ErasureRow",
    "EventRow",
    "LogRow",
    "ModelDecisionRow",
    "ModelRow",
    "ParcelRow",
    "PredictionRow",
    "PromotionRow",
    "RepeatedRow",
    "RoundRow",
    "RunRow",
    "SiteRow",
    "StudyRow",
    "WithdrawalRow",
    "WitnessedRow",
]


class Base(DeclarativeBase):
    """Common base; times are Unix seconds (float)."""

    # A whole number is of 64 bits on every database: bytes, rows and sequences outgrow 32.
    type_annotation_map = {  # noqa: RUF012
        dict[str, Any]: JSON,
        list[Any]: JSON,
        bytes: LargeBinary,
        int: BigInteger().with_variant(Integer(), "sqlite"),
    }


class SiteRow(Base):
    """An enrolled site and its last heartbeat."""

    __tablename__ = "sites"
    name: Mapped[str] = mapped_column(String(63), primary_key=True)
    network: Mapped[str] = mapped_column(default="")
    identity: Mapped[str]  # base64 public bytes of the identity key
    enrolled_at: Mapped[float]
    revoked: Mapped[bool] = mapped_column(default=False)
    last_seen: Mapped[float] = mapped_column(default=0.0)
    version: Mapped[str] = mapped_column(default="")
    paused: Mapped[bool] = mapped_column(default=False)
    spool_parcels: Mapped[int] = mapped_column(default=0)
    spool_bytes: Mapped[int] = mapped_column(default=0)
    ledger_head: Mapped[str] = mapped_column(default="")
    journal_head: Mapped[str] = mapped_column(default="")


class AdvertisedRow(Base):
    """A dataset of which a site tells: how many rows, and which columns. Never a row."""

    __tablename__ = "advertised"
    site: Mapped[str] = mapped_column(String(63), primary_key=True)
    dataset: Mapped[str] = mapped_column(String(63), primary_key=True)
    rows: Mapped[int]  # rounded down by the site; 0: it does not say
    columns: Mapped[list[Any]] = mapped_column(default=list)  # [{"name", "role", "type"}]
    lanes: Mapped[list[Any]] = mapped_column(default=list)
    kinds: Mapped[list[Any]] = mapped_column(default=list)  # empty: it does not say
    told_at: Mapped[float]


class RemoteRow(Base):
    """A remote table that the centre harvested, in the lake under a key of its own. state: curated | erased."""

    __tablename__ = "remotes"
    name: Mapped[str] = mapped_column(String(63), primary_key=True)
    state: Mapped[str]
    sha256: Mapped[str] = mapped_column(String(64))  # of the bytes as they were pulled
    path: Mapped[str]  # relative to the lake
    rows: Mapped[int]
    columns: Mapped[list[Any]] = mapped_column(default=list)
    url: Mapped[str]
    licence: Mapped[str]
    terms: Mapped[str]
    publisher: Mapped[str]
    pulled_at: Mapped[float]


class CertificateRow(Base):
    """Every certificate the signer issued to a site."""

    __tablename__ = "certificates"
    serial: Mapped[str] = mapped_column(primary_key=True)  # hex
    site: Mapped[str] = mapped_column(index=True)
    not_after: Mapped[float]
    revoked: Mapped[bool] = mapped_column(default=False)


class StudyRow(Base):
    """A signed study: the exact bytes. state: open | done | failed | closed | erased."""

    __tablename__ = "studies"
    id: Mapped[str] = mapped_column(String(63), primary_key=True)
    digest: Mapped[str] = mapped_column(String(64), unique=True)
    lane: Mapped[str]
    title: Mapped[str]
    document: Mapped[bytes]
    signature: Mapped[bytes]
    created_at: Mapped[float]
    state: Mapped[str] = mapped_column(default="open")


class AssignmentRow(Base):
    """One thing for one site to do; `seq` orders the stream."""

    __tablename__ = "assignments"
    seq: Mapped[int] = mapped_column(primary_key=True, autoincrement=True)
    id: Mapped[str] = mapped_column(String(64), unique=True)
    site: Mapped[str] = mapped_column(index=True)
    kind: Mapped[str]
    study_digest: Mapped[str] = mapped_column(ForeignKey("studies.digest"), index=True)
    document: Mapped[bytes]
    signature: Mapped[bytes]
    blobs: Mapped[list[Any]] = mapped_column(default=list)  # [{"name","digest","size_bytes"}]
    state: Mapped[str] = mapped_column(default="received")  # protocol.assignment.State
    code: Mapped[str] = mapped_column(default="")
    error_id: Mapped[str] = mapped_column(default="")
    counts: Mapped[dict[str, Any]] = mapped_column(default=dict)
    created_at: Mapped[float]
    updated_at: Mapped[float]


class ParcelRow(Base):
    """A committed parcel. state: landed | opened | rejected (then `code`)."""

    __tablename__ = "parcels"
    id: Mapped[str] = mapped_column(String(32), primary_key=True)
    site: Mapped[str] = mapped_column(index=True)
    study_digest: Mapped[str] = mapped_column(index=True)
    assignment_id: Mapped[str] = mapped_column(index=True)
    content_type: Mapped[str]
    digest: Mapped[str]
    size_bytes: Mapped[int]
    log_index: Mapped[int]
    state: Mapped[str] = mapped_column(default="landed")
    code: Mapped[str] = mapped_column(default="")
    landed_at: Mapped[float]
    __table_args__ = (Index("parcels_by_state", "state", "content_type"),)


class LogRow(Base):
    """A leaf of the append-only log, from index 0."""

    __tablename__ = "log"
    index: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    leaf: Mapped[bytes]


class CheckpointRow(Base):
    """A signed checkpoint of the log at `size`."""

    __tablename__ = "checkpoints"
    size: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    text: Mapped[str]


class WitnessedRow(Base):
    """The checkpoint at `size` with the signatures of witnesses beside the log's own."""

    __tablename__ = "witnessed"
    size: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    text: Mapped[str]


class CuratedRow(Base):
    """A batch in the lake; `batch_id` is what makes opening idempotent. `path` is relative to the lake."""

    __tablename__ = "curated"
    batch_id: Mapped[str] = mapped_column(primary_key=True)
    study_digest: Mapped[str] = mapped_column(index=True)
    site: Mapped[str]
    parcel_id: Mapped[str]
    part: Mapped[int]
    last: Mapped[bool]
    path: Mapped[str]
    rows: Mapped[int]  # table rows
    files: Mapped[int]  # DICOM files
    persons: Mapped[int]
    withheld: Mapped[dict[str, Any]] = mapped_column(default=dict)
    report: Mapped[dict[str, Any]] = mapped_column(default=dict)
    created_at: Mapped[float]


class RunRow(Base):
    """A federated run, one per study. state: running | paused | stopped | done | failed.

    (round, phase, attempt) is what is under way.
    """

    __tablename__ = "runs"
    id: Mapped[str] = mapped_column(String(32), primary_key=True)
    study_digest: Mapped[str] = mapped_column(unique=True)
    state: Mapped[str] = mapped_column(default="running")
    code: Mapped[str] = mapped_column(default="")
    round: Mapped[int] = mapped_column(default=0)
    phase: Mapped[str] = mapped_column(default="prepare")
    attempt: Mapped[int] = mapped_column(default=0)
    updated_at: Mapped[float]


class ControlRow(Base):
    """What the operator wants of a run, before or after it began. wish: run | pause | stop; `rounds` 0: the study's."""

    __tablename__ = "controls"
    study_digest: Mapped[str] = mapped_column(String(64), primary_key=True)
    wish: Mapped[str] = mapped_column(default="run")
    rounds: Mapped[int] = mapped_column(default=0)
    discard: Mapped[bool] = mapped_column(default=False)
    revision: Mapped[int] = mapped_column(default=0)
    ended: Mapped[str] = mapped_column(default="")  # why the run ended, once it is to be published or closed
    asked_at: Mapped[float] = mapped_column(default=0.0)


class RoundRow(Base):
    """A finished round's checkpoint: model arrays, strategy state and metrics. Round 0 is the preparation."""

    __tablename__ = "rounds"
    run: Mapped[str] = mapped_column(primary_key=True)
    round: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    arrays: Mapped[str]  # blob digest of the global arrays after this round
    state: Mapped[str] = mapped_column(default="")  # blob digest of the strategy's state
    metrics: Mapped[dict[str, Any]] = mapped_column(default=dict)
    sites: Mapped[list[Any]] = mapped_column(default=list)
    started_at: Mapped[float]
    finished_at: Mapped[float]


class ModelRow(Base):
    """A published model: signed manifest and weights, both as blobs. `serial` only grows, per name."""

    __tablename__ = "models"
    name: Mapped[str] = mapped_column(primary_key=True)
    version: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    alias: Mapped[str]
    serial: Mapped[int]
    study_digest: Mapped[str]
    manifest: Mapped[str]  # blob digest of {"manifest": {...}, "signature": base64}
    manifest_size: Mapped[int]
    weights: Mapped[str]  # blob digest of the safetensors file
    weights_size: Mapped[int]
    uri: Mapped[str] = mapped_column(default="")  # models:/NAME/VERSION in MLflow
    created_at: Mapped[float]


class PromotionRow(Base):
    """A proposal that a version get an alias, as its operator signed it. state: open | approved | replaced."""

    __tablename__ = "promotions"
    id: Mapped[str] = mapped_column(String(32), primary_key=True)
    name: Mapped[str] = mapped_column(index=True)
    version: Mapped[int]
    alias: Mapped[str]
    rollback: Mapped[bool]
    statement: Mapped[bytes]
    signature: Mapped[bytes]
    proposed_by: Mapped[str]
    proposed_at: Mapped[float]
    state: Mapped[str] = mapped_column(default="open")
    approved_by: Mapped[str] = mapped_column(default="")
    serial: Mapped[int] = mapped_column(default=0)  # of the manifest that came of it
    shown: Mapped[bool] = mapped_column(default=False)  # whether MLflow's aliases follow


class DecisionRow(Base):
    """Any other thing that takes two operators, as the first signed it. state: open | approved | replaced.

    `subject` is what it is about (a site's name, a study's id); `outcome` is what was told when it was carried out.
    """

    __tablename__ = "decisions"
    id: Mapped[str] = mapped_column(String(32), primary_key=True)
    kind: Mapped[str]
    subject: Mapped[str] = mapped_column(index=True)
    statement: Mapped[bytes]
    signature: Mapped[bytes]
    proposed_by: Mapped[str]
    proposed_at: Mapped[float]
    state: Mapped[str] = mapped_column(default="open")
    approved_by: Mapped[str] = mapped_column(default="")
    approval: Mapped[bytes] = mapped_column(default=b"")  # the second person's signature
    outcome: Mapped[dict[str, Any]] = mapped_column(default=dict)


class PredictionRow(Base):
    """A batch inference at the centre over a study's curated rows."""

    __tablename__ = "predictions"
    id: Mapped[str] = mapped_column(primary_key=True)
    model: Mapped[str]
    version: Mapped[int]
    study_digest: Mapped[str]
    rows: Mapped[int]
    path: Mapped[str]
    created_at: Mapped[float]


class ErasureRow(Base):
    """The end of a study's data. state: asked | begun | done; reason: asked | expired."""

    __tablename__ = "erasures"
    study_digest: Mapped[str] = mapped_column(String(64), primary_key=True)
    reason: Mapped[str]
    operator: Mapped[str] = mapped_column(default="")
    withdraw_models: Mapped[bool] = mapped_column(default=False)
    state: Mapped[str] = mapped_column(default="asked")
    models: Mapped[list[Any]] = mapped_column(default=list)  # [{"name", "version", "decision"}], kept or withdrawn
    log_index: Mapped[int] = mapped_column(default=-1)
    asked_at: Mapped[float]
    finished_at: Mapped[float] = mapped_column(default=0.0)


class WithdrawalRow(Base):
    """A site's signed word that consent was withdrawn, and what was removed for it; who it is stays in the lake."""

    __tablename__ = "withdrawals"
    parcel_id: Mapped[str] = mapped_column(String(32), primary_key=True)
    study_digest: Mapped[str] = mapped_column(index=True)
    site: Mapped[str]
    rows: Mapped[int] = mapped_column(default=0)
    files: Mapped[int] = mapped_column(default=0)  # DICOM files and documents
    models: Mapped[list[Any]] = mapped_column(default=list)  # [{"name", "version"}] trained with the study's data
    log_index: Mapped[int]
    received_at: Mapped[float]


class ModelDecisionRow(Base):
    """What became of a model version when data it was trained with went. decision: withdrawn."""

    __tablename__ = "model_decisions"
    name: Mapped[str] = mapped_column(primary_key=True)
    version: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    decision: Mapped[str]
    study_digest: Mapped[str]
    decided_at: Mapped[float]


class EventRow(Base):
    """What the dashboard shows live: a fixed kind, ids and counts."""

    __tablename__ = "events"
    seq: Mapped[int] = mapped_column(primary_key=True, autoincrement=True)
    at: Mapped[float]
    kind: Mapped[str]
    site: Mapped[str] = mapped_column(default="")
    study: Mapped[str] = mapped_column(default="")
    fields: Mapped[dict[str, Any]] = mapped_column(default=dict)


class AccountRow(Base):
    """Somebody whom the OpenID provider knows: issuer and subject tell him, his name does not."""

    __tablename__ = "accounts"
    id: Mapped[str] = mapped_column(String(32), primary_key=True)
    issuer: Mapped[str] = mapped_column(String(2048))
    subject: Mapped[str] = mapped_column(String(255))
    name: Mapped[str] = mapped_column(default="")
    groups: Mapped[list[Any]] = mapped_column(default=list)  # as the provider said last
    created_at: Mapped[float]
    login_at: Mapped[float]
    __table_args__ = (Index("accounts_by_subject", "issuer", "subject", unique=True),)


class AccessRow(Base):
    """What opens the API for an account. kind: browser | token | bearer. The secret itself is kept nowhere."""

    __tablename__ = "access"
    digest: Mapped[str] = mapped_column(String(64), primary_key=True)  # SHA-256 of the secret
    id: Mapped[str] = mapped_column(String(32), unique=True)
    account: Mapped[str] = mapped_column(ForeignKey("accounts.id"), index=True)
    kind: Mapped[str]
    label: Mapped[str] = mapped_column(default="")
    scopes: Mapped[list[Any]] = mapped_column(default=list)  # of a token; others have all of their owner's
    created_at: Mapped[float]
    expires_at: Mapped[float]
    used_at: Mapped[float]


class EntitlementRow(Base):
    """An account that may read a study's rows and command its run; the one that submitted it is the first."""

    __tablename__ = "entitlements"
    study_digest: Mapped[str] = mapped_column(String(64), primary_key=True)
    account: Mapped[str] = mapped_column(String(32), primary_key=True)
    given_by: Mapped[str]
    given_at: Mapped[float]


class RepeatedRow(Base):
    """The answer to a write that came with an Idempotency-Key. status 0: it is under way."""

    __tablename__ = "repeated"
    key: Mapped[str] = mapped_column(String(64), primary_key=True)  # SHA-256 of who, method, path and key
    request: Mapped[str] = mapped_column(String(64))  # SHA-256 of the body
    status: Mapped[int] = mapped_column(default=0)
    headers: Mapped[dict[str, Any]] = mapped_column(default=dict)
    body: Mapped[bytes] = mapped_column(default=b"")
    at: Mapped[float]
