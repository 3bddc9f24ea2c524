"""Making files durable, one or many at once, whole under their names: what both sides' disks stand on.

Syncing many small files one by one costs a flush of the device for each; the kernel's syncfs(2) writes all of a file
system's and flushes once. It reports errors since Linux 5.8: before that, and for few files, each is synced by itself.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import platform
import re
import secrets
from collections.abc import Mapping, Sequence
from pathlib import Path

from protocol.errors import ConflictError

__all__ = ["TEMPORARY", "create_file", "sync_files", "sync_folder", "write_file", "write_files"]

TEMPORARY = ".tmp-"  # begins the names of files that are not whole yet: a crash may leave one

_FEW = 3  # not more than this: each by itself, which waits for nobody else's bytes
_libc = ctypes.CDLL(None, use_errno=True)


def sync_folder(folder: Path) -> None:
    """Make the names in a folder durable.

    Raises:
        OSError: they may not be.
    """
    _sync(folder, os.O_RDONLY | os.O_DIRECTORY)


def sync_files(paths: Sequence[Path]) -> None:
    """Make the bytes of files of one folder durable; when it returns, all of them are.

    Raises:
        OSError: some may not be.
    """
    if len(paths) > _FEW and _reports_errors():
        handle = os.open(paths[0].parent, os.O_RDONLY | os.O_DIRECTORY)
        try:
            if _libc.syncfs(handle) < 0:
                number = ctypes.get_errno()
                raise OSError(number, os.strerror(number))
        finally:
            os.close(handle)
    else:
        for path in paths:
            _sync(path, os.O_RDONLY)


def create_file(path: Path, data: bytes, mode: int = 0o600) -> None:
    """Write a file that is not there yet, durably: beside, then linked into place. A crash leaves no half of one.

    Raises:
        ConflictError: `conflict.exists`; the file there is left as it is.
        OSError: there is no new file.
    """
    part = path.with_name(f".{path.name}.{secrets.token_hex(4)}.part")
    fd = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, mode)
    try:
        with open(fd, "wb") as file:
            os.fchmod(fd, mode)
            file.write(data)
            file.flush()
            os.fsync(fd)
        os.link(part, path)
    except FileExistsError:
        raise ConflictError("conflict.exists", f"{path} exists") from None
    finally:
        with contextlib.suppress(FileNotFoundError):
            part.unlink()
    sync_folder(path.parent)


def write_file(path: Path, data: bytes) -> None:
    """Replace a file as a whole, durably, mode 0600: temporary, fsync, rename, fsync of the folder.

    Raises:
        OSError: the old file, if any, is untouched and no temporary remains.
    """
    write_files(path.parent, {path.name: data})


def write_files(folder: Path, files: Mapping[str, bytes]) -> None:
    """Replace files of one folder, each as a whole, and make them durable together; in their order.

    Raises:
        OSError: a file is the old one or the new one, and no temporary remains.
    """
    temporaries = {name: folder / (TEMPORARY + name) for name in files}
    try:
        for name, data in files.items():
            with os.fdopen(_fresh(temporaries[name]), "wb") as target:
                target.write(data)
        sync_files(list(temporaries.values()))
        for name, temporary in temporaries.items():
            os.rename(temporary, folder / name)
    except BaseException:
        for temporary in temporaries.values():
            temporary.unlink(missing_ok=True)
        raise
    if files:
        sync_folder(folder)


def _fresh(path: Path) -> int:
    """A new file of this name; what a crash left under it goes first."""
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
    try:
        return os.open(path, flags, 0o600)
    except FileExistsError:
        path.unlink(missing_ok=True)
        return os.open(path, flags, 0o600)


def _sync(path: Path, flags: int) -> None:
    handle = os.open(path, flags | os.O_CLOEXEC)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _reports_errors() -> bool:
    """Whether syncfs is there and tells of failed writes."""
    found = re.match(r"(\d+)\.(\d+)", platform.release())
    recent = found is not None and (int(found[1]), int(found[2])) >= (5, 8)
    return platform.system() == "Linux" and recent and hasattr(_libc, "syncfs")
