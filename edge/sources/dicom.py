"""DICOM folders: a fixed walk that never leaves the folder, and the patient of one file.

Used by `DatasetSource` alone. Files are opened without following links; names of files never go on, since hospital
file names may carry patients' names. Nothing here logs or keeps an id.
"""

from __future__ import annotations

import os
import stat
from collections import Counter
from collections.abc import Iterable, Iterator
from io import BytesIO
from pathlib import Path
from typing import IO, Any

from privacy.deid.pseudonym import normalise_id
from protocol.errors import InputError, StorageError
from protocol.parcel import MAX_ITEM_BYTES

__all__ = ["grouped", "patient_of", "read", "walk"]

_TAGS = ["SOPClassUID", "PatientID"]


def walk(root: Path, withheld: Counter[str]) -> Iterator[Path]:
    """All regular files below `root`, folder by folder in name order.

    Symbolic links are not followed: what lies inside is met on its own path; one that leads out of `root`, and
    anything that is neither file nor folder, is counted as unreadable.

    Raises:
        InputError: `input.dicom` when `root` is not a folder.
        StorageError: `storage.failed` when a folder cannot be listed.
    """
    base = root.resolve()
    if not base.is_dir():
        raise InputError("input.dicom", "the dataset's DICOM folder does not exist")
    try:
        entries = sorted(os.scandir(base), key=lambda entry: os.fsencode(entry.name))
        yield from _visit(entries, base, withheld)
    except OSError as error:
        raise StorageError("storage.failed", f"the DICOM folder cannot be read: {error.strerror}") from None


def _visit(entries: Iterable[os.DirEntry[str]], base: Path, withheld: Counter[str]) -> Iterator[Path]:
    for entry in entries:
        path = Path(entry.path)
        if entry.is_symlink():
            withheld["unreadable"] += _leaves(path, base)
        elif entry.is_dir(follow_symlinks=False):
            below = sorted(os.scandir(entry.path), key=lambda inner: os.fsencode(inner.name))
            yield from _visit(below, base, withheld)
        elif entry.is_file(follow_symlinks=False):
            yield path
        else:
            withheld["unreadable"] += 1


def _leaves(link: Path, base: Path) -> bool:
    try:
        return not link.resolve().is_relative_to(base)
    except (OSError, RuntimeError):  # a loop
        return True


def grouped(root: Path, paths: Iterable[Path]) -> list[Path]:
    """The same files, those of one patient together, in the order in which patients are first met.

    Reads headers only. A file whose patient cannot be read stays in its place.
    """
    groups: dict[str, list[Path]] = {}
    for path in paths:
        with _open(root, path) as file:
            patient = patient_of(file) if file is not None else None
        key = f"path {path}" if patient is None else f"id {normalise_id(patient)}"
        groups.setdefault(key, []).append(path)
    return [path for group in groups.values() for path in group]


def read(root: Path, path: Path) -> tuple[bytes | None, str]:
    """The bytes of a file and its PatientID ("" when it names none); (None, "") when it is not usable DICOM."""
    with _open(root, path) as file:
        if file is None or os.fstat(file.fileno()).st_size > MAX_ITEM_BYTES:
            return None, ""
        data = file.read(MAX_ITEM_BYTES + 1)
    patient = patient_of(BytesIO(data))
    return (None, "") if patient is None else (data, patient)


def patient_of(file: IO[bytes]) -> str | None:
    """The PatientID of a DICOM object: "" when absent, empty or multi-valued; None when it does not parse.

    A file without the preamble is read as well; one without SOP Class UID (a DICOMDIR, a text) is not.
    """
    import pydicom

    try:
        dataset = pydicom.dcmread(file, force=True, stop_before_pixels=True, specific_tags=_TAGS)
        known = str(dataset.get("SOPClassUID") or "")
        value: Any = dataset.get("PatientID")
    except Exception:  # a hostile file may raise anything from inside the parser: it is set aside and counted
        return None
    if not known:
        return None
    return str(value) if isinstance(value, str) else ""


class _Nothing:
    """Stands for a file that cannot be opened."""

    def __enter__(self) -> None:
        return None

    def __exit__(self, *exc: object) -> None:
        return None


def _open(root: Path, path: Path) -> IO[bytes] | _Nothing:
    """Open without following a link at the last step, and only what still lies below `root`."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:
        return _Nothing()
    inside = Path(f"/proc/self/fd/{descriptor}").resolve().is_relative_to(root.resolve())
    if not inside or not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        return _Nothing()
    return os.fdopen(descriptor, "rb")
