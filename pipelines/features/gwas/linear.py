"""A site's sums for linear regression: everything X'X, X'y and y'y hold, and nothing of a person.

The block of covariates and phenotype is summed once over everyone; each variant adds its products with the
covariates, the phenotype and itself. Where the persons of a variant can differ (`Plan.dense`), `lacking` holds the
block summed over those who are in `shared` but not counted at that variant.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from pipelines.features.genomics.genotypes import Dosages
from pipelines.features.gwas.cohort import Cohort, device
from pipelines.features.gwas.plan import Arrays, Floats, Guard, Plan, added, checked, pack

if TYPE_CHECKING:
    import torch

__all__ = ["Called", "LinearSums", "add", "called", "sums"]


@dataclass(frozen=True, slots=True, eq=False)
class LinearSums:
    """Sums over one site, or over several added up. m variants, p = design width, y last in the block.

    Attributes:
        site: [1], number of sites in the sum.
        shared: upper triangle of [C, y]'[C, y] over everyone.
        cross: g'[C, y, g] per variant, [m, p + 1].
        persons: counted at the variant, [m].
        sites: that passed the guard at the variant, [m].
        lacking: as `shared`, over those not counted at the variant, [m or 0, p(p+1)/2].
    """

    site: Floats
    shared: Floats
    cross: Floats
    persons: Floats
    sites: Floats
    lacking: Floats

    def to_arrays(self) -> dict[str, Floats]:
        """By name, in the order of `Plan.shapes`."""
        return {name: getattr(self, name) for name in self.__slots__}

    @classmethod
    def from_arrays(cls, arrays: Arrays, plan: Plan) -> LinearSums:
        """From named arrays.

        Raises:
            InputError: `input.message`.
        """
        return cls(**checked(arrays, plan))


def add(parts: Sequence[LinearSums]) -> LinearSums:
    """The sums over all sites."""
    return LinearSums(**added([part.to_arrays() for part in parts]))


@dataclass(frozen=True, slots=True, eq=False)
class Called:
    """A block's dosages on the device: NaN replaced, float64 [n, b]; who is counted, float64 [n, b] of 0/1."""

    dosages: torch.Tensor
    counted: torch.Tensor
    persons: Floats
    reasons: list[tuple[str, NDArray[np.bool_]]]


def called(dosages: Dosages, people: Cohort, plan: Plan, where: Any) -> Called:
    """Bring a block to the device, fill in or mask what is not called, and test the counts that all traits share."""
    import torch

    values = torch.as_tensor(np.ascontiguousarray(dosages[people.rows]), device=where).to(torch.float64)
    there = torch.isfinite(values)
    counted = there.to(torch.float64)
    known = torch.where(there, values, torch.zeros_like(values))
    persons, copies = counted.sum(dim=0), known.sum(dim=0)
    guard: Guard = plan.guard
    missing = len(people.rows) - persons
    minor = torch.minimum(copies, 2 * persons - copies)
    reasons = [("persons", persons < max(1, guard.persons)), ("minor", minor < guard.minor)]
    if plan.missing == "drop":
        reasons.append(("missing", (missing > 0) & (missing < guard.missing)))
    else:
        known = torch.where(there, known, (copies / persons.clamp(min=1)).expand_as(known))
        counted, persons = torch.ones_like(counted), torch.full_like(persons, len(people.rows))
    listed = [(name, failing.cpu().numpy()) for name, failing in reasons]
    return Called(known, counted, persons.cpu().numpy(), listed)


def suppressed(reasons: list[tuple[str, NDArray[np.bool_]]], counts: Counter[str]) -> NDArray[np.bool_]:
    """Variants that some guard holds back; counted under the first that does."""
    held = np.zeros(len(reasons[0][1]), bool)
    for name, failing in reasons:
        counts[f"guard-{name}"] += int((failing & ~held).sum())
        held |= failing
    return held


def sums(
    blocks: Iterable[tuple[NDArray[np.int64], Dosages]],
    people: Cohort,
    plan: Plan,
    *,
    counts: Counter[str] | None = None,
    on: str = "auto",
) -> LinearSums:
    """One site's sums.

    Args:
        blocks: (index in the plan's variants, dosages [samples, b]) as `alleles.aligned` yields; a variant that
            never comes counts as suppressed.
        people: who takes part.
        plan: the study.
        counts: gets `guard-<reason>` and `summed`.
        on: device.
    """
    import torch

    counts = Counter() if counts is None else counts
    where = device(on)
    m, p = len(plan.variants), plan.width
    base = np.column_stack([people.design, people.phenotype])
    enough = len(base) >= max(1, plan.guard.persons)
    shared = pack(base.T @ base) * float(enough)
    cross, persons, sites = np.zeros((m, p + 1)), np.zeros(m), np.zeros(m)
    lacking = np.tile(shared, (m if plan.dense else 0, 1))
    block = torch.as_tensor(base, device=where)
    rows, columns = np.triu_indices(p)
    products = block[:, rows] * block[:, columns]
    for index, dosages in blocks:
        now = called(dosages, people, plan, where)
        keep = ~suppressed(now.reasons, counts)
        counts["summed"] += int(keep.sum())
        at = index[keep]
        part = torch.cat([now.dosages.T @ block, (now.dosages**2).sum(dim=0)[:, None]], dim=1)
        cross[at] = part.cpu().numpy()[keep]
        persons[at] = now.persons[keep]
        sites[at] = 1.0
        if plan.dense:
            lacking[at] = ((1 - now.counted).T @ products).cpu().numpy()[keep]
    return LinearSums(np.ones(1), shared, cross, persons, sites, lacking)
