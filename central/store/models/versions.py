"""Models that came of runs, which of them may serve, and what they predicted."""

from __future__ import annotations

from sqlalchemy import String
from sqlalchemy.orm import Mapped, mapped_column

from central.store.models.base import Base

__all__ = ["ModelDecisionRow", "ModelRow", "PredictionRow", "PromotionRow"]


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


class ModelDecisionRow(Base):
    """What became of a model version when data it was trained with went. decision: withdrawn."""

    __tablename__ = "model_decisions"
    name: Mapped[str] = mapped_column(primary_key=True)
    version: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    decision: Mapped[str]
    study_digest: Mapped[str]
    decided_at: Mapped[float]


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
