"""At the centre: estimates of the linear model from added sums, for all variants at once."""

from __future__ import annotations

import numpy as np

from pipelines.features.gwas.linear import LinearSums
from pipelines.features.gwas.plan import Floats, Plan, unpack
from pipelines.features.gwas.result import Estimates

__all__ = ["inverse", "linear", "passed"]

#: A design whose scaled information has a smaller eigenvalue than this cannot be solved to useful digits.
SINGULAR = 1e-10
_CHUNK = 1 << 14


def passed(sites: Floats, site: Floats, plan: Plan) -> np.ndarray[tuple[int, ...], np.dtype[np.bool_]]:
    """Variants with a result: every site passed the guard, or, under `pool="any"`, at least one did."""
    return np.asarray(sites > 0.5 if plan.pool == "any" else (sites >= site - 0.5) & (site > 0.5))


def inverse(matrices: Floats) -> tuple[Floats, np.ndarray[tuple[int, ...], np.dtype[np.bool_]]]:
    """Inverses of symmetric positive matrices [b, s, s], scaled to unit diagonal on the way; and which are regular.

    A singular one gets the identity.
    """
    size = matrices.shape[-1]
    scale = np.sqrt(np.clip(np.diagonal(matrices, axis1=-2, axis2=-1), 0, None))
    safe = np.where(scale > 0, scale, 1.0)
    unit = matrices / safe[..., :, None] / safe[..., None, :]
    regular = np.linalg.eigvalsh(unit)[..., 0] > SINGULAR if size else np.ones(len(matrices), bool)
    unit = np.where(regular[..., None, None], unit, np.eye(size))
    return np.linalg.inv(unit) / safe[..., :, None] / safe[..., None, :], regular


def linear(total: LinearSums, plan: Plan) -> Estimates:
    """Coefficient, standard error and t of each variant.

    Args:
        total: added over the sites.
        plan: the study.
    """
    m = len(plan.variants)
    estimates = Estimates.empty(plan, total.persons, total.sites, total.cross[:, 0])
    good = passed(total.sites, total.site, plan)
    estimates.status[~good] = "guard"
    estimates.freedom[:] = total.persons - plan.width
    few = good & (estimates.freedom < 1)
    estimates.status[few] = "few"
    for start in range(0, m, _CHUNK):
        at = start + np.flatnonzero((good & ~few)[start : start + _CHUNK])
        if len(at):
            _solve(total, plan, at, estimates)
    return estimates


def _solve(total: LinearSums, plan: Plan, at: np.ndarray[tuple[int], np.dtype[np.int64]], found: Estimates) -> None:
    """Partial out the covariates (Schur complement), then divide."""
    p = plan.width
    shared = total.shared[None] - total.lacking[at] if plan.dense else total.shared[None]
    block = unpack(shared, p)
    inner, cy, yy = block[:, :-1, :-1], block[:, :-1, -1], block[:, -1, -1]
    inverted, regular = inverse(inner)
    cg, gy, gg = total.cross[at, : p - 1], total.cross[at, p - 1], total.cross[at, p]
    projected = np.einsum("bij,bj->bi", np.broadcast_to(inverted, (len(at), p - 1, p - 1)), cg)
    left = gg - (projected * cg).sum(axis=1)
    shared_effect = gy - (projected * cy).sum(axis=1)
    outcome = yy - np.einsum("bi,bij,bj->b", cy, inverted, cy)
    spread = gg - cg[:, 0] ** 2 / np.maximum(total.persons[at], 1)
    constant = spread <= 1e-10 * gg
    collinear = ~constant & ((left <= 1e-8 * spread) | ~regular)
    fine = ~constant & ~collinear
    found.status[at[constant]] = "constant"
    found.status[at[collinear]] = "collinear"
    divisor = np.where(fine, left, 1.0)
    beta = shared_effect / divisor
    residual = np.clip(outcome - beta * shared_effect, 0, None)
    se = np.sqrt(residual / found.freedom[at] / divisor)
    exact = fine & (se <= 0)
    found.status[at[exact]] = "exact-fit"
    fine &= ~exact
    found.beta[at[fine]] = beta[fine]
    found.se[at[fine]] = se[fine]
