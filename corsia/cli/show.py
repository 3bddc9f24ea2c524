"""What a command prints: one JSON object on one line, or a text and tables."""

from __future__ import annotations

import json
import os
import sys
from typing import Any

import typer

__all__ = ["show", "table"]


def show(value: dict[str, Any], json_out: bool, text: str) -> None:
    """Print `value` as the one line of `--json`, or else the text."""
    typer.echo(json.dumps(value, sort_keys=True) if json_out else text)


def table(title: str, columns: list[str], rows: list[list[Any]]) -> None:
    """Print a table, as wide as the terminal or `COLUMNS`."""
    from rich.console import Console
    from rich.table import Table

    table = Table(title=title, title_justify="left")
    for column in columns:
        table.add_column(column, overflow="fold")
    for row in rows:
        table.add_row(*(str(cell) for cell in row))
    wished = os.environ.get("COLUMNS", "")
    width = None if sys.stdout.isatty() else int(wished) if wished.isdecimal() and int(wished) else 160
    Console(width=width).print(table)
