"""The log as a list that people can page through: what each leaf is of. As `views`: a session in, plain values out."""

from __future__ import annotations

import json
from typing import Any

from sqlalchemy import select
from sqlalchemy.orm import Session

from central.store.models import LogRow, ParcelRow, StudyRow
from privacy.transparency import leaf_hash

__all__ = ["leaves"]


def leaves(session: Session, limit: int = 50, before: int | None = None) -> list[dict[str, Any]]:
    """Leaves, newest first, below index `before`.

    Returns:
        `{"index", "kind", "id", "sha256", "hash", "site", "study"}`; what a leaf's ids lead to is looked up in
        the database and is not in the log itself.
    """
    query = select(LogRow).order_by(LogRow.index.desc()).limit(limit)
    rows = session.scalars(query if before is None else query.where(LogRow.index < before)).all()
    found = [_leaf(row) for row in rows]
    parcels = {
        name: (site, digest)
        for name, site, digest in session.execute(
            select(ParcelRow.id, ParcelRow.site, ParcelRow.study_digest).where(
                ParcelRow.id.in_([one["id"] for one in found if one["kind"] == "parcel"])
            )
        )
    }
    digests = {one["sha256"] for one in found} | {digest for _site, digest in parcels.values()}
    studies = {
        digest: name
        for digest, name in session.execute(select(StudyRow.digest, StudyRow.id).where(StudyRow.digest.in_(digests)))
    }
    for one in found:
        site, digest = parcels.get(one["id"], ("", one["sha256"]))
        one["site"], one["study"] = site, studies.get(digest, "")
    return found


def _leaf(row: LogRow) -> dict[str, Any]:
    told: dict[str, Any] = {"index": row.index, "kind": "", "id": "", "sha256": "", "hash": leaf_hash(row.leaf).hex()}
    try:
        value = json.loads(row.leaf)
        told |= {name: str(value.get(name, ""))[:128] for name in ("kind", "id", "sha256")}
    except (ValueError, AttributeError, RecursionError):
        told["kind"] = "unknown"
    return told
