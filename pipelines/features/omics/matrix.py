"""Read a matrix of samples and features, and tell four kinds of cell apart: measured, missing, below, above range.

A concentration below the limit of detection is neither zero nor unknown, and zero counts are a measurement: each
cell has a value and a state. Delimited text (comma, semicolon, tab; decimal comma with the latter
two) and Parquet, plain or gzipped, samples in rows or in columns.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from enum import IntEnum
from io import BytesIO, StringIO
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from pipelines.features.files import Content, content
from pipelines.features.text import inflate
from protocol.errors import InputError

__all__ = ["Matrix", "Options", "State", "read"]

Kind = Literal["counts", "abundance"]


class State(IntEnum):
    """What a cell is."""

    MEASURED = 0
    MISSING = 1
    BELOW = 2
    ABOVE = 3


@dataclass(frozen=True, slots=True, eq=False)
class Matrix:
    """n samples x f features.

    Attributes:
        samples, features: names, unique.
        values: float64 [n, f]; NaN unless measured. For BELOW and ABOVE the limit stands in `limits`.
        states: `State` of each cell, int8 [n, f].
        limits: limit of detection where the cell tells it ("<0.5"), else NaN, float64 [n, f].
        kind: counts (0, 1, 2, ... or expected counts) or abundances.
    """

    samples: tuple[str, ...]
    features: tuple[str, ...]
    values: NDArray[np.float64]
    states: NDArray[np.int8]
    limits: NDArray[np.float64]
    kind: Kind

    def share(self, state: State) -> NDArray[np.float64]:
        """Share of cells of a state, per sample [n]."""
        return np.asarray((self.states == state).mean(axis=1))


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """How to read.

    Attributes:
        kind: counts must not be negative.
        samples: where samples are; `auto` looks which of the two holds the ids in `known`.
        known: sample ids of the data set.
        skip: columns of annotation to leave out (featureCounts: Chr, Start, End, Strand, Length).
        duplicates: several rows of one feature are refused, or summed (counts of one gene's transcripts).
    """

    kind: Kind = "counts"
    samples: Literal["rows", "columns", "auto"] = "auto"
    known: Collection[str] = ()
    skip: tuple[str, ...] = ("Chr", "Start", "End", "Strand", "Length", "Description")
    duplicates: Literal["refuse", "sum"] = "refuse"


_MISSING = frozenset(("", "na", "n/a", "nan", "null", "none", ".", "-", "missing", "#n/a", "nr"))
_BELOW = frozenset("nd n.d. n.d notdetected <lod <llod <loq <lloq bld bdl bql blq blod bloq".split()) | frozenset(
    "belowlod belowloq belowdetection belowdetectionlimit belowlimitofdetection belowrange".split()
)
_ABOVE = frozenset(">uloq >ulod aloq aql aboveuloq aboverange".split())
#: Totals that STAR writes among the genes.
_TOTALS = frozenset(("N_unmapped", "N_multimapping", "N_noFeature", "N_ambiguous"))
_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?")


def read(data: Content, options: Options | None = None) -> Matrix:
    """Read a matrix.

    Args:
        data: CSV, TSV or Parquet, told apart by their content.
        options: how.

    Raises:
        InputError: `input.matrix`: not a table, ragged, duplicated names, cells that are no number and no known
            word, negative counts, no axis or both with known samples. `input.usage`.
    """
    options = options or Options()
    raw = inflate(content(data), "input.matrix")
    table = _parquet(raw) if raw[:4] == b"PAR1" else _delimited(raw)
    header, rows = table[0], table[1:]
    if len(header) < 2 or not rows:
        raise InputError("input.matrix", "the matrix has no row or no column")
    keep = [at for at, name in enumerate(header) if at == 0 or name not in options.skip]
    columns = [str(header[at]).strip() for at in keep[1:]]
    names = [str(row[0]).strip() for row in rows]
    in_rows = _samples_in_rows(names, columns, options)
    cells = [[row[at] for at in keep[1:]] for row in rows]
    values, states, limits = _cells(cells)
    matrix = _oriented(names, columns, (values, states, limits), in_rows, options)
    if options.kind == "counts" and bool((matrix.values < 0).any()):
        raise InputError("input.matrix", "a count is negative")
    return matrix


def _oriented(
    names: list[str],
    columns: list[str],
    arrays: tuple[NDArray[np.float64], NDArray[np.int8], NDArray[np.float64]],
    in_rows: bool,
    options: Options,
) -> Matrix:
    """Samples into rows, features checked; totals that counting programs append (`__no_feature`) left out."""
    samples, features = (names, columns) if in_rows else (columns, names)
    values, states, limits = arrays
    if not in_rows:
        values, states, limits = values.T, states.T, limits.T
    real = [at for at, name in enumerate(features) if not name.startswith("__") and name not in _TOTALS]
    features = [features[at] for at in real]
    values, states, limits = values[:, real], states[:, real], limits[:, real]
    if not features or not all(samples) or not all(features):
        raise InputError("input.matrix", "a sample or feature has no name")
    if len(set(samples)) != len(samples):
        raise InputError("input.matrix", "a sample is in the matrix twice")
    if len(set(features)) != len(features):
        if options.duplicates == "refuse":
            raise InputError("input.matrix", "a feature is in the matrix twice")
        features, values, states, limits = _summed(features, values, states)
    return Matrix(tuple(samples), tuple(features), values, states, limits, options.kind)


def _summed(
    features: list[str], values: NDArray[np.float64], states: NDArray[np.int8]
) -> tuple[list[str], NDArray[np.float64], NDArray[np.int8], NDArray[np.float64]]:
    """One column per name: the sum where all parts are measured, else the first state that is not."""
    unique = list(dict.fromkeys(features))
    at = {name: number for number, name in enumerate(unique)}
    totals = np.zeros((len(values), len(unique)))
    worst = np.zeros(totals.shape, np.int8)
    for column, name in enumerate(features):
        totals[:, at[name]] += values[:, column]  # NaN stays NaN
        worst[:, at[name]] = np.where(worst[:, at[name]] == 0, states[:, column], worst[:, at[name]])
    return unique, totals, worst, np.full(totals.shape, np.nan)


def _samples_in_rows(names: Sequence[str], columns: Sequence[str], options: Options) -> bool:
    if options.samples != "auto":
        return options.samples == "rows"
    known = set(options.known)
    if not known:
        raise InputError("input.usage", "say whether samples are in rows or in columns, or which samples there are")
    in_rows, in_columns = len(known & set(names)), len(known & set(columns))
    if in_rows == in_columns:
        raise InputError("input.matrix", "neither rows nor columns alone are named by the data set's samples")
    return in_rows > in_columns


def _parquet(raw: bytes) -> list[list[Any]]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        table = pq.read_table(BytesIO(raw), use_threads=False)
        columns = [column.to_pylist() for column in table.columns]
    except (pa.ArrowException, ValueError, OSError):
        raise InputError("input.matrix", "the Parquet file is damaged or truncated") from None
    return [list(table.column_names), *(list(row) for row in zip(*columns, strict=True))]


def _delimited(raw: bytes) -> list[list[Any]]:
    try:
        text = raw.decode("utf-8-sig")
    except UnicodeDecodeError:
        raise InputError("input.matrix", "the matrix is not UTF-8 text") from None
    lines = [line for line in text.splitlines() if line.strip() and not line.startswith("#")]
    if lines and re.fullmatch(r"\d+\t\d+", lines[0].strip()):  # the sizes that follow #1.2 in a GCT file
        lines = lines[1:]
    if not lines:
        raise InputError("input.matrix", "the matrix is empty")
    separator = max("\t;,", key=lines[0].count)
    try:
        table: list[list[Any]] = list(csv.reader(StringIO("\n".join(lines)), delimiter=separator))
    except csv.Error:
        raise InputError("input.matrix", "the matrix is not delimited text") from None
    if len(table) > 1 and len(table[0]) == len(table[1]) - 1:  # R writes no name above the row names
        table[0].insert(0, "")
    if any(len(row) != len(table[0]) for row in table):
        raise InputError("input.matrix", "a row of the matrix has more or fewer cells than the header: truncated?")
    if separator != ",":
        _decimal_commas(table)
    return table


def _decimal_commas(table: list[list[Any]]) -> None:
    """Turn 1,5 into 1.5 when commas are decimal commas throughout; refuse thousands separators."""
    with_comma = [cell for row in table[1:] for cell in row[1:] if "," in cell]
    if not with_comma:
        return
    if any(cell.count(",") > 1 or "." in cell for cell in with_comma):
        raise InputError("input.matrix", "numbers with commas and points: which is the decimal sign?")
    for row in table[1:]:
        row[1:] = [cell.replace(",", ".") for cell in row[1:]]


def _cells(cells: list[list[Any]]) -> tuple[NDArray[np.float64], NDArray[np.int8], NDArray[np.float64]]:
    """Values, states and limits of rows x columns; the quick way for rows of plain numbers."""
    shape = (len(cells), len(cells[0]))
    values, limits = np.full(shape, np.nan), np.full(shape, np.nan)
    states = np.zeros(shape, np.int8)
    unknown = 0
    for at, row in enumerate(cells):
        try:
            values[at] = np.array(row, np.float64)
            plain = bool(np.isfinite(values[at]).all())
        except (TypeError, ValueError):
            plain = False
        if plain:
            continue
        for column, cell in enumerate(row):
            found = _cell(cell)
            unknown += found is None
            values[at, column], states[at, column], limits[at, column] = found or (np.nan, State.MISSING, np.nan)
    if unknown:
        raise InputError("input.matrix", f"{unknown} cells are neither a number nor a word for missing or out of range")
    return values, states, limits


def _cell(cell: Any) -> tuple[float, State, float] | None:
    """(value, state, limit); None for what is not understood."""
    text = "" if cell is None else str(cell).strip()
    word = "".join(text.lower().split())
    if word in _MISSING:
        return np.nan, State.MISSING, np.nan
    if word in _BELOW:
        return np.nan, State.BELOW, np.nan
    if word in _ABOVE:
        return np.nan, State.ABOVE, np.nan
    bound = text[:1] in "<>≤≥" and text.lstrip("<>≤≥= ")
    if bound and _NUMBER.fullmatch(bound):
        return np.nan, State.BELOW if text[0] in "<≤" else State.ABOVE, float(bound)
    if _NUMBER.fullmatch(text) and np.isfinite(value := float(text)):
        return value, State.MEASURED, np.nan
    return None
