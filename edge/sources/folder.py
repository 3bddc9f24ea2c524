"""Folders of a hospital: a fixed walk that never leaves the folder, files opened without following links.

Used by the kinds of source (`dicom`, `documents`). Names of files never go on, since hospital file names may carry
patients' names. Nothing here reads a file's content.
"""

from __future__ import annotations

import os
import stat
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from protocol.errors import InputError, StorageError

__all__ = ["MAX_FILE_BYTES", "UNREADABLE_FOLDER", "Nothing", "open_inside", "walk"]

UNREADABLE_FOLDER = "unreadable-folder"  # one that cannot be listed: nobody knows how much it holds
MAX_FILE_BYTES = 1 << 31  # of one source file; a reader may ask for so much memory at once


def walk(root: Path, withheld: Counter[str], *, code: str = "input.dicom") -> Iterator[Path]:
    """All regular files below `root`, folder by folder in name order.

    Symbolic links are not followed: what lies inside is met on its own path; one that leads out of `root`, and
    anything that is neither file nor folder, is counted as unreadable. A folder below `root` that cannot be listed is
    passed over whole and counted as `UNREADABLE_FOLDER`.

    Raises:
        InputError: `code` when `root` is not a folder.
        StorageError: `storage.failed` when `root` cannot be listed.
    """
    base = root.resolve()
    if not base.is_dir():
        raise InputError(code, "the dataset's folder does not exist")
    try:
        todo = _within(base)  # no recursion: a path may have two thousand parts
    except OSError as error:
        raise StorageError("storage.failed", f"the dataset's folder cannot be read: {error.strerror}") from None
    while todo:
        entry = todo.pop()
        path = Path(entry.path)
        try:
            is_link, is_folder = entry.is_symlink(), entry.is_dir(follow_symlinks=False)
            is_file = entry.is_file(follow_symlinks=False)
        except OSError:  # it is not even told what it is
            is_link = is_folder = is_file = False
        if is_link:
            withheld["unreadable"] += _leaves(path, base)
        elif is_folder:
            todo += _listed(path, withheld)
        elif is_file:
            yield path
        else:
            withheld["unreadable"] += 1


def _listed(folder: Path, withheld: Counter[str]) -> list[os.DirEntry[str]]:
    try:
        return _within(folder)
    except OSError:
        withheld[UNREADABLE_FOLDER] += 1
        return []


def _within(folder: Path) -> list[os.DirEntry[str]]:
    """Entries in the order of their names, from the last."""
    with os.scandir(folder) as entries:
        return sorted(entries, key=lambda entry: os.fsencode(entry.name), reverse=True)


def _leaves(link: Path, base: Path) -> bool:
    try:
        return not link.resolve().is_relative_to(base)
    except (OSError, RuntimeError):  # a loop
        return True


class Nothing:
    """Stands for a file that cannot be opened."""

    def __enter__(self) -> None:
        return None

    def __exit__(self, *exc: object) -> None:
        return None


def open_inside(root: Path, path: Path) -> IO[bytes] | Nothing:
    """Open without following a link at the last step, and only what still lies below `root`."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:
        return Nothing()
    try:
        inside = Path(f"/proc/self/fd/{descriptor}").resolve().is_relative_to(root.resolve())
        usable = inside and stat.S_ISREG(os.fstat(descriptor).st_mode)
    except OSError:
        usable = False
    if not usable:
        os.close(descriptor)
        return Nothing()
    return os.fdopen(descriptor, "rb")
