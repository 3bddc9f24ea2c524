"""API tokens over REST: one's own, with some of one's rights and an end. The secret is shown once and kept nowhere."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Depends, Request, Response
from pydantic import BaseModel, ConfigDict, Field
from starlette.exceptions import HTTPException

from central.identity.access import Access
from central.identity.principals import Principals
from central.identity.rights import Principal
from central.web.paging import PageOf
from protocol.errors import PermissionRefused

__all__ = ["router"]

router = APIRouter(prefix="/api/v1/tokens")


class TokenRequest(BaseModel):
    """Body of `POST /tokens`."""

    model_config = ConfigDict(extra="forbid")
    label: str = Field(min_length=1, max_length=128)
    scopes: list[str] = Field(min_length=1, max_length=32)
    days: float = Field(30.0, gt=0, le=366)


def _access(request: Request) -> Access:
    principals: Principals = request.app.state.principals
    if principals.access is None:
        raise PermissionRefused("permission.role", "an operator's token file is his token")
    return principals.access


AccessOf = Annotated[Access, Depends(_access)]


@router.get("")
def get_tokens(request: Request, access: AccessOf, page: PageOf) -> list[dict[str, Any]]:
    """One's own API tokens, newest first, without their secrets."""
    return page.of(access.tokens(_who(request)), lambda row: (-row["created_at"], row["id"]))


@router.post("", status_code=201)
def post_token(body: TokenRequest, request: Request, access: AccessOf) -> dict[str, Any]:
    """Make an API token with some of one's rights; `token` is shown this once."""
    return access.make_token(_who(request), body.label, body.scopes, body.days)


@router.delete("/{identifier}", status_code=204)
def delete_token(identifier: str, request: Request, access: AccessOf) -> Response:
    """End one's own API token at once."""
    if not access.revoke(_who(request), identifier):
        raise HTTPException(404)
    return Response(status_code=204)


def _who(request: Request) -> Principal:
    principal: Principal = request.state.principal
    return principal
