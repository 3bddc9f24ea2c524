"""An Excel workbook (.xlsx) as the rows of a table: its first sheet, formulas by the values they were saved with.

A formula that was saved without its value, as programs other than Excel do, is refused: read as missing, one for the
day of a withdrawal would say that there was none. A number that Excel keeps as a number is written as one; a day as
YYYY-MM-DD. Everything then goes the way of a CSV.

Source: ECMA-376, Office Open XML; read by openpyxl.
"""

from __future__ import annotations

import zipfile
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from edge.sources.relation import text_of
from protocol.errors import ConfigurationError, InputError

__all__ = ["is_workbook", "rows"]

MAX_UNPACKED_BYTES = 2 << 30
_MAX_COLUMNS = 16_384
_TEXT = "str"  # of a formula's value, which may be an empty one


def is_workbook(head: bytes) -> bool:
    """Whether a file that begins so is a zip, as workbooks are."""
    return head[:4] == b"PK\x03\x04"


def rows(path: Path) -> Iterator[list[str]]:
    """Header and rows of the first sheet, all of the header's width; rows without any content are passed over.

    Raises:
        InputError: `input.table`. ConfigurationError: `config.extra-missing`.
    """
    try:
        import openpyxl
    except ImportError:
        raise ConfigurationError("config.extra-missing", "Excel tables need corsia[sources]") from None
    try:
        with zipfile.ZipFile(path) as archive:
            if sum(info.file_size for info in archive.infolist()) > MAX_UNPACKED_BYTES:
                raise InputError("input.table", "the workbook unpacks to too much")
        with ExitStack() as held:
            books = [
                openpyxl.load_workbook(path, read_only=True, data_only=only, keep_links=False) for only in (True, False)
            ]
            for book in books:
                held.callback(book.close)
            yield from _of(*(book.worksheets[0] for book in books))
    except InputError:
        raise
    except Exception as error:  # openpyxl raises what its XML and zip parsers do
        raise InputError("input.table", f"the workbook cannot be read: {type(error).__name__}") from None


def _of(values: Any, formulas: Any) -> Iterator[list[str]]:
    both = []
    for sheet in (values, formulas):
        sheet.reset_dimensions()  # what a file says of its own size is often wrong
        both.append(sheet.iter_rows(max_col=_MAX_COLUMNS))
    width = 0
    for number, (row, made) in enumerate(zip(*both, strict=True), 1):
        pairs = zip(row, made, strict=True)
        if any(how.data_type == "f" and cell.value is None and cell.data_type != _TEXT for cell, how in pairs):
            raise InputError("input.table", f"line {number} has a formula without its value: open the file and save it")
        cells = [_text(cell.value) for cell in row]
        while cells and not cells[-1].strip():
            cells.pop()
        if not cells:
            continue
        width = width or len(cells)
        if len(cells) > width:
            raise InputError("input.table", f"line {number} has {len(cells)} fields, the header has {width}")
        yield cells + [""] * (width - len(cells))


def _text(value: Any) -> str:
    return text_of(value) or ""
