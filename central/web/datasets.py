"""What sites tell of their data: its kinds, how many rows about, which columns, which lanes. Never a row."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, Request
from sqlalchemy import select

from central.store.models import AdvertisedRow, SiteRow
from central.web.centre import Centre
from central.web.paging import PageOf

__all__ = ["router"]

router = APIRouter(prefix="/api/v1/datasets")


@router.get("")
def get_datasets(request: Request, page: PageOf) -> list[dict[str, Any]]:
    """Datasets of which a site tells (its `advertise`), by name and site; `rows` null or `kinds` empty: not said."""
    centre: Centre = request.app.state.centre
    with centre.store.read() as session:
        rows = session.scalars(
            select(AdvertisedRow)
            .join(SiteRow, SiteRow.name == AdvertisedRow.site)
            .where(SiteRow.revoked.is_(False))
            .order_by(AdvertisedRow.dataset, AdvertisedRow.site)
        ).all()
    found = [
        {
            "dataset": row.dataset,
            "site": row.site,
            "kinds": row.kinds,
            "rows": row.rows or None,
            "columns": row.columns,
            "lanes": row.lanes,
            "told_at": row.told_at,
        }
        for row in rows
    ]
    return page.of(found, lambda row: (row["dataset"], row["site"]))
