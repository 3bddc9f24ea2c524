"""What a model takes: its columns with their kinds, and a plausible row, from what the sites agreed by sums.

The example is made of agreed means and levels; no site's row is in it, and none ever reached the centre.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["Kind", "example_rows", "input_kinds"]

Kind = str  # an MLflow type: "double", "string", or "any" where numbers and texts are both taken


def input_kinds(features: Sequence[str], table: pd.DataFrame, categorical: Mapping[str, Any]) -> dict[str, Kind]:
    """Kind of each feature.

    Args:
        features: in the model's order.
        table: the model as people read it: `feature`, and `mean` of numbers.
        categorical: feature -> declared levels, from the study; none: the levels are not known to the study.
    """
    known = set(table["feature"].astype(str)) if {"feature", "mean"} <= set(table.columns) else set()
    kinds = {name: "double" if name in known else "any" for name in features}
    return kinds | {name: _of_levels(categorical[name]) for name in features if name in categorical}


def example_rows(features: Sequence[str], table: pd.DataFrame, kinds: Mapping[str, Kind]) -> dict[str, list[Any]]:
    """Two rows by column: agreed means, and half a scale above; of levels the first in use. Empty if one is unknown."""
    made: dict[str, list[Any]] = {}
    for name in features:
        rows = table[table["feature"].astype(str) == name] if "feature" in table.columns else table.iloc[:0]
        if kinds[name] == "double" and len(rows):
            made[name] = _around(float(rows["mean"].iloc[0]), float(rows["scale"].iloc[0]))
        elif "level" in table.columns and len(rows) and not str(rows["level"].iloc[0]).startswith("#"):
            made[name] = [str(rows["level"].iloc[0])] * 2
        else:
            return {}
    return made


def _of_levels(levels: Any) -> Kind:
    texts = [str(level) for level in levels] if isinstance(levels, list | tuple) else []
    return "string" if texts and not any(_numeric(text) for text in texts) else "any"


def _numeric(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return text.lower() in ("true", "false")
    return True


def _around(mean: float, scale: float) -> list[float]:
    if not (math.isfinite(mean) and math.isfinite(scale)):
        return [0.0, 0.0]
    return [float(f"{mean:.3g}"), float(f"{mean + scale / 2:.3g}")]
