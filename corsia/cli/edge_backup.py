"""`corsia edge recovery-key|backup|verify|restore|write-off`: a site's state off-site, and back."""

from __future__ import annotations

import time
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from corsia.cli.show import show

if TYPE_CHECKING:
    from edge.backup import Checked
    from edge.config import EdgeConfig
    from privacy.envelope import PublicKey

__all__ = ["sender_of"]

app = typer.Typer()
Config = Annotated[Path, typer.Option("--config", help="The site's edge.toml.")]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON object.")]
In = Annotated[Path, typer.Argument(metavar="IN", help="The backup.", exists=True, dir_okay=False)]
Key = Annotated[Path, typer.Option("--key", help="The recovery key's secret file, K.")]
Sender = Annotated[Path | None, typer.Option("--sender", help="Public key of who made it; default K.sender.")]
_DEFAULT = Path("edge.toml")


@app.command("recovery-key")
def recovery_key(
    out: Annotated[Path, typer.Option("--out", help="K: the secret key; K.pub and K.sender lie beside it.")],
    config: Config = _DEFAULT,
    json_out: Json = False,
) -> None:
    """Make the key that this site's backups are sealed to. Keep K and K.sender off-site: here nothing opens a backup.

    Example: corsia edge recovery-key --out /media/safe/site-a.recovery --config edge.toml
    """
    from edge.backup import recovery_key as make

    public = make(_load(config).state_dir, out)
    value = {"key": str(out), "fingerprint": public.fingerprint}
    show(value, json_out, f"wrote {out}, {out}.pub and {out}.sender: keep them off-site\n{public.fingerprint}")


@app.command()
def backup(
    out: Annotated[Path, typer.Argument(metavar="OUT", help="The file to write.", dir_okay=False)],
    config: Config = _DEFAULT,
    json_out: Json = False,
) -> None:
    """Back this site's state up, sealed to its recovery key; works beside the daemon.

    Example: corsia edge backup /backup/site-a-2026-11-28.corsia --config edge.toml
    """
    from edge.backup import backup as make

    site = _load(config)
    digest, files = make(site.site, site.state_dir, out)
    value = {"out": str(out), "sha256": digest, "size_bytes": out.stat().st_size, "files": files}
    show(value, json_out, f"wrote {out}: {files} files, {value['size_bytes']} bytes, sha256 {digest}")


@app.command()
def verify(source: In, key: Key, sender: Sender = None, json_out: Json = False) -> None:
    """Open a backup and check every digest and the chains of journal and ledger; writes nothing.

    Example: corsia edge verify site-a.corsia --key site-a.recovery
    """
    from edge.backup import verify as check
    from privacy.envelope import read_key

    _tell(check(source, read_key(key), sender_of(key, sender)), json_out, "verified")


@app.command()
def restore(source: In, key: Key, sender: Sender = None, config: Config = _DEFAULT, json_out: Json = False) -> None:
    """Put a backup back into an empty state folder. Nothing leaves until it agrees with the centre's receipts.

    Example: corsia edge restore site-a.corsia --key site-a.recovery --config edge.toml
    """
    from edge.backup import restore as put_back
    from privacy.envelope import read_key

    site = _load(config)
    made = put_back(source, site.site, site.state_dir, read_key(key), sender_of(key, sender))
    _tell(made, json_out, "restored, and on hold until it agrees with the centre's receipts")


@app.command("write-off")
def write_off(config: Config = _DEFAULT, json_out: Json = False) -> None:
    """Leave the hold without the centre: every dataset's year counts as spent. For a site that cannot ask, or will not.

    Example: corsia edge write-off --config edge.toml
    """
    from edge.writeoff import write_off as spend

    datasets = spend(_load(config))
    show({"datasets": datasets}, json_out, f"spent for 365 days: {', '.join(datasets)}; egress may go on")


def sender_of(key: Path, sender: Path | None) -> PublicKey:
    """Who must have signed a backup: as given, else as it was written beside the recovery key."""
    from privacy.envelope import read_public

    return read_public(sender if sender is not None else key.with_name(key.name + ".sender"))


def _load(config: Path) -> EdgeConfig:
    from edge.config import load

    return load(config)


def _tell(made: Checked, json_out: bool, word: str) -> None:
    at = time.strftime("%Y-%m-%d %H:%M:%S", time.gmtime(made.at))
    text = f"{word}: {made.site} as of {at} UTC, {made.files} files, {made.parcels} parcels\n"
    text += f"journal {made.journal_lines} lines, head {made.journal_head}\n"
    show(asdict(made), json_out, text + f"ledger {made.ledger_rows} rows, head {made.ledger_head}")
