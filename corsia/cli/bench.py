"""`corsia bench NAME`: measurements; one JSON object with `--json`, progress on stderr."""

from __future__ import annotations

import json
import re
import signal
import sys
from pathlib import Path
from typing import Annotated

import typer

from protocol.errors import InputError

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


@app.command()
def heart(
    json_out: Json = False,
    data: Annotated[Path, typer.Option(help="Folder with UCI's four processed.*.data files.")] = Path(
        "../shared/data/heart-disease"
    ),
) -> None:
    """Fed-Heart-Disease: federated, pooled, local and private models of four real hospitals, published protocol.

    Example: corsia bench heart --data ../shared/data/heart-disease --json
    """
    from corsia.bench_heart import bench_heart

    result = bench_heart(data, lambda line: sys.stderr.write(line + "\n"))
    if json_out:
        typer.echo(json.dumps(result))
        return
    typer.echo(f"accuracy over seeds {result['seeds']}, mean (sd): mean of clients, pooled test")
    for how, methods in result["normalisation"].items():
        for name, figures in methods.items():
            typer.echo(f"  {name + ', ' + how:<19} {_pair(figures)}")
    for name in ("best", "pooled", "local", "dp"):
        typer.echo(f"  {name:<19} {_pair(result[name])}")
    typer.echo(f"secure aggregation differs by at most {result['secagg_max_rel_diff']:.1e}, relative")


def _pair(figures: dict[str, float]) -> str:
    return "  ".join(f"{figures[key]:.3f} ({figures[f'{key}_sd']:.3f})" for key in ("mean_of_clients", "pooled_test"))


@app.command()
def deid(
    json_out: Json = False,
    peers: Annotated[
        Path, typer.Option(help="Folder with one virtual environment a peer (benchmarks/deid-peers.sh).")
    ] = Path("benchmarks/.peers"),
    files: Annotated[int, typer.Option(min=2, help="How many files to make.")] = 1000,
    adult: Annotated[Path | None, typer.Option(help="Folder with ARX's Adult table and hierarchies.")] = None,
) -> None:
    """De-identification against named peers: files a second and planted values left, on files made in the run.

    Example: corsia bench deid --json
    """
    from corsia.bench_deid import bench_deid

    def tell(line: str) -> None:
        sys.stderr.write(line + "\n")

    result = bench_deid(tell, peers=peers, files=files, adult=adult)
    if json_out:
        typer.echo(json.dumps(result))
        return
    for name, value in result["dicom"].items():
        if "error" in value:
            typer.echo(f"{name:<20} {value['error']}")
            continue
        left = "  ".join(f"{kind} {count}" for kind, count in (value["left"] or {}).items())
        typer.echo(f"{name:<20} {value['files_per_s']:>7.1f} files/s  left: {left}")
    for name, version in result["missing"].items():
        typer.echo(f"{name} {version} is not there")


@app.command()
def features(
    json_out: Json = False,
    peers: Annotated[
        Path, typer.Option(help="Folder with one virtual environment a peer (benchmarks/features-peers.sh).")
    ] = Path("benchmarks/.peers"),
    data: Annotated[
        Path, typer.Option(help="Folder of reference data: ibsi1_digital_phantom, regenie_example.")
    ] = Path("../shared/data"),
    repeats: Annotated[int, typer.Option(min=1, help="How often each tool runs; mirp once.")] = 5,
) -> None:
    """Feature extractors beside named peers: radiomics, variant files, association; what is not there is told.

    Example: corsia bench features --json
    """
    from corsia.bench_features import bench_features

    result = bench_features(lambda line: sys.stderr.write(line + "\n"), peers=peers, data=data, repeats=repeats)
    if json_out:
        typer.echo(json.dumps(result))
        return
    for part in ("radiomics", "vcf", "gwas"):
        for name, value in (result[part] or {}).items():
            typer.echo(f"{part:<10} {name:<22} {value}")
    for name, reason in result["missing"].items():
        typer.echo(f"{name} did not run: {reason}")


@app.command()
def wall(
    json_out: Json = False,
    size: Annotated[str, typer.Option(help="Payload of the two ratios, as 2GiB, 512MiB or bytes.")] = "2GiB",
    small: Annotated[int, typer.Option(min=4, help="How many small parcels.")] = 4096,
    repeats: Annotated[int, typer.Option(min=1, help="How often each ratio is measured; the best counts.")] = 3,
    folder: Annotated[Path | None, typer.Option("--dir", help="On whose disk; else the temporary folder.")] = None,
    idle: Annotated[int, typer.Option(min=0, max=200, help="So many agents at rest, a minute; 0: not.")] = 51,
    agents: Annotated[int, typer.Option(min=0, max=400, help="So many that deliver at once; 0: not.")] = 200,
) -> None:
    """What the way across the wall costs beside plain mutual TLS, and what many agents cost the centre.

    Example: corsia bench wall --json
    """
    from corsia.bench_wall import bench_wall

    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # ends by way of `finally`: no process is left behind
    result = bench_wall(
        lambda line: sys.stderr.write(line + "\n"),
        size_bytes=_bytes(size), small=small, repeats=repeats, folder=folder, idle=idle, agents=agents,
    )  # fmt: skip
    if json_out:
        typer.echo(json.dumps(result))
        return
    for name in ("raw", "durable"):
        figures = result[name]
        typer.echo(f"{name:<8} {figures['mb_s']:>7.1f} MB/s of {figures['floor_mb_s']:>7.1f}: {figures['ratio']:.2f}")
    typer.echo(f"small    {result['small_per_s']:>7.1f} parcels/s")
    typer.echo(f"memory   {result['peak_rss_mb']:>7.1f} MB at most in one process")
    for name in ("idle", "agents"):
        if result[name]:
            typer.echo(f"{name:<8} {result[name]}")


def _bytes(text: str) -> int:
    """Read a size.

    Raises:
        InputError: `input.usage`.
    """
    found = re.fullmatch(r"(\d{1,15}) ?([KMG]i?B)?", text.strip())
    unit = (found[2] or "B") if found else ""
    size = int(found[1]) * (1024 if "i" in unit else 1000) ** "BKMG".index(unit[0]) if found else 0
    if size <= 0:
        raise InputError("input.usage", f"{text!r} is no size: 2GiB, 512MiB, or bytes")
    return size


@app.command()
def federation(
    json_out: Json = False,
    peers: Annotated[
        Path, typer.Option(help="Folder with NVFLARE's virtual environment (benchmarks/federation-peers.sh).")
    ] = Path("benchmarks/.peers"),
    rounds: Annotated[int, typer.Option(min=3, help="Warm rounds of each kind.")] = 30,
    scale: Annotated[int, typer.Option(min=0, max=64, help="So many sites on this machine, 20 rounds; 0: not.")] = 0,
    parameters: Annotated[int, typer.Option(min=1, help="Numbers of the model whose masked sum is timed.")] = 10**7,
    only: Annotated[
        list[str] | None, typer.Option(help="Measure this part alone: round, flower, nvflare, arrays, secagg or scale.")
    ] = None,
) -> None:
    """What a federated round costs, plain and masked, beside stock Flower and NVFLARE; real processes, mutual TLS.

    Example: corsia bench federation --scale 51 --json
    """
    from corsia.bench_federation import bench_federation

    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # ends by way of `finally`: no process is left behind
    result = bench_federation(
        lambda line: sys.stderr.write(line + "\n"),
        peers=peers, rounds=rounds, scale=scale, parameters=parameters, only=only or (),
    )  # fmt: skip
    if json_out:
        typer.echo(json.dumps(result))
        return
    for name in ("plain", "secagg") if result["round"] else ():
        figures = result["round"][name]
        typer.echo(f"round, {name:<7} median {figures['median_s']:.3f} s, p90 {figures['p90_s']:.3f} s")
    for name, ratio in result["ratio"].items():
        if result[name]:
            spoken = f"{result[name]['round_s']} s" + (f", {ratio} times" if ratio else "")
            typer.echo(f"{name:<14} " + (result[name]["reason"] if result[name]["round_s"] is None else spoken))
    if masked := result["secagg"]:
        typer.echo(f"masked sum     {masked['parameters']} numbers x {masked['sites']} sites: {masked['seconds']} s")
    if result["scale"]:
        typer.echo(f"scale          {result['scale']}")


@app.command("web")
def web_pages(
    json_out: Json = False,
    sites: Annotated[int, typer.Option(min=1, max=1000, help="How many sites.")] = 51,
    studies: Annotated[int, typer.Option(min=9, max=10_000, help="How many studies.")] = 200,
) -> None:
    """How long the server takes for each page of the dashboard, in a large consortium.

    Example: corsia bench web --json
    """
    from corsia.bench_web import bench_web

    result = bench_web(lambda line: sys.stderr.write(line + "\n"), sites=sites, studies=studies)
    if json_out:
        typer.echo(json.dumps(result))
        return
    typer.echo(f"{result['sites']} sites x {result['studies']} studies: worst median {result['worst_median_ms']} ms")
