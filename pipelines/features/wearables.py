"""Daily summaries of wearables into weekly means a patient.

Place: a table of one row a person and day (local calendar day of the device) -> `weekly` -> one row a person. A day
counts when the device was worn long enough, a week when it has enough such days; weeks are blocks of seven days from
the index date. Values that no person can have are left out and counted. Not here: raw signals.

Source: wear-time rule of ten hours on four days a week: Troiano et al., Med Sci Sports Exerc 2008;40:181-8.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

from pydantic import BaseModel, ConfigDict, Field, model_validator

from pipelines.features.events import Findings, when
from pipelines.features.schema import Feature
from protocol.errors import InputError

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["SIGNALS", "Parameters", "schema", "weekly"]

#: Column of the table -> (unit, smallest and greatest plausible value of a day, definition).
SIGNALS: Mapping[str, tuple[str, float, float, str]] = {
    "steps": ("{steps}/d", 0, 100_000, "steps a day"),
    "resting_hr": ("/min", 25, 180, "resting heart rate"),
    "sleep_min": ("min/d", 0, 1_440, "minutes of sleep a day"),
    "active_min": ("min/d", 0, 1_440, "minutes of activity a day"),
}


class Parameters(BaseModel):
    """What is made of a wearable's days.

    Attributes:
        signals: columns of the table, out of `SIGNALS`.
        wear_minutes: a day counts from so many minutes of wear (column `wear_min`); 0 asks for no such column.
        days_a_week: a week counts from so many days.
        weeks_before: weeks looked at before the index date.
        weeks_after: weeks looked at from the index date on.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")
    signals: tuple[str, ...] = ("steps", "resting_hr", "sleep_min")
    wear_minutes: int = Field(600, ge=0, le=1440)
    days_a_week: int = Field(4, ge=1, le=7)
    weeks_before: int = Field(4, ge=0, le=520)
    weeks_after: int = Field(0, ge=0, le=520)

    @model_validator(mode="after")
    def _sound(self) -> Parameters:
        if not self.signals or not set(self.signals) <= set(SIGNALS):
            raise ValueError(f"signals must be of {', '.join(SIGNALS)}")
        if not self.weeks_before + self.weeks_after:
            raise ValueError("no weeks are asked for")
        return self


def schema(parameters: Parameters) -> tuple[Feature, ...]:
    """The columns made: the mean over valid weeks of each signal's weekly mean, and how many weeks are valid."""
    source = "Corsia wearable extractor 1; Troiano 2008"
    rule = f"mean of valid weeks ({parameters.days_a_week} days of {parameters.wear_minutes} min wear)"
    made = [
        Feature(f"{n}_weekly", "float64", SIGNALS[n][0], f"{SIGNALS[n][3]}, {rule}", source) for n in parameters.signals
    ]
    return (*made, Feature("valid_weeks", "int64", "{count}", "weeks with enough days of wear", source))


def weekly(
    table: pd.DataFrame,
    index_days: Mapping[str, float],
    parameters: Parameters,
    *,
    person: Callable[[str], str] = str,
    findings: Findings | None = None,
) -> pd.DataFrame:
    """One row for each person of `index_days`, sorted; without valid weeks the signals are missing.

    Args:
        table: columns person, day, the signals, and `wear_min` unless no wear time is asked for.
        index_days: person -> index date in days from 1970-01-01.
        parameters: what is made.
        person: what makes the table's id into that of `index_days`.
        findings: where `no-patient`, `date-missing`, `duplicate-day`, `implausible`, `not-worn` are counted.

    Raises:
        InputError: `input.column-missing`.
    """
    import pandas as pd

    findings = Findings() if findings is None else findings
    wear = ("wear_min",) if parameters.wear_minutes else ()
    for needed in ("person", "day", *wear, *parameters.signals):
        if needed not in table.columns:
            raise InputError("input.column-missing", f"the wearable table has no column {needed!r}")
    names = table["person"].map(lambda cell: person(str(cell).strip()) if pd.notna(cell) else None)
    days = [w.day if (w := when(_day(cell))) else None for cell in table["day"]]
    rows = pd.DataFrame({"person": names.to_numpy(), "day": pd.Series(days, dtype="float64").to_numpy()})
    for name in (*parameters.signals, *wear):
        rows[name] = pd.to_numeric(table[name], errors="coerce").to_numpy(dtype="float64")
    rows = _sound(rows, parameters, findings, wear)
    start = rows["person"].map(dict(index_days)).astype("float64")
    rows["week"] = ((rows["day"] - start) // 7).astype("float64")
    rows = rows[(rows["week"] >= -parameters.weeks_before) & (rows["week"] < parameters.weeks_after)]
    weeks = rows.groupby(["person", "week"])
    enough = weeks["day"].transform("count") >= parameters.days_a_week
    means = rows[enough].groupby(["person", "week"])[list(parameters.signals)].mean().groupby("person").mean()
    people = sorted(index_days)
    result = means.reindex(people).rename(columns=lambda name: f"{name}_weekly")
    counted = rows[enough].drop_duplicates(["person", "week"]).groupby("person").size()
    result["valid_weeks"] = counted.reindex(people, fill_value=0).astype("Int64")
    return result.rename_axis("person")


def _sound(rows: pd.DataFrame, parameters: Parameters, findings: Findings, wear: tuple[str, ...]) -> pd.DataFrame:
    """Rows with person and day, one a day (the one worn longest), worn long enough, implausible values missing."""
    findings.count("no-patient", int(rows["person"].isna().sum()))
    findings.count("date-missing", int((rows["person"].notna() & rows["day"].isna()).sum()))
    rows = rows.dropna(subset=["person", "day"])
    rows = rows.sort_values(["person", "day", *wear], kind="stable")
    repeated = rows.duplicated(["person", "day"], keep="last")
    findings.count("duplicate-day", int(repeated.sum()))
    rows = rows[~repeated].copy()
    if wear:
        worn = rows["wear_min"].between(parameters.wear_minutes, 1440)
        findings.count("not-worn", int((~worn).sum()))
        rows = rows[worn].copy()
    for name in parameters.signals:
        _unit, low, high, _text = SIGNALS[name]
        wrong = rows[name].notna() & ~rows[name].between(low, high)
        findings.count("implausible", int(wrong.sum()))
        rows[name] = rows[name].mask(wrong)
    return rows


def _day(cell: object) -> object:
    return cell.strip() if isinstance(cell, str) else cell
