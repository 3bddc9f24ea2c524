"""Clinical events: the one shape into which FHIR, OMOP and event tables are read.

Place: `fhir.py`, `omop.py` and `from_table` here make an `Events`; `history.py` makes one row a patient out of it.
A date is the calendar day that stood on the record (never shifted to another time zone); the instant orders records
of one day. What cannot be used is counted by reason, never quoted. Not here: units, windows, features.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from io import BytesIO
from typing import TYPE_CHECKING, Any

from protocol.errors import InputError

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["EVENT_COLUMNS", "PERSON_COLUMNS", "Builder", "Events", "Findings", "When", "from_table", "system", "when"]

#: One row a coding: rows of one record share `record`; `day` counts from 1970-01-01, `at` is in seconds, UTC.
EVENT_COLUMNS = ("record", "person", "kind", "system", "code", "day", "at", "value", "unit", "days")
PERSON_COLUMNS = ("person", "sex", "birth_year", "birth_month", "birth_day")
MAX_REPORTED = 1000

_WHEN = re.compile(
    r"(\d{4})(?:-(\d{2})(?:-(\d{2})(?:[T ](\d{2}):(\d{2})(?::(\d{2})(?:\.\d+)?)?\s*(Z|[+-]\d{2}:?\d{2})?)?)?)?"
)
_COMPACT = re.compile(r"(\d{4})(\d{2})(\d{2})")
_EPOCH = date(1970, 1, 1)
_FIRST_YEAR, _LAST_YEAR = 1850, 2100

_SYSTEMS = {
    "http://snomed.info/sct": "snomed",
    "urn:oid:2.16.840.1.113883.6.96": "snomed",
    "http://loinc.org": "loinc",
    "urn:oid:2.16.840.1.113883.6.1": "loinc",
    "http://www.nlm.nih.gov/research/umls/rxnorm": "rxnorm",
    "urn:oid:2.16.840.1.113883.6.88": "rxnorm",
    "http://www.whocc.no/atc": "atc",
    "http://fhir.de/codesystem/bfarm/atc": "atc",
    "urn:oid:2.16.840.1.113883.6.73": "atc",
    "http://hl7.org/fhir/sid/icd-10": "icd10",
    "urn:oid:2.16.840.1.113883.6.3": "icd10",
    "http://hl7.org/fhir/sid/icd-10-cm": "icd10cm",
    "urn:oid:2.16.840.1.113883.6.90": "icd10cm",
    "http://hl7.org/fhir/sid/icd-10-gm": "icd10gm",
    "http://fhir.de/codesystem/bfarm/icd-10-gm": "icd10gm",
    "http://fhir.de/codesystem/dimdi/icd-10-gm": "icd10gm",
    "http://hl7.org/fhir/sid/icd-9-cm": "icd9cm",
    "urn:oid:2.16.840.1.113883.6.103": "icd9cm",
    "http://hl7.org/fhir/sid/cvx": "cvx",
    "rxnorm extension": "rxnorm",
}


def system(name: str | None) -> str:
    """The short name of a code system: `loinc`, `snomed`, `icd10cm`...; its own name in small letters otherwise."""
    cleaned = (name or "").strip().casefold().rstrip("/")
    return _SYSTEMS.get(cleaned, cleaned.replace("-", "") if cleaned.startswith(("icd-", "icd")) else cleaned)


@dataclass(frozen=True, slots=True)
class When:
    """A date as written: its calendar day, None unless it is whole, and the instant, for order within a day."""

    year: int
    month: int | None
    mday: int | None
    day: int | None
    at: float


def when(text: object) -> When | None:
    """Read a FHIR or ISO date, date-time, `YYYYMMDD` or partial date; None for anything else.

    Example: `2015-03-23T23:30:00-05:00` is day 2015-03-23, although it was the 24th in UTC.
    """
    if isinstance(text, datetime | date):
        text = text.isoformat()
    if not isinstance(text, str):
        return None
    match = _WHEN.fullmatch(text.strip()) or _COMPACT.fullmatch(text.strip())
    if match is None:
        return None
    parts = [*match.groups(), *[None] * 7][:7]
    year = int(match[1])
    month, mday = (int(part) if part else None for part in parts[1:3])
    if not _FIRST_YEAR <= year <= _LAST_YEAR or (month is not None and not 1 <= month <= 12):
        return None
    if month is None or mday is None:
        return When(year, month, None, None, float("nan"))
    hour, minute, second = (int(part or 0) for part in parts[3:6])
    try:
        local = datetime(year, month, mday, hour, minute, min(second, 59), tzinfo=UTC)
    except ValueError:
        return None
    return When(year, month, mday, (local.date() - _EPOCH).days, (local - _offset(parts[6])).timestamp())


def _offset(text: str | None) -> timedelta:
    if text is None or text == "Z":
        return timedelta(0)
    digits = text[1:].replace(":", "")
    found = timedelta(hours=int(digits[:2]), minutes=int(digits[2:]))
    return -found if text[0] == "-" else found


@dataclass(slots=True)
class Findings:
    """What was left out and why: counts by reason, and one error for each record that failed as a whole.

    Attributes:
        counts: reason -> records or cells left out.
        errors: (opaque id of the record, stable code, reason); at most `MAX_REPORTED`, the rest is counted.
    """

    counts: Counter[str] = field(default_factory=Counter)
    errors: list[tuple[str, str, str]] = field(default_factory=list)

    def count(self, reason: str, number: int = 1) -> None:
        """Count something left out."""
        if number:
            self.counts[reason] += int(number)

    def fail(self, record: str, error: InputError, reason: str) -> None:
        """A record that cannot be used at all; the others go on."""
        self.counts[reason] += 1
        if len(self.errors) < MAX_REPORTED:
            self.errors.append((record, error.code, reason))


@dataclass(frozen=True, slots=True, kw_only=True)
class Events:
    """What is known of persons and what happened to them.

    Attributes:
        persons: `PERSON_COLUMNS`, one row a person; sex is F, M, O or U.
        rows: `EVENT_COLUMNS`.
        descendants: (system, code) of an ancestor -> its descendants, where the source has a hierarchy.
        index_days: person -> day, where the source brings an index date.
        findings: what was left out.
    """

    persons: pd.DataFrame
    rows: pd.DataFrame
    descendants: Mapping[tuple[str, str], frozenset[tuple[str, str]]] = field(default_factory=dict)
    index_days: Mapping[str, int] = field(default_factory=dict)
    findings: Findings = field(default_factory=Findings)

    def joined(self, *others: Events) -> Events:
        """These events and those of other sources, of the same persons or others; the first word on a person holds."""
        import pandas as pd

        parts, shift, frames = [self, *others], 0, []
        findings = Findings()
        for part in parts:
            frames.append(part.rows.assign(record=part.rows["record"] + shift))
            shift += int(part.rows["record"].max()) + 1 if len(part.rows) else 0
            findings.counts.update(part.findings.counts)
            findings.errors += part.findings.errors
        persons = pd.concat([part.persons for part in parts], ignore_index=True).drop_duplicates("person")
        return Events(
            persons=persons.reset_index(drop=True),
            rows=pd.concat(frames, ignore_index=True),
            descendants={key: value for part in reversed(parts) for key, value in part.descendants.items()},
            index_days={key: value for part in reversed(parts) for key, value in part.index_days.items()},
            findings=findings,
        )


class Builder:
    """Gathers persons and events while a source is read."""

    def __init__(self) -> None:
        self.findings = Findings()
        self._persons: dict[str, tuple[str, int | None, int | None, int | None]] = {}
        self._columns: dict[str, list[Any]] = {name: [] for name in EVENT_COLUMNS}
        self._record = 0

    def person(self, person: str, sex: str = "U", birth: When | None = None) -> None:
        """A person; the last word that says something holds."""
        old = self._persons.get(person, ("U", None, None, None))
        born = (birth.year, birth.month, birth.mday) if birth else old[1:]
        self._persons[person] = (sex if sex != "U" else old[0], *born)

    def event(
        self,
        person: str,
        kind: str,
        codings: list[tuple[str, str]],
        *,
        moment: When | None,
        value: float | None = None,
        unit: str = "",
        days: float | None = None,
    ) -> None:
        """One record of a person, under each of its codings. Repeated codings count once."""
        if person not in self._persons:
            self._persons[person] = ("U", None, None, None)
        if moment is None or moment.day is None:
            self.findings.count("date-missing" if moment is None else "date-partial")
        columns = self._columns
        for name, code in dict.fromkeys(codings):
            columns["record"].append(self._record)
            columns["person"].append(person)
            columns["kind"].append(kind)
            columns["system"].append(name)
            columns["code"].append(code)
            columns["day"].append(moment.day if moment else None)
            columns["at"].append(moment.at if moment else None)
            columns["value"].append(value)
            columns["unit"].append(unit)
            columns["days"].append(days)
        self._record += 1

    def build(self, **extra: Any) -> Events:
        """The events gathered."""
        import pandas as pd

        kinds = {"record": "int64", "day": "float64", "at": "float64", "value": "float64", "days": "float64"}
        data = {n: pd.Series(v, dtype=kinds.get(n, "object")) for n, v in self._columns.items()}
        people = [(person, *known) for person, known in self._persons.items()]
        persons = pd.DataFrame(people, columns=list(PERSON_COLUMNS)).astype(
            {"person": "object", "sex": "object"} | dict.fromkeys(("birth_year", "birth_month", "birth_day"), "float64")
        )
        return Events(persons=persons, rows=pd.DataFrame(data), findings=self.findings, **extra)


def from_table(data: bytes | pd.DataFrame, *, person: Callable[[str], str] = str) -> Events:
    """Read an event table: columns person, kind, system, code, day; as they are known value, unit, days, index_day.

    Also per person, on any of his rows: sex, birth_date. A row without person or code is counted (`no-patient`,
    `no-code`), a value that is no number too (`value`).

    Args:
        data: CSV in UTF-8 (`,` or `;`), or a frame of texts.
        person: what makes the table's id into the id of the result (a pseudonym).

    Raises:
        InputError: `input.table`, `input.column-missing`.
    """
    frame = _read(data) if isinstance(data, bytes) else data
    frame = frame.rename(columns=lambda name: str(name).strip().casefold())
    for needed in ("person", "system", "code", "day"):
        if needed not in frame.columns:
            raise InputError("input.column-missing", f"the event table has no column {needed!r}")
    builder = Builder()
    index_days: dict[str, int] = {}
    for row in frame.astype(object).where(frame.notna(), None).to_dict("records"):
        who, code = (_text(row.get(name)) for name in ("person", "code"))
        if not who:
            builder.findings.count("no-patient")
            continue
        key = person(who)
        builder.person(key, sex(_text(row.get("sex"))), when(row.get("birth_date")))
        index = when(row.get("index_day"))
        if index is not None and index.day is not None:
            index_days[key] = min(index.day, index_days.get(key, index.day))
        if not code:
            builder.findings.count("no-code")
            continue
        value, length = (number(row.get(name)) for name in ("value", "days"))
        if value is None and _text(row.get("value")):
            builder.findings.count("value")
        builder.event(
            key,
            _text(row.get("kind")) or "event",
            [(system(_text(row.get("system"))), code)],
            moment=when(row.get("day")),
            value=value,
            unit=_text(row.get("unit")),
            days=length,
        )
    return builder.build(index_days=index_days)


def sex(text: str) -> str:
    """F, M, O (other) or U (unknown) of the words for sex that records use."""
    word = text.strip().casefold()
    if word in ("f", "female", "w", "femmina", "8532", "2"):
        return "F"
    if word in ("m", "male", "maschio", "8507", "1"):
        return "M"
    return "O" if word in ("o", "other", "8521", "ambiguous") else "U"


def number(value: object) -> float | None:
    """A finite number out of a cell, None otherwise."""
    if isinstance(value, bool) or value is None:
        return None
    try:
        found = float(str(value)) if not isinstance(value, int | float) else float(value)
    except ValueError:
        return None
    return found if abs(found) < float("inf") and "_" not in str(value) else None


def _text(value: object) -> str:
    return "" if value is None else str(value).strip()


def _read(data: bytes) -> pd.DataFrame:
    import pandas as pd

    try:
        head = data.split(b"\n", 1)[0]
        comma = ";" if head.count(b";") > head.count(b",") else ","
        return pd.read_csv(BytesIO(data), sep=comma, dtype=str, keep_default_na=False, encoding="utf-8-sig")
    except (ValueError, OSError):
        raise InputError("input.table", "the event table is not CSV in UTF-8") from None
