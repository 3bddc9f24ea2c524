"""What a batch may hold, checked once more at the centre's wall against the signed study.

The site's gate has checked the same; this side does not take its word. Tables are decoded and cast to the declared
types, so that the lake holds only Parquet that was made here. Nothing here touches a file.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from protocol.errors import DisclosureRefused, IntegrityError
from protocol.parcel import Batch, Item, ItemKind
from protocol.study import Lane, Study
from protocol.withdrawal import SUBJECTS, read_subjects

__all__ = ["MAX_COLUMNS", "MAX_TABLE_BYTES", "Content", "Entry", "check_batch"]

MAX_COLUMNS = 20_000
MAX_TABLE_BYTES = 2 << 30  # decoded
MAX_REPORT_BYTES = 1 << 20
_ROWS_AT_ONCE = 1 << 16
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,199}")
_ID = re.compile(r"[0-9a-f]{32}")
_WORD = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:-]{0,63}")

_TARGET: dict[str, pa.DataType] = {
    "int": pa.int64(),
    "float": pa.float64(),
    "string": pa.string(),
    "bool": pa.bool_(),
    "date": pa.date32(),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """One file for the lake: a plain name, and its bytes or its table."""

    name: str
    data: bytes | pa.Table


@dataclass(frozen=True, slots=True, kw_only=True)
class Content:
    """A checked batch. `report` keeps the numbers of the lane's report and drops any text."""

    entries: tuple[Entry, ...]
    rows: int
    files: int
    persons: int
    withheld: dict[str, int]
    report: dict[str, Any] = field(default_factory=dict)


def check_batch(study: Study, batch: Batch) -> Content:
    """Check a batch against the study under which it came.

    Raises:
        IntegrityError: `parcel.payload`: malformed ids, names, tables, files or counts.
        DisclosureRefused: `gate.undeclared`: well-formed, but the study does not declare it.
    """
    if not _ID.fullmatch(batch.batch_id) or batch.part < 0:
        raise IntegrityError("parcel.payload")
    _check_names(batch)
    entries: list[Entry] = []
    rows = files = documents = columns = 0
    report: dict[str, Any] = {}
    for item in batch.items:
        data: bytes | pa.Table = item.data
        if item.kind is ItemKind.TABLE:
            table = _table(study, item)
            columns = max(columns, table.num_columns)
            rows, data = rows + table.num_rows, table
        elif item.kind is ItemKind.DICOM:
            _check_dicom(study, item)
            files += 1
        elif item.kind is ItemKind.DOCUMENT:
            data = _document(study, item)
            documents += 1
        elif item.kind is ItemKind.SUBJECTS:
            _check_subjects(batch, item)
        else:
            report.update(_report(item))
        entries.append(Entry(name=item.name, data=data))
    if columns:
        report["curated_columns"] = columns
    if documents:
        report["curated_documents"] = documents
    persons = max((item.persons for item in batch.items), default=0)
    if persons < 0:
        raise IntegrityError("parcel.payload")
    return Content(
        entries=tuple(entries), rows=rows, files=files, persons=persons, withheld=_withheld(batch), report=report
    )


_SUFFIX: dict[ItemKind, Callable[[str], bool]] = {
    ItemKind.TABLE: lambda name: name.endswith(".parquet"),
    ItemKind.REPORT: lambda name: name.endswith(".json") and name != SUBJECTS,
    ItemKind.SUBJECTS: lambda name: name == SUBJECTS,
    ItemKind.DICOM: lambda name: not name.endswith((".parquet", ".json", ".ndjson")),
    ItemKind.DOCUMENT: lambda name: name.endswith((".json", ".ndjson")) and name not in ("report.json", SUBJECTS),
}


def _check_names(batch: Batch) -> None:
    seen: set[str] = set()
    for item in batch.items:
        suits = _SUFFIX.get(item.kind)  # a Flower message has no place in the lake
        folded = item.name.casefold()
        if suits is None or not _NAME.fullmatch(item.name) or not suits(folded) or folded in seen:
            raise IntegrityError("parcel.payload")
        seen.add(folded)


def _withheld(batch: Batch) -> dict[str, int]:
    if len(batch.withheld) > 100 or not all(_WORD.fullmatch(k) and n >= 0 for k, n in batch.withheld.items()):
        raise IntegrityError("parcel.payload")
    return dict(batch.withheld)


def _check_dicom(study: Study, item: Item) -> None:
    if not study.output.files:
        raise DisclosureRefused("gate.undeclared", "the study declares no files")
    if study.lane is not Lane.HARVEST and item.data[128:132] != b"DICM":  # raw files may be as old as they are
        raise IntegrityError("parcel.payload")


def _document(study: Study, item: Item) -> bytes:
    """FHIR as text that was written here: one resource, or one a line."""
    if not study.output.documents:
        raise DisclosureRefused("gate.undeclared", "the study declares no documents")
    lines = item.data.splitlines() if item.name.casefold().endswith(".ndjson") else [item.data]
    try:
        found = [json.loads(line) for line in lines if line.strip()]
        if not found or not all(isinstance(one, dict) and isinstance(one.get("resourceType"), str) for one in found):
            raise ValueError("no resource")
        return "\n".join(json.dumps(one, ensure_ascii=False, allow_nan=False) for one in found).encode()
    except (ValueError, RecursionError):
        raise IntegrityError("parcel.payload") from None


def _check_subjects(batch: Batch, item: Item) -> None:
    """Whom raw rows and files are about: each table's row, each file once."""
    told = {other.name: other for other in batch.items if other.kind in (ItemKind.TABLE, ItemKind.DICOM)}
    for name, who in read_subjects(item.data).items():
        other = told.get(name)
        if other is None or isinstance(who, list) is not (other.kind is ItemKind.TABLE):
            raise IntegrityError("parcel.payload")
        if isinstance(who, list) and len(who) != pq.read_metadata(pa.BufferReader(other.data)).num_rows:
            raise IntegrityError("parcel.payload")


def _report(item: Item) -> dict[str, Any]:
    if len(item.data) > MAX_REPORT_BYTES:
        raise IntegrityError("parcel.payload")
    try:
        value = json.loads(item.data)
    except (ValueError, RecursionError):
        raise IntegrityError("parcel.payload") from None
    if not isinstance(value, dict):
        raise IntegrityError("parcel.payload")
    return _numbers(value, depth=4)


def _numbers(value: dict[str, Any], depth: int) -> dict[str, Any]:
    """Numbers and flags under plain words: what the database and the dashboard may show."""
    kept: dict[str, Any] = {}
    for key, inner in list(value.items())[:500]:
        if not _WORD.fullmatch(key):
            continue
        if isinstance(inner, bool | int) or (isinstance(inner, float) and abs(inner) < 1e300):
            kept[key] = inner
        elif isinstance(inner, dict) and depth > 0:
            kept[key] = _numbers(inner, depth - 1)
    return kept


def _table(study: Study, item: Item) -> pa.Table:
    if not study.output.columns:
        raise DisclosureRefused("gate.undeclared", "the study declares no table")
    try:
        source = pq.ParquetFile(
            pa.BufferReader(item.data),
            thrift_string_size_limit=64 << 20,
            thrift_container_size_limit=1 << 20,
            arrow_extensions_enabled=False,
        )
        names = source.schema_arrow.names
        if len(names) > MAX_COLUMNS or len(set(names)) != len(names):
            raise IntegrityError("parcel.payload")
        target = pa.schema([(name, _declared(study, name)) for name in names])
        return pa.Table.from_batches(_cast(source, target), schema=target)
    except (pa.ArrowException, OSError, ValueError, OverflowError):
        raise IntegrityError("parcel.payload", "a table is not well-formed") from None


def _declared(study: Study, name: str) -> pa.DataType:
    column = study.output.column(name)
    if column is None:
        raise DisclosureRefused("gate.undeclared", "the table holds a column that the study does not declare")
    return _TARGET[column.dtype]


def _cast(source: pq.ParquetFile, target: pa.Schema) -> Iterator[pa.RecordBatch]:
    size = 0
    for batch in source.iter_batches(batch_size=_ROWS_AT_ONCE):
        size += batch.nbytes
        if size > MAX_TABLE_BYTES:
            raise IntegrityError("parcel.payload", "a table is too large when decoded")
        columns = [_column(array, into.type) for array, into in zip(batch.columns, target, strict=True)]
        yield pa.RecordBatch.from_arrays(columns, schema=target)


def _column(array: pa.Array, into: pa.DataType) -> pa.Array:
    """A column in its declared type; a cast that would lose a value is refused (`ArrowInvalid`)."""
    if pa.types.is_dictionary(array.type):
        array = array.dictionary_decode()
    kind = array.type
    if pa.types.is_null(kind) or kind == into:
        return pc.cast(array, into)
    text = pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind)
    number = pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_decimal(kind)
    suits = {
        pa.int64(): number,
        pa.float64(): number,
        pa.string(): text,
        pa.bool_(): False,
        pa.date32(): text or pa.types.is_date(kind) or pa.types.is_timestamp(kind),
    }
    if not suits[into]:
        raise DisclosureRefused("gate.undeclared", "a column is not of the declared type")
    return pc.cast(array, into, safe=into != pa.float64())  # integers above 2**53 may lose bits as floats
