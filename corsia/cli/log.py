"""`corsia log verify`: check the transparency log from an export, from the centre, or from a state folder."""

from __future__ import annotations

import json
import sqlite3
from base64 import b64encode
from contextlib import closing
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer

from protocol.errors import (
    AuthenticationError,
    ConfigurationError,
    InputError,
    IntegrityError,
    StorageError,
    UnavailableError,
)

app = typer.Typer(no_args_is_help=True, help="Verify the transparency log.")
_TIMEOUT_S = 60.0


@app.callback()
def _root() -> None:
    """Verify the transparency log."""


@app.command()
def verify(
    state: Annotated[
        Path | None,
        typer.Option(
            "--state", help="A state folder: a site's (its pinned key and receipts) or the centre's.", file_okay=False
        ),
    ] = None,
    file: Annotated[Path | None, typer.Option("--file", help="An exported log, JSON.", dir_okay=False)] = None,
    url: Annotated[str | None, typer.Option("--url", help="The centre's web address; downloads its log.")] = None,
    token: Annotated[
        str | None,
        typer.Option(
            "--token", "--token-file", envvar="CORSIA_TOKEN", help="The access token, or the file that holds it."
        ),
    ] = None,
    log_key: Annotated[Path | None, typer.Option("--log-key", help="Pin the log's key: its public key file.")] = None,
    json_out: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Check leaves, roots, signed checkpoints, consistency and receipts.

    With a site's --state its own receipts are checked, and that the log (--url or --file) still holds them.

    Example: corsia log verify --state edge-state --url https://centre.example.org --token operator.token
    """
    from privacy.envelope import read_public
    from privacy.transparency import verify_log

    if file is not None and url is not None:
        raise InputError("input.usage", "give --file or --url, not both")
    export = _read(file) if file is not None else _download(url, token) if url is not None else None
    alone = export is None and state is not None and (state / "trust.json").is_file()
    if state is not None:
        export = _with_state(state, export)
    if export is None:
        raise InputError("input.usage", "give --state, --file or --url")
    if log_key is not None:
        _pin(export, read_public(log_key).to_base64(), None)
    elif state is None:
        typer.echo("note: the log's key is the export's own word; pin it with --log-key or --state", err=True)
    result = _verify_receipts(export) if alone else verify_log(export)
    if json_out:
        typer.echo(json.dumps(result))
    else:
        typer.echo(
            f"the log verifies: {result['entries']} entries, {result['checkpoints']} checkpoints, "
            f"{result['receipts']} receipts"
        )


def _read(path: Path) -> dict[str, Any]:
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
    return value


def _download(url: str, token: str | None) -> dict[str, Any]:
    try:
        import httpx
    except ImportError:
        raise ConfigurationError("config.extra-missing", "--url needs corsia[central]") from None
    if token is not None and Path(token).is_file():
        token = Path(token).read_text(encoding="ascii").strip()
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    try:
        answer = httpx.get(f"{url.rstrip('/')}/api/v1/log", headers=headers, timeout=_TIMEOUT_S)
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        raise UnavailableError("unavailable.centre", f"{url}: {type(error).__name__}") from None
    if answer.status_code in (401, 403):
        raise AuthenticationError("auth.token")
    if answer.status_code != 200:
        raise UnavailableError("unavailable.centre", f"{url}: HTTP {answer.status_code}")
    return _parse(answer.content)


def _with_state(state: Path, export: dict[str, Any] | None) -> dict[str, Any]:
    """What a state folder adds: at a site its pins and receipts, at the centre its database and log key."""
    if (state / "trust.json").is_file():
        return _with_site(state, export)
    if (state / "corsia.db").is_file():
        return _with_centre(state, export)
    raise InputError("input.usage", f"{state} is the state folder neither of an enrolled site nor of a centre")


def _with_site(state: Path, export: dict[str, Any] | None) -> dict[str, Any]:
    from edge.spool import Spool
    from protocol.trust import TrustBundle

    trust = TrustBundle.from_bytes((state / "trust.json").read_bytes())
    receipts = [asdict(receipt) for _, receipt in Spool(state / "spool", 1).receipts()]
    if export is None:
        return {"origin": trust.log_origin, "log_key": trust.log_key, "receipts": receipts}
    _pin(export, trust.log_key, trust.log_origin)
    known = export.get("receipts", [])
    if not isinstance(known, list):
        raise IntegrityError("log.proof", "receipts: malformed")
    return {**export, "receipts": [*known, *receipts]}


def _with_centre(state: Path, export: dict[str, Any] | None) -> dict[str, Any]:
    from privacy.envelope import read_public

    key = read_public(state / "gateway" / "log.pub").to_base64()
    if export is not None:
        _pin(export, key, None)
        return export
    try:
        with closing(sqlite3.connect(f"{(state / 'corsia.db').resolve().as_uri()}?mode=ro", uri=True)) as database:
            checkpoints = [text for (text,) in database.execute("SELECT text FROM checkpoints ORDER BY size")]
            leaves = [b64encode(leaf).decode() for (leaf,) in database.execute('SELECT leaf FROM log ORDER BY "index"')]
    except sqlite3.Error:
        raise StorageError("storage.failed", f"{state / 'corsia.db'} cannot be read") from None
    origin = checkpoints[0].partition("\n")[0] if checkpoints else "unsigned"
    return {"origin": origin, "log_key": key, "leaves": leaves, "checkpoints": checkpoints, "receipts": []}


def _pin(export: dict[str, Any], key: str, origin: str | None) -> None:
    if export.get("log_key") != key or origin not in (None, export.get("origin")):
        raise IntegrityError("log.proof", "the log is not the one whose key is pinned here")


def _verify_receipts(site: dict[str, Any]) -> dict[str, Any]:
    """A site's receipts without the log: each proves its parcel, and no two checkpoints may contradict each other."""
    from privacy.envelope import PublicKey
    from privacy.transparency import verify_receipt
    from protocol.parcel import Receipt

    key = PublicKey.from_base64(site["log_key"])
    roots: dict[int, bytes] = {}
    for value in site["receipts"]:
        checkpoint = verify_receipt(Receipt(**value), key, site["origin"])
        if roots.setdefault(checkpoint.size, checkpoint.root) != checkpoint.root:
            raise IntegrityError("log.proof", "two signed checkpoints of one size differ")
    count = len(site["receipts"])
    return {"verified": True, "entries": count, "checkpoints": len(roots), "receipts": count, "pending": 0}
