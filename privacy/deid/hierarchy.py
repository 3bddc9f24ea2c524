"""Generalisation hierarchies: how a value becomes coarser, step by step, up to one label for all.

    ladder = build({"kind": "age", "widths": [5, 10, 20]}).climb(frame["age"], "age")
    ladder.labels_at(2)     # one label a row

Kinds: `age` (bands, over 89 in one at every level), `number` (bands), `date` (day, month, quarter, year, decade),
`birth` (birth years in bands, over 89 in one), `postal` (leading digits of a CAP), `icd10` (code, category, block,
chapter), `prefix` (leading characters), `suppress` (the value, then nothing), and tables from files: one value a line,
then its levels, separated by `;`, no header (the format of ARX). Every kind but a file ends in `*`. A missing value
is a value of its own up to the level at which all are one. Groups must nest; a value that a hierarchy does not know
refuses the table, by count, never by value. Not here: which level is chosen (`lattice`).
"""

from __future__ import annotations

import csv
import io
import math
import re
from collections.abc import Callable, Mapping
from datetime import date, datetime
from itertools import pairwise
from pathlib import Path
from typing import Any

from privacy.deid import icd10
from privacy.deid.dates import parse_date
from privacy.deid.ladder import Hierarchy, Ladder, cell_text, from_rows
from protocol.errors import InputError

__all__ = ["ROOT", "Hierarchy", "Ladder", "build", "from_file", "from_rows"]

ROOT = "*"
MAX_AGE = 89
MAX_FILE_BYTES = 64 << 20
_DATES = ("day", "month", "quarter", "year", "decade")
_ICD = re.compile(r"([A-Z]\d[0-9A-Z])\.?([0-9A-Z]{0,4})[*+]?")


def build(spec: Mapping[str, Any], folder: Path | None = None, *, latest: int | None = None) -> Hierarchy:
    """A hierarchy from a table of the spec.

    Args:
        spec: `kind` and its options, or `file` and `separator` (`;`). age: `widths` [5, 10, 20, 40], `top` 89; number:
            `widths` (needed), `origin` 0; date: `levels`; birth: `widths` [1, 5, 10, 20]; postal: `keep` [5, 3, 2, 1];
            prefix: `keep` (needed).
        folder: where files are looked for; None refuses files.
        latest: year in which the ages of `birth` are reckoned (this year).

    Raises:
        InputError: `input.usage`.
    """
    if "file" in spec:
        _only(spec, "file", "separator")
        if folder is None:
            raise InputError("input.usage", "a hierarchy from a file is not allowed here")
        return from_file(folder / str(spec["file"]), separator=str(spec.get("separator", ";")))
    kind = spec.get("kind")
    maker = _KINDS.get(kind) if isinstance(kind, str) else None
    if maker is None:
        raise InputError("input.usage", f"unknown hierarchy {kind!r}; there is: {', '.join(sorted(_KINDS))}, or file")
    return maker(spec, latest or datetime.now().astimezone().year)


def from_file(path: Path, *, separator: str = ";") -> Hierarchy:
    """Read a hierarchy in the format of ARX.

    Raises:
        InputError: `input.usage` when it cannot be read or is not one.
    """
    try:
        with path.open("rb") as file:
            text = file.read(MAX_FILE_BYTES).decode("utf-8-sig")
        rows = [row for row in csv.reader(io.StringIO(text, newline=""), delimiter=separator) if row]
    except (OSError, UnicodeError, csv.Error, TypeError) as error:
        raise InputError("input.usage", f"hierarchy {path.name}: {type(error).__name__}") from None
    return from_rows(rows, path.name)


# -- kinds


def _age(spec: Mapping[str, Any], _latest: int) -> Hierarchy:
    _only(spec, "kind", "widths", "top")
    top = _number(spec.get("top", MAX_AGE))
    widths = _widths(spec.get("widths", [5, 10, 20, 40]), whole=True)
    if top is None or not 0 < top <= MAX_AGE:
        raise InputError("input.usage", f"hierarchy age: top must be a number up to {MAX_AGE}")
    oldest = int(top)

    def steps(value: Any) -> tuple[str, ...] | None:
        age = _number(value)
        if age is None or age < 0:
            return None
        years = int(age)
        if years > oldest:
            return (*(f"{oldest + 1}+",) * (len(widths) + 1), ROOT)
        return (str(years), *(_years(years, int(width), oldest) for width in widths), ROOT)

    return Hierarchy(kind="age", steps=steps, number=_number)


def _years(value: int, width: int, last: int) -> str:
    low = value - value % width
    high = min(low + width - 1, last)
    return f"{low}-{high}" if high > low else str(low)


def _numbers(spec: Mapping[str, Any], _latest: int) -> Hierarchy:
    _only(spec, "kind", "widths", "origin")
    widths, origin = _widths(spec.get("widths")), _number(spec.get("origin", 0))
    if origin is None:
        raise InputError("input.usage", "hierarchy number: origin must be a number")

    def steps(value: Any) -> tuple[str, ...] | None:
        number = _number(value)
        if number is None:
            return None
        # Bands nest because each is made of whole bands of the first width.
        cell = math.floor((number - origin) / widths[0])
        ratios = [round(width / widths[0]) for width in widths]
        lows = [(cell // ratio) * ratio * widths[0] + origin for ratio in ratios]
        return (cell_text(value), *(f"[{a:.10g},{a + w:.10g})" for a, w in zip(lows, widths, strict=True)), ROOT)

    return Hierarchy(kind="number", steps=steps, number=_number, same=True)


def _dates(spec: Mapping[str, Any], _latest: int) -> Hierarchy:
    _only(spec, "kind", "levels")
    levels = spec.get("levels", list(_DATES))
    if not isinstance(levels, list) or not levels or [one for one in _DATES if one in levels] != levels:
        raise InputError("input.usage", f"hierarchy date: levels out of {', '.join(_DATES)}, in this order")

    def steps(value: Any) -> tuple[str, ...] | None:
        day = _day(value)
        if day is None:
            return None
        label = {
            "day": day.isoformat(),
            "month": f"{day.year:04d}-{day.month:02d}",
            "quarter": f"{day.year:04d}-Q{(day.month + 2) // 3}",
            "year": f"{day.year:04d}",
            "decade": f"{day.year - day.year % 10}-{day.year - day.year % 10 + 9}",
        }
        return (*(label[level] for level in levels), ROOT)

    return Hierarchy(kind="date", steps=steps, number=_ordinal)


def _births(spec: Mapping[str, Any], latest: int) -> Hierarchy:
    _only(spec, "kind", "widths")
    widths = _widths(spec.get("widths", [1, 5, 10, 20]), whole=True)
    oldest = latest - MAX_AGE

    def steps(value: Any) -> tuple[str, ...] | None:
        day = _day(value)
        if day is None:
            return None
        if day.year < oldest:
            return (*(f"before {oldest}",) * len(widths), ROOT)
        lows = [max(day.year - day.year % int(width), oldest) for width in widths]
        highs = [day.year - day.year % int(width) + int(width) - 1 for width in widths]
        return (*(f"{a}-{b}" if b > a else str(a) for a, b in zip(lows, highs, strict=True)), ROOT)

    return Hierarchy(kind="birth", steps=steps, number=_ordinal)


def _postal(spec: Mapping[str, Any], _latest: int) -> Hierarchy:
    _only(spec, "kind", "keep")
    keep = _keep(spec.get("keep", [5, 3, 2, 1]), 5)

    def steps(value: Any) -> tuple[str, ...] | None:
        text = cell_text(value)
        text = text.zfill(5) if not isinstance(value, str) else text  # a number has lost its zeros
        if not re.fullmatch(r"[0-9]{5}", text):
            return None
        return (*(text[:n] + "*" * (5 - n) for n in keep), ROOT)

    return Hierarchy(kind="postal", steps=steps)


def _icd10(spec: Mapping[str, Any], _latest: int) -> Hierarchy:
    _only(spec, "kind")

    def steps(value: Any) -> tuple[str, ...] | None:
        match = _ICD.fullmatch(cell_text(value).upper())
        whole = icd10.chapter(match[1]) if match else None
        if match is None or whole is None:
            return None
        code = f"{match[1]}.{match[2]}" if match[2] else match[1]
        return code, match[1], icd10.block(match[1]) or whole, whole, ROOT

    return Hierarchy(kind="icd10", steps=steps)


def _prefix(spec: Mapping[str, Any], _latest: int) -> Hierarchy:
    _only(spec, "kind", "keep")
    keep = _keep(spec.get("keep"), 256)
    return Hierarchy(
        kind="prefix",
        steps=lambda value: (cell_text(value), *(cell_text(value)[:n] + ROOT for n in keep), ROOT),
        same=True,
    )


def _suppress(spec: Mapping[str, Any], _latest: int) -> Hierarchy:
    _only(spec, "kind")
    return Hierarchy(kind="suppress", steps=lambda value: (cell_text(value), ROOT), same=True)


_KINDS: dict[str, Callable[[Mapping[str, Any], int], Hierarchy]] = {
    "age": _age,
    "birth": _births,
    "date": _dates,
    "icd10": _icd10,
    "number": _numbers,
    "postal": _postal,
    "prefix": _prefix,
    "suppress": _suppress,
}


# -- inside


def _only(spec: Mapping[str, Any], *allowed: str) -> None:
    unknown = sorted(set(spec) - set(allowed))
    if unknown:
        raise InputError("input.usage", f"hierarchy {spec.get('kind', 'file')}: unknown option {unknown[0]!r}")


def _widths(value: Any, *, whole: bool = False) -> list[float]:
    """Widths, each a whole multiple of the one before."""
    widths = [_number(one) for one in value] if isinstance(value, list | tuple) and value else []
    good = [one for one in widths if one is not None and one > 0 and (not whole or one.is_integer())]
    nest = all(b > a and math.isclose(b / a, round(b / a), rel_tol=1e-9) for a, b in pairwise(good))
    if not good or len(good) != len(widths) or not nest:
        raise InputError("input.usage", "hierarchy: widths, each a multiple of the one before it")
    return good


def _keep(value: Any, most: int) -> list[int]:
    good = isinstance(value, list | tuple) and value and all(type(n) is int and 0 < n <= most for n in value)
    if not good or sorted(set(value), reverse=True) != list(value):
        raise InputError("input.usage", "hierarchy: keep, whole numbers that fall")
    return list(value)


def _number(value: Any) -> float | None:
    try:
        number = float(value)
    except (TypeError, ValueError):
        return None
    return number if math.isfinite(number) else None


def _day(value: Any) -> date | None:
    if isinstance(value, datetime):
        return value.date()
    return value if isinstance(value, date) else parse_date(cell_text(value))


def _ordinal(value: Any) -> float | None:
    day = _day(value)
    return float(day.toordinal()) if day else None
