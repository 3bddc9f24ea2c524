"""`corsia study export`: a study's rows as a file, when two operators have agreed that they leave the vault."""

from __future__ import annotations

import json
import os
import secrets
from pathlib import Path
from typing import Annotated

import typer

from protocol.errors import ConflictError, InputError, StorageError

__all__ = ["export"]


def export(
    study: Annotated[str, typer.Argument(metavar="ID", help="The study's id.")],
    out: Annotated[Path | None, typer.Option("--out", help="The Parquet file to write, mode 0600.")] = None,
    approve: Annotated[bool, typer.Option("--approve", help="Approve another operator's request.")] = False,
    new: Annotated[bool, typer.Option("--new", help="Ask anew, as for rows that have come since.")] = False,
    config: Annotated[Path | None, typer.Option("--config", help="central.toml, on the centre's machine.")] = None,
    url: Annotated[str | None, typer.Option("--url", help="The centre's address.")] = None,
    token_file: Annotated[Path | None, typer.Option("--token-file", help="Your own token.")] = None,
    json_out: Annotated[bool, typer.Option("--json", help="End in one JSON object on one line.")] = False,
) -> None:
    """Ask for a study's rows; once another operator has approved, the same command writes them. Each request is logged.

    Example: corsia study export lung --out lung.parquet --token-file alice.token --config central.toml

    Example: corsia study export lung --approve --token-file bob.token --config central.toml
    """
    from corsia.cli.model import connect_hub
    from corsia.decisions import approve_export, open_export
    from corsia.decisions import export as ask

    if approve is (out is not None):
        raise InputError("input.usage", "give --out to ask for the rows, or --approve")
    if out is not None and out.exists():
        raise ConflictError("conflict.exists", f"{out} exists")
    with connect_hub(url, token_file, config) as hub:
        made = approve_export(hub, study) if approve else ask(hub, study, anew=new)
        if out is not None and made["state"] == "approved":
            data = open_export(hub, made["id"], study)
            _write(out, data)
            made |= {"out": str(out), "bytes": len(data)}
    told = {
        "open": f"asked ({made['id']}); another operator: corsia study export {study} --approve --token-file HIS.token",
        "approved": f"approved ({made['id']})" if approve else f"wrote {out}",
    }
    typer.echo(json.dumps(made) if json_out else told.get(made["state"], made["state"]))


def _write(path: Path, data: bytes) -> None:
    part = path.with_name(f".{path.name}.{secrets.token_hex(4)}.part")
    try:
        with open(os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(part, path)
    except OSError:
        part.unlink(missing_ok=True)
        raise StorageError("storage.failed", f"{path} cannot be written") from None
