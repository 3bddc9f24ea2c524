"""Federated statistics, the centre's side: sites' sums into the values that pooled rows would have given.

Place: frames of `statistics.compute`, one a site -> `pool` -> means, variances, quantiles, correlation, tables and
Kaplan-Meier curves. Exact but for floating-point rounding; where a site hid a cell, what needs it is missing. Noised
sums (`noised.compute`) are added as they are, below zero too, so that their errors cancel; what has no meaning for the
result (a mean over nobody) is missing, and steps of a survival curve stay between 0 and 1.

Source: Kaplan and Meier, JASA 1958;53:457-81; Greenwood's variance.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import combinations_with_replacement
from typing import TYPE_CHECKING

from pipelines.features.statistics import COLUMNS, MISSING
from protocol.errors import InputError

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["correlation", "covariance", "moments", "pool", "quantiles", "survival", "table"]

_KEYS = list(COLUMNS[:4])


def pool(frames: Sequence[pd.DataFrame]) -> pd.DataFrame:
    """Cell by cell sums over sites: `COLUMNS`, and `sites` (that gave it) and `hidden` (that hid it).

    A value is missing when any site hid it.

    Raises:
        InputError: `input.table` for a frame of other columns, or with a cell twice.
    """
    import pandas as pd

    for frame in frames:
        if list(frame.columns) != list(COLUMNS) or frame.duplicated(_KEYS).any():
            raise InputError("input.table", "a site's statistics are not of the expected form")
    if not frames:
        raise InputError("input.rows", "no site gave statistics")
    whole = pd.concat(frames, ignore_index=True)
    grouped = whole.groupby(_KEYS, sort=False, dropna=False)
    result = grouped.agg(value=("value", "sum"), n=("n", "sum"), sites=("value", "count"), all_=("value", "size"))
    result["hidden"] = result["all_"] - result["sites"]
    result.loc[result["hidden"] > 0, "value"] = math.nan
    result["n"] = result["n"].astype("Int64").mask(result["hidden"] > 0)
    return result.drop(columns="all_").reset_index()


def moments(pooled: pd.DataFrame) -> pd.DataFrame:
    """Index (column, group): n, missing, mean, variance (n - 1), sd."""
    import numpy as np
    import pandas as pd

    sums = pooled[pooled["statistic"] == "sum"].set_index(["column", "group"])
    squares = pooled[pooled["statistic"] == "sum_squares"].set_index(["column", "group"])["value"]
    missing = pooled[pooled["statistic"] == "missing"].set_index(["column", "group"])["value"]
    n = sums["n"].astype("float64")
    n = n.where(n >= 1)
    variance = ((squares - sums["value"] ** 2 / n) / (n - 1)).clip(lower=0)
    origin = sums["bin"].astype("float64")
    return pd.DataFrame(
        {
            "n": sums["n"],
            "missing": missing,
            "mean": origin + sums["value"] / n,
            "variance": variance,
            "sd": np.sqrt(variance),
        }
    )


def quantiles(pooled: pd.DataFrame, column: str, probabilities: Sequence[float]) -> dict[float, float]:
    """Quantiles out of the histogram, linear within a bin; an open or hidden bin in the way gives NaN.

    The error is at most the width of the bin that the quantile falls into.
    """
    rows = pooled[(pooled["statistic"] == "histogram") & (pooled["column"] == column) & (pooled["bin"] != MISSING)]
    bins = sorted((*map(float, bin_.split(",")), value) for bin_, value in zip(rows["bin"], rows["value"], strict=True))
    total = sum(count for _, _, count in bins)
    found = {}
    for p in probabilities:
        below, answer = 0.0, math.nan
        for low, high, count in bins:
            if count > 0 and below + count >= p * total:
                if math.isfinite(low) and math.isfinite(high):
                    answer = low + (high - low) * (p * total - below) / count
                break
            below += count
        found[p] = answer
    return found


def covariance(pooled: pd.DataFrame, columns: Sequence[str]) -> pd.DataFrame:
    """The covariance matrix (n - 1) of complete rows.

    Raises:
        InputError: `input.column-missing` when the study has no such products.
    """
    import pandas as pd

    group = ",".join(columns)
    rows = pooled[pooled["group"] == group]
    sums = rows[rows["statistic"] == "product_sum"].set_index("column")
    products = rows[rows["statistic"] == "product"].set_index(["column", "bin"])["value"]
    if list(sums.index) != list(columns):
        raise InputError("input.column-missing", "the statistics hold no products of these columns, in this order")
    n, total = float(sums["n"].iloc[0]), sums["value"]
    result = pd.DataFrame(index=list(columns), columns=list(columns), dtype="float64")
    for a, b in combinations_with_replacement(columns, 2):
        found = (float(products[(a, b)]) - float(total[a]) * float(total[b]) / n) / (n - 1)
        result.loc[a, b] = result.loc[b, a] = found
    return result


def correlation(pooled: pd.DataFrame, columns: Sequence[str]) -> pd.DataFrame:
    """Pearson's correlation of complete rows."""
    import numpy as np

    found = covariance(pooled, columns)
    sd = np.sqrt(np.diag(found))
    return found.div(sd, axis=0).div(sd, axis=1)


def table(pooled: pd.DataFrame, rows: str, columns: str) -> pd.DataFrame:
    """The contingency table, levels as declared; hidden cells are missing. All-zero other and missing levels go."""
    cells = pooled[(pooled["statistic"] == "table") & (pooled["column"] == f"{rows},{columns}")]
    if cells.empty:
        raise InputError("input.column-missing", "the statistics hold no table of these columns")
    wide = cells.pivot(index="group", columns="bin", values="value")
    wide = wide.reindex(index=cells["group"].unique(), columns=cells["bin"].unique())
    spare = [name for name in wide.index if name.startswith("(") and (wide.loc[name] == 0).all()]
    wide = wide.drop(index=spare)
    spare = [name for name in wide.columns if name.startswith("(") and (wide[name] == 0).all()]
    return wide.drop(columns=spare).rename_axis(index=rows, columns=columns)


def survival(pooled: pd.DataFrame, time: str, group: str = "") -> pd.DataFrame:
    """Kaplan-Meier on the grid: index time; at_risk, events, survival, and Greenwood's standard error.

    From the first hidden step on, survival is missing.
    """
    rows = pooled[(pooled["column"] == time) & (pooled["group"] == group)]
    risk = rows[rows["statistic"] == "at_risk"].set_index("bin")["value"]
    events = rows[rows["statistic"] == "events"].set_index("bin")["value"]
    if risk.empty:
        raise InputError("input.column-missing", "the statistics hold no survival of this column and group")
    import numpy as np
    import pandas as pd

    made = pd.DataFrame({"at_risk": risk, "events": events})
    made.index = pd.Index([float(time_) for time_ in made.index], name="time")
    made = made.sort_index()
    step = np.where(made["at_risk"] <= 0, 1.0, 1 - made["events"] / made["at_risk"].where(made["at_risk"] > 0))
    step = np.clip(step, 0.0, 1.0)
    made["survival"] = np.cumprod(step)
    left = made["at_risk"] * (made["at_risk"] - made["events"])
    terms = (made["events"] / left.where(left > 0)).where(made["events"] > 0, 0.0)
    made["error"] = made["survival"] * np.sqrt(terms.cumsum(skipna=False))
    return made
