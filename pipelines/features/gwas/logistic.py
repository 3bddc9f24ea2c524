"""A site's sums for one Newton round of logistic regression: gradient and information at the shared coefficients.

All variants of a block at once, float64. The coefficients come from outside, and chosen ones could put the whole
weight on one person: a variant whose weights or residuals rest on fewer persons in effect than the guard asks for
is suppressed in that round.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from pipelines.features.genomics.genotypes import Dosages
from pipelines.features.gwas.cohort import Cohort, device
from pipelines.features.gwas.linear import called, suppressed
from pipelines.features.gwas.plan import Arrays, Floats, Plan, added, checked, packed
from protocol.errors import InputError

if TYPE_CHECKING:
    import torch

__all__ = ["LogisticSums", "add", "sums"]


@dataclass(frozen=True, slots=True, eq=False)
class LogisticSums:
    """Sums of one round. m variants, p = design width, dosage last.

    Attributes:
        site: [1], number of sites in the sum.
        gradient: X'(y - mu), [m, p].
        information: upper triangle of X'WX, [m, p(p+1)/2].
        likelihood: log-likelihood, [m].
        persons, cases, copies: counted persons, cases among them, effect alleles they carry, [m] each.
        sites: that passed the guard, [m].
    """

    site: Floats
    gradient: Floats
    information: Floats
    likelihood: Floats
    persons: Floats
    cases: Floats
    copies: Floats
    sites: Floats

    def to_arrays(self) -> dict[str, Floats]:
        """By name, in the order of `Plan.shapes`."""
        return {name: getattr(self, name) for name in self.__slots__}

    @classmethod
    def from_arrays(cls, arrays: Arrays, plan: Plan) -> LogisticSums:
        """From named arrays.

        Raises:
            InputError: `input.message`.
        """
        return cls(**checked(arrays, plan))


def add(parts: Sequence[LogisticSums]) -> LogisticSums:
    """The sums over all sites."""
    return LogisticSums(**added([part.to_arrays() for part in parts]))


def sums(
    blocks: Iterable[tuple[NDArray[np.int64], Dosages]],
    people: Cohort,
    plan: Plan,
    request: Arrays,
    *,
    counts: Counter[str] | None = None,
    on: str = "auto",
) -> LogisticSums:
    """One site's sums for one round.

    Args:
        blocks: as for `linear.sums`; every round reads them again.
        people: who takes part.
        plan: the study.
        request: `Newton.request()`: `coefficients` [m, p], and `active` [m] (0 = not asked for).
        counts: gets `guard-<reason>` and `summed`.
        on: device.

    Raises:
        InputError: `input.message` for coefficients of another shape, or not finite.
    """
    import torch

    counts = Counter() if counts is None else counts
    where = device(on)
    beta, active = _request(request, plan)
    found = {name: np.zeros(shape) for name, shape in plan.shapes().items()}
    found["site"] += 1
    design = torch.as_tensor(people.design, device=where)
    outcome = torch.as_tensor(people.phenotype, device=where)[:, None]
    for index, dosages in blocks:
        asked = active[index] > 0
        if not asked.any():
            continue
        at = index[asked]
        now = called(dosages[:, asked], people, plan, where)
        part, held = _round(now.dosages, now.counted, design, outcome, torch.as_tensor(beta[at], device=where), plan)
        keep = ~suppressed(now.reasons + held, counts)
        counts["summed"] += int(keep.sum())
        found["persons"][at[keep]] = now.persons[keep]
        found["sites"][at[keep]] = 1.0
        for name, values in part.items():
            found[name][at[keep]] = values.cpu().numpy()[keep]
    return LogisticSums(**found)


def _request(request: Arrays, plan: Plan) -> tuple[Floats, Floats]:
    m, p = len(plan.variants), plan.width
    if set(request) != {"coefficients", "active"}:
        raise InputError("input.message", "a round asks with coefficients and active")
    beta, active = (np.asarray(request[name], np.float64) for name in ("coefficients", "active"))
    if beta.shape != (m, p) or active.shape != (m,) or not (np.isfinite(beta).all() and np.isfinite(active).all()):
        raise InputError("input.message", "the coefficients of a round have another shape, or are not finite")
    return beta, active


def _round(
    dosages: torch.Tensor,
    counted: torch.Tensor,
    design: torch.Tensor,
    outcome: torch.Tensor,
    beta: torch.Tensor,
    plan: Plan,
) -> tuple[dict[str, torch.Tensor], list[tuple[str, NDArray[np.bool_]]]]:
    """Sums of a block, each [b, ...], and the guards that need the outcome."""
    import torch

    p = plan.width
    predictor = design @ beta[:, :-1].T + dosages * beta[:, -1]
    mean = torch.sigmoid(predictor)
    residual = counted * (outcome - mean)
    weight = counted * mean * (1 - mean)
    weighted = weight * dosages
    information = torch.empty((len(beta), packed(p)), dtype=torch.float64, device=beta.device)
    rows, columns = np.triu_indices(p)
    inner = columns < p - 1
    information[:, inner] = weight.T @ (design[:, rows[inner]] * design[:, columns[inner]])
    last = np.flatnonzero(columns == p - 1)
    information[:, last[:-1]] = weighted.T @ design
    information[:, last[-1]] = (weighted * dosages).sum(dim=0)
    cases = (counted * outcome).sum(dim=0)
    persons = counted.sum(dim=0)
    part = {
        "gradient": torch.cat([residual.T @ design, (residual * dosages).sum(dim=0)[:, None]], dim=1),
        "information": information,
        "likelihood": (counted * (outcome * predictor - torch.nn.functional.softplus(predictor))).sum(dim=0),
        "cases": cases,
        "copies": (counted * dosages).sum(dim=0),
    }
    guard = plan.guard
    failing = [
        ("cases", cases < guard.cases),
        ("controls", persons - cases < guard.controls),
        ("leverage", (_effective(weight) < guard.persons) | (_effective(residual.abs()) < guard.persons)),
    ]
    return part, [(name, flags.cpu().numpy()) for name, flags in failing]


def _effective(weights: torch.Tensor) -> torch.Tensor:
    """How many persons carry the weight, per variant: (sum w)^2 / sum w^2."""
    squares = (weights**2).sum(dim=0)
    return weights.sum(dim=0) ** 2 / squares.clamp(min=1e-300)
