"""The curated lake: `STUDY/FOLDER/` with Parquet tables, DICOM files, documents and the lane's report.

Everything is encrypted under the study's own lake key (`sealed.py`): tables as `NAME.parquet`, the rest as
`NAME.sealed`. Where the files lie, and how a batch is whole or absent, is `shelves.py`: `vault/lake/`, or a bucket. A
study ends with its key. Nothing here reads a parcel.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator
from functools import partial
from pathlib import Path

import pyarrow as pa

from central.objects import bucket_of
from central.vault import sealed
from central.vault.contents import Entry
from central.vault.keys import StudyKeys
from central.vault.shelves import InBucket, InFolder, Shelves, Write

__all__ = ["Lake", "read_tables"]

_TABLE, _SEALED = ".parquet", ".sealed"
_PREDICTIONS = "predictions"


class Lake:
    """Ciphertext alone, under its studies' names.

    Args:
        shelves: where it lies; a path is a folder of this machine, made when absent.
        keys: the lake keys, which are made at a study's first write.
    """

    def __init__(self, shelves: Shelves | Path, keys: StudyKeys) -> None:
        self._shelves: Shelves = InFolder(shelves) if isinstance(shelves, Path) else shelves
        self._keys = keys

    @classmethod
    def of(cls, state: Path) -> Lake:
        """The lake of a vault's own folder: in the centre's bucket where it has one, or here.

        Raises:
            ConfigurationError: `config.invalid`: see `central.objects.bucket_of`.
        """
        bucket = bucket_of(state.parent)
        return cls(state / "lake" if bucket is None else InBucket(bucket), StudyKeys(state / "lake-keys"))

    @property
    def root(self) -> Path:
        """The folder of a lake that lies in one."""
        if not isinstance(self._shelves, InFolder):
            raise TypeError("this lake lies in a bucket")
        return self._shelves.root

    def recover(self) -> int:
        """Remove what an earlier process left half-written; returns how many folders and files."""
        self._keys.recover()
        return self._shelves.recover()

    def write(self, study_id: str, folder: str, entries: Iterable[Entry]) -> str:
        """Write checked entries durably as one folder; returns its path relative to the lake.

        A folder that is there already is one the database does not know (the caller checked): it is replaced.

        Raises:
            StorageError: the disk refused; the lake is unchanged.
            StudyRefused: `study.erased`.
        """
        key, path = self._keys.made(study_id).to_bytes(), f"{study_id}/{folder}"
        self._shelves.place(path, (_file(path, entry, key) for entry in entries))
        return path

    def write_prediction(self, study_id: str, prediction_id: str, table: pa.Table) -> str:
        """Write a table of predictions durably; returns its path relative to the lake.

        Raises:
            StorageError: the disk refused; the lake is unchanged.
            StudyRefused: `study.erased`.
        """
        path = f"{study_id}/{_PREDICTIONS}/{prediction_id}{_TABLE}"
        key = self._keys.made(study_id).to_bytes()
        self._shelves.put(path, lambda stream: sealed.write_table(table, stream, key=key, place=path))
        return path

    def names(self, path: str) -> list[str]:
        """The entries of a folder, by name.

        Raises:
            IntegrityError: `lake.damaged` when there is no such folder.
            StorageError: `storage.failed`.
        """
        try:
            found = self._shelves.names(path)
        except OSError as error:
            raise sealed.named(error) from None
        return sorted(name.removesuffix(_SEALED) for name in found)

    def tables(self, path: str) -> list[pa.Table]:
        """The tables of a folder, in the order of their names.

        Raises:
            IntegrityError: `lake.damaged`; StorageError: `storage.failed`.
            StudyRefused: `study.erased`.
        """
        return read_tables(*self.reading(path))

    def reading(self, path: str) -> tuple[Shelves, str, bytes]:
        """What `read_tables` takes for a folder, also in another process. Raises: StudyRefused."""
        return self._shelves, path, self._key(path)

    def table(self, path: str) -> pa.Table:
        """One table. Raises as `tables`."""
        return sealed.read_table(lambda: self._shelves.open(path), key=self._key(path), place=path)

    def read(self, path: str) -> bytes:
        """The bytes of any other entry. Raises as `tables`."""
        place = f"{path}{_SEALED}"
        return sealed.read_object(lambda: self._shelves.open(place), key=self._key(path), place=path)

    def entries(self, path: str) -> Iterator[Entry]:
        """What a folder holds, one after the other, as `write` takes it. Raises as `tables`."""
        for name in self.names(path):
            at = f"{path}/{name}"
            yield Entry(name=name, data=self.table(at) if name.endswith(_TABLE) else self.read(at))

    def folders(self, study_id: str) -> list[str]:
        """A study's folders, by name."""
        return self._shelves.folders(study_id)

    def sweep(self, study_id: str, known: Collection[str], keep: str) -> int:
        """Remove a study's folders that nothing names any more; returns how many went.

        Args:
            known: paths relative to the lake that stay.
            keep: so do folders whose names begin with this.
        """
        gone = 0
        for name in self.folders(study_id):
            if name != _PREDICTIONS and not name.startswith(keep) and f"{study_id}/{name}" not in known:
                self._shelves.remove(f"{study_id}/{name}")
                gone += 1
        return gone

    def drop_predictions(self, study_id: str) -> None:
        """Remove all tables of predictions of a study. Repeatable."""
        self._shelves.remove(f"{study_id}/{_PREDICTIONS}")

    def destroy_key(self, study_id: str) -> None:
        """Make all that is kept of a study, here and in any copy, unreadable for good. Repeatable."""
        self._keys.destroy(study_id)

    def drop(self, study_id: str) -> None:
        """Remove a study's files. Repeatable."""
        self._shelves.remove(study_id)

    def _key(self, path: str) -> bytes:
        return self._keys.load(path.partition("/")[0]).to_bytes()


def read_tables(shelves: Shelves, path: str, key: bytes) -> list[pa.Table]:
    """The tables of a folder, in the order of their names.

    Raises:
        IntegrityError: `lake.damaged`; StorageError: `storage.failed`.
    """
    try:
        names = sorted(name for name in shelves.names(path) if name.endswith(_TABLE))
    except OSError as error:
        raise sealed.named(error) from None
    places = (f"{path}/{name}" for name in names)
    return [sealed.read_table(partial(shelves.open, place), key=key, place=place) for place in places]


def _file(path: str, entry: Entry, key: bytes) -> tuple[str, Write]:
    """Under which name an entry is kept, and what writes it."""
    place, data = f"{path}/{entry.name}", entry.data
    if isinstance(data, pa.Table):
        return entry.name, lambda stream: sealed.write_table(data, stream, key=key, place=place)
    return f"{entry.name}{_SEALED}", lambda stream: sealed.write_object(data, stream, key=key, place=place)
