"""Clinical features: the table's rows of one patient into one row of declared columns.

Numbers and category codes only: a column takes part when the site gave it the role value or quasi and the study
declares it. Free text, dates and identifiers never do.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

from pipelines import Job
from protocol.errors import InputError, PolicyRefused

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["aggregate", "columns"]

MAX_CODE_CHARS = 64
_ROLES = ("value", "quasi")


def columns(job: Job) -> tuple[str, ...]:
    """The clinical columns of a study, sorted.

    Raises:
        InputError: `input.study` for a column that bears the name of one of the lane's own.
        PolicyRefused: `policy.columns` when the study declares, by its exact name, a column that is neither value
            nor quasi at this site. A column that only a glob covers is passed over.
    """
    declared = {column.name for column in job.study.output.columns}
    chosen = []
    for name in sorted(set(job.study.dataset.columns)):
        if job.study.output.column(name) is None:
            continue
        if name == "pseudonym" or name.startswith("original_"):
            raise InputError("input.study", f"dataset.columns: the name {name!r} is taken by the lane")
        if job.roles.get(name) in _ROLES:
            chosen.append(name)
        elif name in declared:
            raise PolicyRefused("policy.columns", f"column {name!r} is no value at this site")
    return tuple(chosen)


def aggregate(
    table: pd.DataFrame, persons: pd.Series[str], names: tuple[str, ...], how: Literal["first", "mean"]
) -> pd.DataFrame:
    """One row a person, index = person, sorted.

    Args:
        table: the source's rows.
        persons: for each row, whose it is (a pseudonym).
        names: the columns to keep.
        how: `first` = the first value that is not missing; `mean` = mean of numbers, first of codes.

    Raises:
        InputError: `input.column-missing`; `input.table` for a text too long to be a code.
    """
    import pandas as pd

    missing = [name for name in names if name not in table.columns]
    if missing:
        raise InputError("input.column-missing", f"the table has no column {missing[0]!r}")
    data: dict[str, pd.Series[Any]] = {}
    for name in names:
        values = table[name]
        if not (numeric := pd.api.types.is_numeric_dtype(values.dtype)):
            _check_codes(values, name)
        grouped = values.groupby(persons.to_numpy(), sort=True)
        data[name] = grouped.mean() if how == "mean" and numeric else grouped.first()
    return pd.DataFrame(data, index=pd.Index(sorted(set(persons)), dtype="str"), columns=list(names))


def _check_codes(values: pd.Series[Any], name: str) -> None:
    long = int((values.dropna().astype(str).str.len() > MAX_CODE_CHARS).sum())
    if long:
        raise InputError("input.table", f"column {name!r}: {long} values are too long to be category codes")
