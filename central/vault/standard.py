"""Standard analyses of a curated table: Table 1, Kaplan-Meier, Cox and logistic regression.

Pure functions from a DataFrame to plain JSON values, run in the vault so that a researcher needs no rows for them.
Whatever rests on fewer than `least` persons is None (suppressed); rows with a missing value in a used column are left
out and counted. lifelines and statsmodels do the statistics.

Source: Collett, Modelling Survival Data (3rd ed.); Hosmer, Lemeshow, Applied Logistic Regression (3rd ed.).
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from protocol.errors import DisclosureRefused, InputError
from protocol.validation import first_fault

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["Request", "analyse"]

MAX_LEVELS = 40  # of a categorical column
MAX_COLUMNS = 200
ROWS_A_PARAMETER = 3  # DataSHIELD's nfilter.glm: parameters at most 0.33 of the rows
CURVE_POINTS = 200
Column = Annotated[str, Field(min_length=1, max_length=128)]
Columns = Annotated[tuple[Column, ...], Field(min_length=1, max_length=MAX_COLUMNS)]


class _Request(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class TableOne(_Request):
    """Baseline characteristics, by group where `by` is given."""

    kind: Literal["table1"]
    columns: Columns
    by: Column | None = None


class KaplanMeier(_Request):
    """Survival curves; `event` is 1 for an event and 0 for a censored time."""

    kind: Literal["kaplan-meier"]
    time: Column
    event: Column
    by: Column | None = None


class Cox(_Request):
    """Proportional hazards (Efron ties), stratified by `strata`, usually `site`."""

    kind: Literal["cox"]
    time: Column
    event: Column
    covariates: Columns
    strata: tuple[Column, ...] = Field((), max_length=4)


class Logistic(_Request):
    """Logistic regression by maximum likelihood; `outcome` is 0 or 1."""

    kind: Literal["logistic"]
    outcome: Column
    covariates: Columns


Request = Annotated[TableOne | KaplanMeier | Cox | Logistic, Field(discriminator="kind")]
_REQUEST: TypeAdapter[TableOne | KaplanMeier | Cox | Logistic] = TypeAdapter(Request)


def analyse(frame: pd.DataFrame, request: Mapping[str, Any], least: int) -> dict[str, Any]:
    """Carry out one analysis.

    Args:
        frame: curated rows; `site` is a column like the others.
        request: `kind` and its fields (`TableOne`, `KaplanMeier`, `Cox`, `Logistic`).
        least: the smallest group that is shown.

    Returns:
        JSON values; numbers that are not defined or rest on a small group are None.

    Raises:
        InputError: `input.usage` for the request, `input.column-missing`, `input.rows` for values that do not fit.
        DisclosureRefused: `gate.cohort` for fewer than `least` usable rows or more parameters than they bear.
    """
    try:
        asked = _REQUEST.validate_python(dict(request))
    except ValidationError as error:
        raise InputError("input.usage", first_fault(error, whole="kind")) from None
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if isinstance(asked, TableOne):
            made = _table_one(frame, asked, least)
        elif isinstance(asked, KaplanMeier):
            made = _kaplan_meier(frame, asked, least)
        elif isinstance(asked, Cox):
            made = _cox(frame, asked, least)
        else:
            made = _logistic(frame, asked, least)
    return {"kind": asked.kind, "least": least, **made}


# -- table 1


def _table_one(frame: pd.DataFrame, asked: TableOne, least: int) -> dict[str, Any]:
    used = _columns(frame, (*asked.columns, *([asked.by] if asked.by else [])))
    groups: dict[str, pd.DataFrame] = {"all": used}
    if asked.by:
        known = used[used[asked.by].notna()]
        groups |= {str(value): part for value, part in known.groupby(asked.by, observed=True) if len(part) >= least}
        if len(groups) > MAX_LEVELS:
            raise InputError("input.rows", f"column {asked.by!r} has more than {MAX_LEVELS} groups")
    rows = [_characteristic(name, groups, least, asked.by) for name in asked.columns if name != asked.by]
    return {"groups": {name: _shown(len(part), least) for name, part in groups.items()}, "rows": rows}


def _characteristic(name: str, groups: Mapping[str, pd.DataFrame], least: int, by: str | None) -> dict[str, Any]:
    column = groups["all"][name]
    parts = [part[name].dropna() for key, part in groups.items() if key != "all"]
    if _is_number(column) and column.nunique() > 2:
        told = {key: _numbers(part[name], least) for key, part in groups.items()}
        test = "kruskal-wallis"
    else:
        levels = [v for v, n in column.value_counts().items() if n >= least]
        if len(levels) > MAX_LEVELS:
            return {"column": name, "type": "text", "groups": {}, "test": None, "p": None}
        told = {key: _counts(part[name], levels, least) for key, part in groups.items()}
        test = "chi-squared"
    enough = by is not None and len(parts) > 1 and min((len(p) for p in parts), default=0) >= least
    p = _p_value(test, parts) if enough else None
    kind = "number" if test == "kruskal-wallis" else "category"
    return {"column": name, "type": kind, "groups": told, "test": test if enough else None, "p": p}


def _numbers(column: pd.Series[Any], least: int) -> dict[str, Any]:
    values = column.dropna().astype(float)
    missing = _shown(len(column) - len(values), least)
    if len(values) < least:
        return {"n": None, "missing": missing, "mean": None, "sd": None, "median": None, "q1": None, "q3": None}
    q1, median, q3 = (float(values.quantile(q)) for q in (0.25, 0.5, 0.75))
    told = {"mean": values.mean(), "sd": values.std(), "median": median, "q1": q1, "q3": q3}
    return {"n": len(values), "missing": missing} | {k: _finite(v) for k, v in told.items()}


def _counts(column: pd.Series[Any], levels: Sequence[Any], least: int) -> dict[str, Any]:
    """Counts by level. One hidden level could be had from the rest, so then the next smallest is hidden too."""
    present = column.dropna()
    counts = {str(level): int((present == level).sum()) for level in levels}
    rest = len(present) - sum(counts.values())
    hidden = {level for level, n in counts.items() if 0 < n < least}
    if len(hidden) == 1 and not rest:
        others = sorted((n, level) for level, n in counts.items() if level not in hidden and n > 0)
        hidden |= {level for _, level in others[:1]}
    shown = {level: None if level in hidden else n for level, n in counts.items()}
    return {"n": _shown(len(present), least), "missing": _shown(len(column) - len(present), least), "levels": shown}


def _p_value(test: str, parts: Sequence[pd.Series[Any]]) -> float | None:
    import pandas as pd
    from scipy import stats

    try:
        if test == "kruskal-wallis":
            return _finite(stats.kruskal(*(part.astype(float) for part in parts)).pvalue)
        groups = [group for group, part in enumerate(parts) for _ in range(len(part))]
        table = pd.crosstab(pd.concat(parts).to_numpy(), groups)
        return _finite(stats.chi2_contingency(table).pvalue)
    except ValueError:  # all values equal, or an empty level
        return None


# -- survival


def _kaplan_meier(frame: pd.DataFrame, asked: KaplanMeier, least: int) -> dict[str, Any]:
    from lifelines import KaplanMeierFitter
    from lifelines.statistics import multivariate_logrank_test

    used = _columns(frame, (asked.time, asked.event, *([asked.by] if asked.by else [])))
    rows, dropped = _complete(used, least)
    _check_survival(rows, asked.time, asked.event)
    parts = {"all": rows} if asked.by is None else {str(k): p for k, p in rows.groupby(asked.by, observed=True)}
    if len(parts) > MAX_LEVELS:
        raise InputError("input.rows", f"column {asked.by!r} has more than {MAX_LEVELS} groups")
    kept = {name: part for name, part in parts.items() if len(part) >= least}
    curves = []
    for name, part in kept.items():
        fitted = KaplanMeierFitter().fit(part[asked.time].astype(float), part[asked.event].astype(float))
        curves.append({"group": name, **_curve(fitted, len(part), int(part[asked.event].sum()), least)})
    p = None
    if len(kept) > 1 and asked.by:
        tested = rows[rows[asked.by].astype(str).isin(kept)]
        times, events = tested[asked.time].astype(float), tested[asked.event].astype(float)
        p = _finite(multivariate_logrank_test(times, tested[asked.by].astype(str), events).p_value)
    return {"curves": curves, "logrank_p": p, "rows": len(rows), "dropped": dropped, "hidden": len(parts) - len(kept)}


def _curve(fitted: Any, n: int, events: int, least: int) -> dict[str, Any]:
    """The curve at most at `CURVE_POINTS` times, as far as `least` persons are at risk."""
    at_risk = fitted.event_table["at_risk"]
    shown = at_risk.index[at_risk >= least]
    step = max(1, math.ceil(len(shown) / CURVE_POINTS))
    times = [float(t) for t in shown[::step]]
    survival = fitted.survival_function_.iloc[:, 0]
    bounds = fitted.confidence_interval_
    median = float(fitted.median_survival_time_)
    return {
        "n": n,
        "events": _shown(events, least),
        "median": _finite(median) if times and median <= times[-1] else None,
        "time": times,
        "survival": [float(survival[t]) for t in times],
        "lower": [_finite(bounds.iloc[:, 0][t]) for t in times],
        "upper": [_finite(bounds.iloc[:, 1][t]) for t in times],
        "at_risk": [int(at_risk[t]) for t in times],
    }


def _cox(frame: pd.DataFrame, asked: Cox, least: int) -> dict[str, Any]:
    from lifelines import CoxPHFitter
    from lifelines.exceptions import ConvergenceError
    from lifelines.statistics import proportional_hazard_test

    used = _columns(frame, (asked.time, asked.event, *asked.covariates, *asked.strata))
    rows, dropped = _complete(used, least)
    _check_survival(rows, asked.time, asked.event)
    design = _design(rows, asked.covariates, least)
    parameters = list(design.columns)
    design[[asked.time, asked.event]] = rows[[asked.time, asked.event]].astype(float)
    strata = [f"stratum {name}" for name in asked.strata]
    for label, name in zip(strata, asked.strata, strict=True):
        design[label] = rows[name].astype(str)
    fitter = CoxPHFitter()
    try:
        fitter.fit(design, asked.time, asked.event, strata=strata or None)
    except (ConvergenceError, ValueError, ZeroDivisionError):
        raise InputError("input.rows", "the model does not converge: separated or collinear covariates") from None
    summary = fitter.summary
    tested = proportional_hazard_test(fitter, design, time_transform="rank").summary["p"]
    terms = [
        {
            "term": name,
            "coefficient": _finite(summary.loc[name, "coef"]),
            "se": _finite(summary.loc[name, "se(coef)"]),
            "hazard_ratio": _finite(summary.loc[name, "exp(coef)"]),
            "lower": _finite(summary.loc[name, "exp(coef) lower 95%"]),
            "upper": _finite(summary.loc[name, "exp(coef) upper 95%"]),
            "p": _finite(summary.loc[name, "p"]),
            "proportional_p": _finite(tested[name]),
        }
        for name in parameters
    ]
    events = int(rows[asked.event].sum())
    c_index = _finite(fitter.concordance_index_)
    return {"terms": terms, "c_index": c_index, "rows": len(rows), "events": events, "dropped": dropped}


def _check_survival(rows: pd.DataFrame, time: str, event: str) -> None:
    if not _is_number(rows[time]) or not (rows[time].astype(float) >= 0).all():
        raise InputError("input.rows", f"column {time!r} must hold times of 0 and more")
    _check_binary(rows, event)


def _check_binary(rows: pd.DataFrame, name: str) -> None:
    if not _is_number(rows[name]) or not rows[name].astype(float).isin((0.0, 1.0)).all():
        raise InputError("input.rows", f"column {name!r} must hold 0 and 1")


# -- logistic


def _logistic(frame: pd.DataFrame, asked: Logistic, least: int) -> dict[str, Any]:
    import numpy as np
    import statsmodels.api as sm
    from scipy.stats import rankdata
    from statsmodels.tools.sm_exceptions import PerfectSeparationError

    warnings.simplefilter("ignore")  # importing statsmodels has set its own filters
    used = _columns(frame, (asked.outcome, *asked.covariates))
    rows, dropped = _complete(used, least)
    _check_binary(rows, asked.outcome)
    outcome = rows[asked.outcome].astype(float).to_numpy()
    cases = int(outcome.sum())
    if min(cases, len(rows) - cases) < least:
        raise DisclosureRefused("gate.cohort", f"fewer than {least} rows of one outcome")
    design = _design(rows, asked.covariates, least)
    matrix = np.column_stack([np.ones(len(design)), design.to_numpy(dtype=float)])
    try:
        fitted = sm.Logit(outcome, matrix).fit(disp=0, maxiter=100)
        bad = (
            not fitted.mle_retvals["converged"] or not np.isfinite(fitted.bse).all() or np.abs(fitted.params).max() > 50
        )
    except (PerfectSeparationError, np.linalg.LinAlgError):
        bad = True
    if bad:
        raise InputError("input.rows", "the model does not converge: separated or collinear covariates")
    bounds = fitted.conf_int()
    terms = [
        {
            "term": name,
            "coefficient": _finite(fitted.params[i]),
            "se": _finite(fitted.bse[i]),
            "odds_ratio": _finite(np.exp(fitted.params[i])),
            "lower": _finite(np.exp(bounds[i, 0])),
            "upper": _finite(np.exp(bounds[i, 1])),
            "p": _finite(fitted.pvalues[i]),
        }
        for i, name in enumerate(["intercept", *design.columns])
    ]
    ranks = rankdata(fitted.predict())
    auc = (ranks[outcome == 1].sum() - cases * (cases + 1) / 2) / (cases * (len(rows) - cases))
    return {"terms": terms, "auc": _finite(auc), "rows": len(rows), "events": cases, "dropped": dropped}


# -- what they share


def _columns(frame: pd.DataFrame, names: Sequence[str]) -> pd.DataFrame:
    for name in names:
        if name not in frame.columns:
            raise InputError("input.column-missing", f"the table has no column {name!r}")
    used = frame[list(dict.fromkeys(names))]
    return used.replace([math.inf, -math.inf], math.nan)


def _complete(used: pd.DataFrame, least: int) -> tuple[pd.DataFrame, int | None]:
    """Rows without a missing value, and how many were left out.

    Raises:
        DisclosureRefused: `gate.cohort`.
    """
    rows = used.dropna()
    if len(rows) < least:
        raise DisclosureRefused("gate.cohort", f"fewer than {least} complete rows")
    return rows, _shown(len(used) - len(rows), least)


def _design(rows: pd.DataFrame, covariates: Sequence[str], least: int) -> pd.DataFrame:
    """Numbers as they are, categories as indicators against the most frequent level.

    Raises:
        DisclosureRefused: `gate.cohort` for a level of fewer than `least` rows, or too many parameters.
        InputError: `input.rows` for a constant column or one with too many levels.
    """
    import pandas as pd

    columns: dict[str, Any] = {}
    for name in dict.fromkeys(covariates):
        values = rows[name]
        if values.nunique() < 2:
            raise InputError("input.rows", f"column {name!r} is constant")
        if _is_number(values):
            columns[name] = values.astype(float)
            continue
        counts = values.astype(str).value_counts()
        if len(counts) > MAX_LEVELS:
            raise InputError("input.rows", f"column {name!r} has more than {MAX_LEVELS} levels")
        if counts.min() < least:
            raise DisclosureRefused("gate.cohort", f"a level of column {name!r} has fewer than {least} rows")
        for level in sorted(counts.index[1:]):
            columns[f"{name}={level}"] = (values.astype(str) == level).astype(float)
    if (len(columns) + 1) * ROWS_A_PARAMETER > len(rows):
        raise DisclosureRefused("gate.cohort", "too many parameters for so few rows: name fewer covariates")
    return pd.DataFrame(columns, index=rows.index)


def _is_number(column: pd.Series[Any]) -> bool:
    import pandas as pd

    return bool(pd.api.types.is_numeric_dtype(column) or pd.api.types.is_bool_dtype(column))


def _shown(count: int, least: int) -> int | None:
    """A count, unless it is a small one."""
    return int(count) if count == 0 or count >= least else None


def _finite(value: Any) -> float | None:
    number = float(value)
    return number if math.isfinite(number) else None
