"""A strategy's memory between rounds (moments of Adam and its like), in a file instead of in memory.

Moments are as large as the model, and are needed in one place alone: where the next model is made, a block at a time
(`flower.aggregate`). Nothing here is durable: a checkpoint copies it.
"""

from __future__ import annotations

import io
import math
import tempfile
import weakref
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from protocol.errors import StorageError

__all__ = ["BLOCK", "Moments", "Stored"]

BLOCK = 1 << 18  # elements worked on at once
Numbers = np.ndarray[Any, Any]


@dataclass(frozen=True, slots=True)
class Stored:
    """An array in a file; numpy reads it where it is used as an array."""

    file: Any  # binary, unbuffered
    offset: int
    dtype: np.dtype[Any]
    shape: tuple[int, ...]

    @property
    def size(self) -> int:
        """Number of elements."""
        return math.prod(self.shape)

    @property
    def nbytes(self) -> int:
        """Bytes in the file."""
        return self.size * self.dtype.itemsize

    def block(self, start: int, stop: int) -> Numbers:
        """Elements `start` to `stop` of the flattened array, a fresh array.

        Raises:
            StorageError: `storage.failed` when the file does not give them.
        """
        made = np.empty(max(0, min(stop, self.size) - start), self.dtype)
        rest = made.view(np.uint8).data
        try:
            self.file.seek(self.offset + start * self.dtype.itemsize)
            while rest:
                if not (count := self.file.readinto(rest)):
                    raise StorageError("storage.failed")
                rest = rest[count:]
        except OSError as error:
            raise StorageError("storage.failed") from error
        return made

    def blocks(self) -> Iterator[Numbers]:
        """The flattened array in blocks of `BLOCK` elements."""
        for start in range(0, self.size, BLOCK):
            yield self.block(start, start + BLOCK)

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> Numbers:
        """The whole array, fresh."""
        del copy
        return self.block(0, self.size).reshape(self.shape).astype(dtype or self.dtype, copy=False)


class Moments(Mapping[str, Stored]):
    """Named arrays in one file without a name, which ends with this object.

    Args:
        folder: on whose disk; without one it stays in memory.
    """

    def __init__(self, folder: Path | None = None) -> None:
        self._folder = folder
        self._file: Any = None
        self._arrays: dict[str, Stored] = {}
        self._end = 0

    def put(self, name: str, shape: tuple[int, ...], start: int, block: Numbers) -> None:
        """Write a block of an array's flattened elements from `start` on; the first block decides the type.

        Raises:
            StorageError: `storage.full` or `storage.failed`.
        """
        if self._file is None:
            self._file = _opened(self._folder)
            weakref.finalize(self, self._file.close)
        if name not in self._arrays:
            self._arrays[name] = Stored(self._file, self._end, block.dtype, shape)
            self._end += self._arrays[name].nbytes
        place = self._arrays[name]
        if block.dtype != place.dtype or start + block.size > place.size:
            raise AssertionError("moments: a block of another array")
        try:
            place.file.seek(place.offset + start * place.dtype.itemsize)
            rest = np.ascontiguousarray(block).view(np.uint8).data
            while rest:
                rest = rest[place.file.write(rest) :]
        except OSError as error:
            raise StorageError.of(error) from error

    def __getitem__(self, name: str) -> Stored:
        return self._arrays[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._arrays)

    def __len__(self) -> int:
        return len(self._arrays)


def _opened(folder: Path | None) -> Any:
    if folder is None:
        return io.BytesIO()
    try:
        return tempfile.TemporaryFile(dir=folder, buffering=0)
    except OSError as error:
        raise StorageError.of(error) from error
