"""Federated runs: how far they are, what is wanted of them, and what each round left."""

from __future__ import annotations

from typing import Any

from sqlalchemy import String
from sqlalchemy.orm import Mapped, mapped_column

from central.store.models.base import Base

__all__ = ["ControlRow", "RoundRow", "RunRow"]


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
