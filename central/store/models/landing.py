"""What came: parcels, batches in the lake, and the log that holds a leaf of each."""

from __future__ import annotations

from typing import Any

from sqlalchemy import Index, String
from sqlalchemy.orm import Mapped, mapped_column

from central.store.models.base import Base

__all__ = ["CheckpointRow", "CuratedRow", "LogRow", "ParcelRow", "RemoteRow", "WitnessedRow"]


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
