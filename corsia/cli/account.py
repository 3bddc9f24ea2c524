"""`corsia account`: log in at a centre's OpenID provider, see who one is there, log out."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Annotated

import typer

__all__ = ["app"]

app = typer.Typer(no_args_is_help=True, help="Log in at a centre by your institution's account, and log out.")
Url = Annotated[str, typer.Argument(help="The centre's address, as https://centre.example.org.", metavar="URL")]
Json = Annotated[bool, typer.Option("--json", help="End in one JSON object on one line.")]


@app.command()
def login(
    url: Url,
    scope: Annotated[
        list[str] | None, typer.Option("--scope", help="A right the token is to hold; may be repeated. Else all.")
    ] = None,
    days: Annotated[float | None, typer.Option("--days", help="The token's life; else the centre's longest.")] = None,
    label: Annotated[str, typer.Option("--label", help="What the token is called; else this machine's name.")] = "",
    out: Annotated[
        Path | None, typer.Option("--out", help="Write the token to this file, for a program; else keep it for URL.")
    ] = None,
    json_out: Json = False,
) -> None:
    """Log in by any browser; the token that comes of it is kept, and found by commands with --url and by notebooks.

    Example: corsia account login https://centre.example.org --scope studies:read --days 7
    """
    from corsia.login import keep
    from corsia.login import login as device_flow
    from protocol.errors import ConflictError

    if out is not None and out.exists():
        raise ConflictError("conflict.exists", f"{out} exists")
    made = device_flow(url, label=label, scopes=scope, days=days)
    path = keep(url, str(made["token"])) if out is None else _write(out, str(made["token"]))
    value = {"name": made["name"], "scopes": made["scopes"], "expires_at": made["expires_at"], "token_file": str(path)}
    until = time.strftime("%Y-%m-%d", time.gmtime(made["expires_at"]))
    typer.echo(json.dumps(value) if json_out else f"logged in as {made['name']} until {until}: {path}")


@app.command()
def show(url: Url, json_out: Json = False) -> None:
    """Say who the kept token makes you at a centre, and what you may.

    Example: corsia account show https://centre.example.org
    """
    from corsia.client import connect

    with connect(url, interactive=False) as hub:
        value = hub.me
    if json_out:
        typer.echo(json.dumps(value))
        return
    typer.echo(f"{value['name']}: {', '.join(value['roles'])}")
    for scope in value["scopes"]:
        typer.echo(f"  {scope}")


@app.command()
def logout(url: Url, json_out: Json = False) -> None:
    """End the kept token at the centre, and remove it here.

    Example: corsia account logout https://centre.example.org
    """
    from corsia.client import connect
    from corsia.login import forget, saved
    from protocol.errors import AuthenticationError, InputError

    if not saved(url).exists():
        raise InputError("input.usage", f"no token is kept for {url}")
    ended = True
    try:
        with connect(url, interactive=False) as hub:
            hub.logout()
    except AuthenticationError:  # it had ended before
        ended = False
    forget(url)
    typer.echo(json.dumps({"url": url, "ended": ended}) if json_out else "logged out")


def _write(path: Path, token: str) -> Path:
    import os

    from protocol.errors import StorageError

    try:
        with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
            file.write(token + "\n")
    except OSError as error:
        raise StorageError("storage.failed", f"{path} cannot be written: {error.strerror}") from None
    return path
