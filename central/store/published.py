"""Which published version a name leads to. One answer for the web process and the vault."""

from __future__ import annotations

from sqlalchemy import select
from sqlalchemy.orm import Session

from central.store.models import ModelRow
from protocol.study import CHAMPION

__all__ = ["newest", "serving"]


def newest(session: Session, name: str, version: int | None = None, alias: str | None = None) -> ModelRow | None:
    """The version published or promoted last, of those that version and alias leave."""
    query = select(ModelRow).where(ModelRow.name == name)
    if version is not None:
        query = query.where(ModelRow.version == version)
    if alias is not None:
        query = query.where(ModelRow.alias == alias)
    return session.scalar(query.order_by(ModelRow.serial.desc()).limit(1))


def serving(session: Session, name: str, version: int | None = None, alias: str | None = None) -> ModelRow | None:
    """The version that predicts: where neither is given the champion, and the newest only while there is none."""
    if version is None and alias is None:
        return newest(session, name, alias=CHAMPION) or newest(session, name)
    return newest(session, name, version, alias)
