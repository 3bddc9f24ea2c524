"""Central harvesting of remote sources: public or agreed tables, pulled over HTTPS, for lane 1 without an agent.

    due? -> GET (TLS verified, if changed) -> size, digests, form -> kept under its SHA-256, write-once -> provenance

Weather, sociodemographic, mobility: nothing about a person. Each pull leaves one line in a hash-chained file that says
from where, when, under which licence and terms, which bytes; a pull that fails leaves one too, and the last good one
stands. A remote without a licence cannot be configured, one whose agreement has ended is not asked.

Source: RFC 9110 (conditional requests), RFC 9530 (Content-Digest, Repr-Digest).
"""

from __future__ import annotations

import base64
import fcntl
import hashlib
import json
import os
import ssl
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal
from urllib.parse import urlsplit

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from central.forms import framed, rows_of
from protocol.durable import sync_files, sync_folder
from protocol.errors import (
    AuthenticationError,
    ConfigurationError,
    CorsiaError,
    InputError,
    IntegrityError,
    StorageError,
    UnavailableError,
)

if TYPE_CHECKING:
    import httpx

__all__ = ["REMOTE_PREFIX", "Pull", "Remote", "erase", "harvest", "kept_of", "provenance", "table_of"]

GENESIS = "0" * 64
REMOTE_PREFIX = "remote--"  # of its part of the lake; no study may be called so
_STEP = 1 << 20


def _https(url: str) -> str:
    parts = urlsplit(url)
    if parts.scheme != "https" or not parts.hostname or "@" in parts.netloc or parts.fragment:
        raise ValueError("https:// without user, password and fragment")
    return url


class Remote(BaseModel):
    """One remote table: `[remotes.NAME]` in central.toml.

    Attributes:
        url: where it lies; HTTPS alone.
        format: what it must be.
        licence: SPDX identifier or name.
        terms: where the agreement or the licence's text is.
        publisher: whom to name.
        every_h: how often it is asked for.
        agreed_until: last day of the agreement; none is without end.
        sha256: it must be these very bytes.
        token_file: a bearer token, mode 0600.
        ca_file: who signs the server's certificate, if not the system's.
        private: its address may be one of the inner network; else such a one is not gone to.
        max_bytes: more is refused.
        timeout_s: without an answer for so long it has failed.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")
    url: Annotated[str, Field(max_length=2048), AfterValidator(_https)]
    format: Literal["csv", "parquet", "json"] = "csv"
    licence: Annotated[str, Field(min_length=2, max_length=128)]
    terms: Annotated[str, Field(max_length=2048)] = ""
    publisher: Annotated[str, Field(min_length=2, max_length=256)]
    every_h: Annotated[float, Field(ge=0.01, le=24 * 366)] = 24.0
    agreed_until: date | None = None
    sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")] | None = None
    token_file: Path | None = None
    ca_file: Path | None = None
    private: bool = False
    max_bytes: Annotated[int, Field(gt=0, le=10**12)] = 1_000_000_000
    timeout_s: Annotated[float, Field(gt=0, le=3600)] = 60.0

    def under(self, base: Path) -> Remote:
        """With absolute paths."""
        files = {name: base / path for name in ("token_file", "ca_file") if (path := getattr(self, name)) is not None}
        return self.model_copy(update=files)


@dataclass(frozen=True, slots=True, kw_only=True)
class Pull:
    """What came of asking for one remote: `state` is kept, unchanged, not-due or failed, with the error's code."""

    name: str
    state: Literal["kept", "unchanged", "not-due", "failed"]
    sha256: str = ""
    code: str = ""


def harvest(
    state_dir: Path, remotes: Mapping[str, Remote], *, now: datetime | None = None, due_only: bool = True
) -> Iterator[Pull]:
    """Pull each remote that is due; the failure of one stops no other.

    Raises:
        IntegrityError: `lake.damaged` when a provenance file is not what was written.
        StorageError: the disk.
    """
    moment = now or datetime.now(UTC)
    for name, remote in remotes.items():
        folder = state_dir / "harvested" / name
        with _alone(folder):
            lines = provenance(folder)
            if lines and lines[-1]["state"] == "erased":
                yield Pull(name=name, state="failed", code="study.erased")
                continue
            if due_only and not _is_due(lines, remote, moment):
                yield Pull(name=name, state="not-due", sha256=_last(lines).get("sha256", ""))
                continue
            yield _pull(folder, name, remote, lines, moment)


def provenance(folder: Path) -> list[dict[str, Any]]:
    """All lines of one remote, the chain checked; a torn last line is left out.

    Raises:
        IntegrityError: `lake.damaged`.
    """
    try:
        raw = (folder / "provenance.jsonl").read_bytes()
    except FileNotFoundError:
        return []
    except OSError as error:
        raise StorageError("storage.failed", f"{folder}: {error.strerror}") from None
    before, lines = GENESIS, []
    for line in raw.split(b"\n")[:-1]:
        try:
            value = json.loads(line)
        except ValueError:
            value = None
        if not isinstance(value, dict) or value.get("prev") != before:
            raise IntegrityError("lake.damaged", f"{folder.name}: its provenance is not what was written")
        before = hashlib.sha256(line).hexdigest()
        lines.append(value)
    return lines


def table_of(state_dir: Path, name: str) -> tuple[bytes, dict[str, Any]]:
    """The last good bytes of a remote, checked against their line of provenance.

    Raises:
        InputError: `input.usage` when it was never pulled; IntegrityError: `lake.damaged`.
    """
    folder = state_dir / "harvested" / name
    line = kept_of(provenance(folder))
    if not line:
        raise InputError("input.usage", f"nothing was ever pulled of {name!r}")
    try:
        data = (folder / line["sha256"]).read_bytes()
    except OSError:
        data = b""
    if hashlib.sha256(data).hexdigest() != line["sha256"]:
        raise IntegrityError("lake.damaged", f"{name}: the kept bytes are not those that were pulled")
    return data, line


def erase(state_dir: Path, name: str, *, now: datetime | None = None) -> None:
    """Have a remote erased for good: never pulled again, its bytes removed, its key destroyed by the vault. Repeatable.

    Raises:
        InputError: `input.usage` when it was never pulled; IntegrityError: `lake.damaged`; StorageError.
    """
    folder = state_dir / "harvested" / name
    if not (folder / "provenance.jsonl").exists():
        raise InputError("input.usage", f"nothing was ever pulled of {name!r}")
    with _alone(folder):
        lines = provenance(folder)
        if lines and lines[-1]["state"] != "erased":
            at = (now or datetime.now(UTC)).isoformat(timespec="seconds")
            _append(folder, {"at": at, "state": "erased", "url": lines[-1]["url"]}, lines)
        for digest in {line["sha256"] for line in lines if "sha256" in line}:
            (folder / digest).unlink(missing_ok=True)


def kept_of(lines: list[dict[str, Any]]) -> dict[str, Any]:
    """The line of the last good table; empty when there is none, or it was erased."""
    last = _last(lines)
    return {} if not last or last["state"] == "erased" else {"format": "csv"} | last


# --- inside


def _pull(folder: Path, name: str, remote: Remote, lines: list[dict[str, Any]], moment: datetime) -> Pull:
    last = _last(lines)
    said: dict[str, Any] = {
        "at": moment.isoformat(timespec="seconds"), "url": remote.url, "licence": remote.licence,
        "terms": remote.terms, "publisher": remote.publisher, "format": remote.format,
    }  # fmt: skip
    try:
        if remote.agreed_until is not None and moment.date() > remote.agreed_until:
            raise ConfigurationError("config.invalid", f"remotes.{name}: the agreement has ended")
        if not _stands(last, remote):  # another file, or one that is to be another: it is asked for whole
            last = {}
        got = _fetch(remote, last)
        if got is None:
            said |= {"state": "unchanged"} | {k: last[k] for k in _KEPT}
        else:
            data, headers = got
            said |= {"state": "kept"} | _judged(data, headers, remote)
            _keep(folder, said["sha256"], data)
    except CorsiaError as error:
        if isinstance(error, StorageError):
            raise
        said |= {"state": "failed", "code": error.code}
    _append(folder, said, lines)
    return Pull(name=name, state=said["state"], sha256=said.get("sha256", ""), code=said.get("code", ""))


_KEPT = ("sha256", "bytes", "rows", "columns", "etag", "modified")


def _judged(data: bytes, headers: Mapping[str, str], remote: Remote) -> dict[str, Any]:
    """What is known of the bytes, once they are what they should be."""
    digest = hashlib.sha256(data)
    for name in ("Content-Digest", "Repr-Digest"):
        told = headers.get(name, "")
        if "sha-256=:" in told:
            wanted = told.partition("sha-256=:")[2].partition(":")[0]
            if wanted != base64.b64encode(digest.digest()).decode():
                raise IntegrityError("blob.digest", "the bytes are not those that the server says")
    if remote.sha256 is not None and digest.hexdigest() != remote.sha256:
        raise IntegrityError("blob.digest", "the bytes are not those that were agreed")
    rows, columns = rows_of(data, remote.format)
    framed(data, remote.format)  # what the vault will do with it
    return {
        "sha256": digest.hexdigest(), "bytes": len(data), "rows": rows, "columns": columns,
        "etag": headers.get("ETag", "")[:256], "modified": headers.get("Last-Modified", "")[:64],
    }  # fmt: skip


def _fetch(remote: Remote, last: Mapping[str, Any]) -> tuple[bytes, Mapping[str, str]] | None:
    """The bytes and headers; None when they have not changed."""
    import httpx

    from central.reach import client

    headers = {"Accept-Encoding": "identity"}
    if last.get("etag"):
        headers["If-None-Match"] = str(last["etag"])
    elif last.get("modified"):
        headers["If-Modified-Since"] = str(last["modified"])
    if remote.token_file is not None:
        headers["Authorization"] = f"Bearer {_token(remote.token_file)}"
    try:
        context = ssl.create_default_context(cafile=None if remote.ca_file is None else str(remote.ca_file))
        with (
            client(remote.url, context, remote.timeout_s, private=remote.private) as asking,
            asking.stream("GET", remote.url, headers=headers) as answer,
        ):
            got = _read(answer, remote.max_bytes)
    except OSError:
        raise ConfigurationError("config.invalid", "ca_file holds no certificates") from None
    except httpx.HTTPError:
        raise UnavailableError("unavailable.source") from None
    if got is None and not last:
        raise UnavailableError("unavailable.source", "the server says that nothing has changed, of nothing")
    return got


def _stands(last: Mapping[str, Any], remote: Remote) -> bool:
    """Whether what was kept is still what the configuration means, if the server says that it has not changed."""
    same = last.get("url") == remote.url and last.get("format", "csv") == remote.format
    return same and remote.sha256 in (None, last.get("sha256"))


def _read(answer: httpx.Response, bound: int) -> tuple[bytes, Mapping[str, str]] | None:
    if answer.status_code == 304:
        return None
    if answer.status_code in (401, 403):
        raise AuthenticationError("auth.source")
    if answer.status_code != 200:  # a redirect too: the agreed address is the agreed one
        raise UnavailableError("unavailable.source", f"the server answers with status {answer.status_code}")
    data = bytearray()
    for chunk in answer.iter_raw(_STEP):
        data += chunk
        if len(data) > bound:
            raise InputError("input.source", "the table is larger than max_bytes")
    told = answer.headers.get("Content-Length", "")
    if told.isdigit() and int(told) != len(data):
        raise UnavailableError("unavailable.source", "the table was cut")
    return bytes(data), answer.headers


def _token(path: Path) -> str:
    try:
        if path.stat().st_mode & 0o077:
            raise ConfigurationError("config.key-mode", f"{path}: a token is for 0600 or stricter")
        return path.read_text().strip()
    except (OSError, UnicodeDecodeError):
        raise ConfigurationError("config.missing", f"{path} cannot be read") from None


def _is_due(lines: list[dict[str, Any]], remote: Remote, moment: datetime) -> bool:
    """A failure is asked again at the next occasion; what was got, after `every_h`."""
    if not lines or lines[-1]["state"] == "failed" or lines[-1]["url"] != remote.url:
        return True
    return moment - datetime.fromisoformat(lines[-1]["at"]) >= timedelta(hours=remote.every_h)


def _last(lines: list[dict[str, Any]]) -> dict[str, Any]:
    return next((line for line in reversed(lines) if line["state"] != "failed"), {})


def _keep(folder: Path, name: str, data: bytes) -> None:
    """Write-once: the same bytes are the same file."""
    path = folder / name

    def write() -> None:
        temporary = folder / f".tmp-{name}"
        temporary.unlink(missing_ok=True)
        with os.fdopen(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as target:
            target.write(data)
        sync_files([temporary])
        temporary.rename(path)
        sync_folder(folder)

    if not path.exists() or hashlib.sha256(path.read_bytes()).hexdigest() != name:
        _told(folder, write)


def _append(folder: Path, said: dict[str, Any], lines: list[dict[str, Any]]) -> None:
    path = folder / "provenance.jsonl"

    def write() -> None:
        raw = path.read_bytes() if path.exists() else b""
        whole = raw[: raw.rfind(b"\n") + 1]  # without a torn last line
        before = hashlib.sha256(whole[:-1].rpartition(b"\n")[2]).hexdigest() if lines else GENESIS
        line = json.dumps(said | {"prev": before}, sort_keys=True).encode() + b"\n"
        with os.fdopen(os.open(path, os.O_RDWR | os.O_CREAT, 0o600), "r+b") as target:
            target.truncate(len(whole))
            target.seek(0, os.SEEK_END)
            target.write(line)
            target.flush()
            os.fsync(target.fileno())
        sync_folder(folder)

    _told(folder, write)


def _told(folder: Path, write: Callable[[], None]) -> None:
    try:
        write()
    except OSError as error:
        raise StorageError.of(error, f"{folder}: {error.strerror}") from None


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    _told(folder, lambda: folder.mkdir(parents=True, exist_ok=True, mode=0o700))
    handle = os.open(folder / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)
