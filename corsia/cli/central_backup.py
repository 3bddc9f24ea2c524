"""`corsia central recovery-key|backup|verify|restore` and `corsia central keys ...`: data and keys, each apart."""

from __future__ import annotations

import time
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from corsia.cli.edge_backup import sender_of
from corsia.cli.show import show
from protocol.durable import create_file
from protocol.errors import InputError

if TYPE_CHECKING:
    from central.backup import Checked

app = typer.Typer()
keys = typer.Typer()  # joins `corsia central keys`
Config = Annotated[Path, typer.Option("--config", help="The centre's configuration.")]
Json = Annotated[bool, typer.Option("--json", help="End in one JSON object on one line.")]
In = Annotated[Path, typer.Argument(metavar="IN", help="The backup.", exists=True, dir_okay=False)]
Key = Annotated[Path, typer.Option("--key", help="The recovery key's secret file, K.")]
Sender = Annotated[Path | None, typer.Option("--sender", help="Public key of who made it; default K.sender.")]
_DEFAULT = Path("central.toml")


@app.command("recovery-key")
def recovery_key(
    out: Annotated[Path, typer.Option("--out", help="K: the secret key; K.pub and K.sender lie beside it.")],
    config: Config = _DEFAULT,
    json_out: Json = False,
) -> None:
    """Make the key that the centre's backups are sealed to. Keep K and K.sender elsewhere: here nothing opens a backup.

    Example: corsia central recovery-key --out /media/safe/centre.recovery
    """
    from central.backup import recovery_key as make
    from central.config import load_config

    public = make(load_config(config).state_dir, out)
    text = f"wrote {out}, {out}.pub and {out}.sender: keep them elsewhere\n{public.fingerprint}"
    show({"key": str(out), "fingerprint": public.fingerprint}, json_out, text)


@app.command()
def backup(
    out: Annotated[Path, typer.Argument(metavar="OUT", help="The file to write.", dir_okay=False)],
    config: Config = _DEFAULT,
    json_out: Json = False,
) -> None:
    """Back the centre's data up, sealed to its recovery key; works beside the running centre. Holds no secret key.

    Example: corsia central backup /backup/centre-2026-11-28.corsia
    """
    from central.backup import backup as make
    from central.config import load_config

    digest, files = make(load_config(config), config, out)
    value = {"out": str(out), "sha256": digest, "size_bytes": out.stat().st_size, "files": files}
    show(value, json_out, f"wrote {out}: {files} files, {value['size_bytes']} bytes, sha256 {digest}")


@app.command()
def verify(source: In, key: Key, sender: Sender = None, json_out: Json = False) -> None:
    """Open a backup and check every digest, the database and its log; writes nothing.

    Example: corsia central verify centre.corsia --key centre.recovery
    """
    from central.backup import verify as check
    from privacy.envelope import read_key

    _tell(check(source, read_key(key), sender_of(key, sender)), json_out, "verified")


@app.command()
def restore(source: In, key: Key, sender: Sender = None, config: Config = _DEFAULT, json_out: Json = False) -> None:
    """Put a backup back into an empty state folder; the keys come back by `corsia central keys restore`.

    Where there is no central.toml, the backup's is written. API tokens, sessions, readers' rights and unused join codes
    end: some may have been taken back since, which the backup cannot know.

    Example: corsia central restore centre.corsia --key centre.recovery --config central.toml
    """
    from central.backup import restore as put_back
    from central.config import load_config
    from privacy.envelope import read_key

    state_dir = load_config(config).state_dir if config.exists() else None
    made = put_back(source, config, state_dir, read_key(key), sender_of(key, sender))
    _tell(made, json_out, "restored, with a new operator's token; next: corsia central keys restore", _ended(made))


@app.command()
def move(
    config: Config = _DEFAULT,
    database: Annotated[Path | None, typer.Option("--database", help="A file with PostgreSQL's URL.")] = None,
    objects: Annotated[Path | None, typer.Option("--objects", help="A file that names the bucket.")] = None,
    json_out: Json = False,
) -> None:
    """Move a stopped centre's database to PostgreSQL, its blobs and lake to S3 (docs/growing.md).

    Example: corsia central move --database pg.url --objects s3.toml --config central.toml
    """
    from central.config import load_config
    from central.moving import move_database, move_objects

    if database is None and objects is None:
        raise InputError("input.usage", "say --database FILE, --objects FILE, or both")
    state_dir = load_config(config).state_dir
    value = {
        "rows": None if database is None else move_database(state_dir, database),
        "objects": None if objects is None else move_objects(state_dir, objects),
    }
    said = [f"{count} {kind} moved" for kind, count in value.items() if count is not None]
    show(value, json_out, ", ".join(said) + "; what was here is kept as moved-*: remove it when the centre runs")


@keys.command()
def escrow(
    out: Annotated[Path, typer.Argument(metavar="OUT", help="The folder to make.")],
    to: Annotated[list[Path], typer.Option("--to", help="A custodian's public key file; once for each.")],
    needed: Annotated[int, typer.Option("-k", "--needed", help="How many custodians give the keys back.", min=2)],
    config: Config = _DEFAULT,
    json_out: Json = False,
) -> None:
    """Seal all secret keys and part the key to them: any K custodians together can give them back.

    Example: corsia central keys escrow escrow --to anna.pub --to bruno.pub --to carla.pub -k 2
    """
    from central.config import load_config
    from central.escrow import escrow as make
    from privacy.envelope import read_public

    loaded = load_config(config)
    count = make(loaded.name, loaded.state_dir, [read_public(path) for path in to], needed, out)
    text = f"wrote {out}: {count} keys, {len(to)} shares of which {needed} are needed; give each custodian his share"
    show({"out": str(out), "keys": count, "shares": len(to), "needed": needed}, json_out, text)


@keys.command()
def share(
    source: Annotated[Path, typer.Argument(metavar="SHARE", help="share-N.sealed.", exists=True, dir_okay=False)],
    out: Annotated[Path, typer.Argument(metavar="OUT", help="The opened share.", dir_okay=False)],
    key: Annotated[Path, typer.Option("--key", help="The custodian's secret key file.")],
    escrow_pub: Annotated[Path, typer.Option("--escrow", help="escrow.pub of the same escrow.")],
    json_out: Json = False,
) -> None:
    """Open a custodian's own share, to be brought to the centre's machine. Alone it says nothing.

    Example: corsia central keys share share-1.sealed share-1 --key anna.key --escrow escrow.pub
    """
    from central.escrow import open_share
    from privacy.envelope import read_key

    made = open_share(source, escrow_pub, read_key(key))
    create_file(out, made.to_bytes())
    value = {"out": str(out), "point": made.point, "of": made.of, "needed": made.needed}
    show(value, json_out, f"wrote {out}: share {made.point} of {made.of}, of which {made.needed} are needed")


@keys.command("restore")
def keys_restore(
    source: Annotated[Path, typer.Argument(metavar="ESCROW", help="The escrow's folder.", exists=True)],
    opened: Annotated[list[Path], typer.Option("--share", help="An opened share; once for each.", exists=True)],
    config: Config = _DEFAULT,
    json_out: Json = False,
) -> None:
    """Put the keys back, by as many opened shares as are needed.

    Example: corsia central keys restore escrow --share share-1 --share share-3
    """
    from central import ipc
    from central.config import load_config
    from central.escrow import Share, restore

    shares = [Share.from_bytes(path.read_bytes()) for path in opened]
    state_dir = load_config(config).state_dir
    with ipc.stopped(state_dir):
        count = restore(source, shares, state_dir)
    show({"keys": count}, json_out, f"{count} keys are back; destroy the opened shares")


def _ended(made: Checked) -> str:
    """What a restore has left out, and who is in again."""
    gone = made.lapsed
    said = (
        f"\nnot brought back: {gone.tokens} API tokens, {gone.sessions} sessions, {gone.readers} readers' rights,"
        f" {gone.invites} unused join codes; who had them logs in, makes or asks for them anew"
    )
    if gone.operators:
        names = ", ".join(gone.operators)
        said += f"\noperators who are in again: {names}; who has left since: corsia central operator remove NAME"
    return said


def _tell(made: Checked, json_out: bool, word: str, more: str = "") -> None:
    at = time.strftime("%Y-%m-%d %H:%M:%S", time.gmtime(made.at))
    text = f"{word}: {made.name} as of {at} UTC, {made.files} files, {made.parcels} parcels\n"
    show(asdict(made), json_out, text + f"schema {made.revision}, log of {made.log_size} leaves" + more)
