"""HTTP to a server at the hospital: credentials from a private file, and every failure as one of four of our errors.

TLS is always verified. Nothing of an address, header or answer gets into a message: it may hold a patient's id.
"""

from __future__ import annotations

import logging
import ssl
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import IO, TYPE_CHECKING
from urllib.parse import urljoin, urlsplit

from edge.secret import read_secret
from edge.sources.folder import MAX_FILE_BYTES
from edge.sources.places import HttpPlace
from edge.storage import named_errors
from protocol.errors import AuthenticationError, ConfigurationError, InputError, UnavailableError

if TYPE_CHECKING:
    import httpx

__all__ = ["Answer", "Refused", "TooLarge", "Web", "client", "wait_s"]

_BUSY = frozenset({408, 425, 429, 502, 503, 504})
_STEP = 1 << 20
_LONGEST_WAIT_S = 300.0


class Refused(Exception):
    """The server answered, and gave nothing: by this status."""

    def __init__(self, status: int) -> None:
        super().__init__(f"status {status}")
        self.status = status


class TooLarge(InputError):
    """The answer is larger than a source file may be."""


@dataclass(frozen=True, slots=True)
class Answer:
    """What a server gave."""

    status: int
    headers: Mapping[str, str]
    content: bytes = field(repr=False)


class Web:
    """A server, reached over kept connections.

    Args:
        place: where, and by which credentials.

    Raises:
        ConfigurationError: the files that `place` names; `config.extra-missing` without httpx.
    """

    def __init__(self, place: HttpPlace) -> None:
        headers = {}
        login: tuple[str, str] | None = None
        if place.token_file is not None:
            headers["Authorization"] = f"Bearer {read_secret(place.token_file)}"
        if place.auth_file is not None:
            user, colon, password = read_secret(place.auth_file).partition(":")
            if not colon:
                raise ConfigurationError("config.invalid", f"{place.auth_file}: USER:PASSWORD")
            login = (user, password)
        try:
            context = ssl.create_default_context(cafile=None if place.ca_file is None else str(place.ca_file))
        except OSError:
            raise ConfigurationError("config.invalid", f"{place.ca_file}: no certificates") from None
        self._base = place.url
        self._client = client(headers=headers, auth=login, verify=context, timeout_s=place.timeout_s)

    def close(self) -> None:
        """Close the connections."""
        self._client.close()

    def get(
        self,
        path: str,
        params: Mapping[str, str | int] | None = None,
        *,
        accept: str,
        headers: Mapping[str, str] | None = None,
    ) -> Answer:
        """The whole answer to a GET; no larger than a source file may have.

        Args:
            path: below the place's URL, or a whole URL of the same server.

        Raises:
            Refused: any status that gives nothing and is none of these:
            UnavailableError: `unavailable.source`; AuthenticationError: `auth.source`; InputError: `input.source` for
                an address elsewhere, or an answer too large.
        """
        data = bytearray()
        status, told = self._streamed(data.extend, path, params, {"Accept": accept, **(headers or {})})
        return Answer(status, told, bytes(data))

    def fetch(self, path: str, file: IO[bytes], *, accept: str) -> None:
        """Write the answer to a GET to a file, piece by piece; else as `get`.

        Raises:
            StorageError: `storage.full`, `storage.failed`; besides those of `get`.
        """

        def write(chunk: bytes) -> None:
            with named_errors("what a server gives"):
                file.write(chunk)

        self._streamed(write, path, None, {"Accept": accept})

    def _streamed(
        self,
        take: Callable[[bytes], object],
        path: str,
        params: Mapping[str, str | int] | None,
        headers: Mapping[str, str],
    ) -> tuple[int, Mapping[str, str]]:
        import httpx

        url, size = self._within(path), 0
        asked = {k: str(v) for k, v in params.items()} if params else None
        try:
            with self._client.stream("GET", url, params=asked, headers=headers) as answer:
                _judge(answer)
                for chunk in answer.iter_bytes(_STEP):
                    size += len(chunk)
                    if size > MAX_FILE_BYTES:
                        raise TooLarge("input.source", "an answer is larger than a file may be")
                    take(chunk)
                return answer.status_code, answer.headers
        except httpx.HTTPError:
            raise UnavailableError("unavailable.source") from None

    def delete(self, path: str) -> None:
        """Ask the server to forget what was made for us; nothing depends on whether it does.

        Raises:
            InputError: `input.source` for an address elsewhere.
        """
        import httpx

        with suppress(httpx.HTTPError):
            self._client.delete(self._within(path))

    def _within(self, path: str) -> str:
        """Links of an answer lead nowhere else: credentials go with each request."""
        try:
            url = urljoin(self._base + "/", path)
        except ValueError:
            raise InputError("input.source", "the server points to no address") from None
        if _origin(url) != _origin(self._base):
            raise InputError("input.source", "the server points to another one")
        return url


def _origin(url: str) -> tuple[str, str | None, int | None]:
    """Scheme, host and port.

    Raises:
        InputError: `input.source` for what is no address.
    """
    try:
        parts = urlsplit(url)
        port = parts.port or {"http": 80, "https": 443}.get(parts.scheme)
    except ValueError:
        raise InputError("input.source", "the server points to no address") from None
    return parts.scheme, parts.hostname, port


def client(
    *, headers: Mapping[str, str], auth: tuple[str, str] | None, verify: ssl.SSLContext, timeout_s: float
) -> httpx.Client:
    """A client that follows no redirect, reads no environment and says nothing of what it asks.

    Raises:
        ConfigurationError: `config.extra-missing`.
    """
    try:
        import httpx
    except ImportError:
        raise ConfigurationError("config.extra-missing", "this source needs corsia[sources]") from None
    for name in ("httpx", "httpcore"):
        logging.getLogger(name).setLevel(logging.WARNING)  # they log whole addresses
    return httpx.Client(
        headers=dict(headers), auth=auth, verify=verify, timeout=timeout_s, follow_redirects=False, trust_env=False
    )


def wait_s(told: str) -> float:
    """What `Retry-After` asks for, seconds or a date (RFC 9110, 10.2.3), as far as we follow it."""
    if told.isascii() and told.isdigit():
        seconds = float(told)
    else:
        try:
            seconds = (parsedate_to_datetime(told) - datetime.now(UTC)).total_seconds()
        except (ValueError, TypeError, OverflowError):  # no date, or one without a zone
            return 0.0
    return max(0.0, min(seconds, _LONGEST_WAIT_S))


def _judge(answer: httpx.Response) -> None:
    status = answer.status_code
    if status in _BUSY:
        raise UnavailableError("unavailable.source", retry_s=wait_s(answer.headers.get("Retry-After", "")))
    if status in (401, 403):
        raise AuthenticationError("auth.source")
    if not 200 <= status < 300:
        raise Refused(status)
