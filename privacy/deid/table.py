"""The table engine: every column by the role the site gave it, then k-anonymity of what is left.

    engine = TableEngine(spec, Pseudonymizer(key), TextEngine("it"))
    result = engine.deidentify(frame)

patient -> `pseudonym`; identifier -> dropped, and its values go from the row's texts; text -> text engine; date ->
moved by the patient's days; birthdate -> band of birth years, older than 89 in one band; quasi -> bands or as it is;
value -> kept; no role -> dropped. Columns with a hierarchy are recoded to the level the lattice search finds
(`recoding`). Rows in classes of fewer than k persons (that are not l-diverse or t-close, where asked) are withheld, and
so is a row in which an identifier of its own is still found. Not here: the search, the egress gate.

Source: HIPAA 45 CFR 164.514(b)(2)(i)(C) (ages over 89); Samarati and Sweeney 1998.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, date, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from privacy import disclosure
from privacy.deid import residual
from privacy.deid.dates import parse_date
from privacy.deid.deny import DenyList
from privacy.deid.pseudonym import Pseudonymizer
from privacy.deid.text import TextEngine, redact_lines
from protocol.errors import InputError

if TYPE_CHECKING:
    import pandas as pd

    from privacy.deid.grouping import LRule
    from privacy.deid.lattice import Search
    from privacy.deid.loss import Metric

__all__ = ["PSEUDONYM", "ROLES", "TableEngine", "TableResult", "TableSpec", "as_text"]

PSEUDONYM = "pseudonym"
ROLES = frozenset({"patient", "identifier", "text", "date", "birthdate", "quasi", "value"})
MAX_AGE_YEARS = 89
BIRTH_BAND_YEARS = 10
_NESTED = (list, tuple, dict, set, bytes, bytearray)


@dataclass(frozen=True, slots=True, kw_only=True)
class TableSpec:
    """What each column is.

    Attributes:
        roles: column -> role.
        bands: column -> width of its bands: units of the column, or years for a birth date (default 10).
        k: smallest class that may be released.
        release: columns that may appear in the result; None for all with a role.
        hierarchies: quasi or birthdate column -> how it may be generalised (`hierarchy.build`).
        folder: where hierarchy files are; None refuses them.
        suppression_limit: share of rows that may be withheld for k, l, t, else `gate.k`; None: any number where no
            column has a hierarchy, none where one has.
        sensitive: released columns that must be l-diverse and t-close.
        ordered: sensitive columns whose values lie on a line; None for those that are numbers.
        l: least diversity, by `l_kind`: distinct, entropy, recursive (with `c`).
        t: largest distance.
        loss: metric the search minimises: ncp, entropy, discernibility.
        search: auto, optimal, heuristic.
        population: persons the table is a sample of, for the journalist's risk.
        rows_are_persons: allow a table without patient column (then without texts and dates): a row is a person.
    """

    roles: Mapping[str, str]
    bands: Mapping[str, float] = field(default_factory=dict)
    k: int = 5
    release: Sequence[str] | None = None
    hierarchies: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    folder: Path | None = None
    suppression_limit: float | None = None
    sensitive: Sequence[str] = ()
    ordered: Sequence[str] | None = None
    l: float | None = None  # noqa: E741
    l_kind: LRule = "distinct"
    c: float = 1.0
    t: float | None = None
    loss: Metric = "ncp"
    search: Search = "auto"
    population: int | None = None
    rows_are_persons: bool = False

    def __post_init__(self) -> None:
        unknown = sorted(set(self.roles.values()) - ROLES)
        if unknown:
            raise InputError(
                "input.usage", f"unknown role {unknown[0]!r}; there is: {', '.join(sorted(ROLES | {'sensitive'}))}"
            )
        if self.roles.get(PSEUDONYM, "patient") not in ("patient", "identifier"):
            raise InputError("input.usage", f"column {PSEUDONYM!r} is the one that the engine makes: rename yours")
        for column, width in self.bands.items():
            if self.roles.get(column) not in ("quasi", "birthdate") or not (math.isfinite(width) and width > 0):
                raise InputError("input.usage", f"band of {column!r}: a positive width of a quasi or birthdate column")
        for column in self.hierarchies:
            if self.roles.get(column) not in ("quasi", "birthdate") or column in self.bands:
                raise InputError("input.usage", f"hierarchy of {column!r}: of a quasi or birthdate column without band")
        self._check_sensitive()

    def _check_sensitive(self) -> None:
        for column in self.sensitive:
            if self.roles.get(column) != "value":
                raise InputError("input.usage", f"sensitive column {column!r} must have role value")
        strange = set(self.ordered or ()) - set(self.sensitive)
        if strange:
            raise InputError("input.usage", f"ordered column {min(strange)!r} is not sensitive")
        if (self.l is not None or self.t is not None) and not self.sensitive:
            raise InputError("input.usage", "l and t are of sensitive columns: there is none")

    def of(self, role: str) -> list[str]:
        """Columns with a role, in order."""
        return [column for column, its in self.roles.items() if its == role]


@dataclass(frozen=True, slots=True, kw_only=True)
class TableResult:
    """The de-identified rows, what was withheld by reason, and a report of counts and rules without values."""

    frame: pd.DataFrame
    withheld: dict[str, int]
    report: dict[str, Any]


def as_text(value: object) -> str:
    """A cell as the text under which ids are compared: 12.0 is `12`, a missing cell is empty."""
    if value is None or value != value:
        return ""
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    return str(value).strip()


class TableEngine:
    """De-identifies one table.

    Args:
        spec: roles, bands, k.
        pseudonymizer: of the study at this site.
        text: for columns with role text.
    """

    def __init__(self, spec: TableSpec, pseudonymizer: Pseudonymizer, text: TextEngine | None = None) -> None:
        self._spec, self._keys, self._text = spec, pseudonymizer, text

    def deidentify(self, frame: pd.DataFrame) -> TableResult:
        """De-identify all rows; their order is kept.

        Raises:
            InputError: `input.column-missing` when a column with a role is not there, or none has the role patient.
        """
        from privacy.deid import recoding

        spec = self._spec
        missing = [column for column in spec.roles if column not in frame.columns]
        patients = spec.of("patient")
        if missing or len(patients) != (0 if spec.rows_are_persons else 1):
            raise InputError("input.column-missing", f"missing column: {missing[0]!r}" if missing else "role patient")
        if spec.rows_are_persons and (spec.of("text") or spec.of("date")):
            raise InputError("input.usage", "texts and dates need a column with role patient")
        ids = frame[patients[0]].map(as_text) if patients else frame.index.to_series().map(str)
        named = (ids != "").to_numpy(dtype=bool)
        rows, ids, nameless = frame[named], ids[named], int((~named).sum())
        _flat(rows, [*spec.roles])
        ladders = recoding.climb(spec, rows, self._reference_year(rows))
        result, rules = self._columns(rows, ids)
        for name, ladder in ladders.items():
            result[name] = recoding.shown(ladder, 0, rows[name])
        withheld = {"no-patient-id": nameless} if nameless else {}
        left = [self._left(row, out) for row, out in zip(_records(rows), _records(result), strict=True)]
        clean = [number for number, found in enumerate(left) if not found]
        if any(left):
            withheld["residual"] = sum(left)
        outcome = recoding.recode(spec, rows.iloc[clean], result.iloc[clean], self._reference_year(rows))
        result = outcome.frame.drop(columns=[] if patients else [PSEUDONYM])
        if outcome.withheld:
            withheld["small-class"] = outcome.withheld
        report = {
            "rows_in": len(frame),
            "rows_out": len(result),
            "persons": disclosure.cohort(result, PSEUDONYM if patients else None),
            "withheld": withheld,
            "rules": rules | outcome.rules,
            **outcome.report,
            "suppressed": outcome.withheld,
        }
        return TableResult(frame=result.reset_index(drop=True), withheld=withheld, report=report)

    def _columns(self, rows: pd.DataFrame, ids: pd.Series) -> tuple[pd.DataFrame, dict[str, str]]:
        import pandas as pd

        spec = self._spec
        out: dict[str, Any] = {PSEUDONYM: ids.map(self._keys.pseudonym)}
        rules: dict[str, str] = {}
        for column, role in spec.roles.items():
            released = spec.release is None or column in spec.release
            if role == "patient":
                rules[column] = "pseudonym"
            elif role == "identifier" or not released:
                rules[column] = "dropped"
            else:
                out[column], rules[column] = self._column(rows, ids, column, role)
        rules |= dict.fromkeys((c for c in rows.columns if c not in rules), "dropped")
        return pd.DataFrame(out, index=rows.index), rules

    def _column(self, rows: pd.DataFrame, ids: pd.Series, column: str, role: str) -> tuple[Any, str]:
        if role == "text":
            return self._texts(rows, ids, column), "text"
        if role == "date":
            return self._dates(rows, ids, column), "shifted"
        if column in self._spec.hierarchies:
            return rows[column], "generalised"
        if role == "birthdate":
            width = int(self._spec.bands.get(column, BIRTH_BAND_YEARS))
            return self._births(rows, column, width), f"birth years in bands of {width}, over {MAX_AGE_YEARS} in one"
        if role == "quasi" and column in self._spec.bands:
            size = self._spec.bands[column]
            return rows[column].map(lambda value: band(value, size)), f"bands of {size:g}"
        return rows[column], "kept"

    def _texts(self, rows: pd.DataFrame, ids: pd.Series, column: str) -> Any:
        import pandas as pd

        engine = self._text
        if engine is None:
            raise InputError("input.usage", f"column {column!r} is text: a text engine is needed")
        values: list[str | None] = []
        for record, patient, text in zip(_records(rows), ids, rows[column], strict=True):
            deny = DenyList(self.known(record))
            shift = self._keys.shift_days(patient)
            note = as_text(text)
            values.append(redact_lines(engine, note, deny=deny, shift_days=shift)[0] if note else None)
        return pd.Series(values, index=rows.index, dtype="object")

    def _dates(self, rows: pd.DataFrame, ids: pd.Series, column: str) -> Any:
        import pandas as pd

        births = [rows[name] for name in self._spec.of("birthdate")]
        values: list[date | None] = []
        for number, (cell, patient) in enumerate(zip(rows[column], ids, strict=True)):
            found = _as_date(cell)
            # A birth date among the others, moved, would tell by how many days they all were.
            born = any(found == _as_date(its.iloc[number]) for its in births)
            try:
                values.append(self._keys.shift_date(found, patient) if found and not born else None)
            except OverflowError:
                values.append(None)
        return pd.Series(values, index=rows.index, dtype="object")

    def _births(self, rows: pd.DataFrame, column: str, width: int) -> Any:
        reference = self._reference_year(rows)
        return rows[column].map(lambda cell: birth_band(_as_date(cell), width, reference - MAX_AGE_YEARS))

    def _reference_year(self, rows: pd.DataFrame) -> int:
        """The latest year in the table's dates: so the same table gives the same bands in any year."""
        years = [found.year for c in self._spec.of("date") for cell in rows[c] if (found := _as_date(cell))]
        this_year = datetime.now(UTC).year
        return min(max(years, default=this_year), this_year)

    def known(self, record: Mapping[str, Any]) -> list[str]:
        """Identifying values of one row: what goes from his texts and must not be found in his output."""
        columns = [*self._spec.of("patient"), *self._spec.of("identifier"), *self._spec.of("birthdate")]
        return [text for column in columns if (text := as_text(record[column]))]

    def _left(self, record: Mapping[str, Any], out: Mapping[str, Any]) -> bool:
        """The second look at one row."""
        cells = [cell for column, cell in out.items() if column != PSEUDONYM]
        return bool(residual.search_cells(cells, residual.originals_of_row(self.known(record))))


def band(value: object, width: float) -> str | None:
    """The band of a number: `60-69` for whole widths, `[1.5,2)` otherwise; None when it is missing or no number.

    Example:
        >>> band(63, 10), band(1.7, 0.5)
        ('60-69', '[1.5,2)')
    """
    try:
        number = float(value)  # type: ignore[arg-type]
    except (TypeError, ValueError):
        return None
    if not math.isfinite(number):
        return None
    low = math.floor(number / width) * width
    if float(width).is_integer():
        return f"{int(low)}-{int(low + width - 1)}" if width > 1 else str(int(low))
    return f"[{low:g},{low + width:g})"


def birth_band(born: date | None, width: int, oldest: int) -> str | None:
    """The band of a birth year, `1950-1954`; all born in `oldest` or before in one band."""
    if born is None:
        return None
    if born.year < oldest:
        return f"before {oldest}"
    low = born.year - born.year % width
    return f"{max(low, oldest)}-{low + width - 1}"


def _flat(rows: pd.DataFrame, columns: Sequence[str]) -> None:
    """Refuse lists, records and bytes in cells: no rule of this engine sees into them."""
    import numpy as np

    for name in columns:
        cells = rows[name] if rows[name].dtype == object else ()
        if nested := sum(isinstance(cell, (*_NESTED, np.ndarray)) for cell in cells):
            raise InputError("input.table", f"column {name!r}: {nested} cells are lists, records or bytes")


def _as_date(cell: object) -> date | None:
    if isinstance(cell, datetime):
        return None if cell != cell else cell.date()
    if isinstance(cell, date):
        return cell
    return parse_date(as_text(cell)) if as_text(cell) else None


def _records(frame: pd.DataFrame) -> list[dict[str, Any]]:
    names = list(frame.columns)
    return [dict(zip(names, row, strict=True)) for row in frame.itertuples(index=False, name=None)]
