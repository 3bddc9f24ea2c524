"""Lists and tables as a notebook shows them. Every value is escaped: names and titles are other people's text."""

from __future__ import annotations

import html
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["Listing", "brief", "html_table"]


class Listing(list[dict[str, Any]]):
    """A list of records that shows itself as a table in a notebook.

    Args:
        columns: what the table shows; the records hold more.
    """

    def __init__(self, rows: list[dict[str, Any]], columns: tuple[str, ...]) -> None:
        super().__init__(rows)
        self._columns = columns

    def to_pandas(self) -> pd.DataFrame:
        """All records as a DataFrame."""
        import pandas as pd

        return pd.DataFrame(list(self))

    def _repr_html_(self) -> str:
        return html_table(self._columns, [[row.get(name) for name in self._columns] for row in self])


def brief(counts: Mapping[str, Any]) -> str:
    """A few counts on one line."""
    return ", ".join(f"{name} {value}" for name, value in counts.items())


def html_table(columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    """An HTML table of escaped cells."""
    head = "".join(f"<th>{html.escape(name)}</th>" for name in columns)
    body = "".join("<tr>" + "".join(f"<td>{html.escape(_cell(v))}</td>" for v in row) + "</tr>" for row in rows)
    return f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"


def _cell(value: Any) -> str:
    if isinstance(value, dict):
        return brief(value)
    if isinstance(value, bool):
        return "yes" if value else "no"
    return "" if value is None else str(value)
