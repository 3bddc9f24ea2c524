"""The bytes of a message: a header of any kind, then arrays as they lie in memory (`docs/spec/message.md`).

Knows nothing of Flower: `pipelines.flower` gives and takes the header. Reading copies no array and allocates nothing
that the bytes only claim.
"""

from __future__ import annotations

import math
import struct
import sys
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = [
    "ALIGNMENT",
    "DTYPES",
    "MAGIC",
    "MAX_HEADER_BYTES",
    "PREFIX_BYTES",
    "VERSION",
    "array_bytes",
    "buffers",
    "framed",
    "header_size",
    "squares",
    "views",
]

MAGIC, VERSION = b"CORMSG", 1
MAX_HEADER_BYTES = 16 << 20
ALIGNMENT = 8
DTYPES = frozenset({"float32", "float64", "int32", "int64"})
_PREFIX = struct.Struct(">6sBBQ")
PREFIX_BYTES = _PREFIX.size
_BLOCK = 1 << 17  # elements looked at in one go: 1 MiB of float64
Numbers = NDArray[Any]
Place = tuple[str, tuple[int, ...]]  # dtype and shape

if sys.byteorder != "little":
    raise ImportError("corsia needs a little-endian machine: arrays travel as they lie in memory")


def array_bytes(dtype: str, shape: Sequence[int]) -> int:
    """Bytes of an array.

    Raises:
        ValueError: for a type that does not travel, or a size that is none.
    """
    if dtype not in DTYPES:
        raise ValueError("dtype")
    for size in shape:
        if not isinstance(size, int) or isinstance(size, bool) or not 0 <= size < 1 << 31:
            raise ValueError("size")
    return math.prod(shape) * np.dtype(dtype).itemsize


def framed(header: bytes, arrays: Iterable[Numbers]) -> list[bytes | memoryview]:
    """A message's bytes in pieces: each array's piece is a view of the array itself.

    Raises:
        ValueError: for a header that is too large, or an array of a type that does not travel.
    """
    if not 1 <= len(header) <= MAX_HEADER_BYTES:
        raise ValueError("header")
    parts: list[bytes | memoryview] = [_PREFIX.pack(MAGIC, VERSION, 0, len(header)), header]
    at = PREFIX_BYTES + len(header)
    for array in arrays:
        array_bytes(str(array.dtype), array.shape)
        plain = np.asarray(array, order="C")
        parts += [bytes(-at % ALIGNMENT), plain.reshape(-1).view(np.uint8).data if plain.size else b""]
        at += -at % ALIGNMENT + plain.nbytes
    return parts


def header_size(prefix: bytes | memoryview) -> int:
    """Length of the header, from a message's first 16 bytes.

    Raises:
        ValueError: for another magic or version, or a length out of bounds.
    """
    if len(prefix) < PREFIX_BYTES:
        raise ValueError("prefix")
    magic, version, zero, size = _PREFIX.unpack(prefix[:PREFIX_BYTES])
    if (magic, version, zero) != (MAGIC, VERSION, 0) or not 1 <= size <= MAX_HEADER_BYTES:
        raise ValueError("prefix")
    return int(size)


def views(raw: memoryview, places: Sequence[Place]) -> list[Numbers]:
    """The arrays behind a header, as read-only views of the message.

    Args:
        raw: the whole message.
        places: dtype and shape of each array, in the header's order.

    Raises:
        ValueError: unless the message ends exactly where these arrays end, with zeros between them.
    """
    offsets, end = buffers(PREFIX_BYTES + header_size(raw), places)
    if end != len(raw):
        raise ValueError("length")
    found, at = [], PREFIX_BYTES + header_size(raw)
    for (dtype, shape), offset in zip(places, offsets, strict=True):
        if any(raw[at:offset]):
            raise ValueError("padding")
        size = math.prod(shape)
        flat = np.frombuffer(raw, dtype=dtype, count=size, offset=offset) if size else np.empty(0, dtype)
        made = flat.reshape(shape)
        made.flags.writeable = False
        found.append(made)
        at = offset + size * made.itemsize
    return found


def buffers(at: int, places: Sequence[Place]) -> tuple[list[int], int]:
    """Offsets of arrays that follow byte `at` of a message, and where the last one ends.

    Raises:
        ValueError: as `array_bytes`.
    """
    offsets = []
    for dtype, shape in places:
        at += -at % ALIGNMENT
        offsets.append(at)
        at += array_bytes(dtype, shape)
    return offsets, at


def squares(array: Numbers) -> tuple[float, bool]:
    """The sum of squares (0 for whole numbers), and whether all is finite; in constant memory.

    The sum is infinite where it is too large for a float64, and NaN where an element is.
    """
    if array.dtype.kind != "f":
        return 0.0, True
    flat, total, finite = array.reshape(-1), 0.0, True
    with np.errstate(over="ignore", invalid="ignore"):
        for start in range(0, flat.size, _BLOCK):
            block = flat[start : start + _BLOCK].astype(np.float64)
            part = float(np.sum(np.square(block, out=block)))
            finite = finite and (math.isfinite(part) or bool(np.isfinite(flat[start : start + _BLOCK]).all()))
            total += part
    return total, finite
