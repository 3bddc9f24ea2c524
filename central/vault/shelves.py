"""Where the files of the lake lie: a folder of this machine, or a bucket. Neither knows what the bytes mean.

A batch is `STUDY/FOLDER/NAME`. In a folder it is whole or absent by a rename. A bucket has no rename: there a batch is
its row's, which the database gets once all its objects are there; what a cut-off writing left, has no row and is
replaced by the next, or swept. Each object is made once (`central.objects`).
"""

from __future__ import annotations

import errno
import os
import secrets
import shutil
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from pathlib import Path
from typing import BinaryIO, Protocol

from central.objects import Bucket
from protocol.durable import sync_folder
from protocol.errors import ConflictError, StorageError

__all__ = ["InBucket", "InFolder", "Shelves", "Write"]

_TEMPORARY = ".tmp"
Write = Callable[[BinaryIO], None]


class Shelves(Protocol):
    """What the lake asks of either. Paths are relative to the lake, with `/`."""

    def recover(self) -> int:
        """Remove what was left half-written; returns how many."""
        ...

    def place(self, path: str, files: Iterable[tuple[str, Write]]) -> None:
        """Make the folder `path` of these files, durably, in the place of what is there.

        Raises:
            StorageError: what was there may be gone, the new is not there.
        """
        ...

    def put(self, path: str, write: Write) -> None:
        """Make one file, durably. Raises: StorageError."""
        ...

    def names(self, path: str) -> list[str]:
        """The files of a folder. Raises: OSError (ENOENT when there is no such folder), StorageError."""
        ...

    def folders(self, study_id: str) -> list[str]:
        """A study's folders, by name."""
        ...

    def open(self, path: str) -> AbstractContextManager[BinaryIO]:
        """A file, to be read. Raises: OSError (ENOENT when there is none), StorageError."""
        ...

    def remove(self, path: str) -> None:
        """Remove a file or all of a folder. Repeatable."""
        ...


class InFolder:
    """Folders of mode 0700 and files of mode 0600 under one root."""

    def __init__(self, root: Path) -> None:
        self.root = root
        root.mkdir(parents=True, exist_ok=True, mode=0o700)

    def recover(self) -> int:
        """See `Shelves`."""
        leftovers = [*self.root.glob(f"*/*{_TEMPORARY}"), *self.root.glob(f"*/*/*{_TEMPORARY}")]
        for leftover in leftovers:
            if leftover.is_dir():
                shutil.rmtree(leftover)
            else:
                leftover.unlink()
        return len(leftovers)

    def place(self, path: str, files: Iterable[tuple[str, Write]]) -> None:
        """See `Shelves`."""
        target = self.root / path
        half = target.with_name(f"{target.name}.{secrets.token_hex(4)}{_TEMPORARY}")
        with _disk(half):
            target.parent.mkdir(exist_ok=True, mode=0o700)
            half.mkdir(mode=0o700)
            for name, write in files:
                with _new(half / name) as stream:
                    write(stream)
            sync_folder(half)
            if target.exists():
                shutil.rmtree(target)
            os.rename(half, target)
            sync_folder(target.parent)
            sync_folder(self.root)

    def put(self, path: str, write: Write) -> None:
        """See `Shelves`."""
        target = self.root / path
        half = target.with_suffix(_TEMPORARY)
        with _disk(half):
            target.parent.mkdir(exist_ok=True, mode=0o700)
            with _new(half) as stream:
                write(stream)
            os.rename(half, target)
            sync_folder(target.parent)

    def names(self, path: str) -> list[str]:
        """See `Shelves`."""
        return [file.name for file in (self.root / path).iterdir()]

    def folders(self, study_id: str) -> list[str]:
        """See `Shelves`."""
        study = self.root / study_id
        return sorted(path.name for path in study.iterdir()) if study.is_dir() else []

    def open(self, path: str) -> AbstractContextManager[BinaryIO]:
        """See `Shelves`."""
        return open(self.root / path, "rb")

    def remove(self, path: str) -> None:
        """See `Shelves`."""
        _remove(self.root / path)


class InBucket:
    """Objects under `lake/` of a bucket."""

    def __init__(self, bucket: Bucket, prefix: str = "lake/") -> None:
        self._bucket, self._prefix = bucket, prefix

    def recover(self) -> int:
        """See `Shelves`: an object is whole or absent."""
        self._bucket.check()
        return 0

    def place(self, path: str, files: Iterable[tuple[str, Write]]) -> None:
        """See `Shelves`."""
        place = f"{self._prefix}{path}/"
        self._bucket.clear(place)
        try:
            for name, write in files:
                with self._bucket.new(place + name) as stream:
                    write(stream)
        except BaseException as error:
            with suppress(StorageError):
                self._bucket.clear(place)
            raise _refused(error) from error

    def put(self, path: str, write: Write) -> None:
        """See `Shelves`."""
        try:
            with self._bucket.new(self._prefix + path) as stream:
                write(stream)
        except BaseException as error:
            raise _refused(error) from error

    def names(self, path: str) -> list[str]:
        """See `Shelves`."""
        place = f"{self._prefix}{path}/"
        found = [name.removeprefix(place) for name in self._bucket.names(place)]
        if not found:
            raise FileNotFoundError(errno.ENOENT, "no such folder")
        return found

    def folders(self, study_id: str) -> list[str]:
        """See `Shelves`."""
        place = f"{self._prefix}{study_id}/"
        return sorted({name.removeprefix(place).partition("/")[0] for name in self._bucket.names(place)})

    def open(self, path: str) -> AbstractContextManager[BinaryIO]:
        """See `Shelves`."""
        return self._bucket.open(self._prefix + path)

    def remove(self, path: str) -> None:
        """See `Shelves`."""
        self._bucket.clear(f"{self._prefix}{path}/")
        self._bucket.remove(self._prefix + path)


def _refused(error: BaseException) -> BaseException:
    """Another writer at the same place is a fault of the store to whoever asked; a full temporary disk too."""
    if isinstance(error, ConflictError):
        return StorageError("storage.failed", "another process writes to the same lake")
    if isinstance(error, OSError):
        return StorageError.of(error)
    return error


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
