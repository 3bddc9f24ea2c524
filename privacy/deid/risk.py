"""Re-identification risk of released rows: prosecutor, journalist, marketer. Counts and shares, no values.

Prosecutor: the attacker knows that a person is in the table; the risk of a row is 1 / f, f the persons of its class.
Journalist: he does not; the risk is 1 / F, F the persons of the class in the population the table is a sample of. F is
not known: with the population's size N, E[1/F | f] under F - f ~ NegBin(f, n / N); without it 1 / f, which is never
less. Marketer: he matches the whole table; the mean of these risks, that is the share of rows rightly matched.

Source: El Emam 2013 (three risks); Benedetti and Franconi 1998, as in mu-Argus (E[1/F | f]).
"""

from __future__ import annotations

from typing import Any

import numpy as np

from privacy.deid.diversity import Floats, Ints

__all__ = ["expected_inverse", "risk"]

NODES = 64


def risk(sizes: Ints, threshold: float, population: int | None = None, persons: int | None = None) -> dict[str, Any]:
    """The three risks.

    Args:
        sizes: persons in the class of each row.
        threshold: a row above this counts as at risk.
        population: persons in the population; None when it is not known.
        persons: persons in the table; None when each row is one.

    Returns:
        For prosecutor and journalist `max`, `mean` and `rows_above` (share of rows above the threshold); for the
        marketer `mean`; how many rows stand alone, the threshold, `population`.
    """
    if not len(sizes):
        zero = {"max": 0.0, "mean": 0.0, "rows_above": 0.0}
        return {
            "threshold": threshold,
            "population": population,
            "unique_rows": 0,
            "prosecutor": zero,
            "journalist": dict(zero),
            "marketer": {"mean": 0.0},
        }
    found, counts = np.unique(sizes, return_counts=True)
    weights = counts / counts.sum()
    own = 1.0 / found
    others = own
    sample = len(sizes) if persons is None else persons
    if population is not None and population > sample:
        others = np.array([expected_inverse(int(f), sample / population) for f in found])
    return {
        "threshold": threshold,
        "population": population,
        "unique_rows": int(counts[found == 1].sum()),
        "prosecutor": _summary(own, weights, threshold),
        "journalist": _summary(others, weights, threshold),
        "marketer": {"mean": float(others @ weights)},
    }


def _summary(risks: Floats, weights: Floats, threshold: float) -> dict[str, float]:
    above = float(weights[risks > threshold + 1e-12].sum())
    return {"max": float(risks.max()), "mean": float(risks @ weights), "rows_above": above}


def expected_inverse(size: int, fraction: float) -> float:
    """E[1/F | f] for a class of `size` in a sample of this fraction: the integral of p v^(f-1) / (p + (1-p) v), 0 to 1.

    Example:
        >>> round(expected_inverse(1, 0.1), 4)
        0.2558
    """
    rest = 1.0 - fraction
    if rest <= 0:
        return 1.0 / size
    if fraction < 0.5 and size <= 50:  # from the closed form at 1 upwards: stable where p / (1 - p) is below 1
        value = fraction / rest * -np.log(fraction)
        for step in range(1, size):
            value = fraction / rest * (1.0 / step - value)
        return float(value)
    nodes, weights = np.polynomial.legendre.leggauss(NODES)
    # v = w^(1/f) takes the peak at 1 away: v^(f-1) dv = dw / f.
    points = ((nodes + 1) / 2) ** (1.0 / size)
    return float((weights / 2) @ (fraction / (fraction + rest * points)) / size)
