"""A site's update under noise that hides the whole site: cut to length, on a grid, as whole numbers that add up.

    received model, own model -> `cut` (at the site, in the worker) -> gate: `length` -> averaged or masked
    steps of the grid, summed over sites, + noise -> `mean` -> the next model

Place in the flow: `pipelines.train` cuts, `edge.updates` looks that it was done, `pipelines.masking` puts the
difference into the ring, `central.federation.noise` adds up. Every site weighs one, so one site moves the sum by
`privacy.clip` at most (1 if left out), whatever its rows; noise is drawn on the same grid. Arithmetic only.

Source: McMahan et al. 2018, "Learning differentially private recurrent language models", ICLR, sec. 3 (bounded updates,
fixed weights); Kairouz, Liu and Steinke 2021, ICML, sec. 3 (rounding before noise; here towards 0).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from fractions import Fraction
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from protocol.errors import InputError
from protocol.study import Privacy

if TYPE_CHECKING:
    from privacy.dp.stream import Stream

__all__ = ["GRID", "cut", "length", "mean", "noise", "share", "steps"]

Arrays = Mapping[str, NDArray[Any]]
Integers = NDArray[np.int64]
GRID = 1 << 30  # steps of the grid in one clipping length


def cut(received: Arrays, made: Arrays, clip: float) -> dict[str, NDArray[Any]]:
    """The model that is no further than `clip` from the received one, in the direction of the one that was made.

    Rounding to the model's type is part of the distance: it is measured on what is returned.

    Raises:
        InputError: `input.study` for arrays that are not floats, `input.diverged` for numbers that are not finite.
    """
    wide = _difference(received, made)
    if not math.isfinite(_norm(wide)):
        raise InputError("input.diverged", "the local steps diverged: lower training.learning_rate")
    scale = min(1.0, clip / max(_norm(wide), 1e-300))
    for shrink in (1.0, 1 - 2.0**-20, 1 - 2.0**-10, 0.5):
        kept = {
            name: (np.asarray(received[name], np.float64) + wide[name] * (scale * shrink)).astype(made[name].dtype)
            for name in made
        }
        if length(received, kept) <= clip:
            return kept
    return {name: np.array(received[name], dtype=made[name].dtype) for name in made}


def length(received: Arrays, made: Arrays) -> float:
    """Euclidean distance of two models over all arrays; infinite or NaN when one is not finite."""
    return _norm(_difference(received, made))


def steps(received: Arrays, made: Arrays, clip: float) -> Integers:
    """The difference of a model from the received one in steps of the grid, each rounded towards 0, names in order.

    Its length is `GRID` at most.

    Raises:
        InputError: `input.message` for a model that is further away than `clip`.
    """
    wide = _difference(received, made)
    if not _norm(wide) <= clip:
        raise InputError("input.message", "an update longer than the study's clip")
    joined = np.concatenate([wide[name].ravel() for name in sorted(wide)]) if wide else np.zeros(0)
    return np.trunc(joined * (GRID / clip) * (1 - 2.0**-40)).astype(np.int64)


def mean(received: Arrays, total: Integers, sites: int, clip: float) -> dict[str, NDArray[Any]]:
    """The received model and the mean of `sites` differences, from their sum in steps."""
    made, at = {}, 0
    for name in sorted(received):
        value = np.asarray(received[name])
        moved = total[at : at + value.size].reshape(value.shape) * (clip / GRID / sites)
        made[name] = (value.astype(np.float64) + moved).astype(value.dtype)
        at += value.size
    if at != total.size or sites < 1:
        raise InputError("input.message", "a sum of updates of another size")
    return {name: made[name] for name in received}


def noise(multiplier: float, size: int, stream: Stream | None = None) -> Integers:
    """All the noise of a sum, in steps: discrete Gaussian of `multiplier` times the clipping length."""
    from privacy.dp.noise import discrete_gaussian

    return discrete_gaussian(Fraction(multiplier * GRID) ** 2, size, stream)


def share(multiplier: float, privacy: Privacy, threshold: int) -> tuple[Fraction, int]:
    """Variance (squared steps) of one site's part of distributed noise, and how many parts are enough.

    Args:
        threshold: of the aggregation; so many sites are in every sum that is opened, and `colluding` of them may be
            in league with whoever looks.

    Raises:
        InputError: `input.study` when that leaves nobody.
    """
    from privacy.dp.noise import share_variance

    honest = threshold - privacy.colluding
    if honest < 1:
        raise InputError("input.study", "privacy.max_colluding: no honest site is left below the threshold")
    return share_variance(multiplier * GRID, honest), honest


def _difference(received: Arrays, made: Arrays) -> dict[str, NDArray[np.float64]]:
    if set(received) != set(made) or any(received[n].shape != made[n].shape for n in made):
        raise InputError("input.message", "an update of other arrays than the model's")
    if any(np.asarray(value).dtype.kind != "f" for value in made.values()):
        raise InputError("input.study", "privacy.dp: the model has arrays that are not floating point numbers")
    with np.errstate(over="ignore", invalid="ignore"):
        return {n: made[n].astype(np.float64) - np.asarray(received[n], np.float64) for n in made}


def _norm(parts: Mapping[str, NDArray[np.float64]]) -> float:
    with np.errstate(over="ignore", invalid="ignore"):
        return math.sqrt(sum(float(np.sum(np.square(value))) for value in parts.values()))
