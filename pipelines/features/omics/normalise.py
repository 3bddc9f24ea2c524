"""Quality of samples, and values that can be compared between samples of one site.

Source of log-CPM: edgeR `cpm(log = TRUE, prior.count)`, Robinson, McCarthy, Smyth 2010, Bioinformatics 26:139.
Source of quantile normalisation: Bolstad et al. 2003, Bioinformatics 19:185; missing cells by interpolated ranks.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import numpy as np
from numpy.typing import NDArray

from pipelines.features.omics.matrix import Matrix, State
from protocol.errors import InputError

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["abundance", "assess", "log_cpm", "quantile"]

_MEGA = 1e6


def assess(matrix: Matrix) -> pd.DataFrame:
    """Per sample: `library_size` (sum of what is measured), `detected` (features above zero), shares of `missing`,
    `below` and `above`. Index = samples.
    """
    import pandas as pd

    return pd.DataFrame(
        {
            "library_size": np.nansum(matrix.values, axis=1),
            "detected": (matrix.values > 0).sum(axis=1),
            "missing": matrix.share(State.MISSING),
            "below": matrix.share(State.BELOW),
            "above": matrix.share(State.ABOVE),
        },
        index=list(matrix.samples),
    )


def log_cpm(matrix: Matrix, *, prior: float = 2.0, reference_size: float | None = None) -> NDArray[np.float64]:
    """log2 counts per million, [n, f]; a prior count in proportion to the library size keeps zeros finite.

    Args:
        matrix: of counts.
        prior: average count added.
        reference_size: library size at which `prior` is added as it is; default the mean of this site's samples.

    Raises:
        InputError: `input.matrix` for abundances, or a sample without any count.
    """
    if matrix.kind != "counts":
        raise InputError("input.matrix", "counts per million are for counts")
    sizes = np.nansum(matrix.values, axis=1)
    if bool((sizes <= 0).any()):
        raise InputError("input.matrix", f"{int((sizes <= 0).sum())} samples have no count at all")
    added = prior * sizes / (sizes.mean() if reference_size is None else reference_size)
    return np.asarray(np.log2((matrix.values + added[:, None]) / (sizes + 2 * added)[:, None] * _MEGA))


def abundance(
    matrix: Matrix, *, below: Literal["apart", "substitute"] = "apart", centre: bool = True
) -> NDArray[np.float64]:
    """log2 abundances, [n, f], each sample centred on its median over the features measured in every sample.

    Args:
        matrix: positive abundances; a zero has no logarithm and is told apart as NaN, as is what is not measured.
        below: `apart` leaves cells below detection NaN; `substitute` takes their limit over the square root of two
            (where the cell tells none: the feature's smallest measured value at this site).
        centre: subtract the median (of the complete features, or of all where none is complete).

    Raises:
        InputError: `input.matrix` for a negative abundance, or a sample without any value.
    """
    if bool((matrix.values < 0).any()):
        raise InputError("input.matrix", "an abundance is negative: already a logarithm?")
    measured = matrix.values > 0
    logs = np.log2(np.where(measured, matrix.values, 1.0))
    logs[~measured] = np.nan
    if not measured.any(axis=1).all():
        raise InputError("input.matrix", "a sample has no measured value")
    complete = measured.all(axis=0)
    middle = np.nanmedian(logs[:, complete] if complete.any() else logs, axis=1) if centre else np.zeros(len(logs))
    if below == "substitute":
        cells = matrix.states == State.BELOW
        smallest = np.where(measured, matrix.values, np.inf).min(axis=0)
        limit = np.where(np.isfinite(matrix.limits), matrix.limits, smallest)
        usable = cells & np.isfinite(limit) & (limit > 0)
        logs[usable] = np.log2(limit[usable] / np.sqrt(2.0))
    return np.asarray(logs - middle[:, None])


def quantile(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Give every sample the same distribution, the mean of the site's; NaN stays, ties share their mean rank.

    Args:
        values: [n, f] on a logarithmic scale.
    """
    grid = np.linspace(0, 1, values.shape[1])
    curves = [np.quantile(row[np.isfinite(row)], grid) for row in values if np.isfinite(row).any()]
    if not curves:
        return values.copy()
    target = np.mean(curves, axis=0)
    result = np.full(values.shape, np.nan)
    for row, out in zip(values, result, strict=True):
        known = np.isfinite(row)
        if known.any():
            out[known] = np.interp(_positions(row[known]), grid, target)
    return result


def _positions(row: NDArray[np.float64]) -> NDArray[np.float64]:
    """Mean ranks as positions in 0..1."""
    ordered, inverse, number = np.unique(row, return_inverse=True, return_counts=True)
    first = np.cumsum(number) - number
    mean = first + (number - 1) / 2
    return np.asarray(mean[inverse] / (len(row) - 1) if len(row) > 1 else np.full(len(ordered), 0.5))
