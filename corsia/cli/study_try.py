"""`corsia study try`: train a study for real on this machine, one CSV a site."""

from __future__ import annotations

import json
import signal
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from protocol.errors import InputError

if TYPE_CHECKING:
    from corsia.trial import Trial

__all__ = ["attempt"]


def attempt(
    file: Annotated[Path, typer.Argument(help="The study's TOML file.", metavar="FILE")],
    data: Annotated[
        list[str], typer.Option("--data", help="SITE=FILE.csv, or FILE.csv; once for each site.", show_default=False)
    ],
    out: Annotated[Path, typer.Option("--out", help="Folder for all that the trial writes.")] = Path("try-out"),
    missing: Annotated[
        list[str] | None, typer.Option("--missing", help="A word or number that means missing; may be repeated.")
    ] = None,
    timeout_s: Annotated[float, typer.Option("--timeout", min=1, help="Give up after so many seconds.")] = 3600.0,
    keep: Annotated[bool, typer.Option("--keep", help="Leave everything running until Ctrl-C.")] = False,
    json_out: Annotated[bool, typer.Option("--json", help="End in one JSON object on one line.")] = False,
) -> None:
    """Train a study for real on this machine: centre, MLflow and one agent a CSV, as processes.

    Example: corsia study try study.toml --data site-a=a.csv --data site-b=b.csv --data site-c=c.csv --out try-out
    """
    from rich.console import Console

    from corsia.trial import read_study, run_trial

    signal.signal(signal.SIGINT, signal.default_int_handler)  # also where a shell started us in the background
    console = Console(stderr=True, highlight=False)
    started = time.monotonic()

    def tell(line: str) -> None:
        console.print(f"{time.monotonic() - started:6.1f} s  {line}", soft_wrap=True, markup=False)

    def print_line(result: Trial, where: dict[str, str]) -> None:
        if json_out:
            sys.stdout.write(json.dumps({**result.summary, **where}) + "\n")
            sys.stdout.flush()

    def hold(result: Trial) -> None:
        _report(result, console, kept=True)
        print_line(result, {"url": result.url, "token_file": str(result.token_file), "mlflow": result.mlflow})
        try:
            signal.pause()
        except KeyboardInterrupt:
            console.print("stopping")

    sites = _sites(data)
    study, document = read_study(file, sites, tell)
    result = run_trial(
        study, document, sites, out, tell=tell, missing=tuple(missing or ()), timeout_s=timeout_s,
        keep=hold if keep else None,
    )  # fmt: skip
    if not keep:
        _report(result, console, kept=False)
        print_line(result, {})


def _sites(given: list[str]) -> dict[str, Path]:
    from corsia.drafts.names import slug

    sites: dict[str, Path] = {}
    for text in given:
        name, equals, path = text.partition("=")
        if not equals or Path(text).is_file():
            name, path = slug(Path(text).stem), text
        if slug(name) != name:
            raise InputError("input.usage", f"{name!r}: a site's name is lower-case letters, digits and hyphens")
        if name in sites:
            raise InputError("input.usage", f"two files are of site {name}: give --data NAME=FILE")
        sites[name] = Path(path)
    return sites


def _report(result: Trial, console: Any, *, kept: bool) -> None:
    from rich.table import Table

    s = result.summary
    alone = [name for metrics in s["local"].values() for name in metrics if name != "code"]
    names = list(s["metrics"]) or list(dict.fromkeys(alone))  # under noise the run itself measures nothing
    table = Table("", *names, title=f"{s['study']}: {s['rounds']} rounds, {len(s['sites'])} sites")
    table.add_row("federated", *(f"{v:.4g}" for v in s["metrics"].values()))
    for site, metrics in s["local"].items():
        cells = [f"{metrics[name]:.4g}" if name in metrics else "" for name in names]
        table.add_row(f"{site} alone", *([metrics["code"], *cells[1:]] if "code" in metrics else cells))
    console.print(table)
    console.print(
        "Measured on the rows of all sites, which were trained on: for comparison, no claim about new patients.\n"
        f"model: {s['model']}\ncard: {s['card']}\nlog: {s['log']['entries']} entries, verified: {s['log']['verified']}",
        soft_wrap=True, markup=False,
    )  # fmt: skip
    reach = f"--url {result.url} --token-file {result.token_file}"
    if kept:
        console.print(
            f"predict: corsia model predict {result.name} --input new.csv --out scores.csv {reach}\n"
            f"dashboard: {result.url}/?token={result.token_file.read_text().strip()}\nMLflow: {result.mlflow}\n"
            "Ctrl-C stops everything",
            soft_wrap=True, markup=False,
        )  # fmt: skip
    else:
        console.print("predict: run this again with --keep, then `corsia model predict`", soft_wrap=True, markup=False)
