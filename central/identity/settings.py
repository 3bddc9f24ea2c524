"""`[identity]` of central.toml: which OpenID provider is believed, and which of its groups has which role.

Without it operators and their token files are all there is. Everything is pinned: the issuer as it stands in the
tokens, algorithms, audience, and the address to come back to.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated
from urllib.parse import urlsplit

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from central.identity.rights import Role
from protocol.errors import ConfigurationError

__all__ = ["ANY_AUDIENCE", "IdentityConfig", "RolesConfig", "group"]

ANY_AUDIENCE = "https://wlcg.cern.ch/jwt/v1/any"  # WLCG token profile, "aud": good for reading alone
_LOOPBACK = ("127.0.0.1", "::1", "localhost")
_ALGORITHMS = ("RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "Ed25519")
Group = Annotated[str, Field(min_length=1, max_length=255)]
Url = Annotated[str, Field(min_length=1, max_length=2048)]


def group(name: str) -> str:
    """A group's name as it is compared: `/hbd/admins` is `hbd/admins` (WLCG and IAM profiles write it either way)."""
    return "/".join(part for part in name.split("/") if part)


class _Model(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class RolesConfig(_Model):
    """The groups of each role; who is in none of them is refused."""

    operator: tuple[Group, ...] = ()
    researcher: tuple[Group, ...] = ()
    steward: tuple[Group, ...] = ()
    dpo: tuple[Group, ...] = ()

    def of(self, groups: tuple[str, ...]) -> tuple[Role, ...]:
        """The roles of somebody in these groups."""
        mine = {group(name) for name in groups}
        return tuple(role for role in Role if mine & {group(name) for name in getattr(self, role.value)})


class IdentityConfig(_Model):
    """An OpenID provider.

    Attributes:
        issuer: exactly as in its tokens, with or without a slash at the end.
        client_id: this centre as the provider knows it.
        client_secret_file: absolute after `load_config`; without it the client is public and PKCE alone protects it.
        device_client_id: a public client for command line and notebook; empty: `client_id`.
        redirect_uri: `https://THIS-CENTRE/auth/callback`, as registered with the provider.
        audience: what access tokens must be made for; empty: none is taken, people log in.
        scopes: asked for at log-in; `wlcg.groups` for the WLCG profile.
        algorithms: signatures that are believed.
        ca_file: who vouches for the provider's certificate, where that is not one of the usual authorities.
        session_hours: a log-in lasts so long,
        idle_minutes: and so long without a request.
        token_days: the longest life of an API token.
        login_days: who has not logged in for so long has no role, whatever tokens he holds.
        roles: groups of each role.
    """

    issuer: Url
    client_id: Annotated[str, Field(min_length=1, max_length=255)]
    client_secret_file: Path | None = None
    device_client_id: Annotated[str, Field(max_length=255)] = ""
    redirect_uri: Url
    audience: Annotated[str, Field(max_length=2048)] = ""
    scopes: Annotated[tuple[str, ...], Field(min_length=1, max_length=32)] = ("openid", "profile", "wlcg.groups")
    algorithms: Annotated[tuple[str, ...], Field(min_length=1)] = ("RS256", "ES256")
    ca_file: Path | None = None
    session_hours: Annotated[float, Field(gt=0, le=24 * 7)] = 8.0
    idle_minutes: Annotated[float, Field(gt=0, le=24 * 60)] = 60.0
    token_days: Annotated[float, Field(gt=0, le=366)] = 90.0
    login_days: Annotated[float, Field(gt=0, le=366)] = 30.0
    roles: RolesConfig = RolesConfig()

    @field_validator("issuer", "redirect_uri")
    @classmethod
    def _safe(cls, value: str) -> str:
        if not secure(value):
            raise ValueError("must be https://, or http:// on this machine alone")
        return value

    @field_validator("algorithms")
    @classmethod
    def _known(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        if not set(value) <= set(_ALGORITHMS):
            raise ValueError(f"algorithms are of {', '.join(_ALGORITHMS)}")  # no "none", no shared secret
        return value

    @model_validator(mode="after")
    def _apart(self) -> IdentityConfig:
        if "openid" not in self.scopes:
            raise ValueError("scopes must have openid")
        if not urlsplit(self.redirect_uri).path.endswith("/auth/callback"):
            raise ValueError("redirect_uri must end in /auth/callback")
        if self.audience in (self.client_id, self.device_client_id, ANY_AUDIENCE) and self.audience:
            raise ValueError("audience must be this centre's own: an ID token would pass for an access token")
        return self

    @property
    def clients(self) -> tuple[str, ...]:
        """The clients whose ID tokens are meant for this centre."""
        return tuple(dict.fromkeys((self.client_id, self.device_client or self.client_id)))

    @property
    def device_client(self) -> str:
        """The client of command line and notebook."""
        return self.device_client_id or self.client_id

    def secret(self) -> str | None:
        """The client's secret, or None for a public client.

        Raises:
            ConfigurationError: `config.missing`, `config.key-mode`.
        """
        if self.client_secret_file is None:
            return None
        try:
            if self.client_secret_file.stat().st_mode & 0o077:
                raise ConfigurationError("config.key-mode", f"{self.client_secret_file} is readable by others")
            return self.client_secret_file.read_text(encoding="utf-8").strip()
        except (OSError, UnicodeDecodeError):
            raise ConfigurationError("config.missing", f"{self.client_secret_file} cannot be read") from None


def secure(url: str) -> bool:
    """Whether an address is https, or does not leave this machine."""
    try:
        parts = urlsplit(url)
        host = parts.hostname
    except ValueError:
        return False
    return bool(host) and (parts.scheme == "https" or (parts.scheme == "http" and host in _LOOPBACK))
