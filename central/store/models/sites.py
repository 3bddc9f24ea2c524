"""Who is enrolled, by which certificates, and what each site tells of its data."""

from __future__ import annotations

from typing import Any

from sqlalchemy import String
from sqlalchemy.orm import Mapped, mapped_column

from central.store.models.base import Base

__all__ = ["AdvertisedRow", "CertificateRow", "SiteRow"]


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


class CertificateRow(Base):
    """Every certificate the signer issued to a site."""

    __tablename__ = "certificates"
    serial: Mapped[str] = mapped_column(primary_key=True)  # hex
    site: Mapped[str] = mapped_column(index=True)
    not_after: Mapped[float]
    revoked: Mapped[bool] = mapped_column(default=False)


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
