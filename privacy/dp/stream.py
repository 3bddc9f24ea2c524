"""Random words for noise: the key stream of AES-256-CTR under a fresh key of the operating system.

Place in the flow: `noise` and `training` draw from here and from nowhere else; no global generator of numpy or torch is
read or moved. A seed is for tests alone. After a fork the child takes a key of its own, so that no two processes draw
the same noise.
"""

from __future__ import annotations

import os
from typing import Any

import numpy as np
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from numpy.typing import NDArray

__all__ = ["Stream"]

_BLOCK = 1 << 20
_ZEROS = bytes(_BLOCK)


class Stream:
    """A source of random words; for one thread.

    Args:
        seed: 32 bytes for a reproducible stream in tests; the operating system's otherwise.
    """

    def __init__(self, seed: bytes | None = None) -> None:
        self._seeded = seed is not None
        self._begin(os.urandom(32) if seed is None else seed)

    def _begin(self, key: bytes) -> None:
        self._cipher = Cipher(algorithms.AES256(key), modes.CTR(bytes(16))).encryptor()
        self._process = os.getpid()

    def words(self, count: int) -> NDArray[np.uint64]:
        """So many random 64-bit words."""
        if not self._seeded and os.getpid() != self._process:
            self._begin(os.urandom(32))
        size = 8 * count
        made = bytearray(size + 15)  # update_into asks for a block more than it writes
        view = memoryview(made)
        for start in range(0, size, _BLOCK):
            part = min(_BLOCK, size - start)
            self._cipher.update_into(memoryview(_ZEROS)[:part], view[start:])
        return np.frombuffer(made, dtype="<u8", count=count).astype(np.uint64, copy=False)

    def below(self, bound: int, count: int) -> NDArray[np.int64]:
        """Whole numbers from 0 to `bound` - 1, each as likely as any other; `bound` at most 2^62."""
        if not 1 <= bound <= 1 << 62:
            raise ValueError("the bound is between 1 and 2^62")
        bits = (bound - 1).bit_length()
        made = np.zeros(count, dtype=np.int64)
        open_ = np.arange(count) if bits else np.arange(0)
        while open_.size:
            drawn = self.words(open_.size) >> np.uint64(64 - bits)
            fits = drawn < np.uint64(bound)
            made[open_[fits]] = drawn[fits].astype(np.int64)
            open_ = open_[~fits]
        return made

    def uniforms(self, count: int) -> NDArray[np.float64]:
        """Multiples of 2^-53 in [0, 1)."""
        return (self.words(count) >> np.uint64(11)).astype(np.float64) * 2.0**-53

    def normals(self, shape: tuple[int, ...], scale: float) -> NDArray[Any]:
        """Gaussian float64 of mean 0 and a standard deviation of `scale`.

        Each is half the sum of four Box-Muller draws, so that the gaps between floats do not give a summand away.

        Source: Holohan and Braghin, arXiv:2107.10138, sec. 5.1 (n = 2), as Opacus' secure mode.
        """
        size = int(np.prod(shape, dtype=np.int64))
        total = np.zeros(size)
        for start in range(0, size, _BLOCK):
            part = total[start : start + _BLOCK]
            for _ in range(4):
                radius = np.sqrt(-2.0 * np.log1p(-self.uniforms(part.size)))
                part += radius * np.cos(2.0 * np.pi * self.uniforms(part.size))
        return (total * (scale / 2.0)).reshape(shape)
