"""Where a published model runs at hospitals. As `views`: an open session in, plain values out."""

from __future__ import annotations

from typing import Any

from sqlalchemy import select
from sqlalchemy.orm import Session

from central.store.models import AssignmentRow, StudyRow
from protocol.assignment import AssignmentKind
from protocol.study import Lane, parse_study

__all__ = ["where"]


def where(session: Session, name: str) -> list[dict[str, Any]]:
    """Studies of lane `infer` that name the model, a line a site, newest study first.

    Returns:
        `{"site", "study", "alias", "state", "code", "rows", "at"}`; which version a site accepted is in its own
        journal: the study names an alias.
    """
    studies = session.scalars(
        select(StudyRow).where(StudyRow.lane == Lane.INFER.value).order_by(StudyRow.created_at.desc())
    ).all()
    named = {row.digest: (row.id, model.alias) for row in studies if (model := parse_study(row.document).model)
             and model.name == name}  # fmt: skip
    found = session.execute(
        select(
            AssignmentRow.study_digest, AssignmentRow.site, AssignmentRow.state, AssignmentRow.code,
            AssignmentRow.counts, AssignmentRow.updated_at,
        )
        .where(AssignmentRow.study_digest.in_(list(named)), AssignmentRow.kind == AssignmentKind.STUDY.value)
        .order_by(AssignmentRow.site)
    ).all()  # fmt: skip
    order = {digest: place for place, digest in enumerate(named)}
    return [
        {
            "site": site,
            "study": named[digest][0],
            "alias": named[digest][1],
            "state": state,
            "code": code,
            "rows": counts.get("rows"),
            "at": at,
        }
        for digest, site, state, code, counts, at in sorted(found, key=lambda one: (order[one[0]], one[1]))
    ]
