"""Whose study it is: rows and runs of a study are for who submitted it, for whom he lets read, and for operators.

`Owned` is a dependency of every route that reads rows or commands a run; the routes here say who may.
"""

from __future__ import annotations

import time
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Request, Response
from sqlalchemy import select
from starlette.exceptions import HTTPException

from central.identity.principals import Principals
from central.identity.rights import Principal
from central.store.models import AccountRow, EntitlementRow, StudyRow
from central.web.centre import Centre
from central.web.paging import PageOf
from protocol.errors import StudyRefused

__all__ = ["Owned", "check_owned", "router"]

router = APIRouter(prefix="/api/v1/studies/{study_id}/readers")


def check_owned(request: Request, study_id: str) -> str:
    """The digest of a study that the sender may read and command.

    Raises:
        StudyRefused: `study.unknown`.
        PermissionRefused: `permission.role`.
    """
    principals: Principals = request.app.state.principals
    who: Principal = request.state.principal
    digest = _digest(request, study_id)
    principals.check_study(who, digest)
    return digest


def _owned(request: Request, study_id: str) -> str:
    return check_owned(request, study_id)


Owned = Annotated[str, Depends(_owned)]  # the study's digest


@router.get("")
def get_readers(study_id: str, request: Request, page: PageOf) -> list[dict[str, Any]]:
    """Accounts that may read the study's rows and command its run, beside operators."""
    centre: Centre = request.app.state.centre
    digest = _digest(request, study_id)
    with centre.store.read() as session:
        rows = session.execute(
            select(EntitlementRow, AccountRow.name)
            .join(AccountRow, AccountRow.id == EntitlementRow.account)
            .where(EntitlementRow.study_digest == digest)
            .order_by(EntitlementRow.given_at, EntitlementRow.account)
        ).all()
    found = [
        {"account": row.account, "name": name, "given_by": row.given_by, "given_at": row.given_at} for row, name in rows
    ]
    return page.of(found, lambda row: (row["given_at"], row["account"]))


@router.put("/{account}", status_code=204)
def put_reader(study_id: str, account: str, digest: Owned, request: Request) -> Response:
    """Let an account (`GET /me` shows one's own) read the study's rows and command its run."""
    centre: Centre = request.app.state.centre
    who: Principal = request.state.principal
    with centre.store.begin() as session:
        if session.get(AccountRow, account) is None:
            raise HTTPException(404)
        if session.get(EntitlementRow, (digest, account)) is None:
            given = {"given_by": who.account or who.name, "given_at": time.time()}
            session.add(EntitlementRow(study_digest=digest, account=account, **given))
    return Response(status_code=204)


@router.delete("/{account}", status_code=204)
def delete_reader(study_id: str, account: str, digest: Owned, request: Request) -> Response:
    """Take that away again."""
    centre: Centre = request.app.state.centre
    with centre.store.begin() as session:
        row = session.get(EntitlementRow, (digest, account))
        if row is None:
            raise HTTPException(404)
        session.delete(row)
    return Response(status_code=204)


def _digest(request: Request, study_id: str) -> str:
    centre: Centre = request.app.state.centre
    with centre.store.read() as session:
        digest = session.scalar(select(StudyRow.digest).where(StudyRow.id == study_id))
    if digest is None:
        raise StudyRefused("study.unknown")
    return digest
