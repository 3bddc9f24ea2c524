"""The curated lake: `lake/<study id>/<batch id>/` with Parquet tables, DICOM files and the lane's report.

A batch is whole or absent: written into a temporary folder, flushed, renamed. Nothing here reads a key or a parcel.
"""

from __future__ import annotations

import errno
import os
import secrets
import shutil
from pathlib import Path

from central.vault.contents import Content
from protocol.errors import StorageError

__all__ = ["Lake"]

_TEMPORARY = ".tmp"


class Lake:
    """Folders of mode 0700 and files of mode 0600 under one root."""

    def __init__(self, root: Path) -> None:
        self.root = root
        root.mkdir(parents=True, exist_ok=True, mode=0o700)

    def recover(self) -> int:
        """Remove what an earlier process left half-written; returns how many folders and files."""
        leftovers = [*self.root.glob(f"*/*{_TEMPORARY}"), *self.root.glob(f"*/predictions/*{_TEMPORARY}")]
        for leftover in leftovers:
            if leftover.is_dir():
                shutil.rmtree(leftover)
            else:
                leftover.unlink()
        return len(leftovers)

    def write(self, study_id: str, batch_id: str, content: Content) -> str:
        """Write a checked batch durably; returns its path relative to the lake.

        A folder of this batch that is there already is one the database does not know (the caller checked): it is
        replaced.

        Raises:
            StorageError: the disk refused; the lake is unchanged.
        """
        study = self.root / study_id
        target = study / batch_id
        half = study / f"{batch_id}.{secrets.token_hex(4)}{_TEMPORARY}"
        try:
            study.mkdir(exist_ok=True, mode=0o700)
            half.mkdir(mode=0o700)
            for entry in content.entries:
                _write(half / entry.name, entry.data)
            _fsync(half)
            if target.exists():
                shutil.rmtree(target)
            os.rename(half, target)
            _fsync(study)
            _fsync(self.root)
        except OSError as error:
            shutil.rmtree(half, ignore_errors=True)
            raise StorageError("storage.full" if error.errno == errno.ENOSPC else "storage.failed") from error
        return f"{study_id}/{batch_id}"

    def write_prediction(self, study_id: str, prediction_id: str, parquet: bytes) -> str:
        """Write a table of predictions durably; returns its path relative to the lake.

        Raises:
            StorageError: the disk refused; the lake is unchanged.
        """
        folder = self.root / study_id / "predictions"
        half = folder / f"{prediction_id}{_TEMPORARY}"
        try:
            folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            _write(half, parquet)
            os.rename(half, folder / f"{prediction_id}.parquet")
            _fsync(folder)
        except OSError as error:
            half.unlink(missing_ok=True)
            raise StorageError("storage.full" if error.errno == errno.ENOSPC else "storage.failed") from error
        return f"{study_id}/predictions/{prediction_id}.parquet"

    def tables(self, path: str) -> list[Path]:
        """The Parquet tables of a batch, by name."""
        return sorted((self.root / path).glob("*.parquet"))


def _write(path: Path, data: bytes) -> None:
    handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
    with os.fdopen(handle, "wb") as stream:
        stream.write(data)
        stream.flush()
        os.fsync(stream.fileno())


def _fsync(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
