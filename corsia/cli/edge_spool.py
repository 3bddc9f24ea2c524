"""`corsia edge spool ls|verify|retry|export|import`: the sealed parcels that wait at this site."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from corsia.cli.show import show, table
from protocol.errors import IntegrityError

if TYPE_CHECKING:
    from edge.config import EdgeConfig
    from edge.spool import Spool

app = typer.Typer(
    no_args_is_help=True, help="The sealed parcels that wait here; hand them over where there is no line."
)
Config = Annotated[Path, typer.Option("--config", help="The site's edge.toml.")]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON object.")]
_DEFAULT = Path("edge.toml")


@app.command("ls")
def spool_ls(config: Config = _DEFAULT, json_out: Json = False) -> None:
    """List the parcels here, by folder: held, new, sending, sent, bad.

    Example: corsia edge spool ls --config edge.toml
    """
    spool = _spool(_load(config))
    found = [
        {
            "parcel": entry.parcel_id,
            "folder": folder,
            "content_type": entry.content_type,
            "size_bytes": entry.size_bytes,
            "assignment": entry.assignment_id,
            "code": spool.code(entry) if folder == "bad" else "",
        }
        for folder, entry in spool.entries()
    ]
    if json_out:
        show({"parcels": found}, True, "")
        return
    columns = ["parcel", "folder", "content_type", "size_bytes", "assignment", "code"]
    table("spool", columns, [[one[c] for c in columns] for one in found])


@app.command("verify")
def spool_verify(config: Config = _DEFAULT, json_out: Json = False) -> None:
    """Hash every parcel again; exit 19 when one is damaged.

    Example: corsia edge spool verify --config edge.toml
    """
    spool = _spool(_load(config))
    damaged = spool.verify()
    parcels, size = spool.usage()
    if damaged:
        raise IntegrityError("parcel.format", "damaged: " + ", ".join(parcel for parcel, _code in damaged))
    value = {"parcels": parcels, "bytes": size, "damaged": 0}
    show(value, json_out, f"{parcels} parcels, {size} bytes: all as they were written")


@app.command("retry")
def spool_retry(
    parcel: Annotated[str, typer.Argument(help="The id of a parcel in bad/.")],
    config: Config = _DEFAULT,
    json_out: Json = False,
) -> None:
    """Put a parcel that the centre refused back in the queue.

    Example: corsia edge spool retry 0f3a... --config edge.toml
    """
    from edge.journal import Journal

    site = _load(config)
    entry = _spool(site).retry(parcel)
    Journal(site.state_dir / "journal.jsonl").append("parcel.retried", parcel=entry.parcel_id)
    show({"parcel": entry.parcel_id, "folder": "new"}, json_out, f"{entry.parcel_id} will be sent again")


@app.command("export")
def spool_export(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="A folder on the medium.", file_okay=False)],
    config: Config = _DEFAULT,
    json_out: Json = False,
) -> None:
    """Copy what waits to DIR, sealed, with signed notes, for `corsia central spool import`. Nothing leaves the spool.

    Example: corsia edge spool export /media/stick --config edge.toml
    """
    from edge.medium import export

    made = export(_load(config), folder)
    value = {"parcels": list(made.parcels), "bytes": made.size_bytes, "left": made.left}
    text = f"{len(made.parcels)} parcels, {made.size_bytes} bytes are on the medium, sealed, and read back"
    text += "".join(f"\n  {count} left out: {code}" for code, count in sorted(made.left.items()))
    show(value, json_out, text)


@app.command("import")
def spool_import(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="The folder, back.", exists=True, file_okay=False)],
    config: Config = _DEFAULT,
    json_out: Json = False,
) -> None:
    """Take the centre's receipts from DIR. Each is verified; then the parcels go. A wrong medium changes nothing.

    Example: corsia edge spool import /media/stick --config edge.toml
    """
    from edge.medium import bring

    made = bring(_load(config), folder)
    value = {"receipts": list(made.receipts), "known": made.known, "foreign": made.foreign, "daemon": made.running}
    text = f"{len(made.receipts)} receipts verified, {made.known} were here already, {made.foreign} are not ours"
    if made.running and made.receipts:
        text += "\nthe daemon takes them in now; while egress is paused, when it is resumed"
    show(value, json_out, text)


def _load(config: Path) -> EdgeConfig:
    from edge.config import load

    return load(config)


def _spool(site: EdgeConfig) -> Spool:
    from edge.spool import Spool

    return Spool(site.state_dir / "spool", site.limits.spool_bytes)
