"""OMOP CDM 5.4 as clinical events: a zip or a set of files, CSV or Parquet, names in any case.

Place: bytes with opaque names -> `omop_tables.py` -> `read` -> `Events`. A table that is missing is one clear error;
one that has only a header is fine.
No `*_source_value` but a unit's is looked at: they are for de-identification.

Source: OHDSI Common Data Model 5.4 (tables, conventions).
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping
from typing import TYPE_CHECKING, Any

from pipelines import SourceFile
from pipelines.features import events
from pipelines.features.events import EVENT_COLUMNS, PERSON_COLUMNS, Events, Findings
from pipelines.features.omop_tables import CONCEPT, EVENTS, PERSON, TABLES, EventTable
from pipelines.features.omop_tables import tables as read_tables
from protocol.errors import InputError

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["TABLES", "read"]

_EXACT = ("0", "4172703", "")  # operator: none, or "="


def read(
    files: Iterable[SourceFile],
    *,
    person: Callable[[str], str] = str,
    ancestors: Collection[tuple[str, str]] = (),
    needed: Collection[str] = TABLES,
) -> Events:
    """Read one OMOP dataset.

    Args:
        files: one zip, or the tables as loose CSV or Parquet files under any names.
        person: what makes person_id into the id of the result (a pseudonym).
        ancestors: (system, code) whose descendants are wanted, out of CONCEPT_ANCESTOR.
        needed: tables that must be there.

    Raises:
        InputError: `input.omop` for a table that is missing, or another version of the CDM; `input.column-missing`.
    """
    tables = read_tables(files)
    for name in needed:
        if name not in tables:
            raise InputError("input.omop", f"the OMOP table {name!r} is missing")
    if ancestors and "concept_ancestor" not in tables:
        raise InputError("input.omop", "the OMOP table 'concept_ancestor' is missing, and the study asks for ancestors")
    _check_version(tables.get("cdm_source"))
    import pandas as pd

    findings = Findings()
    concepts = _concepts(tables["concept"]) if "concept" in tables else {}
    persons = _persons(tables["person"], person, findings)
    names = {key: person(key) for key in tables["person"]["person_id"].dropna().unique()}
    parts, record = [], 0
    for name, table in EVENTS.items():
        if name in tables:
            part, record = _events(tables[name], table, names, concepts, record, findings)
            parts.append(part)
    rows = pd.concat(parts, ignore_index=True) if parts else pd.DataFrame(columns=list(EVENT_COLUMNS))
    found = _descendants(tables.get("concept_ancestor"), concepts, frozenset(ancestors))
    return Events(persons=persons, rows=rows, descendants=found, findings=findings)


def _check_version(source: pd.DataFrame | None) -> None:
    said = [] if source is None else [str(v) for v in source["cdm_version"] if v is not None]
    for version in said:
        if not version.casefold().lstrip("v").strip().startswith("5.4"):
            raise InputError("input.omop", "the OMOP dataset is not of CDM version 5.4")


def _concepts(frame: pd.DataFrame) -> dict[str, tuple[str, str]]:
    vocabularies = {name: events.system(name) for name in frame["vocabulary_id"].dropna().unique()}
    rows = frame.dropna(subset=list(CONCEPT))
    return {
        concept: (vocabularies[vocabulary], code)
        for concept, vocabulary, code in zip(
            rows["concept_id"], rows["vocabulary_id"], rows["concept_code"], strict=True
        )
    }


def _persons(frame: pd.DataFrame, person: Callable[[str], str], findings: Findings) -> pd.DataFrame:
    import pandas as pd

    known = frame.dropna(subset=["person_id"]).drop_duplicates("person_id")
    findings.count("duplicate", int(frame["person_id"].dropna().duplicated().sum()))
    born = [events.when(text) for text in known["birth_datetime"]]
    data: dict[str, Any] = {
        "person": [person(key) for key in known["person_id"]],
        "sex": [events.sex(str(concept)) for concept in known["gender_concept_id"]],
    }
    for name, column, part in zip(PERSON_COLUMNS[2:], PERSON[2:5], ("year", "month", "mday"), strict=True):
        said = pd.to_numeric(known[column], errors="coerce").to_numpy(dtype="float64")
        full = [float("nan") if b is None or getattr(b, part) is None else float(getattr(b, part)) for b in born]
        data[name] = [f if s != s else s for s, f in zip(said, full, strict=True)]
    return pd.DataFrame(data, columns=list(PERSON_COLUMNS)).astype({"person": "object", "sex": "object"})


def _events(
    frame: pd.DataFrame,
    table: EventTable,
    names: Mapping[str, str],
    concepts: Mapping[str, tuple[str, str]],
    record: int,
    findings: Findings,
) -> tuple[pd.DataFrame, int]:
    """Rows of one table, each under its standard code, its source code and its concept id."""
    import numpy as np
    import pandas as pd

    known = frame["person_id"].isin(list(names))
    findings.count("no-patient", int((~known).sum()))
    frame = frame[known].reset_index(drop=True)
    said = frame[table.date].where(frame[table.date].notna(), frame[table.moment])
    moments = {text: events.when(text) for text in pd.concat([said, frame[table.moment]]).dropna().unique()}
    days = [m.day if (m := moments.get(text)) else None for text in said]
    clock = frame[table.moment].where(frame[table.moment].notna(), said)
    exact = [m.at if (m := moments.get(text)) else None for text in clock]
    findings.count("date-missing", sum(day is None for day in days))
    base = pd.DataFrame(
        {
            "record": np.arange(record, record + len(frame), dtype="int64"),
            "person": frame["person_id"].map(names).astype("object"),
            "kind": table.kind,
            "day": pd.Series(days, dtype="float64"),
            "at": pd.Series(exact, dtype="float64"),
            "value": _values(frame, findings),
            "unit": _units(frame, concepts),
            "days": _lengths(frame, moments, days),
        }
    )
    parts, seen = [], pd.Series([None] * len(frame), dtype="object")
    for column in (table.concept, table.source):
        ids = frame[column].where(frame[column] != "0", None)
        fresh = ids.notna() & (ids != seen)
        pairs = [concepts.get(c) if f else None for c, f in zip(ids, fresh, strict=True)]
        mapped = np.array([pair is not None for pair in pairs], dtype=bool)
        codings = [pair for pair in pairs if pair is not None]
        parts.append(base[mapped].assign(system=[name for name, _ in codings], code=[code for _, code in codings]))
        parts.append(base[fresh.to_numpy()].assign(system="omop", code=ids[fresh]))
        seen = ids
    unmapped = (frame[table.concept].isin(["0"]) | frame[table.concept].isna()) & (
        frame[table.source].isin(["0"]) | frame[table.source].isna()
    )
    findings.count("no-code", int(unmapped.sum()))
    return pd.concat(parts, ignore_index=True)[list(EVENT_COLUMNS)], record + len(frame)


def _values(frame: pd.DataFrame, findings: Findings) -> pd.Series[float]:
    import pandas as pd

    if "value_as_number" not in frame.columns:
        return pd.Series([float("nan")] * len(frame), dtype="float64")
    values = pd.to_numeric(frame["value_as_number"], errors="coerce").astype("float64")
    if "operator_concept_id" in frame.columns:
        compared = ~frame["operator_concept_id"].fillna("").isin(_EXACT) & values.notna()
        findings.count("comparator", int(compared.sum()))
        values = values.mask(compared)
    return values


def _units(frame: pd.DataFrame, concepts: Mapping[str, tuple[str, str]]) -> pd.Series[Any]:
    import pandas as pd

    if "unit_concept_id" not in frame.columns:
        return pd.Series([""] * len(frame), dtype="object")
    by_concept = {key: concepts[key][1] for key in frame["unit_concept_id"].dropna().unique() if key in concepts}
    units = frame["unit_concept_id"].map(by_concept).astype("object")
    return units.where(units.notna(), frame["unit_source_value"]).fillna("").astype("object")


def _lengths(frame: pd.DataFrame, moments: Mapping[str, Any], days: list[int | None]) -> pd.Series[float]:
    """Days of an exposure: its days of supply, else from its first to its last day."""
    import pandas as pd

    if "days_supply" not in frame.columns:
        return pd.Series([float("nan")] * len(frame), dtype="float64")
    supply = pd.to_numeric(frame["days_supply"], errors="coerce").astype("float64")
    ends = [w.day if (w := events.when(text)) else None for text in frame["drug_exposure_end_date"]]
    spans = [
        float(end - start + 1) if start is not None and end is not None and end >= start else float("nan")
        for start, end in zip(days, ends, strict=True)
    ]
    return supply.where(supply > 0, pd.Series(spans, dtype="float64"))


def _descendants(
    frame: pd.DataFrame | None, concepts: Mapping[str, tuple[str, str]], wanted: frozenset[tuple[str, str]]
) -> dict[tuple[str, str], frozenset[tuple[str, str]]]:
    if frame is None or not wanted:
        return {}
    heads = {key: concepts[key] for key in frame["ancestor_concept_id"].dropna().unique() if key in concepts}
    chosen = {key: pair for key, pair in heads.items() if pair in wanted}
    found: dict[tuple[str, str], set[tuple[str, str]]] = {pair: {pair} for pair in wanted}
    rows = frame[frame["ancestor_concept_id"].isin(list(chosen))]
    for ancestor, descendant in zip(rows["ancestor_concept_id"], rows["descendant_concept_id"], strict=True):
        if descendant in concepts:
            found[chosen[ancestor]].add(concepts[descendant])
    return {pair: frozenset(below) for pair, below in found.items()}
