"""`corsia demo`."""

from __future__ import annotations

import json
import signal
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from corsia.demo import DemoResult

app = typer.Typer()


@app.command()
def demo(
    sites: Annotated[
        int, typer.Option("--sites", help="Training hospitals, 2 to 4; one more joins for inference.")
    ] = 3,
    out: Annotated[Path, typer.Option("--out", help="Folder for all that the demo writes.")] = Path("demo-out"),
    keep: Annotated[bool, typer.Option("--keep", help="Leave everything running until Ctrl-C.")] = False,
    json_out: Annotated[bool, typer.Option("--json", help="End stdout in one JSON object.")] = False,
) -> None:
    """Run four lanes over three hospitals, as real processes on this machine.

    Example: corsia demo --sites 3 --out demo-out --keep
    """
    from rich.console import Console

    from corsia.demo import run_demo

    signal.signal(signal.SIGINT, signal.default_int_handler)  # also where a shell started us in the background
    console = Console(stderr=True, highlight=False)
    started = time.monotonic()

    status = console.status("starting")  # on a terminal: a spinner with the newest line under the others

    def tell(line: str) -> None:
        status.update(line)
        console.print(f"[dim]{time.monotonic() - started:6.1f} s[/dim]  {line}", soft_wrap=True)

    def print_line(result: DemoResult) -> None:
        if json_out:
            sys.stdout.write(json.dumps(result.summary) + "\n")
            sys.stdout.flush()

    def hold(result: DemoResult) -> None:
        status.stop()
        _summary(result, console)
        token = result.token_file.read_text().strip()
        console.print(f"dashboard: {result.url}/?token={token}\nCtrl-C stops everything", soft_wrap=True)
        print_line(result)
        where = {
            "summary": result.summary,
            "url": result.url,
            "token_file": str(result.token_file),
            "mlflow": result.mlflow,
        }
        (result.out / "demo.json").write_text(json.dumps(where))
        try:
            signal.pause()
        except KeyboardInterrupt:
            console.print("stopping")

    with status:
        result = run_demo(out, sites=sites, tell=tell, keep=hold if keep else None)
    if not keep:
        _summary(result, console)
        print_line(result)


def _summary(result: DemoResult, console: Any) -> None:
    from rich.table import Table

    lanes, inference = result.summary["lanes"], result.summary["inference"]
    table = Table(
        "lane", "what reached the centre", title=f"Corsia demo, {result.summary['seconds']} s", title_justify="left"
    )
    h, a, e, t = lanes["harvest"], lanes["anonymize"], lanes["extract"], lanes["train"]
    table.add_row("1 harvest", f"{h['records']} raw records, {h['withheld']} withheld for want of consent")
    back = ", ".join(f"{count} {reason}" for reason, count in a["quarantined"].items()) or "none"
    table.add_row(
        "2 anonymize",
        f"{a['files']} DICOM files ({a['pictures_cleaned']} with writing blanked), {a['documents']} FHIR records, "
        f"{a['records']} rows, k = {a['k']}; kept back: {back}; "
        f"{a['identifiers_left']} of {a['identifiers_planted']} planted identifiers left",
    )
    table.add_row("3 extract", f"{e['rows']} rows x {e['columns']} features")
    table.add_row(
        "4 train",
        f"{t['rounds']} rounds; {t['metric']} on held-out rows: federated {t['federated']:.3f}, "
        f"mean of local models {t['local_mean']:.3f}, pooled {t['pooled']:.3f}",
    )
    table.add_row(
        "", f"published as {t['model']}; updates were sealed, not yet masked: the centre saw each site's update"
    )
    table.add_row(
        "inference",
        f"centre: {inference['centre']['rows']} rows; "
        f"{inference['edge']['site']}: {inference['edge']['rows']} rows, kept there",
    )
    table.add_row("log", f"{result.summary['log']['entries']} entries, verified: {result.summary['log']['verified']}")
    console.print(table)
    console.print(f"files: {result.out} (centre/, sites/NAME/, mlflow/, logs/)")
