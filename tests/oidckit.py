"""A real OpenID provider (npm `oidc-provider`) as a process on loopback, and people who log in to it by its pages."""

from __future__ import annotations

import html
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urljoin, urlsplit

import httpx
import pytest

from central.identity.settings import IdentityConfig, RolesConfig
from corsia.fleet import free_port
from tests.browserkit import Seat, by_tab

__all__ = ["AUDIENCE", "People", "Provided", "provided", "settings", "signed_in"]

AUDIENCE = "https://corsia.example"
_HOME = Path(__file__).parents[1] / "build" / "oidc"
_PORT = "from corsia.fleet import free_port; print(free_port())"
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
def provided(folder: Path, centre: str = "", prefix: Sequence[str] = ()) -> Iterator[Provided]:
    """Start the provider; skips where it is not installed.

    Args:
        centre: where people come from; else a place that is free.
        prefix: a command to start it with, as one that enters a network namespace.
    """
    node, modules = shutil.which("node"), _HOME / "node_modules"
    if node is None or not (modules / "oidc-provider").is_dir():
        pytest.skip(f"no OpenID provider: {_HOW}")
    shutil.copy(Path(__file__).parent / "oidc" / "op.mjs", folder / "op.mjs")
    (folder / "node_modules").symlink_to(modules)
    centre = centre or f"http://127.0.0.1:{free_port()}"
    port = int(subprocess.check_output([*prefix, sys.executable, "-c", _PORT])) if prefix else free_port()
    environment = {"PATH": os.environ["PATH"], "PORT": str(port), "CALLBACK": f"{centre}/auth/callback"}
    with (folder / "op.log").open("w") as log:
        process = subprocess.Popen(
            [*prefix, node, "op.mjs"], cwd=folder, env=environment | {"AUDIENCE": AUDIENCE}, stdout=log, stderr=log
        )
    try:
        issuer = f"http://127.0.0.1:{port}"
        _until_listening(process, folder / "op.log")
        yield Provided(issuer, centre)
    finally:
        process.terminate()
        process.wait()


def _until_listening(process: subprocess.Popen[bytes], log: Path) -> None:
    end = time.monotonic() + 60
    while time.monotonic() < end and process.poll() is None:
        if any(line.startswith("issuer ") for line in log.read_text().splitlines()):
            return
        time.sleep(0.05)
    raise AssertionError(f"the provider did not start: {log.read_text()[-2000:]}")


def signed_in(seat: Seat, person: str, button: str = "Sign in with your institution") -> Any:
    """From the door through the provider's pages, by keyboard alone, in Chromium."""
    page = seat.page("/")
    by_tab(page, page.get_by_role("link", name=button))
    page.keyboard.press("Enter")
    for field, text in (("Enter any login", person), ("and password", "any")):
        by_tab(page, page.get_by_placeholder(field))
        page.keyboard.type(text)
    page.keyboard.press("Enter")
    by_tab(page, page.get_by_role("button", name="Continue"))
    page.keyboard.press("Enter")
    return page


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
