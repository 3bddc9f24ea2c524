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

__all__ = ["MAX_FILE_BYTES", "Nothing", "open_inside", "walk"]

MAX_FILE_BYTES = 1 << 31  # of one source file; a reader may ask for so much memory at once


def walk(root: Path, withheld: Counter[str], *, code: str = "input.dicom") -> Iterator[Path]:
    """All regular files below `root`, folder by folder in name order.

    Symbolic links are not followed: what lies inside is met on its own path; one that leads out of `root`, and
    anything that is neither file nor folder, is counted as unreadable.

    Raises:
        InputError: `code` when `root` is not a folder.
        StorageError: `storage.failed` when a folder cannot be listed.
    """
    base = root.resolve()
    if not base.is_dir():
        raise InputError(code, "the dataset's folder does not exist")
    try:
        yield from _visit(base, withheld)
    except OSError as error:
        raise StorageError("storage.failed", f"the dataset's folder cannot be read: {error.strerror}") from None


def _visit(base: Path, withheld: Counter[str]) -> Iterator[Path]:
    todo = _within(base)  # no recursion: a path may have two thousand parts
    while todo:
        entry = todo.pop()
        path = Path(entry.path)
        if entry.is_symlink():
            withheld["unreadable"] += _leaves(path, base)
        elif entry.is_dir(follow_symlinks=False):
            todo += _within(path)
        elif entry.is_file(follow_symlinks=False):
            yield path
        else:
            withheld["unreadable"] += 1


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
    inside = Path(f"/proc/self/fd/{descriptor}").resolve().is_relative_to(root.resolve())
    if not inside or not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        return Nothing()
    return os.fdopen(descriptor, "rb")
