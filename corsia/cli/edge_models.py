"""`corsia edge models`: which published models this site has accepted, and taking a signed roll-back."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from corsia.cli.show import show, table
from protocol.errors import InputError

if TYPE_CHECKING:
    from edge.config import EdgeConfig

__all__ = ["app"]

app = typer.Typer(invoke_without_command=True)
Config = Annotated[Path, typer.Option("--config", help="The site's edge.toml.")]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON object.")]
_DEFAULT = Path("edge.toml")


@app.callback()
def models(context: typer.Context, config: Config = _DEFAULT, json_out: Json = False) -> None:
    """List the manifests that this site has accepted; of each model and alias the newest serial is the one in force.

    Example: corsia edge models --config edge.toml
    """
    if context.invoked_subcommand is not None:
        return
    from edge.state import SiteState

    site = _load(config)
    path = site.state_dir / "state.db"
    rows = []
    if path.exists():
        state = SiteState(path)
        found = state.accepted()
        state.close()
        newest = {(m.name, m.alias): m.serial for m in found}  # ordered by serial
        rows = [
            {
                "model": m.name,
                "alias": m.alias,
                "version": m.version,
                "serial": m.serial,
                "rollback": bool(m.rollback),
                "in_force": newest[m.name, m.alias] == m.serial,
                "accepted_at": datetime.fromtimestamp(m.at, UTC).isoformat(timespec="seconds"),
                "manifest": m.digest,
            }
            for m in found
        ]
    if json_out:
        show({"models": rows}, True, "")
        return
    columns = ["model", "alias", "version", "serial", "rollback", "in_force", "accepted_at"]
    table(f"models accepted by {site.site}", columns, [[row[c] for c in columns] for row in rows])


@app.command()
def rollback(
    manifest: Annotated[Path, typer.Option("--manifest", help="The signed roll-back (`corsia model manifest`).")],
    config: Config = _DEFAULT,
    json_out: Json = False,
) -> None:
    """Take a roll-back that two operators signed, at once: from now on the newer version is refused at this site.

    The centre is asked to prove that its log holds it. There is no other way back to an older model.

    Example: corsia edge models rollback --manifest manifest.json --config edge.toml
    """
    from edge.identity import Identity
    from edge.journal import Journal
    from edge.models import roll_back
    from edge.state import SiteState
    from edge.uplink import Uplink

    site = _load(config)
    try:
        raw = manifest.read_bytes()
    except OSError:
        raise InputError("input.usage", f"{manifest} cannot be read") from None
    identity = Identity.load(site.state_dir)
    state, journal = SiteState(site.state_dir / "state.db"), Journal(site.state_dir / "journal.jsonl")
    link = Uplink(identity, site.centre.fleet if site.centre else None)
    try:
        read = roll_back(raw, link=link, identity=identity, state=state, journal=journal)
    finally:
        link.close()
        state.close()
    value = {"model": read.name, "alias": read.alias, "version": read.version, "serial": read.serial}
    show(value, json_out, f"{read.name}@{read.alias} is version {read.version} here, serial {read.serial}")


def _load(path: Path) -> EdgeConfig:
    from edge.config import load

    return load(path)
