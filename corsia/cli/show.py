"""What a command prints: one JSON object on one line, or a text and tables."""

from __future__ import annotations

import json
import os
import re
import sys
from pathlib import Path
from typing import Any

import typer

from protocol.durable import write_file
from protocol.errors import ConflictError

__all__ = ["check_place", "plain", "put", "show", "table"]

# What a terminal obeys: control characters but tab and line feed, C1 ones, marks of direction. And halves of a pair,
# as which Python holds bytes of a name that are not UTF-8: they cannot be written.
_OBEYED = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u200e\u200f\u202a-\u202e\u2066-\u2069\ud800-\udfff]")


def plain(text: str) -> str:
    """A text that may hold others' words, as a terminal may have it: what it would obey is written as an escape."""
    return _OBEYED.sub(lambda found: found[0].encode("unicode_escape").decode("ascii"), text)


def show(value: dict[str, Any], json_out: bool, text: str) -> None:
    """Print `value` as the one line of `--json`, or else the text."""
    typer.echo(json.dumps(value, sort_keys=True) if json_out else plain(text))


def check_place(path: Path) -> None:
    """Whether a file may be put under a name, in place of one that is there.

    Raises:
        ConflictError: `conflict.exists`: a folder, a device, a pipe or a link is there. A rename over /dev/stdout would
            take it from everybody on the machine.
    """
    if path.is_symlink() or (path.exists() and not path.is_file()):
        raise ConflictError("conflict.exists", f"{path} exists and is no file: nothing is put in its place")


def put(path: Path, data: bytes) -> None:
    """Write a report under the name that was given for it, whole or not at all, mode 0600; a file there is replaced.

    Raises:
        ConflictError: as `check_place`.
        OSError: there is no new file.
    """
    check_place(path)
    write_file(path, data)


def table(title: str, columns: list[str], rows: list[list[Any]]) -> None:
    """Print a table, as wide as the terminal or `COLUMNS`."""
    from rich.console import Console
    from rich.table import Table

    table = Table(title=title, title_justify="left")
    for column in columns:
        table.add_column(column, overflow="fold")
    for row in rows:
        table.add_row(*(plain(str(cell)) for cell in row))
    wished = os.environ.get("COLUMNS", "")
    width = None if sys.stdout.isatty() else int(wished) if wished.isdecimal() and int(wished) else 160
    Console(width=width, markup=False, emoji=False).print(table)
