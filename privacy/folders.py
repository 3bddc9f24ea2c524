"""Folders and files that appear whole or not at all: what backups are made from, and put back into.

A snapshot links what is only ever replaced and copies what changes; what is put back is filled beside its place and
renamed. Nothing here knows what the bytes mean.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import sqlite3
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, TypeVar

from privacy.envelope import PublicKey, SecretKey, write_key, write_public
from protocol.durable import TEMPORARY, sync_folder
from protocol.errors import ConflictError, StorageError

__all__ = [
    "STAGING",
    "copy_database",
    "in_memory",
    "linked",
    "make_folder",
    "make_recovery_key",
    "placed",
    "staged",
    "written",
]

STAGING = f"{TEMPORARY}backup"
_MEMORY = "/dev/shm"  # noqa: S108 - a file system in memory
_PIECE_BYTES = 1 << 20
_Result = TypeVar("_Result")


@contextmanager
def staged(state_dir: Path) -> Iterator[Path]:
    """An empty folder beside what a backup takes, so that files can be linked; one backup at a time, gone at the end.

    Raises:
        ConflictError: `conflict.running` while another backup is made.
    """
    handle = os.open(state_dir / "backup.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise ConflictError("conflict.running", "another backup is being made") from None
        folder = state_dir / STAGING
        shutil.rmtree(folder, ignore_errors=True)  # of a process that was killed
        try:
            make_folder(folder)
            yield folder
        finally:
            shutil.rmtree(folder, ignore_errors=True)
    finally:
        os.close(handle)


@contextmanager
def in_memory() -> Iterator[Path]:
    """A folder that no disk sees, gone at the end.

    Raises:
        StorageError: `storage.failed` where this machine has no file system in memory.
    """
    if not os.path.ismount(_MEMORY):
        raise StorageError("storage.failed", f"{_MEMORY} is no file system in memory")
    with tempfile.TemporaryDirectory(dir=_MEMORY, prefix="corsia-") as place:
        yield Path(place)


def placed(folder: Path, fill: Callable[[Path], _Result]) -> _Result:
    """Make a folder that is whole and durable, or not there: filled beside its place (mode 0700), then renamed.

    Args:
        folder: absent, or empty.
        fill: fills the folder that it is given.

    Raises:
        ConflictError: `conflict.exists` when something is in it; `conflict.running` while another one is filled there.
        OSError: the folder is as it was.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    handle = os.open(folder.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ConflictError("conflict.running", f"something is being put into {folder.parent}") from None
        return _placed(folder, fill)
    finally:
        os.close(handle)


def _placed(folder: Path, fill: Callable[[Path], _Result]) -> _Result:
    if folder.is_symlink() or (folder.exists() and (not folder.is_dir() or any(folder.iterdir()))):
        raise ConflictError("conflict.exists", f"{folder} is not empty: nothing is put over what is there")
    half = folder.with_name(f"{TEMPORARY}{folder.name}")
    shutil.rmtree(half, ignore_errors=True)  # of a process that was killed
    try:
        half.mkdir(mode=0o700)
        result = fill(half)
        for place, _folders, _files in os.walk(half):
            sync_folder(Path(place))
        os.rename(half, folder)
    except BaseException:
        shutil.rmtree(half, ignore_errors=True)
        raise
    sync_folder(folder.parent)
    return result


def written(out: Path, fill: Callable[[BinaryIO], str]) -> str:
    """Let `fill` write a new file, whole and durable or not at all, mode 0600; what `fill` returns.

    Raises:
        ConflictError: `conflict.exists`.
        OSError: there is no new file.
    """
    if out.exists() or out.is_symlink():
        raise ConflictError("conflict.exists", f"{out} exists; a backup is never overwritten")
    half = out.with_name(f"{TEMPORARY}{out.name}")
    half.unlink(missing_ok=True)
    try:
        with os.fdopen(os.open(half, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600), "wb") as target:
            result = fill(target)
            target.flush()
            os.fsync(target.fileno())
        os.rename(half, out)
    except BaseException:
        half.unlink(missing_ok=True)
        raise
    sync_folder(out.parent)
    return result


def linked(source: Path, target: Path) -> bool:
    """Take a file that is only ever replaced, never changed, into a snapshot; False when it is gone, or was taken."""
    if target.exists():
        return False
    make_folder(target.parent)
    try:
        os.link(source, target, follow_symlinks=False)
    except FileNotFoundError:
        return False
    except OSError:  # another disk, or one without links
        handle = os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        with source.open("rb") as read, os.fdopen(handle, "wb") as write:
            shutil.copyfileobj(read, write, _PIECE_BYTES)
    return True


def copy_database(source: Path, target: Path) -> None:
    """A consistent copy of a SQLite file, as one file, whoever writes to it; none of one that is not there."""
    if not source.exists():
        return
    os.close(os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))
    read = sqlite3.connect(f"{source.absolute().as_uri()}?mode=ro", uri=True, timeout=30.0)
    try:
        write = sqlite3.connect(target)
        try:
            read.backup(write)
            write.execute("PRAGMA journal_mode=DELETE")
        finally:
            write.close()
    finally:
        read.close()


def make_folder(folder: Path) -> None:
    """Make a folder and what is missing above it, all of mode 0700."""
    if not folder.is_dir():
        make_folder(folder.parent)
        folder.mkdir(mode=0o700, exist_ok=True)


def make_recovery_key(out: Path, kept: Path, signer: PublicKey) -> PublicKey:
    """Make the key that backups are sealed to. What is needed to put one back is `out` and `out.sender`, off-site.

    Args:
        out: the secret key's file; beside it `out.pub`, and `out.sender` with the key that signs the backups.
        kept: where the public half stays; one that is there is replaced.

    Raises:
        ConflictError: `conflict.exists`; nothing is written.
    """
    if out.is_dir():
        raise ConflictError("conflict.exists", f"{out} is a folder; name the file")
    public, sender = (out.with_name(out.name + end) for end in (".pub", ".sender"))
    if any(path.exists() or path.is_symlink() for path in (out, public, sender)):
        raise ConflictError("conflict.exists", f"{out} exists; a key is never overwritten")
    key = SecretKey.generate()
    write_key(out, key, plain=True)  # who needs it may have lost the passphrase too
    write_public(public, key.public)
    write_public(sender, signer)
    half = kept.with_name(f"{TEMPORARY}{kept.name}")
    half.unlink(missing_ok=True)
    write_public(half, key.public)
    os.rename(half, kept)
    sync_folder(kept.parent)
    return key.public
