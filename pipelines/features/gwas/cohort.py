"""Who takes part at a site: persons with phenotype and every covariate, beside the rows of their genotypes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipelines.features.gwas.plan import Floats, Plan
from protocol.errors import InputError

__all__ = ["Cohort", "cohort", "device"]


@dataclass(frozen=True, slots=True, eq=False)
class Cohort:
    """Complete persons.

    Attributes:
        rows: row of each in the dosages, int64 [n].
        design: intercept and covariates, float64 [n, k].
        phenotype: float64 [n].
        dropped: persons left out for a missing phenotype or covariate.
    """

    rows: NDArray[np.int64]
    design: Floats
    phenotype: Floats
    dropped: int


def cohort(plan: Plan, rows: Sequence[int] | NDArray[np.int64], phenotype: Floats, covariates: Floats) -> Cohort:
    """Leave out whoever lacks a value.

    Args:
        plan: for the trait and the number of covariates.
        rows: of the persons in the genotypes (`Genotypes.rows`).
        phenotype: [n], NaN = missing.
        covariates: [n, number of covariates], NaN = missing.

    Raises:
        InputError: `input.table` when shapes do not fit, a person is there twice, or a phenotype of a logistic study
            is neither 0 nor 1.
    """
    at = np.asarray(rows, np.int64)
    y = np.asarray(phenotype, np.float64)
    x = np.asarray(covariates, np.float64)
    if y.ndim != 1 or at.shape != y.shape or x.shape != (len(y), len(plan.covariates)):
        raise InputError("input.table", "phenotype, covariates and samples do not fit the study")
    if len(np.unique(at)) != len(at):
        raise InputError("input.table", "a person has two rows of phenotypes")
    complete = np.isfinite(y) & np.isfinite(x).all(axis=1)
    y = y[complete]
    if plan.trait == "logistic" and not np.isin(y, (0.0, 1.0)).all():
        raise InputError("input.table", "the phenotype of a logistic study is 0 (control) or 1 (case)")
    design = np.column_stack([np.ones(len(y)), x[complete]])
    return Cohort(at[complete], design, y, int((~complete).sum()))


def device(name: str = "auto") -> Any:
    """The torch device: `cpu`, `cuda`, or `auto` = cuda where there is one. Tested on `cpu` only: no GPU was at hand.

    Raises:
        InputError: `input.usage` for another name, or cuda where there is none.
    """
    import torch

    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    if name not in ("cpu", "cuda") or (name == "cuda" and not torch.cuda.is_available()):
        raise InputError("input.usage", f"no device {name!r} here")
    return torch.device(name)
