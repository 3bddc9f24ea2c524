"""Where `corsia log` reads from: an exported log, the centre's web address, or a state folder with what it pins."""

from __future__ import annotations

import json
from base64 import b64encode
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer

from protocol.errors import (
    AuthenticationError,
    ConfigurationError,
    InputError,
    IntegrityError,
    UnavailableError,
)

__all__ = [
    "File",
    "Json",
    "LogKey",
    "State",
    "Token",
    "Url",
    "download",
    "found",
    "is_site",
    "pin",
    "pinned",
    "read_log",
    "with_state",
]

_TIMEOUT_S = 60.0
State = Annotated[
    Path | None,
    typer.Option(
        "--state", help="A state folder: a site's (its pinned key and receipts) or the centre's.", file_okay=False
    ),
]
File = Annotated[Path | None, typer.Option("--file", help="An exported log, JSON.", dir_okay=False)]
Url = Annotated[str | None, typer.Option("--url", help="The centre's web address; downloads its log.")]
Token = Annotated[
    str | None,
    typer.Option("--token", "--token-file", envvar="CORSIA_TOKEN", help="The access token, or the file that holds it."),
]
LogKey = Annotated[Path | None, typer.Option("--log-key", help="Pin the log's key: its public key file.")]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON object.")]


def is_site(state: Path | None) -> bool:
    """Whether this is an enrolled site's folder."""
    return state is not None and (state / "trust.json").is_file()


def found(
    state: Path | None, file: Path | None, url: str | None, token: str | None, log_key: Path | None
) -> dict[str, Any]:
    """The log, with its key pinned as far as anything pins it.

    Raises:
        InputError: `input.usage` without a place to read from.
        IntegrityError: `log.proof` when it is not the pinned log.
        UnavailableError, AuthenticationError, StorageError: it cannot be read.
    """
    from privacy.envelope import read_public

    if file is not None and url is not None:
        raise InputError("input.usage", "give --file or --url, not both")
    export = read_log(file) if file is not None else download(url, token) if url is not None else None
    if state is not None:
        export = with_state(state, export)
    if export is None:
        raise InputError("input.usage", "give --state, --file or --url")
    if log_key is not None:
        pin(export, read_public(log_key).to_base64(), None)
    elif state is None:
        typer.echo("note: the log's key is the export's own word; pin it with --log-key or --state", err=True)
    return export


def pinned(state: Path | None, log_key: Path | None) -> tuple[str, str | None]:
    """The log's key (base64), and its name where that is pinned too.

    Raises:
        InputError: `input.usage` when neither pins it.
    """
    from privacy.envelope import read_public
    from protocol.trust import TrustBundle

    if log_key is not None:
        return read_public(log_key).to_base64(), None
    if state is not None and is_site(state):
        trust = TrustBundle.from_bytes((state / "trust.json").read_bytes())
        return trust.log_key, trust.log_origin
    if state is not None and (state / "gateway" / "log.pub").is_file():
        return read_public(state / "gateway" / "log.pub").to_base64(), None
    raise InputError("input.usage", "give --state or --log-key: somebody has to say whose signature counts")


def read_log(path: Path) -> dict[str, Any]:
    """An exported log, not verified.

    Raises:
        InputError: `input.usage`; IntegrityError: `log.proof` when it is no export.
    """
    try:
        return _parse(path.read_bytes())
    except OSError as error:
        raise InputError("input.usage", f"{path}: {error.strerror}") from None


def _parse(raw: bytes) -> dict[str, Any]:
    try:
        value = json.loads(raw)
    except (ValueError, RecursionError):
        raise IntegrityError("log.proof", "the exported log is not JSON") from None
    if not isinstance(value, dict):
        raise IntegrityError("log.proof", "the exported log is not a JSON object")
    texts = value.setdefault("checkpoints", [])
    named = (value.get("origin"), value.get("log_key"))
    if not isinstance(texts, list) or not all(isinstance(one, str) for one in (*named, *texts)):
        raise IntegrityError("log.proof", "the exported log names no log and key, or its checkpoints are no texts")
    return value


def download(url: str, token: str | None) -> dict[str, Any]:
    """The log as the centre's web process exports it, not verified.

    Raises:
        UnavailableError: `unavailable.centre`; AuthenticationError: `auth.token`.
    """
    try:
        import httpx
    except ImportError:
        raise ConfigurationError("config.extra-missing", "--url needs corsia[central]") from None
    headers = {"Authorization": f"Bearer {_bearer(token)}"} if token else {}
    try:
        answer = httpx.get(f"{url.rstrip('/')}/api/v1/log", headers=headers, timeout=_TIMEOUT_S)
    except (httpx.HTTPError, httpx.InvalidURL, UnicodeError) as error:
        raise UnavailableError("unavailable.centre", f"{url}: {type(error).__name__}") from None
    if answer.status_code in (401, 403):
        raise AuthenticationError("auth.token")
    if answer.status_code != 200:
        raise UnavailableError("unavailable.centre", f"{url}: HTTP {answer.status_code}")
    try:
        answer.json()
    except (ValueError, RecursionError):  # a proxy's page, or a portal's: no word of a log
        raise UnavailableError("unavailable.centre", f"what answers at {url} is no centre") from None
    return _parse(answer.content)


def _bearer(token: str) -> str:
    """What the centre may see of a token that is given as it is, or as the file that holds it.

    Raises:
        AuthenticationError: `auth.token`; ConfigurationError: `config.key-mode`.
    """
    from central.operators import bearer, read_token

    try:
        is_file = Path(token).is_file()
    except (OSError, ValueError):  # a provider's access token is longer than a file's name may be
        is_file = False
    given = bearer(read_token(Path(token)) if is_file else token)
    if not (given.isascii() and given.isprintable()):
        raise AuthenticationError("auth.token", "the token is none: it is plain ASCII on one line")
    return given


def with_state(state: Path, export: dict[str, Any] | None) -> dict[str, Any]:
    """What a state folder adds: at a site its pins and receipts, at the centre its database and log key.

    Raises:
        InputError: `input.usage` when it is neither; IntegrityError: `log.proof` when the log is not the pinned one.
    """
    if (state / "trust.json").is_file():
        return _with_site(state, export)
    if any((state / name).is_file() for name in ("corsia.db", "database.url")):
        return _with_centre(state, export)
    raise InputError("input.usage", f"{state} is the state folder neither of an enrolled site nor of a centre")


def _with_site(state: Path, export: dict[str, Any] | None) -> dict[str, Any]:
    from edge.spool import Spool
    from protocol.trust import TrustBundle

    trust = TrustBundle.from_bytes((state / "trust.json").read_bytes())
    receipts = [asdict(receipt) for _, receipt in Spool(state / "spool", 1).receipts()]
    if export is None:
        return {"origin": trust.log_origin, "log_key": trust.log_key, "receipts": receipts}
    pin(export, trust.log_key, trust.log_origin)
    known = export.get("receipts", [])
    if not isinstance(known, list):
        raise IntegrityError("log.proof", "receipts: malformed")
    return {**export, "receipts": [*known, *receipts]}


def _with_centre(state: Path, export: dict[str, Any] | None) -> dict[str, Any]:
    from sqlalchemy import select

    from central.store.engine import reading
    from central.store.models import CheckpointRow, LogRow
    from privacy.envelope import read_public

    key = read_public(state / "gateway" / "log.pub").to_base64()
    if export is not None:
        pin(export, key, None)
        return export
    with reading(state) as database:
        checkpoints = list(database.execute(select(CheckpointRow.text).order_by(CheckpointRow.size)).scalars())
        found = database.execute(select(LogRow.leaf).order_by(LogRow.index)).scalars()
        leaves = [b64encode(leaf).decode() for leaf in found]
    origin = checkpoints[0].partition("\n")[0] if checkpoints else "unsigned"
    return {"origin": origin, "log_key": key, "leaves": leaves, "checkpoints": checkpoints, "receipts": []}


def pin(export: dict[str, Any], key: str, origin: str | None) -> None:
    """Refuse a log of another key or name.

    Raises:
        IntegrityError: `log.proof`.
    """
    if export.get("log_key") != key or origin not in (None, export.get("origin")):
        raise IntegrityError("log.proof", "the log is not the one whose key is pinned here")
