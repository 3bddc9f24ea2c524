"""The arithmetic behind `history.py`: code sets matched, windows cut, statistics taken, person by person.

Works on whole columns. Holds the persons in sorted order; every feature is an array along them. Not here: what a
study may ask for, and the names of columns.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import date, timedelta
from typing import TYPE_CHECKING, Any, cast

from pipelines.features import charlson, history, units
from pipelines.features import events as clinical_events
from pipelines.features.events import Events, Findings
from pipelines.features.schema import Feature
from protocol.errors import InputError

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt
    import pandas as pd

    Floats = npt.NDArray[np.float64]

__all__ = ["Table", "index_days"]

DAYS_A_YEAR = 365.25
_DOTTED = ("icd", "atc")


class Table:
    """The rows of a result as they are made."""

    def __init__(self, source: Events, parameters: history.Parameters, findings: Findings) -> None:
        import pandas as pd

        self._source, self._parameters, self._findings = source, parameters, findings
        persons = source.persons.sort_values("person", kind="stable").reset_index(drop=True)
        days = index_days(source, parameters.index)
        index = persons["person"].map(days).astype("float64")
        if parameters.index is not None:
            findings.count("no-index", int(index.isna().sum()))
            if parameters.without_index == "drop":
                known = index.notna()
                persons, index = persons[known].reset_index(drop=True), index[known].reset_index(drop=True)
        self._persons, self._index = persons, index
        place = pd.Series(range(len(persons)), index=persons["person"], dtype="int64")
        rows = source.rows[source.rows["person"].isin(place.index)].reset_index(drop=True)
        self._rows = rows.assign(place=rows["person"].map(place).astype("int64"))
        self._offset = self._rows["day"] - self._rows["place"].map(index)

    def frame(self, features: Sequence[Feature]) -> pd.DataFrame:
        """All features as columns of their declared types."""
        import pandas as pd

        made: dict[str, Any] = {}
        for wanted in self._parameters.features:
            made |= self._made(wanted)
        kinds = {"int64": "Int64", "bool": "boolean", "float64": "float64", "category": "object"}
        data = {f.name: pd.Series(made[f.name]).astype(cast(Any, kinds[f.dtype])) for f in features}
        frame = pd.DataFrame(data, columns=[f.name for f in features])
        frame.index = pd.Index(self._persons["person"], dtype="object", name="person")
        return frame

    def _made(self, wanted: Any) -> dict[str, Any]:
        if isinstance(wanted, history.CodeCount):
            counts = self._without(self._counts(self._inside(self._match(wanted.of), wanted.window)), wanted.window)
            return {wanted.name: counts if wanted.output == "count" else _positive(counts)}
        if isinstance(wanted, history.Measurement):
            return self._measurement(wanted)
        if isinstance(wanted, history.Drug):
            return self._drug(wanted)
        if isinstance(wanted, history.Charlson):
            return {wanted.name: self._charlson(wanted)}
        if isinstance(wanted, history.Age):
            return {wanted.name: self._age(wanted.cap, wanted.band)}
        sexes = self._persons["sex"]
        return {wanted.name: sexes.where(sexes != "U", None).to_numpy()}

    # --- selection

    def _match(self, of: history.CodeSet) -> pd.Series[bool]:
        return matches(self._rows, of, self._source)

    def _inside(self, chosen: pd.Series[bool], window: history.Window | None) -> pd.Series[bool]:
        if window is None:
            return chosen
        inside = chosen & self._offset.notna()
        if window.start is not None:
            inside &= self._offset >= window.start
        if window.end is not None:
            inside &= self._offset <= window.end
        return inside

    def _without(self, values: Floats, window: history.Window | None) -> Floats:
        """Missing, not 0, where there is a window but no index date to lay it on."""
        import numpy as np

        return np.where(self._index.isna(), np.nan, values) if window is not None else values

    def _counts(self, chosen: pd.Series[bool]) -> Floats:
        import numpy as np

        found = self._rows.loc[chosen, ["place", "record"]].drop_duplicates()
        return np.bincount(found["place"], minlength=len(self._persons)).astype("float64")

    # --- measurements

    def _measurement(self, wanted: history.Measurement) -> dict[str, Floats]:
        import numpy as np

        rows = self._rows[self._inside(self._match(wanted.of), wanted.window) & self._rows["value"].notna()]
        rows = rows.drop_duplicates("record")
        rows = rows.assign(value=self._converted(rows, wanted)).dropna(subset=["value"])
        rows = rows.sort_values(["place", "day", "at", "record"], kind="stable")
        grouped = rows.groupby("place")["value"]
        found: dict[str, Floats] = {}
        for statistic in wanted.statistics:
            if statistic == "slope":
                values = _slopes(rows)
            elif statistic == "count":
                values = grouped.count().reindex(range(len(self._persons)), fill_value=0).astype("float64")
            elif statistic in ("first", "last"):
                dated = rows.dropna(subset=["day"]).groupby("place")["value"]
                values = getattr(dated, statistic)()
            else:
                values = getattr(grouped, statistic)()
            made = np.asarray(values.reindex(range(len(self._persons))), dtype=np.float64)
            found[f"{wanted.name}_{statistic}"] = self._without(made, wanted.window)
        return found

    def _converted(self, rows: pd.DataFrame, wanted: history.Measurement) -> Floats:
        import numpy as np

        substance = wanted.analyte
        if substance is None:
            known = {units.analyte(code) for code in wanted.of.codes}
            substance = known.pop() if len(known) == 1 else None
        low, high = _bounds(wanted, substance)
        values = np.asarray(rows["value"], dtype=np.float64)
        result = np.full(len(rows), np.nan)
        for unit, places in rows.reset_index(drop=True).groupby("unit").indices.items():
            spelled = wanted.spellings.get(str(unit), str(unit))
            zero, one = (units.convert(x, spelled, wanted.unit, substance) for x in (0.0, 1.0))
            if isinstance(zero, str) or isinstance(one, str):  # every conversion is a line, or none
                self._findings.count(str(zero), len(places))
                continue
            found = zero + (one - zero) * values[places]
            plausible = (low <= found) & (found <= high)
            self._findings.count("implausible", int((~plausible).sum()))
            result[places[plausible]] = found[plausible]
        return result

    # --- drugs

    def _drug(self, wanted: history.Drug) -> dict[str, Any]:
        rows = self._match(wanted.of)
        counts = self._without(self._counts(self._inside(rows, wanted.window)), wanted.window)
        found: dict[str, Any] = {}
        for statistic in wanted.statistics:
            if statistic == "days":
                found[f"{wanted.name}_days"] = self._without(self._covered(rows, wanted.window), wanted.window)
            else:
                found[f"{wanted.name}_{statistic}"] = counts if statistic == "count" else _positive(counts)
        return found

    def _covered(self, chosen: pd.Series[bool], window: history.Window | None) -> Floats:
        """Distinct days under exposure, also of one that began before the window; a record without length is a day."""
        import numpy as np

        start = self._offset if window is not None else self._rows["day"]
        rows = self._rows.assign(start=start)[chosen].drop_duplicates("record").dropna(subset=["start"])
        self._findings.count("no-length", int(rows["days"].isna().sum()))
        first = rows["start"].to_numpy(dtype="float64")
        last = first + np.maximum(np.floor(rows["days"].fillna(1).to_numpy(dtype="float64")), 1) - 1
        if window is not None and window.start is not None:
            first = np.maximum(first, window.start)
        if window is not None and window.end is not None:
            last = np.minimum(last, window.end)
        covered = np.zeros(len(self._persons))
        reached: dict[int, float] = {}
        places = np.asarray(rows["place"], dtype=np.int64)
        for k in np.lexsort((first, places)):
            place = int(places[k])
            begin = max(first[k], reached.get(place, -np.inf) + 1)
            if last[k] >= begin:
                covered[place] += last[k] - begin + 1
                reached[place] = last[k]
        return covered

    # --- persons

    def _charlson(self, wanted: history.Charlson) -> Floats:
        import numpy as np

        diagnoses = self._rows["system"].str.startswith(("icd10", "icd9"))
        diagnoses &= self._rows["kind"].isin(["condition", "event"])
        if not diagnoses.any():
            self._findings.count("no-icd", len(self._persons))
            return np.full(len(self._persons), np.nan)
        rows = self._rows[self._inside(diagnoses, wanted.window)]
        result = np.zeros(len(self._persons))
        for place, group in rows.groupby("place"):
            found = charlson.categories(set(zip(group["system"], group["code"], strict=True)))
            result[cast(int, place)] = charlson.score(found, wanted.weights)
        if wanted.age_adjusted:
            ages = self._age(None, None)
            result += np.array([np.nan if age != age else charlson.age_points(age) for age in ages])
        return self._without(result, wanted.window)

    def _age(self, cap: int | None, band: int | None) -> Floats:
        import numpy as np

        ages = []
        for day, year, month, mday in zip(
            self._index,
            *(self._persons[name] for name in ("birth_year", "birth_month", "birth_day")),
            strict=True,
        ):
            if day != day or year != year:
                ages.append(np.nan)
                continue
            if month != month or mday != mday:
                self._findings.count("birth-partial")
            on = date(1970, 1, 1) + timedelta(days=int(day))
            birthday = (7 if month != month else int(month), 1 if mday != mday else int(mday))
            age = on.year - int(year) - ((on.month, on.day) < birthday)
            ages.append(float(age) if age >= 0 else np.nan)
            if age < 0:
                self._findings.count("born-later")
        result = np.array(ages, dtype="float64")
        if cap is not None:
            result = np.minimum(result, cap)
        return np.floor(result / band) * band if band else result


def matches(rows: pd.DataFrame, of: history.CodeSet, source: Events) -> pd.Series[bool]:
    """Which rows a code set means.

    Raises:
        InputError: `input.usage` when descendants are asked for and the source has no hierarchy.
    """
    import pandas as pd

    name = clinical_events.system(of.system) if of.system else None
    family = name in ("icd10", "icd9")
    at = (rows["system"].str.startswith(name) if family else rows["system"] == name) if name else None
    codes = rows["code"]
    if name is None or name.startswith(_DOTTED):
        plain = codes.str.replace(".", "", regex=False).str.replace(" ", "", regex=False).str.upper()
        dotted = rows["system"].str.startswith(_DOTTED)
        codes = codes.where(~dotted, plain)
    found = pd.Series(False, index=rows.index)
    if of.codes:
        found |= codes.isin([*of.codes, *map(_plain, of.codes)])
    if of.prefixes:
        found |= codes.str.startswith(tuple(of.prefixes) + tuple(map(_plain, of.prefixes)))
    for ancestor in of.descendants_of:
        below = source.descendants.get((str(name), ancestor))
        if below is None:
            raise InputError("input.usage", "the study asks for descendants of a code, and the source has no hierarchy")
        pairs = pd.Series(list(zip(rows["system"], rows["code"], strict=True)), index=rows.index, dtype="object")
        return found & at | pairs.isin(below) if at is not None else found | pairs.isin(below)
    return found if at is None else found & at


def index_days(source: Events, index: history.Index | None) -> dict[str, float]:
    """The index date of each person who has one, in days from 1970-01-01."""
    if index is None:
        return {}
    if index.date is not None:
        moment = clinical_events.when(index.date)
        day = float(moment.day) if moment is not None and moment.day is not None else float("nan")
        return dict.fromkeys(source.persons["person"], day)
    if index.first is None:
        return {person: float(day) for person, day in source.index_days.items()}
    rows = source.rows[matches(source.rows, index.first, source)]
    return {str(k): float(v) for k, v in rows.groupby("person")["day"].min().dropna().items()}


def _plain(code: str) -> str:
    return code.replace(".", "").replace(" ", "").upper()


def _positive(counts: Floats) -> Any:
    import pandas as pd

    values = pd.Series(counts)
    return (values > 0).astype("boolean").mask(values.isna())


def _bounds(wanted: history.Measurement, substance: str | None) -> tuple[float, float]:
    if wanted.plausible is not None:
        return wanted.plausible
    if substance is None:
        return float("-inf"), float("inf")
    known = units.ANALYTES[substance]
    ends = [units.convert(end, known.unit, wanted.unit, substance) for end in (known.low, known.high)]
    if isinstance(ends[0], str) or isinstance(ends[1], str):
        raise InputError("input.study", f"{wanted.name}: {wanted.unit!r} is no unit of {substance}")
    return ends[0], ends[1]


def _slopes(rows: pd.DataFrame) -> pd.Series[float]:
    """Least squares by year of each person with values on two days and more."""
    dated = rows.dropna(subset=["day"])
    place = dated["place"]
    years = dated["day"] / DAYS_A_YEAR
    dx = years - years.groupby(place).transform("mean")
    dy = dated["value"] - dated["value"].groupby(place).transform("mean")
    top, bottom = (dx * dy).groupby(place).sum(), (dx * dx).groupby(place).sum()
    return (top / bottom).where(bottom > 0)
