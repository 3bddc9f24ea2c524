"""`corsia doctor`."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer()


@app.command()
def doctor(
    config: Annotated[
        Path | None, typer.Option("--config", help="An edge.toml or central.toml: checks the site or centre too.")
    ] = None,
    json_out: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Say in one line each what is wrong with this machine. Exit status 10 when something is.

    Example: corsia doctor --config edge.toml
    """
    from corsia.doctor import examine

    findings = examine(config)
    if json_out:
        checks = [asdict(f) | {"advice": "" if f.ok else f.advice} for f in findings]
        typer.echo(json.dumps({"ok": all(f.ok for f in findings), "checks": checks}))
    else:
        for f in findings:
            typer.echo(f"{'ok ' if f.ok else 'BAD'} {f.check}: {f.found}" + ("" if f.ok else f" -> {f.advice}"))
    if not all(f.ok for f in findings):
        raise typer.Exit(10)
