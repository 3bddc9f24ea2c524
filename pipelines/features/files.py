"""Bytes for libraries that want a path: an anonymous file in memory, gone when it is closed, without a name on disk."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

__all__ = ["MAX_INFLATED", "Content", "content", "placed"]

#: What a reader takes: the bytes of a file, or its path (benchmarks, command line).
Content = bytes | Path
#: Text files that are read whole (.bim, .fam, .pvar, score files, tables) may not unpack to more than this.
MAX_INFLATED = 1 << 31


def content(data: Content) -> bytes:
    """The bytes, read when it is a path."""
    return data.read_bytes() if isinstance(data, Path) else data


@contextmanager
def placed(data: Content) -> Iterator[str]:
    """A path that leads to the bytes while the context lasts."""
    if isinstance(data, Path):
        yield str(data)
        return
    descriptor = os.memfd_create("corsia", os.MFD_CLOEXEC)
    try:
        with open(descriptor, "wb", closefd=False) as target:
            target.write(data)
        yield f"/proc/self/fd/{descriptor}"
    finally:
        os.close(descriptor)
