"""`corsia bench NAME`: measurements; one JSON object with `--json`, progress on stderr."""

from __future__ import annotations

import json
import sys
from typing import Annotated

import typer

app = typer.Typer(no_args_is_help=True, help="Measure against named peers.")
Json = Annotated[bool, typer.Option("--json", help="Print one JSON object.")]


@app.callback()
def _noun() -> None:
    """Measure against named peers."""


@app.command()
def lung(json_out: Json = False) -> None:
    """Federated, local and pooled survival models on the NCCTG lung cohort, over 20 fixed splits.

    Example: corsia bench lung --json
    """
    from corsia.bench import bench_lung

    result = bench_lung(lambda line: sys.stderr.write(line + "\n"))
    if json_out:
        typer.echo(json.dumps(result))
        return
    typer.echo(f"c-index over {result['seeds']} splits, mean (sd):")
    for name in ("federated", "local_mean", "pooled"):
        typer.echo(f"  {name:<11} {result[name]['mean']:.3f} ({result[name]['sd']:.3f})")
    typer.echo(f"federated above the mean of local models in {result['wins']} of {result['seeds']}")
