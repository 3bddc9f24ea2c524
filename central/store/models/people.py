"""Who uses the centre, what opens it for him, what two of them decide, and what the dashboard tells them live."""

from __future__ import annotations

from typing import Any

from sqlalchemy import ForeignKey, Index, String
from sqlalchemy.orm import Mapped, mapped_column

from central.store.models.base import Base

__all__ = ["AccessRow", "AccountRow", "DecisionRow", "EventRow", "RepeatedRow"]


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


class RepeatedRow(Base):
    """The answer to a write that came with an Idempotency-Key. status 0: it is under way."""

    __tablename__ = "repeated"
    key: Mapped[str] = mapped_column(String(64), primary_key=True)  # SHA-256 of who, method, path and key
    request: Mapped[str] = mapped_column(String(64))  # SHA-256 of the body
    status: Mapped[int] = mapped_column(default=0)
    headers: Mapped[dict[str, Any]] = mapped_column(default=dict)
    body: Mapped[bytes] = mapped_column(default=b"")
    at: Mapped[float]


class EventRow(Base):
    """What the dashboard shows live: a fixed kind, ids and counts."""

    __tablename__ = "events"
    seq: Mapped[int] = mapped_column(primary_key=True, autoincrement=True)
    at: Mapped[float]
    kind: Mapped[str]
    site: Mapped[str] = mapped_column(default="")
    study: Mapped[str] = mapped_column(default="")
    fields: Mapped[dict[str, Any]] = mapped_column(default=dict)
