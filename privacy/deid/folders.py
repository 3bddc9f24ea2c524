"""Folders and files of a batch: where they come from, where results and what is set aside go.

Not here: what is done to a file.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable
from pathlib import Path

from privacy.deid.onefile import PARTIAL, storage_error
from protocol.errors import InputError

__all__ = ["check_places", "make_folder", "write_private"]


def check_places(source: Path, target: Path, quarantine: Path | None) -> None:
    """Refuse folders that lie in each other.

    Raises:
        InputError: `input.usage`.
    """
    if source.is_symlink() or not (source.is_file() or source.is_dir()):
        raise InputError("input.usage", "the source is neither a file nor a folder")
    given = source.resolve()
    for folder in (target, quarantine):
        if folder is None:
            continue
        if folder.is_symlink() or (folder.exists() and not folder.is_dir()):
            raise InputError("input.usage", f"{folder} is not a folder")
        place = folder.resolve()
        if place == given or given in place.parents or place in given.parents:
            raise InputError("input.usage", "source and target lie in each other")
    if quarantine is not None:
        place, clean = quarantine.resolve(), target.resolve()
        if place == clean or clean in place.parents:
            raise InputError("input.usage", "the quarantine lies in the target, which holds clean files only")


def make_folder(folder: Path) -> None:
    """Make a folder for its owner alone.

    Raises:
        StorageError: `storage.full`, `storage.failed`.
    """
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise storage_error(error) from None


def write_private(path: Path, chunks: Iterable[bytes]) -> None:
    """Write a file whole or not at all, for its owner alone, and bring it to the disk.

    Raises:
        StorageError: `storage.full`, `storage.failed`.
    """
    partial = path.with_name(f".{path.name}{PARTIAL}")
    try:
        with open(os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW, 0o600), "wb") as file:
            for chunk in chunks:
                file.write(chunk)
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
    except OSError as error:
        raise storage_error(error) from None
    finally:
        with contextlib.suppress(OSError):
            partial.unlink()
