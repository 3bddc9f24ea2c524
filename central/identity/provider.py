"""The way to the OpenID provider: its description and keys, the exchange of a code, and the check of its tokens.

Only the web process goes it. Nothing is believed that is not signed by a key of the pinned issuer with an algorithm of
the list; the provider's addresses come from its own description, and none that is not https is followed.

Source: OpenID Connect Core 1.0, sections 3.1.2, 3.1.3.7 and 5.3; RFC 7636 (PKCE); RFC 9207 (issuer in the answer);
WLCG Common JWT Profiles 1.0 (`wlcg.groups`) and INDIGO IAM's own (`groups`).
"""

from __future__ import annotations

import base64
import hashlib
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlencode

import httpx
from joserfc import jwt
from joserfc.errors import JoseError
from joserfc.jwk import KeySet

from central.identity.access import Account
from central.identity.settings import ANY_AUDIENCE, IdentityConfig, group, secure
from protocol.errors import AuthenticationError, UnavailableError

__all__ = ["Bearer", "Provider", "challenge"]

_TIMEOUT_S = 10.0
_MAX_BYTES = 1 << 20
_FRESH_S = 600.0  # description and keys are asked for again after so long,
_AGAIN_S = 30.0  # and for an unknown key at most so often
_LEEWAY_S = 60
_GROUPS = ("wlcg.groups", "groups")
_MAX_GROUPS = 1000


def challenge(verifier: str) -> str:
    """The PKCE challenge of a verifier, by S256."""
    return base64.urlsafe_b64encode(hashlib.sha256(verifier.encode()).digest()).rstrip(b"=").decode()


@dataclass(frozen=True, slots=True, kw_only=True)
class Bearer:
    """An access token that was verified; times are Unix seconds. `anybody`: made for no centre in particular."""

    person: Account
    issued: float
    until: float
    anybody: bool


class Provider:
    """One OpenID provider. Safe for threads.

    Args:
        config: what is pinned.
    """

    def __init__(self, config: IdentityConfig) -> None:
        self.config = config
        self._lock = threading.Lock()
        self._about: tuple[float, dict[str, Any]] = (0.0, {})
        self._keys: tuple[float, KeySet | None] = (0.0, None)

    def login_url(self, *, state: str, nonce: str, verifier: str) -> str:
        """Where a browser goes to log in.

        Raises:
            UnavailableError: `unavailable.provider`.
        """
        asked = {
            "response_type": "code",
            "client_id": self.config.client_id,
            "redirect_uri": self.config.redirect_uri,
            "scope": " ".join(self.config.scopes),
            "state": state,
            "nonce": nonce,
            "code_challenge": challenge(verifier),
            "code_challenge_method": "S256",
        }
        return f"{self._endpoint('authorization_endpoint')}?{urlencode(asked)}"

    def redeem(self, code: str, *, nonce: str, verifier: str) -> Account:
        """Who has logged in, for the code that the browser brought back.

        Raises:
            AuthenticationError: `auth.provider`: the provider refuses the code, or its token is not for us.
            UnavailableError: `unavailable.provider`.
        """
        form = {
            "grant_type": "authorization_code",
            "code": code,
            "redirect_uri": self.config.redirect_uri,
            "client_id": self.config.client_id,
            "code_verifier": verifier,
        }
        secret = self.config.secret()
        if secret is None:
            answer = self._ask("POST", self._endpoint("token_endpoint"), data=form)
        else:
            auth = httpx.BasicAuth(_quoted(self.config.client_id), _quoted(secret))  # RFC 6749, section 2.3.1
            answer = self._ask("POST", self._endpoint("token_endpoint"), data=form, auth=auth)
        return self.person(str(answer.get("id_token", "")), str(answer.get("access_token", "")), nonce=nonce)

    def person(
        self, id_token: str, access_token: str = "", *, nonce: str | None = None, fresh_s: float | None = None
    ) -> Account:
        """Who an ID token is about; groups that it does not tell are asked of the provider.

        Args:
            id_token: made for one of our clients.
            access_token: that came with it.
            nonce: that the token must carry, where the log-in was begun here.
            fresh_s: how old it may be; None: as long as it is in force.

        Raises:
            AuthenticationError: `auth.provider`.
            UnavailableError: `unavailable.provider`.
        """
        claims = self._verified(id_token)
        audience = _audience(claims)
        client = next((name for name in self.config.clients if name in audience), None)
        if client is None or claims.get("azp", client) not in self.config.clients:
            raise AuthenticationError("auth.provider", "the ID token is made for somebody else")
        if len(audience) > 1 and "azp" not in claims:
            raise AuthenticationError("auth.provider", "the ID token is made for several, and says not by whom")
        if fresh_s is not None and float(claims["iat"]) + fresh_s < time.time():
            raise AuthenticationError("auth.provider", "this log-in is too old: log in again")
        if nonce is not None and claims.get("nonce") != nonce:
            raise AuthenticationError("auth.provider", "the ID token answers another log-in")
        if not any(name in claims for name in _GROUPS) and access_token:
            claims |= self._told(access_token, str(claims["sub"]))
        return _account(claims)

    def access(self, token: str) -> Bearer:
        """Who an access token speaks for, and how long.

        Raises:
            AuthenticationError: `auth.token` where the provider's access tokens are not taken; `auth.provider`.
            UnavailableError: `unavailable.provider`.
        """
        if not self.config.audience:
            raise AuthenticationError("auth.token", "access tokens of the provider are not taken here: log in")
        claims = self._verified(token)
        audience = _audience(claims)
        if self.config.audience not in audience and ANY_AUDIENCE not in audience:
            raise AuthenticationError("auth.provider", "the access token is made for somebody else")
        return Bearer(
            person=_account(claims),
            issued=float(claims["iat"]),
            until=float(claims["exp"]),
            anybody=self.config.audience not in audience,
        )

    def described(self) -> dict[str, Any]:
        """What command line and notebook need to log in: issuer, client and scopes; nothing secret."""
        return {"issuer": self.config.issuer, "client_id": self.config.device_client, "scopes": self.config.scopes}

    # --- inside

    def _verified(self, token: str) -> dict[str, Any]:
        """The claims of a token of the issuer that is in force."""
        try:
            claims = self._decoded(token)
            jwt.JWTClaimsRegistry(
                leeway=_LEEWAY_S,
                iss={"essential": True, "value": self.config.issuer},
                sub={"essential": True},
                aud={"essential": True},
                exp={"essential": True},
                iat={"essential": True},
            ).validate(claims)
        except (JoseError, ValueError, TypeError, KeyError, RecursionError):
            raise AuthenticationError("auth.provider") from None
        if not isinstance(claims["sub"], str) or not 0 < len(claims["sub"]) <= 255:
            raise AuthenticationError("auth.provider", "the token's subject is none")
        return claims

    def _decoded(self, token: str) -> dict[str, Any]:
        keys, algorithms = self._key_set(_FRESH_S), list(self.config.algorithms)
        try:
            return dict(jwt.decode(token, keys, algorithms=algorithms).claims)
        except (JoseError, ValueError):  # its key may be newer than what we know
            newer = self._key_set(_AGAIN_S)
            if newer is keys:
                raise
            return dict(jwt.decode(token, newer, algorithms=algorithms).claims)

    def _told(self, access_token: str, subject: str) -> dict[str, Any]:
        """Groups by the provider's userinfo (section 5.3), which must speak of the same person."""
        if "userinfo_endpoint" not in self._description():
            return {}
        try:
            headers = {"Authorization": f"Bearer {access_token}"}
            told = self._ask("GET", self._endpoint("userinfo_endpoint"), headers=headers)
        except AuthenticationError:  # a token that is bound to an audience is refused there
            return {}
        if told.get("sub") != subject:
            raise AuthenticationError("auth.provider", "the provider's userinfo speaks of somebody else")
        return {name: told[name] for name in (*_GROUPS, "name", "preferred_username") if name in told}

    def _description(self) -> dict[str, Any]:
        with self._lock:
            at, about = self._about
        if about and time.monotonic() - at < _FRESH_S:
            return about
        about = self._ask("GET", f"{self.config.issuer.rstrip('/')}/.well-known/openid-configuration")
        if about.get("issuer") != self.config.issuer:
            raise AuthenticationError("auth.provider", "the provider calls itself by another issuer than is pinned")
        with self._lock:
            self._about = (time.monotonic(), about)
        return about

    def _key_set(self, fresh_s: float) -> KeySet:
        with self._lock:
            at, keys = self._keys
        if keys is not None and time.monotonic() - at < fresh_s:
            return keys
        raw = self._ask("GET", self._endpoint("jwks_uri"))
        try:
            known = [key for key in raw["keys"] if key.get("kty") in ("RSA", "EC", "OKP") and key.get("use") != "enc"]
            keys = KeySet.import_key_set({"keys": known})
        except (JoseError, KeyError, TypeError, ValueError, AttributeError):
            raise UnavailableError("unavailable.provider", "the provider's keys cannot be read") from None
        with self._lock:
            self._keys = (time.monotonic(), keys)
        return keys

    def _endpoint(self, name: str) -> str:
        url = self._description().get(name)
        if not isinstance(url, str) or not secure(url):
            raise UnavailableError("unavailable.provider", f"the provider has no safe {name}")
        return url

    def _ask(self, method: str, url: str, **more: Any) -> dict[str, Any]:
        verify: Any = True if self.config.ca_file is None else _context(str(self.config.ca_file))
        try:
            with (
                httpx.Client(timeout=_TIMEOUT_S, verify=verify, trust_env=url.startswith("https://")) as http,
                http.stream(method, url, **more) as answer,
            ):
                body = _bounded(answer)
                status = answer.status_code
            value = httpx.Response(status, content=body).json() if body else {}
        except (httpx.HTTPError, ValueError, RecursionError, OSError):
            raise UnavailableError("unavailable.provider") from None
        if status in (400, 401, 403):
            raise AuthenticationError("auth.provider", "the provider refuses this")
        if status != 200 or not isinstance(value, dict):
            raise UnavailableError("unavailable.provider", f"the provider answers with status {status}")
        return value


def _context(path: str) -> Any:
    import ssl

    return ssl.create_default_context(cafile=path)


def _bounded(answer: httpx.Response) -> bytes:
    body = bytearray()
    for part in answer.iter_bytes():
        body += part
        if len(body) > _MAX_BYTES:
            raise ValueError("too long")
    return bytes(body)


def _quoted(text: str) -> str:
    from urllib.parse import quote_plus

    return quote_plus(text)


def _audience(claims: Mapping[str, Any]) -> tuple[str, ...]:
    given = claims["aud"]
    return tuple(map(str, given)) if isinstance(given, list) else (str(given),)


def _account(claims: Mapping[str, Any]) -> Account:
    found: dict[str, None] = {}
    told = [claims[name] for name in _GROUPS if name in claims]
    lists = [value for value in told if isinstance(value, list) and value]
    for value in lists if len(lists) == len(told) else ():  # what tells of none, as `[]`, beats what tells of some
        for one in value[:_MAX_GROUPS]:
            if isinstance(one, str) and group(one):
                found[group(one)] = None
    shown = next((claims[n] for n in ("name", "preferred_username") if isinstance(claims.get(n), str)), claims["sub"])
    plain = "".join(c for c in shown if c.isprintable()).strip()[:128]
    return Account(
        issuer=str(claims["iss"]), subject=str(claims["sub"]), name=plain or str(claims["sub"]), groups=tuple(found)
    )
