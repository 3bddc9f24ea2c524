"""Estimates of all variants, their P to the last digit a double can say, and the table that people read."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from pipelines.features.gwas.plan import Floats, Plan

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["Estimates", "lambda_gc", "log10_p_normal", "log10_p_student"]

_MEDIAN_CHI2 = 0.45493642311957283
#: Below this probability scipy's incomplete beta function nears underflow; the continued fraction goes on in logs.
_TINY = 1e-250


@dataclass(slots=True, eq=False)
class Estimates:
    """Per variant of a plan, [m] each; NaN where there is none, and `status` says why ("ok" otherwise).

    Statuses: `guard` (a site suppressed it), `few` (persons for the model), `constant`, `collinear`, `exact-fit`,
    `separated` (no finite estimate exists), `unconverged`.
    """

    plan: Plan
    persons: Floats
    sites: Floats
    copies: Floats
    freedom: Floats
    beta: Floats
    se: Floats
    status: NDArray[Any]
    cases: Floats | None = None

    @classmethod
    def empty(
        cls, plan: Plan, persons: Floats, sites: Floats, copies: Floats, cases: Floats | None = None
    ) -> Estimates:
        """Nothing estimated yet."""
        nan = np.full(len(plan.variants), np.nan)
        status = np.full(len(plan.variants), "ok", dtype=object)
        return cls(plan, persons, sites, copies, nan.copy(), nan.copy(), nan.copy(), status, cases)

    def frame(self) -> pd.DataFrame:
        """One row per variant: place, alleles, n, sites, frequency, beta, se, t or z, p, log10_p, status (and or).

        `alt` is the effect allele. `log10_p` stays right where `p` underflows to 0.
        """
        import pandas as pd

        variants = self.plan.variants
        shown = self.status == "ok"
        statistic = np.where(shown, self.beta / np.where(shown, self.se, 1.0), np.nan)
        linear = self.plan.trait == "linear"
        logs = log10_p_student(statistic, self.freedom) if linear else log10_p_normal(statistic)
        told = np.where(self.status == "guard", np.nan, 1.0)
        frequency = self.copies / np.where(self.persons > 0, 2 * self.persons, np.nan)
        table: dict[str, Any] = {
            "chrom": variants.chrom,
            "pos": variants.pos,
            "id": variants.ids,
            "ref": variants.ref,
            "alt": variants.alt,
            "n": self.persons * told,
            "sites": self.sites,
            "frequency": frequency * told,
            "beta": np.where(shown, self.beta, np.nan),
            "se": np.where(shown, self.se, np.nan),
            "t" if linear else "z": statistic,
            "p": 10.0**logs,
            "log10_p": logs,
            "status": self.status,
        }
        if not linear:
            with np.errstate(over="ignore"):
                table["or"] = np.exp(table["beta"])
            if self.cases is not None:
                table["cases"] = self.cases * told
        return pd.DataFrame(table)


def log10_p_normal(z: Floats) -> Floats:
    """log10 of the two-sided P of standard normal z."""
    from scipy.special import log_ndtr

    return np.asarray((np.log(2.0) + log_ndtr(-np.abs(z))) / np.log(10.0))


def log10_p_student(t: Floats, freedom: Floats) -> Floats:
    """log10 of the two-sided P of Student's t; exact far below what a double holds."""
    from scipy.special import betainc

    t, freedom = np.broadcast_arrays(np.asarray(t, np.float64), np.asarray(freedom, np.float64))
    x = freedom / (freedom + t**2)
    with np.errstate(divide="ignore", invalid="ignore"):
        p = np.where(freedom > 0, betainc(freedom / 2, 0.5, x), np.nan)
        logs = np.log10(p)
    small = p < _TINY
    if small.any():
        logs[small] = _log_beta(freedom[small] / 2, x[small], t[small] ** 2 / (freedom[small] + t[small] ** 2))
    return np.asarray(logs)


def _log_beta(a: Floats, x: Floats, rest: Floats) -> Floats:
    """log10 of the regularised incomplete beta function I_x(a, 1/2), rest = 1 - x, by Lentz's continued fraction."""
    from scipy.special import betaln

    b, tiny = 0.5, 1e-300
    c = np.ones_like(x)
    d = 1 / np.where(np.abs(1 - (a + b) * x / (a + 1)) < tiny, tiny, 1 - (a + b) * x / (a + 1))
    fraction = d.copy()
    for step in range(1, 5000):
        for numerator in (
            step * (b - step) * x / ((a + 2 * step - 1) * (a + 2 * step)),
            -(a + step) * (a + b + step) * x / ((a + 2 * step) * (a + 2 * step + 1)),
        ):
            d = 1 / (1 + numerator * d)
            c = 1 + numerator / c
            fraction *= d * c
        if bool((np.abs(d * c - 1) < 1e-14).all()):
            break
    return np.asarray((a * np.log(x) + b * np.log(rest) - np.log(a) - betaln(a, b) + np.log(fraction)) / np.log(10.0))


def lambda_gc(log10_p: Floats) -> float:
    """Genomic control: the median chi-square (1 df) of the P values over its expectation; NaN without any."""
    from scipy.special import ndtri

    known = np.asarray(log10_p, np.float64)
    known = known[np.isfinite(known)]
    if not len(known):
        return float("nan")
    return float(ndtri(10.0 ** float(np.median(known)) / 2) ** 2 / _MEDIAN_CHI2)
