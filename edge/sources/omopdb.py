"""An OMOP CDM 5.4 schema of a database as the archive that a lane reads: only the tables it knows, streamed.

Where the site matches persons by its table, rows of others stay in the database: the ids of those who may pass go in
as bound parameters. The archive is of one snapshot.

Source: OHDSI Common Data Model 5.4.
"""

from __future__ import annotations

import csv
import io
import tempfile
import zipfile
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

from edge.sources import database
from edge.sources.consent import UNSELECTED
from edge.sources.folder import MAX_FILE_BYTES
from edge.sources.places import Database
from edge.sources.relation import text_of
from pipelines import SourceFile
from pipelines.features.omop_tables import TABLES
from protocol.errors import InputError

if TYPE_CHECKING:
    from sqlalchemy import Table

__all__ = ["archive", "tables_of"]

OPTIONAL = ("observation_period", "visit_occurrence", "death", "concept_ancestor", "cdm_source")
_CHUNK = 500  # ids in one statement
_PERSON = "person_id"


def tables_of(reader: database.Reader, schema: str) -> dict[str, str]:
    """CDM table -> relation, of those that a lane knows.

    Raises:
        InputError: `input.omop` naming the first that must be there and is not.
    """
    there = {name.lower(): f"{schema}.{name}" if schema else name for name in reader.names(schema)}
    for name in TABLES:
        if name not in there:
            raise InputError("input.omop", f"the schema has no table {name!r}")
    return {name: there[name] for name in (*TABLES, *OPTIONAL) if name in there}


def archive(place: Database, verdict: Callable[[str], str] | None, withheld: Counter[str]) -> SourceFile:
    """The tables as one zip of CSV files.

    Args:
        verdict: for a person id "" (may pass), the reason why not, or `consent.UNSELECTED`; None lets all pass.
        withheld: counts persons that are held back, by reason.

    Raises:
        InputError: `input.omop`, also for more than a source file may have. What `database.opened` raises.
    """
    with database.opened(place) as reader, tempfile.SpooledTemporaryFile(max_size=MAX_FILE_BYTES) as target:
        tables = {name: reader.table(relation) for name, relation in tables_of(reader, place.relation).items()}
        persons = None if verdict is None else _persons(reader, tables["person"], verdict, withheld)
        with zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as made:
            for name, table in tables.items():
                with made.open(zipfile.ZipInfo(f"{name}.csv"), "w", force_zip64=True) as file:
                    _write(reader, table, persons, file, lambda: _bounded(target.tell()))
        _bounded(target.tell())
        target.seek(0)
        return SourceFile("00000001.zip", target.read())


def _persons(reader: database.Reader, table: Table, verdict: Callable[[str], str], withheld: Counter[str]) -> list[Any]:
    from sqlalchemy import select

    passing = []
    for rows in reader.rows(select(table.c[_PERSON])):
        for (person,) in rows:
            reason = verdict(text_of(person) or "")
            if reason == "":
                passing.append(person)
            elif reason != UNSELECTED:
                withheld[reason] += 1
    return passing


def _write(
    reader: database.Reader, table: Table, persons: list[Any] | None, file: Any, bounded: Callable[[], None]
) -> None:
    text = io.TextIOWrapper(file, encoding="utf-8", newline="", write_through=True)
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow([column.name.lower() for column in table.columns])
    for rows in _rows(reader, table, persons):
        writer.writerows([["" if (cell := text_of(value)) is None else cell for value in row] for row in rows])
        bounded()
    text.detach()


def _rows(reader: database.Reader, table: Table, persons: Sequence[Any] | None) -> Iterator[list[tuple[Any, ...]]]:
    from sqlalchemy import select

    if persons is None or _PERSON not in table.c:
        yield from reader.rows(select(table))
        return
    for at in range(0, len(persons), _CHUNK):
        yield from reader.rows(select(table).where(table.c[_PERSON].in_(persons[at : at + _CHUNK])))


def _bounded(size: int) -> None:
    if size > MAX_FILE_BYTES - (1 << 20):
        raise InputError("input.omop", "the schema's tables are larger than a source file may be: give a view of fewer")
