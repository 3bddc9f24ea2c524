"""Scores of dated questionnaires: item answers of patients into sum scores, as measurements of `history.py`.

Place: a table of answers (one row a filled-in questionnaire), or the answers of FHIR QuestionnaireResponses ->
`score` -> events of system `questionnaire`, code = the instrument's name -> windows and statistics as for any other.
An answer out of range makes the questionnaire void (counted `answer-range`); too many missing ones too (`too-many-
missing`). Indices that need a licensed value set (EQ-5D) are refused. Not here: the wording of any item.

Source: Kroenke et al., J Gen Intern Med 2001;16:606-13 (PHQ-9); Spitzer et al., Arch Intern Med 2006;166:1092-7
(GAD-7); PROMIS scoring manuals (raw score pro-rated when at least half of the items are answered, rounded up).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from pipelines.features.events import Builder, Events, number, when
from protocol.errors import InputError

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["INSTRUMENTS", "SYSTEM", "Instrument", "from_events", "instrument", "score", "total"]

SYSTEM = "questionnaire"
Rounding = Literal["none", "half-up", "up"]


class Instrument(BaseModel):
    """A questionnaire whose score is the sum of its items.

    Attributes:
        name: code of the score.
        items: columns (or linkIds) of the items, in order.
        low: smallest answer.
        high: greatest answer.
        allowed_missing: so many missing items are replaced by the mean of the others; more make no score.
        reverse: items that count low + high - answer.
        rounding: of a pro-rated score.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)
    name: Annotated[str, Field(pattern=r"^[a-z][a-z0-9-]{0,47}$")]
    items: Annotated[tuple[str, ...], Field(min_length=1, max_length=500)]
    low: int = 0
    high: int = 3
    allowed_missing: int = Field(0, ge=0)
    reverse: tuple[str, ...] = ()
    rounding: Rounding = "half-up"

    @model_validator(mode="after")
    def _sound(self) -> Instrument:
        if self.low >= self.high or self.allowed_missing >= len(self.items):
            raise ValueError("low must be below high, and some item must be answered")
        if len(set(self.items)) != len(self.items) or not set(self.reverse) <= set(self.items):
            raise ValueError("items are repeated, or a reversed one is no item")
        return self


def _standard(name: str, count: int, missing: int) -> Instrument:
    items = tuple(f"{name.replace('-', '')}_{n}" for n in range(1, count + 1))
    return Instrument(name=name, items=items, allowed_missing=missing)


#: Items are called `phq9_1`... unless a study gives its own names.
INSTRUMENTS: Mapping[str, Instrument] = {
    one.name: one
    for one in (_standard("phq-9", 9, 2), _standard("gad-7", 7, 2), _standard("phq-2", 2, 0), _standard("gad-2", 2, 0))
}


def instrument(name: str, items: Sequence[str] = ()) -> Instrument:
    """A known instrument, with the columns under which its items stand here.

    Raises:
        InputError: `input.usage` for one that is not known, needs a licensed value set, or has another number of items.
    """
    key = name.strip().casefold()
    if key.replace("-", "").startswith("eq5d"):
        raise InputError("input.usage", "the EQ-5D index needs a licensed value set, which this product does not hold")
    if key not in INSTRUMENTS:
        raise InputError("input.usage", f"no instrument is called so; known: {', '.join(sorted(INSTRUMENTS))}")
    found = INSTRUMENTS[key]
    if items and len(items) != len(found.items):
        raise InputError("input.usage", f"{found.name} has {len(found.items)} items")
    return found.model_copy(update={"items": tuple(items)}) if items else found


def total(answers: Mapping[str, object], of: Instrument) -> float | str:
    """The score of one questionnaire, or why there is none: `answer-range`, `too-many-missing`.

    Example: eight answers of 1 and one missing give a PHQ-9 of 9.
    """
    values: list[float] = []
    for item in of.items:
        said = answers.get(item)
        missing = said is None or said != said or (isinstance(said, str) and not said.strip())
        if missing:
            continue
        value = number(said)
        if value is None or not of.low <= value <= of.high or value != math.floor(value):
            return "answer-range"
        values.append(of.low + of.high - value if item in of.reverse else value)
    if len(of.items) - len(values) > of.allowed_missing:
        return "too-many-missing"
    found = sum(values) * len(of.items) / len(values)
    if len(values) == len(of.items) or of.rounding == "none":
        return found
    return float(math.ceil(found - 1e-9) if of.rounding == "up" else math.floor(found + 0.5))


def score(table: pd.DataFrame, of: Instrument, *, person: Callable[[str], str] = str) -> Events:
    """Score a table with columns person, day and the items; one row a questionnaire.

    Returns:
        Measurements of system `questionnaire` in `{score}`. Counted: `no-patient`, `answer-range`,
        `too-many-missing`, `date-missing`, `duplicate` (same person, day and answers).

    Raises:
        InputError: `input.column-missing`.
    """
    for needed in ("person", "day", *of.items):
        if needed not in table.columns:
            raise InputError("input.column-missing", f"the questionnaire table has no column {needed!r}")
    builder = Builder()
    asked = table[["person", "day", *of.items]].astype(object)
    repeated = asked.duplicated()
    builder.findings.count("duplicate", int(repeated.sum()))
    once = asked[~repeated]
    for row in once.where(once.notna(), None).to_dict("records"):
        who = str(row["person"] or "").strip()
        if not who:
            builder.findings.count("no-patient")
            continue
        found = total({str(name): cell for name, cell in row.items()}, of)
        builder.person(person(who))
        if isinstance(found, str):
            builder.findings.count(found)
        else:
            builder.event(
                person(who), "measurement", [(SYSTEM, of.name)], moment=when(row["day"]), value=found, unit="{score}"
            )
    return builder.build()


def from_events(source: Events, of: Instrument, questionnaire: str | None = None) -> Events:
    """Score the answers that `fhir.py` read (kind `answer`, code = linkId): one questionnaire a person and instant."""
    rows = source.rows[(source.rows["kind"] == "answer") & source.rows["code"].isin(of.items)]
    if questionnaire is not None:
        rows = rows[rows["system"] == f"questionnaire:{questionnaire}"]
    wide = rows.pivot_table(index=["person", "at", "day"], columns="code", values="value", aggfunc="last")
    wide = wide.reindex(columns=list(of.items)).reset_index()
    wide["day"] = [_iso(day) for day in wide["day"]]
    return score(wide, of)


def _iso(day: float) -> str:
    from datetime import date, timedelta

    return (date(1970, 1, 1) + timedelta(days=int(day))).isoformat()
