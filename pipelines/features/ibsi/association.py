"""Moran's I and Geary's C of all pairs of voxels of a region, weighted by 1 / distance.

The sums over pairs are sums over displacements of correlations, which FFTs give in n log n. The weights depend on the
displacement only, so their transform is real and needs one octant. Frequencies along the last axis are taken a few at
a time: memory does not grow with the padded grid.

Source: IBSI manual, sections 3.1.24 and 3.1.25.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipelines.features.ibsi.matrices import kernel

__all__ = ["MAX_POINTS", "moran_and_geary"]

MAX_POINTS = 1 << 29  # of the padded grid: minutes of work
_HELD = 1 << 18  # points of it at a time, as many as stay in the processor's cache
_KEPT = 1 << 22  # voxels of a box whose first transform is kept; of larger ones it is made anew for
_AGAIN = 1 << 21  # so many points at a time

Volume = NDArray[np.float64]
Spectrum = NDArray[np.complexfloating[Any, Any]]


def moran_and_geary(
    values: Volume, mask: NDArray[np.bool_], spacing: tuple[float, float, float]
) -> tuple[float, float]:
    """Both indices; NaN for fewer than two voxels, equal intensities, or a box above `MAX_POINTS` when padded.

    Args:
        values: [z, y, x], the box of the intensity mask.
        mask: the intensity mask.
        spacing: mm.
    """
    from scipy.fft import next_fast_len

    inside = values[mask]
    half = [next_fast_len(length, real=True) for length in mask.shape]
    if len(inside) < 2 or inside.min() == inside.max() or 8 * float(np.prod(half)) > MAX_POINTS:
        return float("nan"), float("nan")
    centred = np.where(mask, values - inside.mean(), 0.0)
    centred /= inside.std()
    products, pairs, squares = 0.0, 0.0, 0.0
    # Sums without cancellation need less precision than the sum of products, whose terms have both signs.
    fields = (centred, mask.astype(np.float32), (centred**2).astype(np.float32))
    for weights, (deviation, one, square) in _frequencies(fields, half, spacing):
        found = _totals(weights, deviation, one, square)
        products, pairs, squares = products + found[0], pairs + found[1], squares + found[2]
    count = len(inside)
    return products / pairs, (count - 1) / count * (squares - products) / pairs


def _frequencies(
    fields: tuple[NDArray[Any], ...], half: list[int], spacing: tuple[float, float, float]
) -> Iterator[tuple[Volume, list[Spectrum]]]:
    """Transforms of the weights and the padded fields, a few frequencies of the last axis at a time."""
    from scipy.fft import dct, fft, rfft

    offsets: list[Volume] = [np.arange(n + 1, dtype=np.float64) * step for n, step in zip(half, spacing, strict=True)]
    plane = offsets[0][:, None, None] ** 2 + offsets[1][None, :, None] ** 2
    keep = fields[0].size <= _KEPT
    step = max((_HELD if keep else _AGAIN) // (4 * half[0] * half[1]), 1)
    rows = [rfft(field, n=2 * half[2], axis=2) for field in fields] if keep else []
    first = _inverse(plane, offsets[2]) if keep else None
    for start in range(0, half[2] + 1, step):
        part = slice(start, start + step)
        along = first[:, :, part] if first is not None else _inverse(plane, offsets[2], part)
        weights = dct(dct(along, type=1, axis=1), type=1, axis=0)
        doubled = np.full(weights.shape[2], 2.0)
        doubled[[at for at in range(len(doubled)) if start + at in (0, half[2])]] = 1.0
        spectra = []
        for index, field in enumerate(fields):
            lines = rows[index][:, :, part] if keep else _rows(field, 2 * half[2], part)
            spectra.append(fft(fft(lines, n=2 * half[1], axis=1), n=2 * half[0], axis=0, overwrite_x=True))
        yield weights * doubled, spectra


def _inverse(plane: Volume, last: Volume, part: slice = slice(None)) -> Volume:
    """The transform along the last axis of 1 / distance, slice by slice."""
    from scipy.fft import dct

    found = []
    for squared in plane:
        lengths = np.sqrt(squared + last**2)
        if not lengths[0, 0]:
            lengths[0, 0] = np.inf
        found.append(dct(1 / lengths, type=1, axis=1)[:, part])
    return np.stack(found)


def _rows(field: NDArray[Any], length: int, part: slice) -> Spectrum:
    from scipy.fft import rfft

    found: Spectrum = np.stack([rfft(plane, n=length, axis=1)[:, part] for plane in field])
    return found


@kernel
def _totals(weights: Any, deviation: Any, one: Any, square: Any) -> tuple[float, float, float]:
    """Weight times deviation squared, times one squared, times square times one, summed over all frequencies."""
    products, pairs, squares = 0.0, 0.0, 0.0
    for z in range(one.shape[0]):
        for y in range(one.shape[1]):  # frequency -k has the weight of k
            row = weights[min(z, one.shape[0] - z), min(y, one.shape[1] - y)]
            for x in range(one.shape[2]):
                d, o, s = deviation[z, y, x], one[z, y, x], square[z, y, x]
                products += row[x] * (d.real * d.real + d.imag * d.imag)
                pairs += row[x] * (o.real * o.real + o.imag * o.imag)
                squares += row[x] * (s.real * o.real + s.imag * o.imag)
    return products, pairs, squares
