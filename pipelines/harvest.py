"""Lane 1, central harvesting: the selected records as they are, sealed later to the study's key.

Only columns that the study names twice leave: as what it reads (`dataset.columns`) and as what may leave
(`output.columns`); DICOM files only if `output.files` says so. Consent and selection were applied by the source.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from pipelines import Gate, Job, Source
from pipelines.records import parquet, typed
from privacy.deid.pseudonym import normalise_id
from protocol.errors import InputError
from protocol.parcel import Item, ItemKind, canonical_json
from protocol.validation import first_fault

if TYPE_CHECKING:
    import pandas as pd
    import pyarrow as pa

__all__ = ["Parameters", "run"]


class Parameters(BaseModel):
    """Parameters of pipeline `harvest` 1: at most so many rows go into one table."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)
    rows_per_part: int = Field(50_000, ge=1, le=10_000_000)


def run(job: Job, source: Source, gate: Gate) -> None:
    """Put the declared columns (`records.parquet`, `records-2.parquet`, ...), the files, and a report.

    Raises:
        InputError: `input.study` for parameters or columns that make no sense; `input.column-missing`;
            `input.table` when a value is not of its declared type. Nothing was put by then.
    """
    parameters = _parameters(job)
    names = tuple(name for name in job.study.dataset.columns if job.study.output.column(name))
    frame = source.table() if names else None
    if names and frame is None:
        raise InputError("input.column-missing", f"the dataset has no table for column {names[0]!r}")
    if not names and not job.study.output.files:
        raise InputError("input.study", "output: no column of dataset.columns is declared")
    rows, persons = (0, 0) if frame is None else _put_rows(job, frame, names, gate, parameters)
    files = _put_files(source, gate) if job.study.output.files else 0
    report = {"columns": len(names), "rows": rows, "persons": persons, "files": files}
    gate.put(Item(kind=ItemKind.REPORT, name="report.json", data=canonical_json(report)))


def _parameters(job: Job) -> Parameters:
    try:
        return Parameters.model_validate(job.study.pipeline.parameters)
    except ValidationError as error:
        raise InputError("input.study", first_fault(error, "pipeline", "parameters")) from None


def _put_rows(
    job: Job, frame: pd.DataFrame, names: tuple[str, ...], gate: Gate, parameters: Parameters
) -> tuple[int, int]:
    columns: dict[str, pa.Array] = {}
    for name in names:
        declared = job.study.output.column(name)
        if name not in frame.columns or declared is None:
            raise InputError("input.column-missing", f"the table has no column {name!r}")
        columns[name] = typed(frame[name], declared)
    patient = job.column("patient")
    ids = frame[patient].astype(str).map(normalise_id) if patient in frame.columns else None
    size = parameters.rows_per_part
    for number, start in enumerate(range(0, len(frame), size), 1):
        rows = min(size, len(frame) - start)
        gate.put(
            Item(
                kind=ItemKind.TABLE,
                name="records.parquet" if number == 1 else f"records-{number}.parquet",
                data=parquet({name: values.slice(start, rows) for name, values in columns.items()}),
                persons=rows if ids is None else int(ids.iloc[start : start + rows].nunique()),
                rows=rows,
            )
        )
        gate.progress(start + rows, len(frame))
    return len(frame), len(frame) if ids is None else int(ids.nunique())


def _put_files(source: Source, gate: Gate) -> int:
    """Raw DICOM files one by one; an image object without pixels is an empty shell: set aside and counted."""
    count = 0
    for file in source.files():
        if _is_shell(file.data):
            gate.withhold("unreadable")
            continue
        count += 1
        gate.put(Item(kind=ItemKind.DICOM, name=file.name, data=file.data, persons=1, rows=1))
        gate.progress(count, 0)
    return count


def _is_shell(data: bytes) -> bool:
    """True for an image without its pixels, and for what does not parse at all."""
    from io import BytesIO

    import pydicom

    from privacy.deid.shells import is_shell

    try:
        dataset = pydicom.dcmread(BytesIO(data), force=True, defer_size=1024)
        return "SOPClassUID" not in dataset or is_shell(dataset)
    except Exception:  # a hostile file may raise anything from inside the parser: it is set aside and counted
        return True
