"""What was signed, what each site is to do for it, who may read what comes, and how it ends."""

from __future__ import annotations

from typing import Any

from sqlalchemy import ForeignKey, String
from sqlalchemy.orm import Mapped, mapped_column

from central.store.models.base import Base

__all__ = ["AssignmentRow", "EntitlementRow", "ErasureRow", "StudyRow", "WithdrawalRow"]


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


class EntitlementRow(Base):
    """An account that may read a study's rows and command its run; the one that submitted it is the first."""

    __tablename__ = "entitlements"
    study_digest: Mapped[str] = mapped_column(String(64), primary_key=True)
    account: Mapped[str] = mapped_column(String(32), primary_key=True)
    given_by: Mapped[str]
    given_at: Mapped[float]


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
