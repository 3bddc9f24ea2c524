"""Lists and tables as a notebook shows them. Every value is escaped: names and titles are other people's text."""

from __future__ import annotations

import html
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["Listing", "brief", "html_table"]


_SHOWN = 60  # rows of a list at a prompt
_WIDE = 60  # characters of a cell


class Listing(list[dict[str, Any]]):
    """A list of records that shows itself as a table in a notebook.

    Args:
        columns: what the table shows; the records hold more.
    """

    def __init__(self, rows: list[dict[str, Any]], columns: tuple[str, ...]) -> None:
        super().__init__(rows)
        self._columns = columns

    def to_pandas(self) -> pd.DataFrame:
        """All records as a DataFrame.

        Examples:
            >>> Listing([{"name": "site-a", "rows": 40}], ("name",)).to_pandas().to_dict("list")
            {'name': ['site-a'], 'rows': [40]}
        """
        import pandas as pd

        return pd.DataFrame(list(self))

    def __repr__(self) -> str:
        """One line a record, as many as fit on a screen.

        Examples:
            >>> Listing([{"name": "site-a", "alive": True, "rows": 40}], ("name", "alive"))
            name    alive
            site-a  yes
        """
        told = [[_cell(row.get(name))[:_WIDE] for name in self._columns] for row in self[:_SHOWN]]
        cells = [list(self._columns), *told]
        widths = [max(len(row[n]) for row in cells) for n in range(len(self._columns))]
        lines = [
            "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in cells
        ]
        return "\n".join([*lines, *([f"and {len(self) - _SHOWN} more"] if len(self) > _SHOWN else [])])

    def _repr_html_(self) -> str:
        return html_table(self._columns, [[row.get(name) for name in self._columns] for row in self])


def brief(counts: Mapping[str, Any]) -> str:
    """A few counts on one line.

    Examples:
        >>> brief({"rows": 12, "withheld": 2})
        'rows 12, withheld 2'
    """
    return ", ".join(f"{name} {value}" for name, value in counts.items())


def html_table(columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    """An HTML table of escaped cells.

    Examples:
        >>> html_table(["name"], [["<b>"]])
        '<table><thead><tr><th>name</th></tr></thead><tbody><tr><td>&lt;b&gt;</td></tr></tbody></table>'
    """
    head = "".join(f"<th>{html.escape(name)}</th>" for name in columns)
    body = "".join("<tr>" + "".join(f"<td>{html.escape(_cell(v))}</td>" for v in row) + "</tr>" for row in rows)
    return f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"


def _cell(value: Any) -> str:
    if isinstance(value, dict):
        return brief(value)
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, list):
        return ", ".join(str(one["name"]) if isinstance(one, dict) and "name" in one else str(one) for one in value)
    return "" if value is None else str(value)
