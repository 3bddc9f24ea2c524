"""Remote tables that the centre harvested by itself: what there is, from where, under which licence; and their rows."""

from __future__ import annotations

import base64
from typing import Any

from fastapi import APIRouter, Request, Response
from sqlalchemy import select
from sqlalchemy.orm import Session

from central import ipc
from central.store.models import RemoteRow
from central.web.centre import Centre
from central.web.paging import PageOf

__all__ = ["listed", "router"]

router = APIRouter(prefix="/api/v1/remotes")
_TOLD = ("name", "state", "sha256", "rows", "columns", "url", "licence", "terms", "publisher", "pulled_at")


@router.get("")
def get_remotes(request: Request, page: PageOf) -> list[dict[str, Any]]:
    """Remote tables in the lake, by name, with licence, digest and origin; erased ones without rows."""
    centre: Centre = request.app.state.centre
    with centre.store.read() as session:
        rows = listed(session)
    return page.of(rows, lambda row: (row["name"],))


def listed(session: Session) -> list[dict[str, Any]]:
    """All remote tables by name."""
    rows = session.scalars(select(RemoteRow).order_by(RemoteRow.name)).all()
    return [{key: getattr(row, key) for key in _TOLD} for row in rows]


@router.get("/{name}/table")
def get_remote(name: str, request: Request) -> Response:
    """The rows of a remote table, as Parquet. In SQL over a study's rows it is the table `remote_NAME`."""
    centre: Centre = request.app.state.centre
    reply = ipc.call(centre.vault, "remote", timeout_s=300.0, name=name)
    return Response(base64.b64decode(reply["parquet"]), media_type="application/vnd.apache.parquet")
