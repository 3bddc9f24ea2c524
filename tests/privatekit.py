"""Training studies with differential privacy over the invented hospitals of `tabularkit`."""

from __future__ import annotations

from typing import Any

from protocol.study import Study
from tests.tabularkit import SITES, study

BOUNDS = {"x0": (-3.0, 3.0), "x1": (20.0, 80.0)}
DELTA = 1e-5


def private(
    dp: str,
    *,
    masked: bool = False,
    epsilon: float = 2.0,
    delta: float = DELTA,
    parameters: dict[str, Any] | None = None,
    sites: tuple[str, ...] = SITES,
    privacy: dict[str, Any] | None = None,
    **training: Any,
) -> Study:
    """A study of learner `tabular` whose noise is of this kind."""
    given = {"private": {"bounds": BOUNDS}, **(parameters or {})}
    raw = study(given, sites=sites, **training).model_dump(by_alias=True, exclude_none=True)
    raw["privacy"] |= {"dp": dp, "epsilon": epsilon, "delta": delta, "secure_aggregation": masked, **(privacy or {})}
    return Study.model_validate(raw)
