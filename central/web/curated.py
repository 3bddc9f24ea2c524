"""Which studies have brought data into the lake, as a list. As `views`: an open session in, plain values out."""

from __future__ import annotations

from typing import Any

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from central.store.models import CuratedRow, StudyRow

__all__ = ["listed"]


def listed(session: Session, limit: int = 50, offset: int = 0) -> list[dict[str, Any]]:
    """Studies with curated batches, the one that grew last first; `state` erased: the counts alone are left."""
    rows = session.execute(
        select(
            StudyRow.id, StudyRow.title, StudyRow.lane, StudyRow.state, func.count(), func.sum(CuratedRow.rows),
            func.sum(CuratedRow.files), func.count(CuratedRow.site.distinct()), func.max(CuratedRow.created_at),
        )
        .join(StudyRow, StudyRow.digest == CuratedRow.study_digest)
        .group_by(StudyRow.id, StudyRow.title, StudyRow.lane, StudyRow.state)
        .order_by(func.max(CuratedRow.created_at).desc(), StudyRow.id)
        .limit(limit)
        .offset(offset)
    )  # fmt: skip
    names = ("study", "title", "lane", "state", "batches", "rows", "files", "sites", "updated_at")
    return [dict(zip(names, row, strict=True)) for row in rows]
