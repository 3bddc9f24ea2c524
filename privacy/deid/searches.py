"""Plain searches for values of a table row, in files and in other tables: whole words, nothing explained away.

    positions = search(output_bytes, originals_of_row(["Rossi Mario", "RSSMRA61C12H501X"]))

For what is not the output of one original file; for that see `residual.py`. Not here: which values identify.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import Any

from privacy.deid.secondreader import inflated
from privacy.deid.variants import MIN_LENGTH, fold, standard_words

__all__ = ["originals_of_row", "search", "search_cells"]

_WORD = re.compile(r"[^\W_]+")
_EDGE_BEFORE, _EDGE_AFTER = rb"(?<![0-9a-z\x80-\xff])", rb"(?![0-9a-z\x80-\xff])"


def search(output: bytes, values: Sequence[str]) -> list[int]:
    """Positions in `values` of those found as whole words in a file's bytes, in any of four encodings."""
    data = inflated(output).lower()
    return [position for position, value in enumerate(values) if _occurs(data, value.lower())]


def _occurs(data: bytes, value: str) -> bool:
    if any(value.encode(codec) in data for codec in ("utf-16-le", "utf-16-be")):
        return True
    return any(
        form in data and re.search(_EDGE_BEFORE + re.escape(form) + _EDGE_AFTER, data) is not None
        for form in {value.encode("utf-8"), value.encode("latin-1", "ignore")} - {b""}
    )


def originals_of_row(values: Iterable[str]) -> tuple[str, ...]:
    """What to look for of one table row: whole identifying values, and the parts of those that are names."""
    found: set[str] = set()
    for value in values:
        folded = fold(value)
        parts = _WORD.findall(folded)
        found.add(" ".join(parts))
        if not any(char.isdigit() for char in folded) and len(parts) <= 4:
            found.update(part for part in parts if part not in standard_words())
    return tuple(sorted(value for value in found if len(value) >= MIN_LENGTH))


def search_cells(cells: Iterable[Any], values: Sequence[str]) -> list[int]:
    """Positions in `values` of those found in cells: as whole words in text, as the whole of a long number."""
    texts = []
    for cell in cells:
        if isinstance(cell, str):
            texts.append(" " + " ".join(_WORD.findall(fold(cell))) + " ")
        elif isinstance(cell, (int, float)) and not isinstance(cell, bool) and abs(cell) >= 1e5:
            texts.append(f" {cell:.0f} ")
    joined = "\n".join(texts)
    return [position for position, value in enumerate(values) if f" {value} " in joined]
