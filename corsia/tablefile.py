"""Tables as files: CSV as hospitals write it (separator, encoding, decimal comma found out) and Parquet.

    read = read_table(Path("in.csv"), frozenset({"id"})); write_table(Path("out.csv"), frame, read)

What cannot be read for certain is refused: a column name twice, rows of other lengths than the header, nested values.
Nothing of a table stands in an error. Not here: what columns mean.
"""

from __future__ import annotations

import csv
import io
import re
import warnings
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from privacy.deid.onefile import storage_error
from protocol.errors import InputError

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["TableFile", "clear", "read_table", "write_file", "write_table"]

_SEPARATORS = ",;\t|"
_MARKS = ((b"\xff\xfe", "utf-16"), (b"\xfe\xff", "utf-16"))
_DECIMAL = re.compile(r"\s*[+-]?\d+(?:,\d+)?\s*", re.ASCII)
_MISSING = ("", "NA", "N/A", "n/a", "nan", "NaN", "NULL", "null", "None", "<NA>", "#N/A", "-nan", "-NaN")


@dataclass(frozen=True, slots=True, kw_only=True)
class TableFile:
    """A table and how it was written."""

    frame: pd.DataFrame
    separator: str = ","
    decimal: str = "."


def read_table(source: Path, words: Collection[str]) -> TableFile:
    """Read a table; Parquet by its suffix, else CSV.

    Args:
        source: the file.
        words: columns to be read as they are written, not as numbers.

    Raises:
        InputError: `input.table`. The message names the file and the kind of error, never a cell.
    """
    import pandas as pd

    try:
        if source.suffix.lower() in (".parquet", ".pq"):
            found = TableFile(frame=pd.read_parquet(source, use_threads=False))
        else:
            found = _csv(source.read_bytes(), words)
    except InputError as error:
        raise InputError("input.table", f"{source}: {error.message}") from None
    except (ValueError, OSError, csv.Error, Warning) as error:  # messages of parsers may quote cells
        raise InputError("input.table", f"{source}: {type(error).__name__}") from None
    if found.frame.columns.duplicated().any():
        raise InputError("input.table", f"{source}: a column name twice")
    return found


def _csv(data: bytes, words: Collection[str]) -> TableFile:
    import pandas as pd

    text = _decoded(data)
    first = next(iter(text.splitlines()), "")
    separator = max(_SEPARATORS, key=first.count)
    header = next(csv.reader([first], delimiter=separator), [])
    named = [name for name in header if name]
    if len(set(named)) != len(named):
        raise InputError("input.table", "a column name twice")
    missing = {name: [""] if name in words else list(_MISSING) for name in header}
    with warnings.catch_warnings():
        warnings.simplefilter("error", pd.errors.ParserWarning)  # a row longer than the header
        frame = pd.read_csv(io.StringIO(text), dtype=dict.fromkeys(words, str), sep=separator, index_col=False,
                            na_values=missing, keep_default_na=False, low_memory=False)  # fmt: skip
    commas = [name for name in frame.columns if name not in words and _has_commas(frame[name])]
    for name in commas:
        frame[name] = frame[name].str.replace(",", ".").astype(float)
    return TableFile(frame=frame, separator=separator, decimal="," if commas else ".")


def _decoded(data: bytes) -> str:
    """UTF-8, with a mark or without; UTF-16 with one; else Windows-1252 or, where that has no letter, Latin-1."""
    for mark, codec in _MARKS:
        if data.startswith(mark):
            return data.decode(codec)
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError:
        if b"\0" in data:
            raise
    try:
        return data.decode("cp1252")
    except UnicodeDecodeError:
        return data.decode("latin-1")


def _has_commas(column: pd.Series) -> bool:
    """Whether a column holds numbers with a decimal comma; `1,234` alone may be a thousand and does not tell."""
    cells = [cell for cell in column if isinstance(cell, str)]
    tells = any(len(cell.strip().partition(",")[2]) not in (0, 3) for cell in cells)
    return tells and all(_DECIMAL.fullmatch(cell) for cell in cells) and len(cells) == int(column.notna().sum())


def write_table(target: Path, frame: pd.DataFrame, like: TableFile) -> None:
    """Write whole or not at all; CSV in UTF-8 with the separator and the decimal mark that were read.

    Raises:
        StorageError: `storage.full`, `storage.failed`.
    """
    partial = target.with_name(target.name + ".part")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        if target.suffix.lower() in (".parquet", ".pq"):
            frame.to_parquet(partial, index=False)
        else:
            frame.to_csv(partial, index=False, sep=like.separator, decimal=like.decimal)
        partial.replace(target)
    except OSError as error:
        raise storage_error(error) from None
    finally:
        if partial.is_file():
            partial.unlink()


def clear(path: Path) -> None:
    """Take away what stands at a path.

    Raises:
        StorageError: `storage.failed`.
    """
    try:
        path.unlink(missing_ok=True)
    except OSError as error:
        raise storage_error(error) from None


def write_file(path: Path, data: bytes) -> None:
    """Write a report whole or not at all.

    Raises:
        StorageError: `storage.full`, `storage.failed`.
    """
    partial = path.with_name(path.name + ".part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        partial.write_bytes(data)
        partial.replace(path)
    except OSError as error:
        raise storage_error(error) from None
