"""One CSV file as a stranger gives it: encoding, delimiter, header, and what each column is."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from corsia.drafts.column import Column, Kind, describe, is_marker
from corsia.drafts.names import near
from edge.sources.format import Format
from edge.sources.numbers import is_number, missing_word
from edge.sources.table import lines
from protocol.errors import InputError

__all__ = ["CsvFile", "read_file"]

_SENTINELS = ("-9", "-99", "-999", "999", "9999", "-1")
_NEARLY = re.compile(r"[<>]?\s*[+-]?\d[\d.,'\s]*%?\Z")
_MAX_BYTES = 1 << 30


@dataclass(frozen=True, slots=True, kw_only=True)
class CsvFile:
    """What one file holds.

    Attributes:
        form: how it is written, for the site's edge.toml.
        columns: by name, in the file's order.
        rows: how many.
        cells: column -> its cells, trimmed; missing ones empty.
        notes: what the user should know, without any cell's text but levels and missing words.
    """

    path: Path
    form: Format
    delimiter: str
    columns: Mapping[str, Column]
    rows: int
    cells: Mapping[str, Sequence[str]]
    notes: tuple[str, ...]

    def require(self, names: Iterable[str]) -> None:
        """Refuse a file that lacks a column.

        Raises:
            InputError: `input.column-missing`, with a name that looks alike.
        """
        for name in names:
            if name not in self.columns:
                alike = near(name, list(self.columns))
                hint = f"; did you mean {' or '.join(map(repr, alike))}?" if alike else ""
                raise InputError("input.column-missing", f"{self.path.name} has no column {name!r}{hint}")


def read_file(path: Path, *, missing: Sequence[str] = (), categorical: Sequence[str] = ()) -> CsvFile:
    """Read and describe a file.

    Args:
        missing: further words that stand for a missing value.
        categorical: columns whose numbers are codes.

    Raises:
        InputError: `input.table` for what cannot be read, is empty or has no header, naming file and reason.
    """
    try:
        form, told = _encoding(path)
        delimiter, rows = lines(path, (), form)
        table = list(rows)
    except InputError as error:
        raise InputError(error.code, f"{path.name}: {error.message.removeprefix('the table ')}") from None
    header = _header(path, table)
    if len(table) < 2:
        raise InputError("input.table", f"{path.name}: has a header and no rows")
    named = [(i, name) for i, name in enumerate(header) if name]
    if len(named) < len(header):
        told.append(f"{len(header) - len(named)} columns without a name are passed over")
    cells = {name: [row[i].strip() for row in table[1:]] for i, name in named}
    comma = delimiter == ";" or _decimal_commas(cells.values())
    words = _markers(cells.values(), missing)
    gone = {missing_word(word) for word in words}
    kept = {name: ["" if missing_word(cell) in gone else cell for cell in column] for name, column in cells.items()}
    columns = {
        name: describe(name, column, decimal_comma=comma, code=name in categorical) for name, column in kept.items()
    }
    form = Format(
        encoding=form.encoding,
        decimal="," if comma and delimiter != ";" else ".",
        missing=tuple(words),
        numeric=tuple(name for name, column in columns.items() if column.kind is Kind.NUMBER and column.stray),
    )
    if words:
        told.append("counted as missing: " + ", ".join(words))
    told += _odd_numbers(columns) + _nearly_numbers(columns, kept)
    return CsvFile(
        path=path, form=form, delimiter=delimiter, columns=columns, rows=len(table) - 1, cells=kept, notes=tuple(told)
    )


def _encoding(path: Path) -> tuple[Format, list[str]]:
    try:
        if path.stat().st_size > _MAX_BYTES:
            raise InputError("input.table", "is larger than 1 GiB: describe a part of it")
        raw = path.read_bytes()
    except FileNotFoundError:
        raise InputError("input.table", "does not exist") from None
    except OSError as error:
        raise InputError("input.table", f"cannot be read: {error.strerror}") from None
    if not raw.strip(b"\xef\xbb\xbf \t\r\n;,"):
        raise InputError("input.table", "is empty")
    if raw[:4] in (b"PK\x03\x04", b"\xd0\xcf\x11\xe0"):
        raise InputError("input.table", "is a spreadsheet: save it as CSV UTF-8")
    if raw[:2] in (b"\xff\xfe", b"\xfe\xff"):
        return Format(encoding="utf-16"), ["is UTF-16"]
    if raw[:4] == b"PAR1" or b"\0" in raw:
        raise InputError("input.table", "is no text: save it as CSV UTF-8")
    for encoding in ("utf-8", "cp1252"):
        try:
            raw.decode(encoding)
        except UnicodeDecodeError:
            continue
        told = [] if encoding == "utf-8" else ["is not UTF-8; read as Windows-1252 (latin-1): check accented words"]
        return Format(encoding="utf-8" if encoding == "utf-8" else "cp1252"), told
    return Format(encoding="latin-1"), ["is not UTF-8; read as latin-1: check accented words"]


def _header(path: Path, table: Sequence[Sequence[str]]) -> list[str]:
    header = [" ".join(cell.split()) if "\n" in cell else cell.strip() for cell in (table[0] if table else [])]
    if any("\n" in cell or "\r" in cell for cell in (table[0] if table else [])):
        raise InputError("input.table", f"{path.name}: a column's name has a line break; is a quote left open?")
    filled = [name for name in header if name]
    if not filled:
        raise InputError("input.table", f"{path.name}: is empty")
    values = [name for name in filled if is_number(name) or is_number(name.replace(",", ".")) or is_marker(name)]
    if len(values) >= max(1, len(filled) / 2):
        raise InputError(
            "input.table",
            f"{path.name}: has no header: its first line holds values; put a line with the columns' names before it",
        )
    twice = sorted(name for name, count in Counter(filled).items() if count > 1)
    if twice:
        raise InputError(
            "input.table", f"{path.name}: column {', '.join(map(repr, twice[:5]))} occurs more than once: rename one"
        )
    return header


def _decimal_commas(columns: Iterable[Sequence[str]]) -> bool:
    """Whether some column's cells are all numbers if, and only if, a comma parts whole and decimals."""
    for cells in columns:
        present = [cell for cell in cells if cell and not is_marker(cell)]
        commas = sum("," in cell for cell in present)
        if commas and all(is_number(cell.replace(",", ".")) for cell in present) and not any("." in c for c in present):
            return True
    return False


def _markers(columns: Iterable[Sequence[str]], more: Sequence[str]) -> list[str]:
    found: dict[str, str] = {word.casefold(): word for word in more}
    for cells in columns:
        for cell in cells:
            if is_marker(cell):
                found.setdefault(cell.casefold(), cell)
    return sorted(found.values())[:32]


def _odd_numbers(columns: Mapping[str, Column]) -> list[str]:
    told = []
    for name, column in columns.items():
        if column.kind is not Kind.NUMBER:
            continue
        if column.stray:
            told.append(f"{name!r}: {column.stray} cells are no numbers and count as missing")
        for text in _SENTINELS:
            count = column.values.get(float(text), 0)
            if count >= 2 and _stands_apart(float(text), column):
                told.append(f"{name!r}: {count} cells are {text}: if that means missing, add --missing {text}")
    return told


def _nearly_numbers(columns: Mapping[str, Column], cells: Mapping[str, Sequence[str]]) -> list[str]:
    """Columns of words that may be meant as quantities: with a mark of thousands, both decimal marks, a sign."""
    told = []
    for name, column in columns.items():
        if column.kind not in (Kind.CATEGORY, Kind.TEXT):
            continue
        different = {cell for cell in cells[name] if cell}
        meant = sum(bool(_NEARLY.match(cell)) and not cell.isdigit() for cell in different)
        if meant > 0.5 * len(different) and sum(map(bool, map(_NEARLY.match, different))) >= 0.9 * len(different):
            told.append(
                f"{name!r}: read as words: if these are quantities, write plain numbers with one decimal mark, "
                "no mark of thousands, no < and no %"
            )
    return told


def _stands_apart(value: float, column: Column) -> bool:
    """Whether a number lies alone: below zero where no other does, or far above all others."""
    others = [v for v in column.values if v != value]
    if not others:
        return False
    if value < 0:
        return min(others) >= 0
    return value > 3 * max(abs(v) for v in others)
