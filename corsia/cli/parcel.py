"""`corsia parcel keygen|seal|open|inspect`: the envelope at the command line.

OUT appears whole or not at all: it is written beside its place with mode 0600, synced, then renamed.
"""

from __future__ import annotations

import contextlib
import json
import os
import secrets
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Annotated, Any, BinaryIO, TypeVar

import typer

from corsia.cli.show import plain
from protocol.durable import sync_folder
from protocol.errors import ConflictError, InputError

app = typer.Typer(no_args_is_help=True, help="Seal, open and inspect parcels.")
Json = Annotated[bool, typer.Option("--json", help="Print one JSON object.")]
Force = Annotated[bool, typer.Option("--force", help="Replace OUT if it is a file that exists.")]
In = Annotated[Path, typer.Argument(metavar="IN", help="The file to read.", exists=True, dir_okay=False)]
Out = Annotated[Path, typer.Argument(metavar="OUT", help="The file to write.", dir_okay=False)]
Result = TypeVar("Result")
_PIECE_BYTES = 1 << 20


@app.command()
def keygen(
    out: Annotated[Path, typer.Option("--out", help="The secret key file; the public one is OUT.pub.")],
    json_out: Json = False,
) -> None:
    """Make a key: OUT (32 secret bytes, mode 0600) and OUT.pub (one line, to give away). Never overwrites.

    Example: corsia parcel keygen --out site-a.key
    """
    from privacy.envelope import SecretKey, write_key, write_public

    if out.is_dir():
        raise ConflictError("conflict.exists", f"{out} is a folder; name the file")
    public = out.with_name(out.name + ".pub")
    for path in (out, public):
        if path.exists() or path.is_symlink():
            raise ConflictError("conflict.exists", f"{path} exists; a key is never overwritten")
    key = SecretKey.generate()
    write_key(out, key, plain=True)  # any 32 raw bytes: what other tools make too
    write_public(public, key.public)
    _tell(
        json_out,
        {"key": str(out), "public": str(public), "fingerprint": key.public.fingerprint},
        f"wrote {out} (keep it secret) and {public}\nfingerprint {key.public.fingerprint}",
    )


@app.command()
def seal(
    source: In,
    out: Out,
    to: Annotated[list[Path], typer.Option("--to", help="A recipient's public key file; may be repeated.")],
    sign: Annotated[Path, typer.Option("--sign", help="The sender's secret key file.")],
    study: Annotated[str, typer.Option("--study", help="The study's digest, or a name (a-z, 0-9, -).")],
    site: Annotated[str, typer.Option("--site", help="The sending site (a-z, 0-9, -).")],
    content_type: Annotated[str, typer.Option("--content-type", help="What the payload is.")] = "records",
    force: Force = False,
    json_out: Json = False,
) -> None:
    """Seal IN to one or more recipients and sign it: the parcel OUT.

    Example: corsia parcel seal a.csv a.parcel --to vault.key.pub --sign site-a.key --study demo --site site-a
    """
    from privacy import envelope

    info = envelope.ParcelInfo(parcel_id=envelope.new_parcel_id(), study=study, site=site, content_type=content_type)
    recipients = [envelope.read_public(path) for path in to]
    signer = envelope.read_key(sign)
    with source.open("rb", buffering=0) as file:
        pieces = iter(partial(file.read, _PIECE_BYTES), b"")
        digest = _write(
            out, force, lambda part: envelope.seal(pieces, part, info=info, recipients=recipients, signer=signer)
        )
    _tell(
        json_out,
        {"parcel": info.parcel_id, "sha256": digest, "size_bytes": out.stat().st_size, "out": str(out)},
        f"sealed {out}: parcel {info.parcel_id}, sha256 {digest}",
    )


@app.command("open")
def open_(
    source: In,
    out: Out,
    key: Annotated[Path, typer.Option("--key", help="A recipient's secret key file.")],
    verify: Annotated[Path, typer.Option("--verify", help="The public key file of the expected sender.")],
    force: Force = False,
    json_out: Json = False,
) -> None:
    """Verify the parcel IN and open it into OUT. On any failure there is no OUT.

    Example: corsia parcel open a.parcel a.csv --key vault.key --verify site-a.key.pub
    """
    from privacy import envelope

    secret, sender = envelope.read_key(key), envelope.read_public(verify)
    with source.open("rb", buffering=0) as file:
        _check_twice(source, file)
        info = envelope.read_header(file).info
        file.seek(0)
        size = _write(out, force, lambda part: envelope.unseal_into(file, part, key=secret, sender=sender, expect=info))
    _tell(json_out, {**_about(info), "size_bytes": size, "out": str(out)}, f"opened {out}: {size} bytes")


@app.command()
def inspect(
    source: In,
    verify: Annotated[Path | None, typer.Option("--verify", help="Check the signature of this public key too.")] = None,
    json_out: Json = False,
) -> None:
    """Say what the parcel IN is, without any secret key. Without --verify nothing proves who sent it.

    Example: corsia parcel inspect a.parcel
    """
    from privacy import envelope

    with source.open("rb", buffering=0) as file:
        if verify is not None:
            _check_twice(source, file)
        found = envelope.inspect(file)
        if verify is not None:
            file.seek(0)
            envelope.verify(file, sender=envelope.read_public(verify))
    header = found.header
    about: dict[str, Any] = {
        **_about(header.info),
        "version": header.version,
        "sender": header.sender,
        "recipients": [name for name, _ in header.recipients],
        "commitment": header.commitment,
        "chunks": found.chunks,
        "payload_bytes": found.plaintext_bytes,
        "size_bytes": found.size_bytes,
        "sha256": found.sha256,
        "signature": "not checked" if verify is None else "verified",
    }
    lines = [f"{name:<13} {value}" for name, value in about.items() if name != "recipients"]
    _tell(json_out, about, "\n".join([*lines, *(f"{'recipient':<13} {name}" for name in about["recipients"])]))


def _check_twice(source: Path, file: BinaryIO) -> None:
    """Raises: InputError: `input.usage`: IN cannot be read a second time, as a pipe cannot."""
    if not file.seekable():
        raise InputError("input.usage", f"{source} is a pipe, and what is verified is read twice: give a file")


def _about(info: Any) -> dict[str, str]:
    return {"parcel": info.parcel_id, "study": info.study, "site": info.site, "content_type": info.content_type}


def _tell(as_json: bool, value: dict[str, Any], text: str) -> None:
    typer.echo(json.dumps(value) if as_json else plain(text))


def _write(out: Path, force: bool, fill: Callable[[BinaryIO], Result]) -> Result:
    """Let `fill` write OUT whole or not at all; what exists stays, unless it is a file and `force` is given."""
    if os.path.lexists(out):
        if out.is_symlink() or not out.is_file():  # by the rename a device as /dev/stdout would be gone for everybody
            raise ConflictError("conflict.exists", f"{out} exists and is no file: nothing is put in its place")
        if not force:
            raise ConflictError("conflict.exists", f"{out} exists; use --force to replace a file")
    with _part(out) as part:
        fd = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        with open(fd, "wb", buffering=0) as file:
            result = fill(file)
            os.fsync(fd)
        os.replace(part, out)
    sync_folder(out.parent)
    return result


@contextlib.contextmanager
def _part(out: Path) -> Iterator[Path]:
    part = out.with_name(f".{out.name}.{secrets.token_hex(4)}.part")
    try:
        yield part
    finally:
        part.unlink(missing_ok=True)
