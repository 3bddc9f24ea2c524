"""`corsia central operator`: who may operate the centre. Works on the centre's files, on its machine alone.

No process of the centre can add a person: what takes two of them could otherwise be done by one.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Annotated

import typer

from protocol.errors import ConflictError, StorageError

__all__ = ["app"]

app = typer.Typer(no_args_is_help=True, help="Add, list and remove operators.\n\nExample: corsia central operator ls")
Config = Annotated[Path, typer.Option("--config", help="The centre's configuration.")]
Json = Annotated[bool, typer.Option("--json", help="End in one JSON object on one line.")]
Name = Annotated[str, typer.Argument(help="Lower-case letters, digits and dashes.")]
CONFIG = Path("central.toml")


@app.command()
def add(
    name: Name,
    out: Annotated[Path | None, typer.Option("--out", help="The token file to write; default NAME.token.")] = None,
    config: Config = CONFIG,
    json_out: Json = False,
) -> None:
    """Register a person and write the token file (0600) to be given to this person alone; it is kept nowhere else.

    Example: corsia central operator add alice --out alice.token
    """
    from central.config import load_config
    from central.operators import Operators

    path = out or Path(f"{name}.token")
    operators = Operators(load_config(config))
    if path.exists():
        raise ConflictError("conflict.exists", f"{path} exists")
    token = operators.add(name)
    try:
        with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
            file.write(token + "\n")
    except OSError:
        operators.remove(name)
        raise StorageError("storage.failed", f"{path} cannot be written") from None
    text = f"wrote {path}: give it to {name} and delete it here"
    typer.echo(json.dumps({"operator": name, "token_file": str(path)}) if json_out else text)


@app.command("ls")
def list_operators(config: Config = CONFIG, json_out: Json = False) -> None:
    """Everybody who may operate the centre, with the fingerprint of the key that signs for this person.

    Example: corsia central operator ls
    """
    from central.config import load_config
    from central.operators import Operators

    found = [{"operator": o.name, "fingerprint": o.public.fingerprint} for o in Operators(load_config(config)).all()]
    if json_out:
        typer.echo(json.dumps({"operators": found}))
        return
    for row in found:
        typer.echo(f"{row['operator']:20} {row['fingerprint']}")


@app.command()
def remove(name: Name, config: Config = CONFIG, json_out: Json = False) -> None:
    """Take a person out: the token stops working at once, and proposals that wait for approval go with it.

    Example: corsia central operator remove alice
    """
    from central.config import load_config
    from central.operators import Operators

    Operators(load_config(config)).remove(name)
    typer.echo(json.dumps({"removed": name}) if json_out else f"removed {name}")
