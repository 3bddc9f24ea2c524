"""`corsia edge keys` and `corsia central keys`: lock the key files under a passphrase, unlock them, say how they lie.

Both work on the files of a state folder while nothing runs on it. A run that was cut short leaves some files locked
and some not; both forms are read, and the same command again finishes it.
"""

from __future__ import annotations

import json
import os
import secrets
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Annotated

import typer

from protocol.durable import sync_folder
from protocol.errors import ConfigurationError

__all__ = ["centre_stopped", "key_files", "keys_app", "lies_locked", "site_stopped"]

Json = Annotated[bool, typer.Option("--json", help="End in one JSON object on one line.")]
Passphrase = Annotated[
    Path | None,
    typer.Option("--passphrase-file", help="The passphrase, mode 0600; without it the configured one."),
]
Config = Annotated[Path | None, typer.Option("--config", help="edge.toml or central.toml.")]
Stopped = Callable[[Path], AbstractContextManager[None]]


def key_files(folder: Path) -> Iterator[Path]:
    """Every key file under a state folder."""
    return (path for path in sorted(folder.rglob("*.key")) if path.is_file() and not path.is_symlink())


def lies_locked(path: Path) -> bool:
    """Whether a key file is locked."""
    from privacy.envelope.locked import is_locked

    with path.open("rb") as file:
        return is_locked(file.read(64))


def keys_app(side: str, default: Path, state_of: Callable[[Path], Path], stopped: Stopped) -> typer.Typer:
    """The commands of one side.

    Args:
        side: `edge` or `central`, for the examples.
        default: its configuration file.
        state_of: reads a configuration and gives its state folder.
        stopped: holds a state folder against whatever else works on it; ConflictError `conflict.running`.
    """
    app = typer.Typer(no_args_is_help=True, help="Lock and unlock the key files by a passphrase (docs/keys.md).")

    def command(text: str) -> Callable[[Callable[..., None]], Callable[..., None]]:
        def named(function: Callable[..., None]) -> Callable[..., None]:
            name = function.__name__
            example = f"Example: corsia {side} keys {name} --config {default}"
            return app.command(name, help=f"{text}\n\n{example}")(function)

        return named

    def change(config: Path | None, passphrase_file: Path | None, json_out: bool, *, locked: bool) -> None:
        folder = state_of(config or default)
        with stopped(folder):
            count = _change(folder, passphrase_file, locked=locked)
        word = "locked" if locked else "unlocked"
        typer.echo(json.dumps({"changed": count, "keys": word}) if json_out else f"{count} key files {word}")

    @command("Lock every key file under the passphrase; set it in the configuration before the next start.")
    def protect(config: Config = None, passphrase_file: Passphrase = None, json_out: Json = False) -> None:
        change(config, passphrase_file, json_out, locked=True)

    @command("Write every key file as plain bytes again, as before the passphrase is changed or given up.")
    def unprotect(config: Config = None, passphrase_file: Passphrase = None, json_out: Json = False) -> None:
        change(config, passphrase_file, json_out, locked=False)

    @command("List the key files and whether they are locked.")
    def ls(config: Config = None, json_out: Json = False) -> None:
        folder = state_of(config or default)
        found = [{"file": str(p.relative_to(folder)), "locked": lies_locked(p)} for p in key_files(folder)]
        if json_out:
            typer.echo(json.dumps({"keys": found}))
        for row in [] if json_out else found:
            typer.echo(f"{'locked' if row['locked'] else 'plain':8} {row['file']}")

    return app


def _change(folder: Path, given: Path | None, *, locked: bool) -> int:
    """Rewrite the files that lie in the other form, each whole or not at all; how many these were."""
    from privacy.envelope.keyfile import passphrase_of, read_passphrase, read_secret
    from privacy.envelope.locked import lock, unlock

    passphrase = read_passphrase(given) if given is not None else passphrase_of(folder)
    if passphrase is None:
        raise ConfigurationError("config.passphrase", "no passphrase file is set: give --passphrase-file")
    todo = [path for path in key_files(folder) if lies_locked(path) is not locked]
    if locked:
        done = [path for path in key_files(folder) if path not in todo]
        for path in done:
            unlock(path.read_bytes(), passphrase)  # under two passphrases no process could start
        for path in todo:
            _replace(path, lock(read_secret(path), passphrase))
    else:
        opened = {path: unlock(path.read_bytes(), passphrase) for path in todo}  # all of them, or none is changed
        for path, secret in opened.items():
            _replace(path, secret)
    return len(todo)


def _replace(path: Path, data: bytes) -> None:
    """The owner stays: processes of the centre may run as users of their own, and this command as root."""
    state = path.stat()
    part = path.with_name(f".{path.name}.{secrets.token_hex(4)}.part")
    descriptor = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        with open(descriptor, "wb") as file:
            if (state.st_uid, state.st_gid) != (os.geteuid(), os.getegid()):
                os.fchown(descriptor, state.st_uid, state.st_gid)
            file.write(data)
            file.flush()
            os.fsync(descriptor)
        os.replace(part, path)
    except BaseException:
        part.unlink(missing_ok=True)
        raise
    sync_folder(path.parent)


def site_stopped(folder: Path) -> AbstractContextManager[None]:
    """Hold a site's state folder; its daemon must not run."""
    from edge.site import locked

    return locked(folder)


def centre_stopped(folder: Path) -> AbstractContextManager[None]:
    """Hold a centre's state folder; its processes must not run."""
    from central import ipc

    return ipc.stopped(folder)
