"""Which published version a name leads to. One answer for the web process and the vault."""

from __future__ import annotations

from sqlalchemy import select
from sqlalchemy.orm import Session

from central.store.models import ModelDecisionRow, ModelRow
from protocol.study import CHAMPION

__all__ = ["is_withdrawn", "newest", "of_study", "serving"]


def newest(session: Session, name: str, version: int | None = None, alias: str | None = None) -> ModelRow | None:
    """The version published or promoted last, of those that version and alias leave."""
    query = select(ModelRow).where(ModelRow.name == name)
    if version is not None:
        query = query.where(ModelRow.version == version)
    if alias is not None:
        query = query.where(ModelRow.alias == alias)
    return session.scalar(query.order_by(ModelRow.serial.desc()).limit(1))


def serving(session: Session, name: str, version: int | None = None, alias: str | None = None) -> ModelRow | None:
    """The version that predicts: where neither is given the champion, and the newest only while there is none.

    None for one that was withdrawn, and no other in its place: what is asked for must be what answers.
    """
    if version is None and alias is None:
        found = newest(session, name, alias=CHAMPION) or newest(session, name)
    else:
        found = newest(session, name, version, alias)
    return None if found is None or is_withdrawn(session, found.name, found.version) else found


def is_withdrawn(session: Session, name: str, version: int) -> bool:
    """Whether a version was withdrawn together with the data that it was trained with."""
    row = session.get(ModelDecisionRow, (name, version))
    return row is not None and row.decision == "withdrawn"


def of_study(session: Session, digest: str) -> list[dict[str, str | int]]:
    """The model versions that were trained with a study's data, as its lineage says: name and version of each."""
    query = select(ModelRow.name, ModelRow.version).where(ModelRow.study_digest == digest)
    rows = session.execute(query.order_by(ModelRow.name, ModelRow.version).distinct()).all()
    return [{"name": name, "version": version} for name, version in rows]
