"""Context of where and when a patient lived: weather, air, sociodemographic and mobility tables, joined at the site.

Place: the centre publishes a table by coarse area and day; the site knows its patients' areas -> `join` -> one row a
patient of means over days around the index date. Neither an address nor an area's code comes out. Areas finer than
the scheme allows, or of too few inhabitants, are refused before anything is joined. The values are quasi-identifiers
(they may tell the area): the gate must count them as such.

Source: NUTS 2021 (Regulation (EC) 1059/2003); ISO 3166-2; 45 CFR 164.514(b)(2)(i)(B) for 20,000 inhabitants.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from pipelines.features.events import Findings, when
from pipelines.features.schema import Feature
from protocol.errors import InputError

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["SCHEMES", "Column", "Parameters", "join", "schema"]

#: What a code of a coarse area looks like: nothing as fine as a full postcode, a census tract or a coordinate.
SCHEMES: Mapping[str, re.Pattern[str]] = {
    "country": re.compile(r"[A-Z]{2}"),
    "nuts1": re.compile(r"[A-Z]{2}[0-9A-Z]"),
    "nuts2": re.compile(r"[A-Z]{2}[0-9A-Z]{2}"),
    "nuts3": re.compile(r"[A-Z]{2}[0-9A-Z]{3}"),
    "iso3166-2": re.compile(r"[A-Z]{2}-[0-9A-Z]{1,3}"),
    "zip3": re.compile(r"[0-9]{3}"),
}
MIN_POPULATION = 20_000


class Column(BaseModel):
    """A column of the centre's table: its mean over the window is a feature."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    name: Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]{0,47}$")]
    unit: Annotated[str, Field(max_length=32)] = "1"
    digits: int = Field(1, ge=0, le=6)


class Parameters(BaseModel):
    """How context is joined.

    Attributes:
        scheme: what the area codes are.
        columns: what is taken from the table.
        start: first day of the window, from the index date.
        end: last day, included.
        min_days: so many days of the window must be in the table.
        min_population: areas with fewer inhabitants (column `population` of the table) give nothing.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")
    scheme: Literal["country", "nuts1", "nuts2", "nuts3", "iso3166-2", "zip3"]
    columns: Annotated[tuple[Column, ...], Field(min_length=1, max_length=100)]
    start: int = Field(-30, ge=-36_600, le=36_600)
    end: int = Field(-1, ge=-36_600, le=36_600)
    min_days: int = Field(1, ge=1)
    min_population: int = Field(MIN_POPULATION, ge=0)

    @model_validator(mode="after")
    def _order(self) -> Parameters:
        if self.start > self.end:
            raise ValueError("start is after end")
        return self


def schema(parameters: Parameters) -> tuple[Feature, ...]:
    """The columns made, `context_` before the name in the table."""
    window = f"days {parameters.start:+d} to {parameters.end:+d} of the index, area of scheme {parameters.scheme}"
    return tuple(
        Feature(
            f"context_{c.name}",
            "float64",
            c.unit,
            f"mean of {c.name} in {window}, {c.digits} digits",
            "the centre's table",
        )
        for c in parameters.columns
    )


def join(
    table: pd.DataFrame,
    areas: Mapping[str, object],
    index_days: Mapping[str, float],
    parameters: Parameters,
    *,
    person: Callable[[str], str] = str,
    findings: Findings | None = None,
) -> pd.DataFrame:
    """One row for each person of `index_days`, sorted; missing where area or days are not in the table.

    Args:
        table: the centre's: columns area, day, `population` unless no minimum is asked for, and those of `parameters`.
        areas: the site's: patient -> code of the coarse area.
        index_days: person -> index date in days from 1970-01-01.
        parameters: how it is joined.
        person: what makes a patient of `areas` into one of `index_days`.
        findings: where `area-code` (the site's code is none of the scheme), `area-unknown`, `too-few-days` are counted.

    Raises:
        InputError: `input.column-missing`; `input.table` when the centre's table has an area finer than the scheme,
            a day that is none, or two rows of one area and day.
    """
    import pandas as pd

    findings = Findings() if findings is None else findings
    known = _checked(table, parameters)
    names = [column.name for column in parameters.columns]
    by_area = {str(area): rows.set_index("day")[names] for area, rows in known.groupby("area")}
    where: dict[str, str] = {}
    for patient, cell in areas.items():
        code = str(cell).strip().upper() if isinstance(cell, str | int) else ""
        if SCHEMES[parameters.scheme].fullmatch(code) is None:
            findings.count("area-code")
        elif code not in by_area:
            findings.count("area-unknown")
        else:
            where[person(patient)] = code
    cells: dict[str, pd.Series[float]] = {}
    for who in sorted(index_days):
        day = index_days[who]
        if who not in where or day != day:
            continue
        rows = by_area[where[who]]
        rows = rows[(rows.index >= day + parameters.start) & (rows.index <= day + parameters.end)]
        if len(rows) < parameters.min_days:
            findings.count("too-few-days")
            continue
        cells[who] = rows.mean()
    frame = pd.DataFrame.from_dict(cells, orient="index", columns=names).reindex(sorted(index_days))
    for column in parameters.columns:
        frame[column.name] = frame[column.name].astype("float64").round(column.digits)
    return frame.rename(columns=lambda name: f"context_{name}").rename_axis("person")


def _checked(table: pd.DataFrame, parameters: Parameters) -> pd.DataFrame:
    import pandas as pd

    extra = ("population",) if parameters.min_population else ()
    for needed in ("area", "day", *extra, *(column.name for column in parameters.columns)):
        if needed not in table.columns:
            raise InputError("input.column-missing", f"the context table has no column {needed!r}")
    areas = table["area"].astype(str).str.strip().str.upper()
    if not areas.map(lambda code: SCHEMES[parameters.scheme].fullmatch(code) is not None).all():
        raise InputError("input.table", f"the context table has areas that are not of scheme {parameters.scheme!r}")
    days = [w.day if (w := when(cell)) else None for cell in table["day"]]
    if any(day is None for day in days):
        raise InputError("input.table", "the context table has a day that is none")
    known = pd.DataFrame({"area": areas.to_numpy(), "day": pd.Series(days, dtype="float64").to_numpy()})
    if known.duplicated().any():
        raise InputError("input.table", "the context table has two rows of one area and day")
    for column in parameters.columns:
        known[column.name] = pd.to_numeric(table[column.name], errors="coerce").to_numpy(dtype="float64")
    if parameters.min_population:
        people = pd.to_numeric(table["population"], errors="coerce").to_numpy(dtype="float64")
        known = known[people >= parameters.min_population]
    return known
