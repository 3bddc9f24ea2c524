"""Invented hospitals with a table: numbers, a category, a yes/no outcome and a score."""

from __future__ import annotations

import numpy as np
import pandas as pd

from protocol.study import Study
from tests.federation_hospital import study as survival_study

SITES = ("site-a", "site-b", "site-c")


def frame(site: str, rows: int = 120) -> pd.DataFrame:
    draw = np.random.default_rng([3, *site.encode()])
    x0, x1, kind = draw.normal(size=rows), draw.normal(50, 10, rows), draw.choice(["mild", "severe"], rows)
    z = 1.5 * x0 + 0.08 * (x1 - 50) + (kind == "severe") * 1.2 - 0.6
    disease = (draw.uniform(size=rows) < 1 / (1 + np.exp(-z))).astype(int)
    made = pd.DataFrame({"x0": x0, "x1": x1, "kind": kind, "disease": disease, "score": 3 * z + draw.normal(size=rows)})
    made.loc[draw.uniform(size=rows) < 0.1, "x1"] = np.nan
    return made


def study(parameters: dict[str, object] | None = None, *, sites: tuple[str, ...] = SITES, **training: object) -> Study:
    raw = survival_study(sites=sites).model_dump(by_alias=True, exclude_none=True)
    raw["pipeline"]["parameters"] = {"categorical": {"kind": ["mild", "severe"]}, **(parameters or {})}
    raw["training"] |= {"learner": "tabular", "features": ("x0", "x1", "kind"), "outcome": ("disease",), **training}
    return Study.model_validate(raw)
