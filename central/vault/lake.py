"""The curated lake: `lake/<study id>/<folder>/` with Parquet tables, DICOM files, documents and the lane's report.

Everything is encrypted under the study's own lake key (`sealed.py`): tables as `NAME.parquet`, the rest as
`NAME.sealed`. A batch is whole or absent: written into a temporary folder, flushed, renamed. A study ends with its
key. Nothing here reads a parcel.
"""

from __future__ import annotations

import os
import secrets
import shutil
from collections.abc import Callable, Collection, Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

import pyarrow as pa

from central.vault import sealed
from central.vault.contents import Entry
from central.vault.keys import StudyKeys
from protocol.durable import sync_folder
from protocol.errors import StorageError

__all__ = ["Lake"]

_TEMPORARY = ".tmp"
_TABLE, _SEALED = ".parquet", ".sealed"
_PREDICTIONS = "predictions"


class Lake:
    """Folders of mode 0700 and files of mode 0600 under one root, all of them ciphertext.

    Args:
        root: made when absent.
        keys: the lake keys, which are made at a study's first write.
    """

    def __init__(self, root: Path, keys: StudyKeys) -> None:
        self.root = root
        self._keys = keys
        root.mkdir(parents=True, exist_ok=True, mode=0o700)

    @classmethod
    def of(cls, state: Path) -> Lake:
        """The lake of a vault's own folder."""
        return cls(state / "lake", StudyKeys(state / "lake-keys"))

    def recover(self) -> int:
        """Remove what an earlier process left half-written; returns how many folders and files."""
        self._keys.recover()
        leftovers = [*self.root.glob(f"*/*{_TEMPORARY}"), *self.root.glob(f"*/*/*{_TEMPORARY}")]
        for leftover in leftovers:
            if leftover.is_dir():
                shutil.rmtree(leftover)
            else:
                leftover.unlink()
        return len(leftovers)

    def write(self, study_id: str, folder: str, entries: Iterable[Entry]) -> str:
        """Write checked entries durably as one folder; returns its path relative to the lake.

        A folder that is there already is one the database does not know (the caller checked): it is replaced.

        Raises:
            StorageError: the disk refused; the lake is unchanged.
            StudyRefused: `study.erased`.
        """
        key, path = self._keys.made(study_id).to_bytes(), f"{study_id}/{folder}"
        study, target = self.root / study_id, self.root / path
        half = study / f"{folder}.{secrets.token_hex(4)}{_TEMPORARY}"
        with _disk(half):
            study.mkdir(exist_ok=True, mode=0o700)
            half.mkdir(mode=0o700)
            for entry in entries:
                self._put(half, path, entry, key)
            sync_folder(half)
            if target.exists():
                shutil.rmtree(target)
            os.rename(half, target)
            sync_folder(study)
            sync_folder(self.root)
        return path

    def write_prediction(self, study_id: str, prediction_id: str, table: pa.Table) -> str:
        """Write a table of predictions durably; returns its path relative to the lake.

        Raises:
            StorageError: the disk refused; the lake is unchanged.
            StudyRefused: `study.erased`.
        """
        path = f"{study_id}/{_PREDICTIONS}/{prediction_id}{_TABLE}"
        key, target = self._keys.made(study_id).to_bytes(), self.root / path
        half = target.with_name(f"{prediction_id}{_TEMPORARY}")
        with _disk(half):
            target.parent.mkdir(exist_ok=True, mode=0o700)
            with _new(half) as stream:
                sealed.write_table(table, stream, key=key, place=path)
            os.rename(half, target)
            sync_folder(target.parent)
        return path

    def names(self, path: str) -> list[str]:
        """The entries of a folder, by name.

        Raises:
            IntegrityError: `lake.damaged` when there is no such folder.
            StorageError: `storage.failed`.
        """
        try:
            found = [file.name for file in (self.root / path).iterdir()]
        except OSError as error:
            raise sealed.named(error) from None
        return sorted(name.removesuffix(_SEALED) for name in found)

    def tables(self, path: str) -> list[pa.Table]:
        """The tables of a folder, in the order of their names.

        Raises:
            IntegrityError: `lake.damaged`; StorageError: `storage.failed`.
            StudyRefused: `study.erased`.
        """
        return [self.table(f"{path}/{name}") for name in self.names(path) if name.endswith(_TABLE)]

    def table(self, path: str) -> pa.Table:
        """One table. Raises as `tables`."""
        return sealed.read_table(self.root / path, key=self._key(path), place=path)

    def read(self, path: str) -> bytes:
        """The bytes of any other entry. Raises as `tables`."""
        return sealed.read_object(self.root / f"{path}{_SEALED}", key=self._key(path), place=path)

    def entries(self, path: str) -> Iterator[Entry]:
        """What a folder holds, one after the other, as `write` takes it. Raises as `tables`."""
        for name in self.names(path):
            at = f"{path}/{name}"
            yield Entry(name=name, data=self.table(at) if name.endswith(_TABLE) else self.read(at))

    def folders(self, study_id: str) -> list[str]:
        """A study's folders, by name."""
        study = self.root / study_id
        return sorted(path.name for path in study.iterdir()) if study.is_dir() else []

    def sweep(self, study_id: str, known: Collection[str], keep: str) -> int:
        """Remove a study's folders that nothing names any more; returns how many went.

        Args:
            known: paths relative to the lake that stay.
            keep: so do folders whose names begin with this.
        """
        gone = 0
        for name in self.folders(study_id):
            if name != _PREDICTIONS and not name.startswith(keep) and f"{study_id}/{name}" not in known:
                _remove(self.root / study_id / name)
                gone += 1
        return gone

    def drop_predictions(self, study_id: str) -> None:
        """Remove all tables of predictions of a study. Repeatable."""
        _remove(self.root / study_id / _PREDICTIONS)

    def destroy_key(self, study_id: str) -> None:
        """Make all that is kept of a study, here and in any copy, unreadable for good. Repeatable."""
        self._keys.destroy(study_id)

    def drop(self, study_id: str) -> None:
        """Remove a study's files. Repeatable."""
        _remove(self.root / study_id)

    def _key(self, path: str) -> bytes:
        return self._keys.load(path.partition("/")[0]).to_bytes()

    @staticmethod
    def _put(half: Path, path: str, entry: Entry, key: bytes) -> None:
        place = f"{path}/{entry.name}"
        is_table = isinstance(entry.data, pa.Table)
        with _new(half / (entry.name if is_table else f"{entry.name}{_SEALED}")) as stream:
            write: Callable[..., None] = sealed.write_table if is_table else sealed.write_object
            write(entry.data, stream, key=key, place=place)


@contextmanager
def _new(path: Path) -> Iterator[BinaryIO]:
    """A new file of mode 0600, durable at the end."""
    handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    with os.fdopen(handle, "wb") as stream:
        yield stream
        stream.flush()
        os.fsync(stream.fileno())


@contextmanager
def _disk(half: Path) -> Iterator[None]:
    """Name the disk's errors; whatever breaks off leaves nothing half-written."""
    try:
        yield
    except BaseException as error:
        with suppress(OSError):
            _remove(half)
        if not isinstance(error, OSError):
            raise
        raise StorageError.of(error) from error


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
