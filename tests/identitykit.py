"""A centre's application in this process, without signer and vault, and people who are known to it."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
from fastapi import FastAPI

from central.config import CentralConfig, WebConfig
from central.identity.access import Access, Account
from central.identity.rights import Role
from central.identity.settings import IdentityConfig, RolesConfig
from central.operators import Operators
from central.store import Store
from central.web.app import create_app
from central.web.centre import Centre
from privacy.envelope import SecretKey, write_public

__all__ = ["ISSUER", "Hall", "hall", "identity"]

ISSUER = "https://iam.example.org/"


def identity(**changes: Any) -> IdentityConfig:
    """[identity] with a group of each role's own name."""
    value: dict[str, Any] = {
        "issuer": ISSUER, "client_id": "corsia", "redirect_uri": "https://corsia.example.org/auth/callback",
        "roles": RolesConfig.model_validate({role.value: [role.value] for role in Role}),
    }  # fmt: skip
    return IdentityConfig.model_validate(value | changes)


class InProcess:
    """Requests to an application in this process; no socket."""

    def __init__(self, app: FastAPI) -> None:
        self._loop = asyncio.new_event_loop()
        transport = httpx.ASGITransport(app, raise_app_exceptions=False)
        self._http = httpx.AsyncClient(transport=transport, base_url="https://corsia.example.org")

    def request(self, method: str, path: str, **more: Any) -> httpx.Response:
        return self._loop.run_until_complete(self._http.request(method, path, **more))

    def get(self, path: str, **more: Any) -> httpx.Response:
        return self.request("GET", path, **more)

    def post(self, path: str, **more: Any) -> httpx.Response:
        return self.request("POST", path, **more)

    def close(self) -> None:
        self._loop.run_until_complete(self._http.aclose())
        self._loop.run_until_complete(self._loop.shutdown_default_executor())
        self._loop.close()


class Hall:
    """The application, its store, and requests of people with a role."""

    def __init__(self, root: Path, *, web: WebConfig | None = None, with_provider: bool = True) -> None:
        config = CentralConfig(name="consortium", state_dir=root)
        self.operator = secrets.token_urlsafe(32)
        config.token_path.write_text(self.operator)
        config.token_path.chmod(0o600)
        self.identity = identity()
        self.store = Store(root)
        self.access = Access(self.store, self.identity)
        write_public(root / "log.pub", SecretKey.generate().public)
        self.centre = Centre(
            name="consortium", store=self.store, operators=Operators(config), signer=root / "none.sock",
            vault=root / "none.sock", log_public=root / "log.pub", log_origin=config.log_origin,
            identity=self.identity if with_provider else None,
            web=web or WebConfig(calls_per_s=1e5, failures_per_min=1e6),
        )  # fmt: skip
        self.centre.stop.set()  # event streams end at once
        self.app: FastAPI = create_app(self.centre)
        self.http = InProcess(self.app)

    def session(self, *groups: str, subject: str = "") -> str:
        """The cookie's value of somebody who has logged in."""
        person = Account(issuer=ISSUER, subject=subject or "-".join(groups), name="Somebody", groups=groups)
        return self.access.login(person)

    def headers(self, *groups: str, subject: str = "") -> dict[str, str]:
        """As `session`, of a request that changes something."""
        return {"Cookie": f"__Host-corsia={self.session(*groups, subject=subject)}", "X-Corsia": "1"}


@contextmanager
def hall(root: Path, **more: Any) -> Iterator[Hall]:
    made = Hall(root, **more)
    try:
        yield made
    finally:
        made.http.close()
        made.store.engine.dispose()
