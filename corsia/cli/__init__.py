"""The command line: `corsia NOUN VERB`.

Every command has `--help` with an example and `--json` where it reports: then stdout ends in one object on one line,
while progress and logs go to stderr. Exit status: 0 success, 2 usage, 10 and above as in `docs/errors.md`.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from collections.abc import Sequence
from importlib import import_module
from types import FrameType

import click
import typer

from corsia.cli.show import plain
from protocol.errors import CorsiaError, StorageError
from protocol.process import guard

__all__ = ["app", "main"]

# noun -> (module, help); the module is imported only when its noun is used, so that start-up stays quick.
NOUNS: dict[str, tuple[str, str]] = {
    "init": ("corsia.cli.init", "Write a commented configuration or study file."),
    "central": ("corsia.cli.central", "Run and operate the consortium's centre."),
    "edge": ("corsia.cli.edge", "Run and operate the agent of one hospital."),
    "study": ("corsia.cli.study", "Validate, submit and follow studies."),
    "deid": ("corsia.cli.deid", "De-identify DICOM, text and tables at this machine."),
    "extract": ("corsia.cli.extract", "Extract features at this machine."),
    "parcel": ("corsia.cli.parcel", "Seal, open and inspect parcels."),
    "log": ("corsia.cli.log", "Verify the transparency log."),
    "account": ("corsia.cli.account", "Log in at a centre by your institution's account, and log out."),
    "model": ("corsia.cli.model", "List, verify and use published models."),
    "bench": ("corsia.cli.bench", "Measure against named peers."),
}
COMMANDS: dict[str, tuple[str, str]] = {
    "demo": ("corsia.cli.demo", "Run four lanes over three hospitals, as real processes."),
    "doctor": ("corsia.cli.doctor", "Say in one line each what is wrong with this machine."),
    "rehearse": ("corsia.cli.rehearse", "Play a whole consortium through on this machine, with outages."),
}


class _Lazy(typer.core.TyperGroup):
    """A group whose members are imported when named."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return [*COMMANDS, *NOUNS]

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        entry = COMMANDS.get(cmd_name) or NOUNS.get(cmd_name)
        if entry is None:
            return None
        command = typer.main.get_command(import_module(entry[0]).app)
        command.name = cmd_name
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, text) for name, (_, text) in (COMMANDS | NOUNS).items()])


app = typer.Typer(
    cls=_Lazy,
    no_args_is_help=True,
    add_completion=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    help="Four lanes by which sensitive hospital data become knowledge.\n\nExample: corsia demo --sites 3 --out out",
)


@app.callback(invoke_without_command=True)
def _root(
    ctx: typer.Context,
    version: bool = typer.Option(False, "--version", help="Print the version and exit."),
) -> None:
    if version:
        from importlib.metadata import version as version_of

        typer.echo(version_of("corsia"))
        raise typer.Exit
    if ctx.invoked_subcommand is None:
        typer.echo(ctx.get_help())


def main(args: Sequence[str] | None = None) -> None:
    """Run the command line and exit with the status of the error tree."""
    argv = list(sys.argv[1:] if args is None else args)
    guard()
    signal.signal(signal.SIGTERM, _terminated)  # so that temporary files and child processes are cleaned up
    try:
        status = typer.main.get_command(app)(argv, prog_name="corsia", standalone_mode=False)
    except CorsiaError as error:
        status = _report(error, argv)
    except click.ClickException as error:
        error.show()
        if "--json" in argv:
            _print_error("usage", error.format_message(), "see --help of the command")
        status = error.exit_code
    except (click.Abort, KeyboardInterrupt):
        status = 130
    except BrokenPipeError:
        _close()
        status = 1
    except OSError as error:
        place = f": {error.filename}" if error.filename is not None else ""
        status = _report(StorageError.of(error, f"{error.strerror}{place}"), argv)
    sys.exit(status if isinstance(status, int) else 0)


def _terminated(_number: int, _frame: FrameType | None) -> None:
    raise SystemExit(143)


def _report(error: CorsiaError, argv: Sequence[str]) -> int:
    sys.stderr.write(plain(f"error [{error.code}]: {error.message}\n  hint: {error.hint}\n"))
    if "--json" in argv:
        _print_error(error.code, error.message, error.hint)
    return error.exit_status


def _print_error(code: str, message: str, hint: str) -> None:
    try:
        sys.stdout.write(json.dumps({"error": {"code": code, "message": message, "hint": hint}}) + "\n")
        sys.stdout.flush()
    except OSError:  # nobody reads any more, or the disk is full: the exit status stays
        _close()


def _close() -> None:
    """What is still to be written to standard output goes nowhere."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
