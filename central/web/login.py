"""Log-in by the OpenID provider: authorization code with PKCE for browsers, an exchange for the device flow, log-out.
And an operator's own token, by the form of the door.

What a log-in needs till the browser comes back (state, nonce, verifier) is in a cookie of its own, so that this process
keeps nothing of those who never come. The session's cookie is `SameSite=Strict`; a browser that comes from the
provider would not send it after a redirect, so the answer is a page that goes on to `/` by itself.
"""

from __future__ import annotations

import hmac
import secrets
from typing import TYPE_CHECKING, Annotated, Any
from urllib.parse import parse_qs

from fastapi import APIRouter, Query, Request, Response
from pydantic import BaseModel, ConfigDict, Field
from starlette.concurrency import run_in_threadpool
from starlette.responses import HTMLResponse, RedirectResponse

from central.identity.access import Access
from central.identity.principals import Principals
from central.identity.settings import IdentityConfig
from central.web.auth import COOKIE, entered, is_own, session_cookie
from central.web.centre import Centre
from central.web.pages.refusals import door, shown
from central.web.problems import of
from protocol.errors import AuthenticationError, CorsiaError, PermissionRefused

if TYPE_CHECKING:
    from central.identity.provider import Provider

__all__ = ["is_secure", "router"]

_WAY_S = 600  # how long a log-in may take
_MAX_FORM = 16_384
_ONWARD = (
    '<!doctype html><html lang="en"><meta charset="utf-8"><meta http-equiv="refresh" content="0;url=/">'
    '<link rel="icon" href="/static/corsia.svg"><title>Corsia</title><p><a href="/">Corsia</a></p></html>'
)
router = APIRouter(prefix="/auth")
Word = Annotated[str, Query(max_length=4096)]


class DeviceRequest(BaseModel):
    """Body of `POST /auth/device`: what the device flow gave, and the API token that is wanted for it."""

    model_config = ConfigDict(extra="forbid")
    id_token: str = Field("", max_length=16_384)
    access_token: str = Field("", max_length=16_384)
    label: str = Field("command line", min_length=1, max_length=128)
    scopes: list[str] | None = Field(None, max_length=32)
    days: float | None = Field(None, gt=0, le=366)


def is_secure(config: IdentityConfig | None) -> bool:
    """Whether browsers reach this centre by https, also where a proxy speaks it for us."""
    return config is not None and config.redirect_uri.startswith("https://")


@router.get("/login", include_in_schema=False)
def get_login(request: Request) -> Response:
    provider, _ = _parts(request)
    way = [secrets.token_urlsafe(32) for _ in range(3)]
    state, nonce, verifier = way
    answer = RedirectResponse(provider.login_url(state=state, nonce=nonce, verifier=verifier), status_code=303)
    _set(answer, _way_cookie(provider), ".".join(way), provider, samesite="lax", age_s=_WAY_S)
    return answer


@router.get("/callback", include_in_schema=False)
def get_callback(request: Request, code: Word = "", state: Word = "", iss: Word = "", error: Word = "") -> Response:
    provider, access = _parts(request)
    way = request.cookies.get(_way_cookie(provider), "").split(".")
    try:
        if len(way) != 3 or not state or not hmac.compare_digest(way[0].encode(), state.encode()):
            raise AuthenticationError("auth.provider", "this log-in was not begun in this browser: begin again")
        if iss and iss != provider.config.issuer:
            raise AuthenticationError("auth.provider", "another provider answers")
        if error or not code:
            raise AuthenticationError("auth.provider", "the provider did not let you in")
        session = access.login(provider.redeem(code, nonce=way[1], verifier=way[2]))
    except CorsiaError as refused:
        answer = door(request, of(refused))
    else:
        answer = HTMLResponse(_ONWARD)
        _set(answer, session_cookie(is_secure(provider.config)), session, provider, samesite="strict")
    answer.delete_cookie(_way_cookie(provider), path="/", secure=is_secure(provider.config), httponly=True)
    return answer


@router.post("/enter", include_in_schema=False)
async def post_enter(request: Request) -> Response:
    """An operator by the form of the door: the token in the body, where no log of a proxy keeps it."""
    if not is_own(request.headers):
        return shown(request, of(PermissionRefused("permission.role", "come in by this centre's own page")))
    token = _field(await _body(request), "token")
    principals: Principals = request.app.state.principals
    try:
        if not token or (await run_in_threadpool(principals.identify, token)).kind != "operator":
            raise AuthenticationError("auth.token")
    except AuthenticationError as error:
        return shown(request, of(error))
    return entered(token, secure=_https_alone(request))


async def _body(request: Request) -> bytes:
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > _MAX_FORM:
            return b""
    return bytes(body)


def _field(body: bytes, name: str) -> str:
    """A field of a form; empty where it is none."""
    try:
        return parse_qs(body.decode("ascii"), max_num_fields=4).get(name, [""])[0].strip()
    except ValueError:
        return ""


@router.get("/provider")
def get_provider(request: Request) -> dict[str, Any]:
    """Where command line and notebook log in: issuer, public client, scopes. Nothing secret."""
    return _parts(request)[0].described()


@router.post("/device", status_code=201)
def post_device(request: Request, body: DeviceRequest | None = None) -> dict[str, Any]:
    """An API token for who has just logged in by the device flow, shown this once."""
    provider, access = _parts(request)
    asked = body or DeviceRequest()
    person = provider.person(asked.id_token, asked.access_token, fresh_s=_WAY_S)
    session = access.login(person)
    try:
        owner = access.find(session)
        wanted = asked.scopes if asked.scopes is not None else sorted(owner.scopes - {"tokens:write"})
        days = asked.days if asked.days is not None else provider.config.token_days
        return access.make_token(owner, asked.label, wanted, days) | {"name": owner.name}
    finally:
        access.logout(session)


@router.post("/logout", status_code=204)
def post_logout(request: Request) -> Response:
    """End the session or API token that the request came by; cookies, an operator's too, are removed."""
    principals: Principals = request.app.state.principals
    answer = Response(status_code=204)
    if principals.access is not None:
        principals.access.logout(str(request.state.token))
    provider: Provider | None = request.app.state.provider
    secure = is_secure(provider.config if provider else None)
    answer.delete_cookie(session_cookie(secure), path="/", secure=secure, httponly=True, samesite="strict")
    answer.delete_cookie(COOKIE, path="/", secure=_https_alone(request), httponly=True, samesite="strict")
    return answer


def _parts(request: Request) -> tuple[Provider, Access]:
    provider: Provider | None = request.app.state.provider
    principals: Principals = request.app.state.principals
    if provider is None or principals.access is None:
        raise AuthenticationError("auth.provider", "this centre has no OpenID provider: use an operator's token")
    return provider, principals.access


def _https_alone(request: Request) -> bool:
    centre: Centre = request.app.state.centre
    return centre.https_alone(str(request.url))


def _way_cookie(provider: Provider) -> str:
    return "__Host-corsia-login" if is_secure(provider.config) else "corsia_login"


def _set(
    answer: Response, name: str, value: str, provider: Provider, *, samesite: Any, age_s: int | None = None
) -> None:
    secure = is_secure(provider.config)
    answer.set_cookie(name, value, max_age=age_s, httponly=True, samesite=samesite, secure=secure, path="/")
