"""What a study's sites agree on before anything is summed: variants, covariates, model, guard; shapes follow from it.

Arrays travel as named sums of fixed shape, so the plan alone says how long each is: nothing about a site's data
shows in a size. Symmetric matrices travel as their upper triangle, row by row.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from pipelines.features.genomics.variants import Variants
from protocol.errors import InputError

__all__ = ["Arrays", "Floats", "Guard", "Plan", "added", "checked", "pack", "packed", "unpack"]

Floats = NDArray[np.float64]
Arrays = Mapping[str, Floats]


@dataclass(frozen=True, slots=True, kw_only=True)
class Guard:
    """Smallest counts per variant at one site; below, the site sends nothing of the variant.

    Attributes:
        persons: with phenotype, covariates and genotype.
        minor: copies of the rarer allele among them.
        cases, controls: logistic only.
        missing: under `missing="drop"`, persons without genotype, unless there is none: sums over everyone minus
            sums over those called are the sums over the few.
    """

    persons: int = 10
    minor: int = 10
    cases: int = 10
    controls: int = 10
    missing: int = 3


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Plan:
    """One association study.

    Attributes:
        variants: agreed list; `alt` is the effect allele at every site.
        covariates: names, without the intercept.
        trait: `linear` for a quantity, `logistic` for 0/1.
        missing: `drop` leaves a person out of the variants where the genotype is not called (as plink2 does);
            `impute` gives the site's mean dosage, so that one covariate block serves all variants: less to send, and
            no difference between two variants shows the few persons by which they differ.
        pool: `all` gives a result only where every site passed the guard; `any` adds up the sites that did.
        guard: the smallest counts.
    """

    variants: Variants
    covariates: tuple[str, ...]
    trait: Literal["linear", "logistic"]
    missing: Literal["drop", "impute"] = "drop"
    pool: Literal["all", "any"] = "all"
    guard: Guard = field(default_factory=Guard)

    def __post_init__(self) -> None:
        if len(set(self.covariates)) != len(self.covariates):
            raise InputError("input.usage", "a covariate is named twice")
        places = set(
            zip(
                *(
                    column.tolist()
                    for column in (self.variants.chrom, self.variants.pos, self.variants.ref, self.variants.alt)
                ),
                strict=True,
            )
        )
        if len(places) != len(self.variants):
            raise InputError("input.variants", "the study lists a variant twice")

    @property
    def width(self) -> int:
        """Columns of the design: intercept, covariates, dosage."""
        return len(self.covariates) + 2

    @property
    def dense(self) -> bool:
        """Whether the covariate block can differ from variant to variant."""
        return self.missing == "drop" or self.pool == "any"

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Name and shape of every array of a site's sums; the names are those of `LinearSums`, `LogisticSums`."""
        m, p = len(self.variants), self.width
        if self.trait == "linear":
            block = packed(p)
            return {
                "site": (1,),
                "shared": (block,),
                "cross": (m, p + 1),
                "persons": (m,),
                "sites": (m,),
                "lacking": (m if self.dense else 0, block),
            }
        return {
            "site": (1,),
            "gradient": (m, p),
            "information": (m, packed(p)),
            "likelihood": (m,),
            "persons": (m,),
            "cases": (m,),
            "copies": (m,),
            "sites": (m,),
        }


def packed(size: int) -> int:
    """Length of the upper triangle of a symmetric matrix."""
    return size * (size + 1) // 2


def pack(matrix: Floats) -> Floats:
    """Upper triangles [..., s(s+1)/2] of symmetric matrices [..., s, s]."""
    rows, columns = np.triu_indices(matrix.shape[-1])
    return np.ascontiguousarray(matrix[..., rows, columns])


def unpack(triangle: Floats, size: int) -> Floats:
    """Symmetric matrices [..., size, size] of upper triangles."""
    rows, columns = np.triu_indices(size)
    matrix = np.empty((*triangle.shape[:-1], size, size))
    matrix[..., rows, columns] = triangle
    matrix[..., columns, rows] = triangle
    return matrix


def checked(arrays: Arrays, plan: Plan) -> dict[str, Floats]:
    """The arrays in the plan's order, as float64.

    Raises:
        InputError: `input.message` for a name, shape or value that the plan does not allow.
    """
    shapes = plan.shapes()
    if set(arrays) != set(shapes):
        raise InputError("input.message", "the sums of a site do not have the study's names")
    found = {name: np.asarray(arrays[name], np.float64) for name in shapes}
    for name, shape in shapes.items():
        if found[name].shape != shape or not np.isfinite(found[name]).all():
            raise InputError("input.message", f"sums {name!r} of a site have another shape, or are not finite")
    return found


def added(parts: list[dict[str, Floats]]) -> dict[str, Floats]:
    """Element-wise sums; all parts have the same names."""
    return {name: np.sum([part[name] for part in parts], axis=0) for name in parts[0]}
