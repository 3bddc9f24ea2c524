"""`corsia central spool import`: land parcels that came by hand, and write their receipts beside them."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from corsia.cli.show import show
from protocol.errors import from_code

app = typer.Typer(no_args_is_help=True, help="Land the parcels of sites without a line.")


@app.callback()
def _root() -> None:
    """Land the parcels of sites without a line."""


@app.command("import")
def spool_import(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="What a site exported.", exists=True, file_okay=False)],
    config: Annotated[Path, typer.Option("--config", help="The centre's configuration.")] = Path("central.toml"),
    json_out: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Land the parcels in DIR through the running gateway; their receipts go back in DIR. Safe to repeat.

    One that is damaged or refused stops no other; the exit status is then that of the first one's code.

    Example: corsia central spool import /media/stick --config central.toml
    """
    from central.config import load_config
    from central.medium import give_back, land

    made = give_back(folder, land(load_config(config), folder))
    landed = sum(one.receipt is not None and not one.known for one in made)
    refused = [{"parcel": one.parcel_id, "site": one.site, "code": one.code} for one in made if one.code]
    value = {"landed": landed, "known": sum(one.known for one in made), "refused": refused}
    lines = [f"{landed} parcels landed, {value['known']} were here already, {len(refused)} refused"]
    lines += [f"  {one['parcel']} {one['site'] or '?'}: {one['code']}" for one in refused]
    show(value, json_out, "\n".join(lines))
    if refused:
        raise typer.Exit(from_code(str(refused[0]["code"])).exit_status)
