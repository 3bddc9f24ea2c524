"""Arrays as a safetensors file, in pieces: the library's own bytes without its two copies of every array.

Source: the safetensors format (github.com/huggingface/safetensors); a test holds the bytes to the library's.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from central.federation.moments import Stored
from protocol.errors import IntegrityError

__all__ = ["TensorParts", "tensor_parts", "tensors", "tensors_at"]

_TYPES = {"int64": "I64", "float64": "F64", "float32": "F32", "int32": "I32"}  # in the order of the file


@dataclass(frozen=True, slots=True)
class TensorParts:
    """A file in pieces, as often as it is gone through: of each array in memory a view."""

    head: bytes
    arrays: list[np.ndarray[Any, Any] | Stored]

    def __iter__(self) -> Iterator[bytes | memoryview]:
        yield self.head
        for array in self.arrays:
            for block in array.blocks() if isinstance(array, Stored) else [np.asarray(array, order="C")]:
                yield block.reshape(-1).view(np.uint8).data if block.size else b""


def tensor_parts(arrays: Mapping[str, np.ndarray[Any, Any] | Stored]) -> TensorParts:
    """The file in pieces.

    Args:
        arrays: float32, float64, int32 or int64.
    """
    order = {dtype: place for place, dtype in enumerate(_TYPES)}
    names = sorted(arrays, key=lambda name: (order[str(arrays[name].dtype)], name.encode()))
    header, at = {}, 0
    for name in names:
        array = arrays[name]
        end = at + array.nbytes
        header[name] = {"dtype": _TYPES[str(array.dtype)], "shape": list(array.shape), "data_offsets": [at, end]}
        at = end
    raw = json.dumps(header, ensure_ascii=False, separators=(",", ":")).encode()
    raw += b" " * (-len(raw) % 8)
    return TensorParts(struct.pack("<Q", len(raw)) + raw, [arrays[name] for name in names])


def tensors(raw: bytes) -> dict[str, np.ndarray[Any, Any]]:
    """The arrays of a file.

    Raises:
        IntegrityError: `blob.digest` for what is none.
    """
    from safetensors import SafetensorError
    from safetensors.numpy import load

    try:
        return dict(load(raw))
    except (SafetensorError, ValueError):
        raise IntegrityError("blob.digest", "a checkpoint does not parse") from None


def tensors_at(path: Path) -> Iterator[tuple[str, np.ndarray[Any, Any]]]:
    """The arrays of a file with their names, one after the other. Raises as `tensors`."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="numpy") as file:
            for name in file.keys():
                yield name, file.get_tensor(name)
    except SafetensorError:
        raise IntegrityError("blob.digest", "a checkpoint does not parse") from None
