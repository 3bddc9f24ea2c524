"""Numbers in the ring of 64-bit integers: fixed point in, exact sums, fixed point out; and masks from a seed.

A site multiplies each array by its weight, rounds to a fixed number of fractional bits and adds modulo 2^64. Sums in
the ring are exact, so the error against plaintext is that of rounding alone.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from numpy.typing import NDArray

from protocol.errors import InputError

__all__ = ["Layout", "Quantizer", "Ring", "add_mask"]

Ring = NDArray[np.uint64]
_BLOCK = 1 << 17  # elements masked at once: 1 MiB, which stays in the cache
_ZEROS = bytes(_BLOCK * 8)


@dataclass(frozen=True, slots=True, kw_only=True)
class Quantizer:
    """Fixed point with as many fractional bits as fit.

    Attributes:
        bound: largest absolute value of an element before weighting.
        max_weight: largest weight of a site (examples); weights are whole numbers.
        sites: how many may be added.
    """

    bound: float
    max_weight: int
    sites: int

    def __post_init__(self) -> None:
        if not (self.bound > 0 and math.isfinite(self.bound) and self.max_weight >= 1 and self.sites >= 1):
            raise InputError("input.usage", "secure aggregation: bound, max_weight and sites must be positive")
        if self.bits < 1:
            raise InputError("input.usage", "secure aggregation: bound times weight is too large for 64 bits")

    @property
    def bits(self) -> int:
        """Fractional bits f: `sites * max_weight * bound * 2^f < 2^62`."""
        return 62 - math.ceil(math.log2(self.sites * self.max_weight * self.bound))

    @property
    def error(self) -> float:
        """Largest absolute error of one element of a sum: half a step a site."""
        return self.sites * 0.5 * 2.0**-self.bits

    def encode(self, values: NDArray[Any], weight: int) -> Ring:
        """`round(values * weight * 2^f)` modulo 2^64.

        Args:
            values: float [n], finite, at most `bound`.
            weight: 1 to `max_weight`.

        Raises:
            InputError: `input.message` for values or a weight beyond the bounds.
        """
        wide = np.asarray(values, dtype=np.float64)
        if not 1 <= weight <= self.max_weight or not np.isfinite(wide).all():
            raise InputError("input.message", "secure aggregation: a weight or a value out of bounds")
        if wide.size and max(float(wide.max()), -float(wide.min())) > self.bound:
            raise InputError("input.message", "secure aggregation: a value above the study's bound")
        made, scale = np.empty(wide.shape, np.int64), float(weight) * 2.0**self.bits
        for start in range(0, wide.size, _BLOCK):  # block by block: vectors are long
            block = wide[start : start + _BLOCK] * scale
            made[start : start + _BLOCK] = np.rint(block, out=block)
        return made.view(np.uint64)

    def decode(self, total: Ring) -> NDArray[np.float64]:
        """A sum of encoded values as floats."""
        made = total.view(np.int64).astype(np.float64)
        made *= 2.0**-self.bits
        return made


@dataclass(frozen=True, slots=True, kw_only=True)
class Layout:
    """Where each array lies in the one vector that is masked: names in sorted order, row by row.

    Attributes:
        shapes: name -> shape.
    """

    shapes: Mapping[str, tuple[int, ...]]

    @property
    def size(self) -> int:
        """Elements in all."""
        return sum(math.prod(shape) for shape in self.shapes.values())

    def join(self, arrays: Mapping[str, NDArray[Any]]) -> NDArray[np.float64]:
        """The vector of these arrays.

        Raises:
            InputError: `input.message` for other names or shapes.
        """
        if {name: array.shape for name, array in arrays.items()} != dict(self.shapes):
            raise InputError("input.message", "secure aggregation: other arrays than the layout's")
        made = np.empty(self.size, dtype=np.float64)
        at = 0
        for name in sorted(self.shapes):
            made[at : at + arrays[name].size] = arrays[name].ravel()
            at += arrays[name].size
        return made

    def split(self, vector: NDArray[Any]) -> dict[str, NDArray[Any]]:
        """The arrays of a vector, views of it."""
        if vector.shape != (self.size,):
            raise InputError("input.message", "secure aggregation: a vector of another size")
        found, at = {}, 0
        for name in sorted(self.shapes):
            count = math.prod(self.shapes[name])
            found[name] = vector[at : at + count].reshape(self.shapes[name])
            at += count
        return found


def add_mask(target: Ring, seed: bytes, *, subtract: bool = False) -> None:
    """Add (or subtract) in place the mask that a 32-byte seed stands for: the key stream of AES-256-CTR.

    A seed is used for one mask only, so the counter starts at zero.
    """
    stream = Cipher(algorithms.AES256(seed), modes.CTR(bytes(16))).encryptor()
    buffer = bytearray(_BLOCK * 8)
    mask = np.frombuffer(buffer, dtype="<u8")
    step = np.subtract if subtract else np.add
    for start in range(0, target.size, _BLOCK):
        part = target[start : start + _BLOCK]
        stream.update_into(memoryview(_ZEROS)[: part.size * 8], buffer)
        step(part, mask[: part.size], out=part)
