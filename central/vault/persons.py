"""What of a batch is about persons who withdrew, and the batch without it.

Rows and files name their person by the study's pseudonym: a table in its column `pseudonym`, de-identified DICOM as
PatientID, FHIR as an identifier; raw rows and files by the item `subjects.json` beside them. What names nobody goes as
a whole, for nobody can say that he is not in it; sums, which are about a group, stay. Nothing here touches a file.
"""

from __future__ import annotations

import io
import json
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from central.vault.contents import Entry
from protocol.parcel import canonical_json
from protocol.study import Study
from protocol.withdrawal import SUBJECTS, read_subjects

__all__ = ["Left", "without"]

_COLUMN = "pseudonym"
_SYSTEM = "urn:corsia:pseudonym"
_SUMS = "aggregate"
_REPORT = "report.json"
_NO_IMAGE = (".parquet", ".json", ".ndjson")


@dataclass(frozen=True, slots=True, kw_only=True)
class Left:
    """A batch's entries without some persons, and how many rows, files and documents went."""

    entries: tuple[Entry, ...]
    rows: int = 0
    files: int = 0

    @property
    def changed(self) -> bool:
        """Whether anything went."""
        return bool(self.rows or self.files)

    @property
    def images(self) -> int:
        """How many entries are DICOM files."""
        return sum(not entry.name.casefold().endswith(_NO_IMAGE) for entry in self.entries)


def without(study: Study, entries: Iterable[Entry], gone: Collection[str]) -> Left:
    """Leave out what is about the persons `gone`, by pseudonym."""
    entries = tuple(entries)
    if not gone or study.pipeline.name == _SUMS:
        return Left(entries=entries)
    named = next((read_subjects(e.data) for e in entries if e.name == SUBJECTS and isinstance(e.data, bytes)), {})
    kept: list[Entry] = []
    rows = files = 0
    for entry in entries:
        if entry.name in (SUBJECTS, _REPORT):
            kept.append(entry)
        elif isinstance(entry.data, pa.Table):
            table = _table(entry.data, named.get(entry.name), frozenset(gone))
            rows += entry.data.num_rows - table.num_rows
            kept.append(Entry(name=entry.name, data=table))
        elif _is_about(entry.name, entry.data, named.get(entry.name), gone):
            files += 1
        else:
            kept.append(entry)
    return Left(entries=tuple(_renamed(kept, named, frozenset(gone))), rows=rows, files=files)


def _table(table: pa.Table, named: str | list[str] | None, gone: frozenset[str]) -> pa.Table:
    """The rows that name somebody else."""
    if isinstance(named, list) and len(named) == table.num_rows:
        return table.filter(pa.array([name not in gone for name in named], pa.bool_()))
    if _COLUMN in table.column_names and table.schema.field(_COLUMN).type == pa.string():
        column = table.column(_COLUMN)
        stays = pc.invert(pc.is_in(column, value_set=pa.array(sorted(gone), pa.string())))
        return table.filter(pc.and_(stays, pc.is_valid(column)))
    return table.slice(0, 0)


def _is_about(name: str, data: bytes, named: str | list[str] | None, gone: Collection[str]) -> bool:
    """Whether a file is about one of the persons; one that does not say about whom it is may be."""
    if isinstance(named, str):
        return named in gone
    if name.casefold().endswith((".json", ".ndjson")):
        return not _mentioned(data).isdisjoint(gone)
    import pydicom

    try:
        head = pydicom.dcmread(io.BytesIO(data), force=True, specific_tags=["PatientID"])
        return str(head.get("PatientID") or "") in ("", *gone)
    except Exception:  # what a hospital sent may raise anything from inside the parser
        return True


def _mentioned(data: bytes) -> set[str]:
    todo: list[Any] = [json.loads(line) for line in data.splitlines() if line.strip()]
    persons: set[str] = set()
    while todo:
        value = todo.pop()
        if isinstance(value, list):
            todo += value
        elif isinstance(value, dict):
            if value.get("system") == _SYSTEM and isinstance(value.get("value"), str):
                persons.add(value["value"])
            todo += value.values()
    return persons


def _renamed(entries: list[Entry], named: dict[str, str | list[str]], gone: frozenset[str]) -> Iterable[Entry]:
    """The entries with a `subjects.json` that says no more than they hold."""
    names = {entry.name for entry in entries}
    for entry in entries:
        if entry.name != SUBJECTS:
            yield entry
            continue
        left = {
            name: [one for one in who if one not in gone] if isinstance(who, list) else who
            for name, who in named.items()
            if name in names
        }
        yield Entry(name=SUBJECTS, data=canonical_json(left))
