"""The tables of an OMOP CDM 5.4 dataset as frames of texts: which are wanted, where they are, how they are read.

A zip's tables are known by their names (any case, sub-folders, parts of a Spark export), loose files by their header,
since their names are opaque. Not here: what the rows mean (`omop.py`).

Source: OHDSI Common Data Model 5.4; Athena vocabulary files (tab separated, unquoted).
"""

from __future__ import annotations

import csv
import gzip
import struct
import zipfile
import zlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from io import BytesIO
from typing import TYPE_CHECKING

from pipelines import SourceFile
from protocol.errors import InputError

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["CONCEPT", "EVENTS", "MAX_BYTES", "PERSON", "TABLES", "EventTable", "tables"]

MAX_BYTES = 16 << 30
MAX_RATIO = 1000


@dataclass(frozen=True, slots=True, kw_only=True)
class EventTable:
    """How a table of the CDM becomes events: kind of event, and which of its columns say what."""

    kind: str
    concept: str
    source: str
    date: str
    moment: str = ""
    columns: tuple[str, ...] = ()

    @property
    def all(self) -> tuple[str, ...]:
        """Columns that are read, those that must be there first."""
        return ("person_id", self.concept, self.date, self.source, self.moment, *self.columns)


def _table(kind: str, stem: str, date: str = "", more: tuple[str, ...] = ()) -> EventTable:
    date = date or f"{stem}_date"
    source = f"{stem}_source_concept_id"
    return EventTable(
        kind=kind, concept=f"{stem}_concept_id", source=source, date=date, moment=f"{date}time", columns=more
    )


_MEASURED = ("value_as_number", "unit_concept_id", "unit_source_value", "operator_concept_id")
EVENTS = {
    "condition_occurrence": _table("condition", "condition", "condition_start_date"),
    "drug_exposure": _table("drug", "drug", "drug_exposure_start_date", ("drug_exposure_end_date", "days_supply")),
    "measurement": _table("measurement", "measurement", more=_MEASURED),
    "observation": _table("measurement", "observation", more=_MEASURED[:3]),
    "procedure_occurrence": _table("procedure", "procedure"),
}
#: Tables that must be there, be it with a header only.
TABLES = ("person", *EVENTS, "concept")
PERSON = ("person_id", "gender_concept_id", "year_of_birth", "month_of_birth", "day_of_birth", "birth_datetime")
CONCEPT = ("concept_id", "vocabulary_id", "concept_code")
_ANCESTOR = ("ancestor_concept_id", "descendant_concept_id")
_WANTED: Mapping[str, tuple[str, ...]] = {
    "person": PERSON,
    "concept": CONCEPT,
    "concept_ancestor": _ANCESTOR,
    "cdm_source": ("cdm_version",),
    **{name: table.all for name, table in EVENTS.items()},
}
_NEEDED = {
    "person": 3,
    "concept": 3,
    "concept_ancestor": 2,
    "cdm_source": 0,
    **dict.fromkeys(EVENTS, 3),
}
# A loose file is the table all of whose columns it has.
_SIGNATURES = {
    "person": {"person_id", "year_of_birth", "gender_concept_id"},
    "concept": {"concept_id", "vocabulary_id", "concept_code"},
    "concept_ancestor": set(_ANCESTOR),
    "cdm_source": {"cdm_source_name", "cdm_version"},
    **{name: {f"{name}_id", table.concept} for name, table in EVENTS.items()},
}


def tables(files: Iterable[SourceFile]) -> dict[str, pd.DataFrame]:
    """The tables that are wanted, by name, in all their parts.

    Raises:
        InputError: `input.omop`, `input.column-missing`.
    """
    import pandas as pd

    found: dict[str, list[pd.DataFrame]] = {}
    for file in files:
        if file.data[:4] == b"PK\x03\x04":
            for name, data in _unzipped(file.data):
                found.setdefault(name, []).append(_frame(data, name))
            continue
        data = _plain(file.data)
        columns = _columns(data)
        for name, signature in _SIGNATURES.items():
            if signature <= columns:
                found.setdefault(name, []).append(_frame(data, name))
                break
    return {name: pd.concat(parts, ignore_index=True) for name, parts in found.items()}


def _unzipped(data: bytes) -> Iterator[tuple[str, bytes]]:
    """(table, bytes) of the wanted tables in a zip, also from sub-folders and in parts."""
    try:
        with zipfile.ZipFile(BytesIO(data)) as archive:
            total = 0
            for entry in archive.infolist():
                path = entry.filename.replace("\\", "/").split("/")
                stem, _, suffix = path[-1].casefold().partition(".")
                if entry.is_dir() or "__MACOSX" in path or path[-1].startswith(".") or suffix not in _SUFFIXES:
                    continue
                folder = path[-2].casefold() if len(path) > 1 else ""
                name = stem if stem in _WANTED else folder
                if name not in _WANTED:
                    continue
                total += entry.file_size
                if total > MAX_BYTES or entry.file_size > MAX_RATIO * max(entry.compress_size, 1024):
                    raise InputError("input.omop", "the zip is too large when unpacked")
                yield name, _plain(archive.read(entry))
    except _BROKEN:
        raise InputError("input.omop", "the zip is damaged or encrypted") from None


# zipfile raises all of these over damaged archives.
_BROKEN = (
    zipfile.BadZipFile,
    zlib.error,
    struct.error,
    OSError,
    EOFError,
    RuntimeError,
    ValueError,
    OverflowError,
    IndexError,
)
_SUFFIXES = ("csv", "tsv", "txt", "parquet", "snappy.parquet", "csv.gz", "")


def _plain(data: bytes) -> bytes:
    if data[:2] != b"\x1f\x8b":
        return data
    try:
        with gzip.GzipFile(fileobj=BytesIO(data)) as packed:
            plain = packed.read(MAX_RATIO * len(data) + 1)
    except (OSError, EOFError, zlib.error):
        raise InputError("input.omop", "a gzip file is damaged") from None
    if len(plain) > MAX_RATIO * len(data):
        raise InputError("input.omop", "a gzip file is too large when unpacked")
    return plain


def _columns(data: bytes) -> set[str]:
    """Names of a table's columns, nothing for what is no table."""
    if data[:4] == b"PAR1":
        import pyarrow as pa
        import pyarrow.parquet as pq

        try:
            return {name.casefold() for name in pq.read_schema(BytesIO(data)).names}
        except (pa.ArrowException, OSError, ValueError):
            return set()
    return {name.casefold() for name in _header(data)[1]}


def _header(data: bytes) -> tuple[str, list[str]]:
    line = data[:65536].split(b"\n", 1)[0].decode("utf-8-sig", "replace").rstrip("\r")
    comma = max((",", "\t", ";", "|"), key=line.count)
    return comma, [name.strip().strip('"') for name in line.split(comma)]


def _frame(data: bytes, name: str) -> pd.DataFrame:
    """The wanted columns of a table as texts, small names; empty cells are missing."""
    import pandas as pd
    import pyarrow as pa

    wanted = _WANTED[name]
    try:
        frame = _parquet(data, wanted) if data[:4] == b"PAR1" else _csv(data, wanted)
    except (pa.ArrowException, ValueError, OSError, EOFError):
        raise InputError("input.omop", f"the OMOP table {name!r} is not readable") from None
    for column in wanted[: _NEEDED[name]]:
        if column not in frame.columns:
            raise InputError("input.column-missing", f"the OMOP table {name!r} has no column {column!r}")
    for column in frame.columns:
        cells = frame[column].astype("str").str.strip()
        if column.endswith("_id"):
            cells = cells.str.removesuffix(".0")
        frame[column] = cells.where(frame[column].notna() & (cells != ""), None)
    return frame.reindex(columns=[c for c in wanted if c]).astype("object").where(lambda f: pd.notna(f), None)


def _csv(data: bytes, wanted: tuple[str, ...]) -> pd.DataFrame:
    import pandas as pd

    comma, _names = _header(data)
    return pd.read_csv(
        BytesIO(data),
        sep=comma,
        dtype=str,
        encoding="utf-8-sig",
        encoding_errors="replace",
        keep_default_na=False,
        na_values=["", "NULL", "\\N"],
        usecols=lambda column: column.strip().casefold() in wanted,
        quoting=csv.QUOTE_NONE if comma == "\t" else csv.QUOTE_MINIMAL,
    ).rename(columns=lambda column: column.strip().casefold())


def _parquet(data: bytes, wanted: tuple[str, ...]) -> pd.DataFrame:
    import pandas as pd
    import pyarrow as pa
    import pyarrow.parquet as pq

    reader = pq.ParquetFile(BytesIO(data))
    chosen = [column for column in reader.schema_arrow.names if column.casefold() in wanted]
    table = reader.read(columns=chosen)
    return pd.DataFrame({c.casefold(): table[c].cast(pa.string()).to_pandas().astype("object") for c in chosen})
