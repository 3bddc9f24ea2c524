"""How a hospital wrote its table, where that is not plain CSV UTF-8: `[datasets.NAME.format]` of edge.toml.

The delimiter is not here: it is found in the header (comma, semicolon, tab or stroke).
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

__all__ = ["Format"]


class Format(BaseModel):
    """Applies to CSV alone, but for `missing` and `numeric`, which hold for columns of text in Parquet too.

    Attributes:
        encoding: of the file; UTF-8 and UTF-16 may begin with a byte order mark.
        decimal: between a number's whole and its parts. With semicolons between fields a comma is understood anyway.
        missing: words that stand for a missing value, in any column, besides an empty cell; numbers compare as numbers.
        numeric: columns that are numbers although some cells are not: these count as missing.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")
    encoding: Literal["utf-8", "utf-16", "cp1252", "latin-1"] = "utf-8"
    decimal: Literal[".", ","] = "."
    missing: Annotated[tuple[Annotated[str, Field(min_length=1, max_length=64)], ...], Field(max_length=32)] = ()
    numeric: tuple[Annotated[str, Field(min_length=1, max_length=128)], ...] = ()

    @property
    def codec(self) -> str:
        """What Python calls the encoding."""
        return "utf-8-sig" if self.encoding == "utf-8" else self.encoding
