"""Gene sets and panels: one score per sample and set.

`mean_z` averages standard scores; `rank` is the enrichment of the set among the sample's own ranks. Both need most
of the set: a set of which too few features are measured is withheld (all missing), for a score over two genes is
those two genes.
Source of the rank score: Barbie et al. 2009, Nature 462:108 (ssGSEA, exponent 0.25), without range normalisation.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np
from numpy.typing import NDArray

from pipelines.features.files import Content
from pipelines.features.schema import Feature
from pipelines.features.text import decode
from protocol.errors import DisclosureRefused, InputError

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["GeneSetScores", "Options", "gmt", "score"]

_EXPONENT = 0.25
_METHODS = {
    "mean_z": "mean standard score of the set's features, standardised within the site unless a reference is given",
    "rank": "single-sample enrichment of the set among the sample's ranks, exponent 0.25",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """How sets are scored.

    Attributes:
        method: see the module's text.
        minimum: fewest features of a set that must be measured.
        coverage: smallest share of a set that must be.
    """

    method: Literal["mean_z", "rank"] = "mean_z"
    minimum: int = 5
    coverage: float = 0.5


class GeneSetScores:
    """The plug-in: parameters `{"sets": [names], "method": "mean_z" | "rank"}`, one column each."""

    name = "gene-set-scores"
    version = 1

    def schema(self, parameters: Mapping[str, object]) -> tuple[Feature, ...]:
        """One float column per set.

        Raises:
            InputError: `input.usage`.
        """
        names, method = parameters.get("sets"), parameters.get("method", "mean_z")
        if not isinstance(names, list | tuple) or not names or not all(isinstance(name, str) for name in names):
            raise InputError("input.usage", "sets: a list of names")
        if method not in _METHODS:
            raise InputError("input.usage", "method: mean_z or rank")
        source = "Barbie et al. 2009, Nature 462:108" if method == "rank" else "Corsia"
        return tuple(
            Feature(f"set_{name}", "float64", "1", f"{_METHODS[str(method)]} ({name})", source) for name in names
        )


def gmt(data: Content) -> dict[str, tuple[str, ...]]:
    """Sets of a GMT file: name, description, features, tab separated.

    Raises:
        InputError: `input.variants` for a line without features, or a name that comes twice.
    """
    sets: dict[str, tuple[str, ...]] = {}
    for line in decode(data, "input.variants").splitlines():
        if not line.strip():
            continue
        name, *rest = line.split("\t")
        features = tuple(dict.fromkeys(feature.strip() for feature in rest[1:] if feature.strip()))
        if not name.strip() or not features or name.strip() in sets:
            raise InputError("input.variants", "a line of the GMT file has no features, or a set comes twice")
        sets[name.strip()] = features
    if not sets:
        raise InputError("input.variants", "the GMT file is empty")
    return sets


def score(
    samples: Sequence[str],
    features: Sequence[str],
    values: NDArray[np.float64],
    sets: Mapping[str, Sequence[str]],
    options: Options | None = None,
    reference: Mapping[str, tuple[float, float]] | None = None,
) -> tuple[pd.DataFrame, dict[str, int]]:
    """Scores, index = samples, columns `set_<name>`; and counts: `sets`, `sets-withheld`.

    Args:
        samples, features: names of rows and columns.
        values: normalised, on a logarithmic scale, [n, f]; NaN = not measured in that sample.
        sets: features by name of the set.
        options: how.
        reference: mean and standard deviation by feature, from outside the site; for `mean_z`.

    Raises:
        DisclosureRefused: `gate.genotype` when every set has too few measured features.
    """
    import pandas as pd

    options = options or Options()
    at = {feature: column for column, feature in enumerate(features)}
    standard = _standard(features, values, reference) if options.method == "mean_z" else values
    ranks = _ranks(values) if options.method == "rank" else None
    columns: dict[str, NDArray[np.float64]] = {}
    withheld = 0
    for name, members in sets.items():
        inside = np.array([at[member] for member in members if member in at], np.int64)
        least = max(options.minimum, options.coverage * len(members))
        if ranks is None:
            known = np.isfinite(standard[:, inside])
            total = np.where(known, standard[:, inside], 0).sum(axis=1)
            result = total / np.maximum(known.sum(axis=1), 1)
        else:
            known = np.isfinite(values[:, inside])
            result = _enrichment(ranks, inside)
        result[known.sum(axis=1) < least] = np.nan
        withheld += not np.isfinite(result).any()
        columns[f"set_{name}"] = result
    if sets and withheld == len(sets):
        raise DisclosureRefused("gate.genotype", "of every set too few features are measured to tell a score")
    return pd.DataFrame(columns, index=list(samples)), {"sets": len(sets), "sets-withheld": withheld}


def _standard(
    features: Sequence[str], values: NDArray[np.float64], reference: Mapping[str, tuple[float, float]] | None
) -> NDArray[np.float64]:
    """Standard scores; a feature that does not vary, or that the reference lacks, is NaN."""
    if reference is not None:
        pairs = np.array([reference.get(feature, (np.nan, np.nan)) for feature in features], np.float64)
        mean, spread = pairs[:, 0], pairs[:, 1]
    else:
        known = np.isfinite(values)
        number = known.sum(axis=0)
        filled = np.where(known, values, 0)
        mean = filled.sum(axis=0) / np.maximum(number, 1)
        squares = np.where(known, (values - mean) ** 2, 0).sum(axis=0)
        spread = np.sqrt(squares / np.maximum(number - 1, 1))
    usable = spread > 1e-12 * np.maximum(1.0, np.abs(mean))
    return np.asarray(np.where(usable, (values - mean) / np.where(usable, spread, 1.0), np.nan))


def _ranks(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Ascending mean ranks 1..N within each sample; NaN stays."""
    ranks = np.full(values.shape, np.nan)
    for row, out in zip(values, ranks, strict=True):
        known = np.isfinite(row)
        _, inverse, number = np.unique(row[known], return_inverse=True, return_counts=True)
        out[known] = (np.cumsum(number) - (number - 1) / 2)[inverse]
    return ranks


def _enrichment(ranks: NDArray[np.float64], inside: NDArray[np.int64]) -> NDArray[np.float64]:
    """Sum over the sample's list, from the top, of (weighted share of the set so far - share of the rest so far)."""
    result = np.full(len(ranks), np.nan)
    for row, values in enumerate(ranks):
        known = np.isfinite(values)
        total = int(known.sum())
        mine = values[inside][known[inside]]
        if 0 < len(mine) < total:
            weights = mine**_EXPONENT
            others = total * (total + 1) / 2 - mine.sum()
            result[row] = (weights * mine).sum() / weights.sum() - others / (total - len(mine))
    return result
