"""Shamir's secret sharing of 32-byte secrets over the prime field of 2^521 - 1.

Source: Shamir 1979, "How to share a secret", CACM 22(11).
"""

from __future__ import annotations

import secrets
from collections.abc import Mapping

from protocol.errors import IntegrityError

__all__ = ["SHARE_BYTES", "combine", "split"]

_PRIME = 2**521 - 1
_SECRET_BYTES = 32
SHARE_BYTES = 66


def split(secret: bytes, threshold: int, points: list[int]) -> dict[int, bytes]:
    """Shares of a secret: any `threshold` of them give it back, fewer say nothing.

    Args:
        secret: 32 bytes.
        threshold: 1 to the number of points.
        points: distinct positive abscissae, one a receiver.

    Returns:
        Point -> share of 66 bytes.
    """
    if len(secret) != _SECRET_BYTES or not 1 <= threshold <= len(points):
        raise ValueError("a secret of 32 bytes and a threshold within the number of points")
    if len(set(points)) != len(points) or min(points) < 1:
        raise ValueError("points are distinct and positive")
    coefficients = [int.from_bytes(secret, "big"), *(secrets.randbelow(_PRIME) for _ in range(threshold - 1))]
    return {point: _at(coefficients, point).to_bytes(SHARE_BYTES, "big") for point in points}


def combine(shares: Mapping[int, bytes]) -> bytes:
    """The secret of exactly as many shares as its threshold (more that agree do no harm).

    Raises:
        IntegrityError: `masks.share` when the shares do not belong together.
    """
    if not shares:
        raise IntegrityError("masks.share")
    total = 0
    values = {point: int.from_bytes(share, "big") for point, share in shares.items()}
    for point, value in values.items():
        top = bottom = 1
        for other in values:
            if other != point:
                top = top * other % _PRIME
                bottom = bottom * (other - point) % _PRIME
        total = (total + value * top * pow(bottom, -1, _PRIME)) % _PRIME
    if total >= 1 << (8 * _SECRET_BYTES):
        raise IntegrityError("masks.share")
    return total.to_bytes(_SECRET_BYTES, "big")


def _at(coefficients: list[int], point: int) -> int:
    value = 0
    for coefficient in reversed(coefficients):
        value = (value * point + coefficient) % _PRIME
    return value
