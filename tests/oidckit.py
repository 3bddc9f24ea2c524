"""A real OpenID provider (npm `oidc-provider`) as a process on loopback, and people who log in to it by its pages."""

from __future__ import annotations

import html
import os
import re
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urljoin, urlsplit

import httpx
import pytest

from central.identity.settings import IdentityConfig, RolesConfig
from corsia.fleet import free_port

__all__ = ["AUDIENCE", "People", "Provided", "provided", "settings"]

AUDIENCE = "https://corsia.example"
_HOME = Path(__file__).parents[1] / "build" / "oidc"
_HOW = "SERVICES=1 sh .ci/services"
_ROLES = RolesConfig(operator=("/hbd/admins",), researcher=("hbd",), steward=("hbd/stewards",), dpo=("hbd/dpo",))


@dataclass(frozen=True)
class Provided:
    """A provider that answers at `issuer` for a centre at `centre`."""

    issuer: str
    centre: str


def settings(made: Provided, folder: Path, **changes: object) -> IdentityConfig:
    """[identity] of a centre that believes the provider."""
    secret = folder / "client.secret"
    secret.write_text("dash-secret\n")
    secret.chmod(0o600)
    value = {
        "issuer": made.issuer, "client_id": "dash", "client_secret_file": secret, "device_client_id": "cli",
        "redirect_uri": f"{made.centre}/auth/callback", "audience": AUDIENCE, "roles": _ROLES,
    }  # fmt: skip
    return IdentityConfig.model_validate(value | changes)


@contextmanager
def provided(folder: Path) -> Iterator[Provided]:
    """Start the provider; skips where it is not installed."""
    node, modules = shutil.which("node"), _HOME / "node_modules"
    if node is None or not (modules / "oidc-provider").is_dir():
        pytest.skip(f"no OpenID provider: {_HOW}")
    shutil.copy(Path(__file__).parent / "oidc" / "op.mjs", folder / "op.mjs")
    (folder / "node_modules").symlink_to(modules)
    port, centre = free_port(), f"http://127.0.0.1:{free_port()}"
    environment = {"PATH": os.environ["PATH"], "PORT": str(port), "CALLBACK": f"{centre}/auth/callback"}
    with (folder / "op.log").open("w") as log:
        process = subprocess.Popen(
            [node, "op.mjs"], cwd=folder, env=environment | {"AUDIENCE": AUDIENCE}, stdout=log, stderr=log
        )
    try:
        issuer = f"http://127.0.0.1:{port}"
        _until_ready(issuer, process, folder / "op.log")
        yield Provided(issuer, centre)
    finally:
        process.terminate()
        process.wait()


def _until_ready(issuer: str, process: subprocess.Popen[bytes], log: Path) -> None:
    end = time.monotonic() + 60
    while time.monotonic() < end and process.poll() is None:
        try:
            if httpx.get(f"{issuer}/.well-known/openid-configuration", trust_env=False).is_success:
                return
        except httpx.HTTPError:
            time.sleep(0.05)
    raise AssertionError(f"the provider did not start: {log.read_text()[-2000:]}")


class People:
    """A browser without scripts: follows redirects and fills in the provider's forms; keeps cookies by host."""

    def __init__(self, name: str) -> None:
        self.name, self.last = name, httpx.Response(200)
        self.http = httpx.Client(trust_env=False, timeout=60.0, headers={"Accept": "text/html"})

    def go(self, url: str, until: str = "\0") -> httpx.Response:
        """Open a page, log in and consent where that is asked, and stop at an address that begins with `until`."""
        answer = self.http.get(url)
        for _ in range(20):
            if answer.has_redirect_location:
                url = urljoin(str(answer.url), answer.headers["location"])
                if url.startswith(until):
                    return answer
                answer = self.http.get(url)
            elif (form := _form(answer)) is not None and urlsplit(str(answer.url)).path.startswith(
                ("/interaction", "/device")
            ):
                action, fields = form
                if "login" in fields:
                    fields |= {"login": self.name, "password": "any"}
                answer = self.http.post(urljoin(str(answer.url), action), data=fields)
            else:
                return answer
        raise AssertionError(f"the provider goes in a circle at {answer.url}")

    def close(self) -> None:
        self.http.close()


def _form(answer: httpx.Response) -> tuple[str, dict[str, str]] | None:
    found = re.search(r"<form[^>]*action=\"([^\"]*)\"[^>]*>(.*?)</form>", answer.text, re.DOTALL)
    if found is None:
        return None
    fields = {}
    for tag in re.findall(r"<input[^>]*>", found[2]):
        given = dict(re.findall(r"(\w+)=\"([^\"]*)\"", tag))
        if "name" in given:
            fields[given["name"]] = html.unescape(given.get("value", ""))
    return html.unescape(found[1]), fields
