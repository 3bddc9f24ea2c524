"""Arrays as a safetensors file, in pieces: the library's own bytes without its two copies of every array.

Source: the safetensors format (github.com/huggingface/safetensors); a test holds the bytes to the library's.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Mapping
from typing import Any

import numpy as np

from protocol.errors import IntegrityError

__all__ = ["tensor_parts", "tensors"]

_TYPES = {"int64": "I64", "float64": "F64", "float32": "F32", "int32": "I32"}  # in the order of the file


def tensor_parts(arrays: Mapping[str, np.ndarray[Any, Any]]) -> list[bytes | memoryview]:
    """The file in pieces: of each array a view.

    Args:
        arrays: float32, float64, int32 or int64.
    """
    order = {dtype: place for place, dtype in enumerate(_TYPES)}
    names = sorted(arrays, key=lambda name: (order[str(arrays[name].dtype)], name.encode()))
    header, pieces, at = {}, [], 0
    for name in names:
        array = np.asarray(arrays[name], order="C")
        end = at + array.nbytes
        header[name] = {"dtype": _TYPES[str(array.dtype)], "shape": list(array.shape), "data_offsets": [at, end]}
        pieces.append(array.reshape(-1).view(np.uint8).data if array.size else b"")
        at = end
    raw = json.dumps(header, ensure_ascii=False, separators=(",", ":")).encode()
    raw += b" " * (-len(raw) % 8)
    return [struct.pack("<Q", len(raw)), raw, *pieces]


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
