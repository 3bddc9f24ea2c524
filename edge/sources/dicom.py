"""DICOM folders: the patient of one file, and the files of one patient together.

Used by `DatasetSource` alone. Nothing here logs or keeps an id.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from io import BytesIO
from pathlib import Path
from typing import IO, Any

from edge.sources.folder import MAX_FILE_BYTES, open_inside
from privacy.deid.inflated import HEAD_BYTES, check_inflated, is_deflated
from privacy.deid.pseudonym import normalise_id

__all__ = ["grouped", "patient_of", "read"]

_TAGS = ["SOPClassUID", "PatientID"]


def grouped(root: Path, paths: Iterable[Path]) -> list[Path]:
    """The same files, those of one patient together, in the order in which patients are first met.

    Reads headers only. A file whose patient cannot be read stays in its place.
    """
    groups: dict[str, list[Path]] = {}
    for path in paths:
        with open_inside(root, path) as file:
            patient = patient_of(file) if file is not None else None
        key = f"path {path}" if patient is None else f"id {normalise_id(patient)}"
        groups.setdefault(key, []).append(path)
    return [path for group in groups.values() for path in group]


def read(root: Path, path: Path) -> tuple[bytes | None, str]:
    """The bytes of a file and its PatientID ("" when it names none); (None, "") when it is not usable DICOM.

    Nor is one that the disk does not give, in whole or in part.
    """
    try:
        with open_inside(root, path) as file:
            size = MAX_FILE_BYTES + 1 if file is None else os.fstat(file.fileno()).st_size
            if file is None or size > MAX_FILE_BYTES:
                return None, ""
            data = file.read(size)  # never the bound: so much memory would be taken first
    except OSError:
        return None, ""
    patient = patient_of(BytesIO(data))
    return (None, "") if patient is None else (data, patient)


def patient_of(file: IO[bytes]) -> str | None:
    """The PatientID of a DICOM object: "" when absent, empty or multi-valued; None when it does not parse.

    A file without the preamble is read as well; one without SOP Class UID (a DICOMDIR, a text) is not.
    """
    import pydicom

    try:
        if is_deflated(head := file.read(HEAD_BYTES)):
            check_inflated(head + file.read())
        file.seek(0)
        dataset = pydicom.dcmread(file, force=True, stop_before_pixels=True, specific_tags=_TAGS)
        known = str(dataset.get("SOPClassUID") or "")
        value: Any = dataset.get("PatientID")
    except Exception:  # a hostile file may raise anything from inside the parser: it is set aside and counted
        return None
    if not known:
        return None
    return str(value) if isinstance(value, str) else ""
