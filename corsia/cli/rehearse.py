"""`corsia rehearse`: a whole consortium on one machine, with outages; one JSON object with `--json`."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer()


@app.command()
def rehearse(
    sites: Annotated[int, typer.Option(help="Agents, each a process of its own.", min=4, max=1000)] = 51,
    rounds: Annotated[int, typer.Option(help="Rounds of lane 4.", min=1, max=100)] = 3,
    out: Annotated[Path, typer.Option(help="A new folder, or one of an earlier rehearsal.")] = Path("rehearsal-out"),
    plots: Annotated[Path | None, typer.Option(help="Folder for pictures; default: OUT/plots.")] = None,
    seed: Annotated[int, typer.Option(help="Of the hospitals' sizes.")] = 1,
    json_out: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Play a consortium through: agents in four networks, all lanes at once, outages, and what 1,000 sites would need.

    Example: corsia rehearse --sites 51 --json
    """
    from corsia.rehearsal import rehearse as play

    told = play(out, sites=sites, rounds=rounds, seed=seed, plots=plots or out / "plots",
                tell=lambda line: sys.stderr.write(line + "\n"))  # fmt: skip
    if json_out:
        typer.echo(json.dumps(told))
        return
    flow, memory, larger = told["throughput"], told["memory"], told["extrapolation"]
    typer.echo(f"{told['sites']} sites, {told['patients']['all']} patients; complete: {told['complete']}")
    for lane, figures in told["lanes"].items():
        typer.echo(f"  {lane:<10} over after {figures['seconds']:.0f} s")
    typer.echo(f"throughput {flow['parcels_per_s']} parcels/s, {flow['rows_per_s']} rows/s")
    typer.echo(f"memory at most: centre {memory['centre_mb']} MB, an agent {memory['agent_mb']} MB")
    typer.echo(f"recovery: median {told['recovery']['median_s']} s, worst {told['recovery']['worst_s']} s")
    typer.echo(f"{larger['sites']} sites, from these coefficients: centre {larger['centre_memory_mb']} MB at rest,")
    typer.echo(f"  {larger['heartbeat_cores']} cores for heartbeats, {larger['parcels_cpu_s']} CPU s for the lanes")
    typer.echo("pictures: " + ", ".join(told["plots"]))
