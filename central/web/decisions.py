"""REST for what takes two operators, other than a model's alias: admitting sites, exporting rows.

Statements and signatures are made on the operators' machines (`corsia.decisions`); this process passes them on.
"""

from __future__ import annotations

import base64
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Depends, Query, Request, Response
from sqlalchemy import select

from central import ipc
from central.store.models import DecisionRow
from central.web.centre import Centre
from central.web.models import Signed, newest_proposal
from central.web.paging import PageOf

__all__ = ["router"]

router = APIRouter(prefix="/api/v1/decisions")


def _centre(request: Request) -> Centre:
    centre: Centre = request.app.state.centre
    return centre


CentreOf = Annotated[Centre, Depends(_centre)]


@router.get("")
def get_decisions(
    centre: CentreOf,
    page: PageOf,
    kind: Literal["admit", "export"],
    subject: Annotated[str, Query(min_length=1, max_length=63)],
) -> list[dict[str, Any]]:
    """Proposals about a site or a study, newest first; `statement` is what an approval signs."""
    with centre.store.read() as session:
        rows = session.scalars(
            select(DecisionRow)
            .where(DecisionRow.kind == kind, DecisionRow.subject == subject)
            .order_by(DecisionRow.proposed_at.desc())
        ).all()
    names = ("id", "kind", "subject", "state", "proposed_by", "proposed_at", "approved_by")
    found = [
        {name: getattr(row, name) for name in names} | {"statement": base64.b64encode(row.statement).decode()}
        for row in rows
    ]
    found.sort(key=newest_proposal)
    return page.of(found, newest_proposal)


@router.post("", status_code=201)
def post_decision(body: Signed, request: Request, centre: CentreOf) -> dict[str, Any]:
    """Keep a signed proposal."""
    asked = {"statement": body.statement, "signature": body.signature}
    return ipc.call(centre.signer, "propose", timeout_s=30.0, token=str(request.state.token), **asked)


@router.post("/{name}/approval")
def post_approval(name: str, body: Signed, request: Request, centre: CentreOf) -> dict[str, Any]:
    """Approve a proposal as another operator."""
    token = str(request.state.token)
    return ipc.call(centre.signer, "approve", timeout_s=30.0, token=token, proposal=name, signature=body.signature)


@router.get("/{name}/parcel")
def get_parcel(name: str, centre: CentreOf) -> Response:
    """An approved export, sealed to the operator who asked for it."""
    reply = ipc.call(centre.vault, "export", timeout_s=600.0, id=name)
    headers = {"Content-Disposition": 'attachment; filename="export.parcel"'}
    return Response(base64.b64decode(reply["parcel"]), media_type="application/octet-stream", headers=headers)
