"""Lane 3 without rows: federated statistics. Sums over patients leave, from which the centre makes the pooled result.

The same parts as in `extract` meet in one row a patient, which stays here -> sums with small cells hidden -> one long
table to the gate. The gate also learns about whom each sum is, so that it can refuse what would single out a person
together with anything released before; that never leaves the site.

With `privacy.dp = "sample"` every sum is clipped and noised instead (`pipelines.features.noised`), and nothing else
that depends on a row leaves: person-level privacy for adding or removing one patient; that a refusal for too small a
cohort is seen is not covered. `cost` says what a release will spend.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from pipelines import Gate, Job, Source
from pipelines.extract import Patients, parameters_of
from pipelines.features import noised, statistics
from pipelines.records import parquet, typed
from privacy.dp import accountant
from protocol.errors import DisclosureRefused, InputError
from protocol.parcel import Item, ItemKind, canonical_json
from protocol.study import Column, DType, Study

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["OUTPUT", "cost", "plan_of", "read", "run"]

OUTPUT: Mapping[str, DType] = {
    "statistic": "string", "column": "string", "group": "string", "bin": "string", "value": "float", "n": "int",
}  # fmt: skip


def run(job: Job, source: Source, gate: Gate) -> None:
    """Put `statistics.parquet` and `report.json`, and name the cohorts to the gate.

    Raises:
        InputError: as `extract.run`, and `input.study` for the statistics.
        DisclosureRefused: `gate.undeclared` when the study does not declare the six columns; `gate.cohort`, and the
            code of the trap that fired. Nothing was put by then.
    """
    for name, dtype in OUTPUT.items():
        declared = job.study.output.column(name)
        if declared is None or declared.dtype != dtype:
            raise DisclosureRefused("gate.undeclared", f"the study does not declare the column {name!r} as {dtype}")
    plan, given = plan_of(job.study)
    patients = Patients(_with_columns(job, plan), source, parameters_of(job.study, given), gate)
    rows = patients.rows()
    privacy = job.study.privacy
    if len(rows) < privacy.min_cohort:
        raise DisclosureRefused("gate.cohort", f"fewer than {privacy.min_cohort} patients remain")
    if privacy.dp != "none":
        gate.cohort([patients.known[str(one)] for one in rows.index], {})
        _put_noised(job.study, rows, plan, gate)
        return
    made = statistics.compute(
        rows.rename_axis("pseudonym").reset_index(), plan, minimum=privacy.k, traps=job.traps,
        cohort=privacy.min_cohort,
    )  # fmt: skip
    for persons in made.cohorts.values():
        gate.cohort([patients.known[one] for one in persons], made.numbers)
    gate.put(_table(made.frame, len(rows)))
    report = {"persons": len(rows), "cells": len(made.frame), "hidden": made.hidden, **patients.report()}
    gate.put(Item(kind=ItemKind.REPORT, name="report.json", data=canonical_json(report)))


def cost(study: Study, phase: None = None) -> accountant.Curve:
    """What a noised release of this study costs, before a row is read. There are no phases.

    Raises:
        InputError: `input.study` when it cannot be noised: no bounds, or values of one patient that depend on others'.
    """
    return accountant.gaussian(_noise_of(study)[0])


def _noise_of(study: Study) -> tuple[float, noised.Bounds]:
    """The noise multiplier of the whole release, and the bounds of its columns."""
    plan, given = plan_of(study)
    bounds = noised.bounds_of(study.pipeline.parameters.get("bounds", {}), plan)
    for part in ("genomics", "matrix"):
        if given.get(part) is not None:
            raise InputError("input.study", f"pipeline.parameters.{part}: depends on other patients, cannot be noised")
    privacy = study.privacy
    if privacy.dp != "sample" or privacy.epsilon is None or privacy.delta is None:
        raise InputError("input.study", "privacy: noised statistics need dp = 'sample', epsilon and delta")
    return accountant.scale_for(privacy.epsilon, privacy.delta), bounds


def _put_noised(study: Study, rows: pd.DataFrame, plan: statistics.Plan, gate: Gate) -> None:
    """Of the patients nothing but noised sums; the report holds what the study says."""
    multiplier, bounds = _noise_of(study)
    frame = noised.compute(rows, plan, bounds, multiplier=multiplier)
    gate.put(_table(frame, 0))
    report = {
        "cells": len(frame),
        "noise": {
            "adjacency": "add-or-remove-one-patient",
            "delta": study.privacy.delta,
            "epsilon": study.privacy.epsilon,
            "mechanism": "discrete-gaussian",
            "multiplier": multiplier,
        },
    }
    gate.put(Item(kind=ItemKind.REPORT, name="report.json", data=canonical_json(report)))


def _table(frame: pd.DataFrame, persons: int) -> Item:
    columns = {name: typed(frame[name], Column(name=name, dtype=dtype)) for name, dtype in OUTPUT.items()}
    data = parquet(columns)
    return Item(kind=ItemKind.TABLE, name="statistics.parquet", data=data, persons=persons, rows=len(frame))


def _with_columns(job: Job, plan: statistics.Plan) -> Job:
    """The job with the columns of its statistics as those of its rows: none of them leaves, so none is declared."""
    rows = tuple(Column(name=name, dtype="float") for name in statistics.needed(plan))
    output = job.study.output.model_copy(update={"columns": rows})
    return replace(job, study=job.study.model_copy(update={"output": output}))


def read(table: pd.DataFrame) -> pd.DataFrame:
    """A site's statistics as `pooling.pool` takes them, out of the table that travelled."""
    texts = {name: table[name].astype("str").where(table[name].notna(), "") for name in list(OUTPUT)[:4]}
    return table.assign(**texts, value=table["value"].astype("float64"), n=table["n"].astype("Int64"))[list(OUTPUT)]


def plan_of(study: Study) -> tuple[statistics.Plan, dict[str, Any]]:
    """The statistics of a study, and the parameters of its rows.

    Raises:
        InputError: `input.study`, naming the field.
    """
    given = dict(study.pipeline.parameters)
    given.pop("bounds", None)  # of noised sums
    return statistics.plan_of({"statistics": given.pop("statistics", ())}), given
