"""Log-in from a notebook or a terminal by the device flow, and where the token that comes of it is kept.

    corsia account login https://centre.example.org         # or, in a notebook, corsia.connect(url)

The person says yes at the OpenID provider with any browser; the centre gives an API token for it, which is kept in a
file of this user alone and found again by the centre's address.

Source: RFC 8628 (device authorization grant), sections 3.1 to 3.5.
"""

from __future__ import annotations

import hashlib
import os
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from corsia import replies
from protocol.errors import (
    AuthenticationError,
    ConfigurationError,
    InputError,
    StorageError,
    UnavailableError,
)

__all__ = ["forget", "keep", "login", "saved"]

_GRANT = "urn:ietf:params:oauth:grant-type:device_code"
_TIMEOUT_S = 30.0
_SLOWER_S = 5.0  # section 3.5: on `slow_down`
_LONGEST_S = 1800.0
_ODD = (LookupError, TypeError, ValueError, AttributeError, ArithmeticError, RecursionError)  # what no provider says
Say = Callable[[str, str], None]


def check_address(url: str) -> None:
    """Refuse what is no centre's address.

    Raises:
        InputError: `input.usage`.
    """
    if not url.startswith(("http://", "https://")):
        raise InputError("input.usage", "a centre's address begins with http:// or https://")


def saved(url: str) -> Path:
    """Where the token for a centre is kept, whether there is one or not."""
    home = Path(os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config") / "corsia" / "tokens"
    parts = urlsplit(url.rstrip("/"))
    name = "".join(c if c.isalnum() else "-" for c in parts.netloc)[:60]
    return home / f"{name}-{hashlib.sha256(url.rstrip('/').encode()).hexdigest()[:8]}.token"


def keep(url: str, token: str) -> Path:
    """Keep a token for a centre, in a file of this user alone (0600).

    Raises:
        StorageError: `storage.failed`.
    """
    path = saved(url)
    half = path.with_suffix(f".{os.getpid()}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        half.unlink(missing_ok=True)
        with open(os.open(half, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
            file.write(token + "\n")
        half.replace(path)
    except OSError as error:
        raise StorageError("storage.failed", f"{path} cannot be written: {error.strerror}") from None
    return path


def forget(url: str) -> bool:
    """Remove the token that is kept for a centre; whether there was one."""
    path = saved(url)
    found = path.exists()
    path.unlink(missing_ok=True)
    return found


def login(
    url: str,
    *,
    label: str = "",
    scopes: Sequence[str] | None = None,
    days: float | None = None,
    say: Say | None = None,
) -> dict[str, Any]:
    """Log in at a centre's OpenID provider by the device flow; the person goes to an address with a code.

    Args:
        url: the centre's address.
        label: what the token is called in the list of one's tokens.
        scopes: the rights that it holds; None: all of one's own but the making of tokens.
        days: its life; None: the longest that the centre allows.
        say: tells the person where to go: address and code. Written to standard error when not given.

    Returns:
        The centre's answer: `token` (kept nowhere), `name`, `scopes`, `expires_at`, `id`.

    Raises:
        AuthenticationError: `auth.provider`: the centre has no provider, or the person said no, or too late.
        UnavailableError: `unavailable.centre`, `unavailable.provider`.
    """
    try:
        import httpx
    except ImportError:
        raise ConfigurationError("config.extra-missing", "corsia[demo] or corsia[central] is needed") from None
    check_address(url)
    base = url.rstrip("/")
    try:
        with httpx.Client(timeout=_TIMEOUT_S, trust_env=base.startswith("https://")) as http:
            told = _good("GET", "/auth/provider", http.get(f"{base}/auth/provider"), base)
            got = _granted(http, told, say or _say)
            asked = {"id_token": got["id_token"], "access_token": got.get("access_token", ""), "scopes": scopes}
            asked |= {"label": label or f"corsia on {os.uname().nodename}"[:128], "days": days}
            return _good("POST", "/auth/device", http.post(f"{base}/auth/device", json=asked), base)
    except (httpx.HTTPError, httpx.InvalidURL):
        raise UnavailableError("unavailable.centre", f"the centre does not answer at {base}") from None


def _granted(http: Any, told: dict[str, Any], say: Say) -> dict[str, Any]:
    """What the provider gives once the person has said yes."""
    import httpx

    from central.identity.settings import secure

    issuer, client = str(told["issuer"]), str(told["client_id"])
    try:
        about = http.get(f"{issuer.rstrip('/')}/.well-known/openid-configuration").json()
        begin, token = str(about["device_authorization_endpoint"]), str(about["token_endpoint"])
        if about["issuer"] != issuer or not (secure(begin) and secure(token)):
            raise ValueError("another")
        begun = http.post(begin, data={"client_id": client, "scope": " ".join(told["scopes"])}).json()
        say(str(begun.get("verification_uri_complete") or begun["verification_uri"]), str(begun["user_code"]))
        until = time.monotonic() + min(float(begun["expires_in"]), _LONGEST_S)
        return _polled(http, token, {"client_id": client, "device_code": begun["device_code"]}, begun, until)
    except (httpx.HTTPError, httpx.InvalidURL, *_ODD):
        raise UnavailableError("unavailable.provider", f"{issuer} offers no device flow for {client}") from None


def _polled(http: Any, url: str, form: dict[str, Any], begun: dict[str, Any], until: float) -> dict[str, Any]:
    pause_s = max(0.1, float(begun.get("interval", 5)))
    while time.monotonic() < until:
        answer = http.post(url, data={"grant_type": _GRANT} | form)
        value = answer.json()
        if answer.is_success and value.get("id_token"):
            return dict(value)
        word = value.get("error")
        if word == "slow_down":
            pause_s += _SLOWER_S
        elif word != "authorization_pending":
            raise AuthenticationError("auth.provider", "the provider did not let you in")
        time.sleep(pause_s)
    raise AuthenticationError("auth.provider", "nobody said yes in time: log in again")


def _good(method: str, path: str, answer: Any, base: str) -> dict[str, Any]:
    if not answer.is_success:
        raise replies.refusal(answer.status_code, answer.content)
    return dict(replies.read(method, path, answer.content, base))


def _say(address: str, code: str) -> None:
    sys.stderr.write(f"To log in, open\n\n    {address}\n\nand compare the code: {code}\n")
    sys.stderr.flush()
