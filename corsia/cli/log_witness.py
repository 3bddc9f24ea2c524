"""`corsia log witness`: watch a log grow, and sign only what extends the last state that was signed."""

from __future__ import annotations

import base64
import fcntl
import json
import os
import time
from pathlib import Path
from typing import Annotated, Any

import typer

from corsia.cli.logsource import File, Json, LogKey, Token, Url, found
from corsia.cli.show import show
from protocol.errors import InputError, IntegrityError

__all__ = ["witness"]


def witness(
    key: Annotated[Path, typer.Option("--key", help="The witness's key file: 32 bytes (`corsia parcel keygen`).")],
    name: Annotated[str, typer.Option("--name", help="The witness's name, such as witness.example.org/corsia.")],
    state: Annotated[
        Path | None,
        typer.Option("--state", help="What was signed last, of each log; made when absent.", dir_okay=False),
    ] = None,
    file: File = None,
    url: Url = None,
    token: Token = None,
    log_key: LogKey = None,
    out: Annotated[Path | None, typer.Option("--out", help="Write the signed checkpoint here.")] = None,
    show_key: Annotated[
        bool, typer.Option("--show-key", help="Print the key that sites pin, and sign nothing.")
    ] = False,
    json_out: Json = False,
) -> None:
    """Check the whole log, and that it extends what this witness signed last; then sign its newest checkpoint.

    A log that shrank, forked or was rewritten since is refused (exit 19), for good. The log's key is pinned by
    --log-key, or at the first use by the state file. Give the result to the centre: `corsia log checkpoint import`.

    Example: corsia log witness --key w.key --name witness.example.org/a --state w.json --url https://centre.example.org
    Example: corsia log witness --key w.key --name witness.example.org/a --show-key
    """
    from edge.storage import write_file
    from privacy.envelope.keyfile import read_seed
    from privacy.witness import WitnessSecret

    secret = WitnessSecret(name, read_seed(key))
    if show_key:
        show({"key": secret.public.vkey}, json_out, secret.public.vkey)
        return
    if state is None:
        raise InputError("input.usage", "give --state: a witness that forgets what it signed is none")
    log = found(None, file, url, token, log_key) if log_key else _quietly(file, url, token)
    handle = os.open(state.with_name(f"{state.name}.lock"), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        known = _known(state)
        text, size, root = _newest(log, known.get(str(log.get("origin"))))
        known[str(log["origin"])] = {"size": size, "root": root, "log_key": log["log_key"]}
        write_file(state, json.dumps(known, sort_keys=True, indent=1).encode())  # before the signature exists
    finally:
        os.close(handle)
    signed = secret.cosign(text, int(time.time()))
    if out is not None:
        out.write_text(signed, encoding="utf-8")
    value = {"origin": log["origin"], "size": size, "root": root, "witness": name, "checkpoint": signed}
    show(value, json_out, signed.rstrip("\n") if out is None else f"wrote {out}: {size} entries, signed by {name}")


def _quietly(file: Path | None, url: str | None, token: str | None) -> dict[str, Any]:
    """The log without the note on its key: the state file pins that."""
    from corsia.cli.logsource import download, read_log

    if (file is None) == (url is None):
        raise InputError("input.usage", "give --file or --url")
    return read_log(file) if file is not None else download(str(url), token)


def _newest(log: dict[str, Any], last: dict[str, Any] | None) -> tuple[str, int, str]:
    """Text, size and root (hex) of the newest checkpoint of a log that extends the last one signed.

    Raises:
        IntegrityError: `log.proof`.
    """
    from privacy.checkpoint import read_checkpoint
    from privacy.transparency import Tree, verify_log

    if last is not None and last["log_key"] != log.get("log_key"):
        raise IntegrityError("log.proof", "the log's key is not the one that this witness knows")
    verify_log(log)
    if not log["checkpoints"]:
        raise InputError("input.usage", "the log has no checkpoint yet")
    text = max(log["checkpoints"], key=lambda one: read_checkpoint(one)[0].size)
    checkpoint = read_checkpoint(text)[0]
    tree = Tree()
    for leaf in log["leaves"]:
        tree.append(base64.b64decode(leaf))
    if last is not None and (checkpoint.size < last["size"] or tree.root(last["size"]).hex() != last["root"]):
        raise IntegrityError("log.proof", "the log does not extend the one that this witness signed: keep both")
    return text, checkpoint.size, checkpoint.root.hex()


def _known(state: Path) -> dict[str, dict[str, Any]]:
    if not state.exists():
        return {}
    try:
        value = json.loads(state.read_bytes())
        for one in value.values():
            texts = isinstance(one["root"], str) and isinstance(one["log_key"], str)
            if not (texts and type(one["size"]) is int and one["size"] >= 0):
                raise TypeError("fields")
        return dict(value)
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        raise IntegrityError("log.proof", f"{state} is damaged: without it this witness must not sign") from None
