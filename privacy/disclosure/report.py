"""What would leave: a summary of a feature table for the site's eyes, as a dict and as a page with plots.

Place: the agent calls it on the held result, the steward reads it before approving. It stays at the site; all the
same it shows no single value: histograms are suppressed like any table, ranges blurred, uniques only counted. The
page is one file without script or link.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from itertools import pairwise
from typing import TYPE_CHECKING, Any

from privacy.disclosure import uniqueness
from privacy.disclosure.cells import suppress_counts
from privacy.disclosure.classes import is_number, k_anonymity
from privacy.disclosure.traps import Traps, blurred_range, persons_by
from protocol.errors import DisclosureRefused

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["page", "summary"]

BINS = 12
_BAR, _GAP, _HEIGHT = 26, 3, 80


def summary(
    frame: pd.DataFrame, *, quasi: Sequence[str], minimum: int, k: int, traps: Traps | None = None,
    person: str | None = None, columns: Mapping[str, str] | None = None,
) -> dict[str, Any]:  # fmt: skip
    """What a table tells, without telling it.

    Args:
        frame: the table that would leave.
        quasi: columns among them that somebody may know of a person.
        minimum: smallest cell that is shown here.
        k: required size of classes.
        traps: the site's settings.
        person: column of pseudonyms; not looked at otherwise.
        columns: name -> definition, from the schema.

    Returns:
        JSON-able: persons, rows, k, uniqueness, and for each column type, missing, histogram (None = suppressed).
    """
    traps = traps or Traps()
    names = [name for name in frame.columns if name != person]
    quasi = [name for name in quasi if name in frame.columns]
    persons = frame[person] if person else None
    found: dict[str, Any] = {
        "persons": int(persons.nunique()) if persons is not None else len(frame),
        "rows": len(frame),
        "required_k": k,
        "k": k_anonymity(frame, quasi, person) if quasi else None,
        "quasi": list(quasi),
        "columns": {},
    }
    if quasi and len(quasi) <= 12:
        alone = uniqueness.report(frame, quasi)
        found["uniqueness"] = {
            "unique": alone.unique,
            "special": alone.special,
            "by_size": {str(size): count for size, count in alone.smallest.items()},
            "worst_sets": [
                {"columns": list(chosen), "unique": count}
                for chosen, count in sorted(alone.uniques.items(), key=lambda item: -item[1])[:5]
                if count
            ],
        }
    for name in names:
        found["columns"][name] = _column(frame[name], persons, minimum, traps) | {
            "definition": (columns or {}).get(name, "")
        }
    return found


def _column(values: pd.Series, persons: pd.Series | None, minimum: int, traps: Traps) -> dict[str, Any]:
    missing = int(values.isna().sum())
    made: dict[str, Any] = {
        "type": str(values.dtype),
        "missing": None if 0 < missing < minimum else missing,
        "missing_share": None if 0 < missing < minimum else round(missing / max(1, len(values)), 4),
    }
    if is_number(values) and values.nunique() > traps.tab + 2:
        made |= _bins(values, minimum, traps)
    else:
        counts = persons_by(values.dropna(), None if persons is None else persons[values.notna()])
        if len(counts) > traps.levels_max:
            made["note"] = f"more than {traps.levels_max} levels: not shown"
            return made
        levels = suppress_counts({str(level): n for level, n in counts.items()}, minimum)
        made["histogram"] = {level: n for level, n in levels.items() if n is not None}
        if len(made["histogram"]) < len(levels):  # the level of a few may name them
            made["histogram"]["(suppressed)"] = None
    return made


def _bins(values: pd.Series, minimum: int, traps: Traps) -> dict[str, Any]:
    import numpy as np

    numbers = values.dropna().to_numpy(dtype="float64")
    try:
        low, high = blurred_range(numbers, traps)
    except DisclosureRefused as error:
        return {"note": error.message}
    edges = np.linspace(low, high, BINS + 1)
    counts, _ = np.histogram(np.clip(numbers, low, high), bins=edges)
    names = [f"{a:.4g} to {b:.4g}" for a, b in pairwise(edges)]
    names[0], names[-1] = f"below {edges[1]:.4g}", f"from {edges[-2]:.4g}"
    return {"histogram": suppress_counts(dict(zip(names, map(int, counts), strict=True)), minimum)}


def page(
    found: Mapping[str, Any],
    title: str = "What would leave",
    *,
    first: Mapping[str, Sequence[Sequence[object]]] | None = None,
) -> str:
    """The summary as one HTML page with inline SVG; everything in it is escaped.

    Args:
        first: heading -> lines of a table, before the plots; the first line is its head.
    """
    k = found["k"]
    verdict = "no quasi-identifiers" if k is None else f"k = {k} (required {found['required_k']})"
    parts = [
        "<!doctype html><html lang=en><meta charset=utf-8>",
        f"<title>{escape(title)}</title><style>{_STYLE}</style><h1>{escape(title)}</h1>",
        f"<p>{found['persons']} persons, {found['rows']} rows, {len(found['columns'])} columns; {escape(verdict)}.</p>",
    ]
    for heading, lines in (first or {}).items():
        parts.append(f"<h2>{escape(heading)}</h2>{_lines(lines)}")
    if "uniqueness" in found:
        parts.append(_uniqueness(found["uniqueness"], found["rows"]))
    shares = {name: one["missing_share"] or 0.0 for name, one in found["columns"].items()}
    parts.append("<h2>Missing values</h2>" + _bars({n: round(100 * s) for n, s in shares.items()}, "% missing", 100))
    for name, one in found["columns"].items():
        parts.append(f"<h2>{escape(str(name))}</h2><p>{escape(one['definition'])} <i>{escape(one['type'])}</i></p>")
        parts.append(_bars(one["histogram"], "persons") if "histogram" in one else f"<p>{escape(one['note'])}</p>")
    return "\n".join(parts) + "\n</html>\n"


_STYLE = (
    "body{font:14px system-ui,sans-serif;max-width:60rem;margin:2rem auto;padding:0 1rem;color:#222}"
    "h1{font-size:1.4rem}h2{font-size:1rem;margin-bottom:.2rem}svg{overflow:visible}rect{fill:#37689c}"
    "rect.hidden{fill:url(#hatch)}text{font-size:10px;fill:#555}p{margin:.2rem 0}"
    "table{border-collapse:collapse}td{border-bottom:1px solid #ddd;padding:.15rem .6rem}"
    "tr:first-child td{font-weight:600}"
)
_HATCH = (
    "<defs><pattern id=hatch width=4 height=4 patternUnits=userSpaceOnUse patternTransform='rotate(45)'>"
    "<path d='M0 0V4' stroke='#999' stroke-width='2'/></pattern></defs>"
)


def _lines(lines: Sequence[Sequence[object]]) -> str:
    cells = ["".join(f"<td>{escape(str(one))}</td>" for one in line) for line in lines]
    return "<table>" + "".join(f"<tr>{line}</tr>" for line in cells) + "</table>"


def _uniqueness(alone: Mapping[str, Any], rows: int) -> str:
    sets = "".join(f"<li>{escape(', '.join(one['columns']))}: {one['unique']}</li>" for one in alone["worst_sets"])
    return (
        f"<h2>Alone with their values</h2><p>{alone['unique']} of {rows} rows are alone with all quasi-identifiers, "
        f"{alone['special']} already with fewer of them.</p><ul>{sets}</ul>"
        + _bars({f"{size} columns": n for size, n in alone["by_size"].items()}, "rows")
    )


def _bars(counts: Mapping[str, int | None], unit: str, top: int = 0) -> str:
    """A bar chart; hidden cells are hatched to full height and say so."""
    top = top or max([count or 0 for count in counts.values()] + [1])
    width = max(1, len(counts)) * (_BAR + _GAP)
    bars = []
    for place, (name, count) in enumerate(counts.items()):
        x = place * (_BAR + _GAP)
        height = _HEIGHT if count is None else round(_HEIGHT * count / top)
        said = "suppressed" if count is None else f"{count} {unit}"
        kind = " class=hidden" if count is None else ""
        bars.append(
            f"<rect{kind} x={x} y={_HEIGHT - height} width={_BAR} height={height}>"
            f"<title>{escape(str(name))}: {said}</title></rect>"
        )
    labels = "".join(
        f"<text x={place * (_BAR + _GAP)} y={_HEIGHT + 12}>{escape(str(name)[:4])}</text>"
        for place, name in enumerate(counts)
    )
    return f"<svg width={width} height={_HEIGHT + 16} role=img>{_HATCH}{''.join(bars)}{labels}</svg>"
