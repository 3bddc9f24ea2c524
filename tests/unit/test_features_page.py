"""`docs/features.md` against the code: its examples are valid studies; it names every parameter, column and code."""

from __future__ import annotations

import re
import tomllib
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import tomli_w
from pydantic import BaseModel

from pipelines import Job, aggregate, learners
from pipelines.extract import Parameters, parameters_of
from pipelines.features import context, history, parts, pooling, statistics, wearables
from pipelines.features.gwas.plan import Guard
from pipelines.features.ibsi.settings import Settings as Radiomics
from pipelines.learners.gwas import Guards, Settings
from protocol.errors import CODES
from protocol.study import Lane, Study, parse_study
from tests.unit.test_harvest import MemoryGate, MemorySource

DOCS = Path(__file__).parents[2] / "docs"
PAGE = (DOCS / "features.md").read_text()
BLOCKS = re.findall(r"```toml\n(.*?)```", PAGE, re.DOTALL)
WHOLE = [block for block in BLOCKS if block.startswith("schema = 1")]
PARTS = [block for block in BLOCKS if not block.startswith("schema = 1")]
MODELS: list[type[BaseModel]] = [
    Parameters, parts.Genomics, parts.Burden, parts.Matrix, parts.Context, context.Parameters, context.Column,
    wearables.Parameters, history.Parameters, history.Index, history.CodeSet, history.Window, history.CodeCount,
    history.Measurement, history.Drug, history.Charlson, history.Age, history.Sex, statistics.Group,
    statistics.Moments, statistics.Histogram, statistics.Products, statistics.Table, statistics.Survival, Settings,
    Guards,
]  # fmt: skip


def named(page: str) -> set[str]:
    """Words that a page's tables and texts set in code, and the keys of its TOML examples."""
    spans = " ".join(re.findall(r"`([^`\n]+)`", page))
    keys = re.findall(r"^\s*([A-Za-z_]+) =", page, re.MULTILINE)
    return set(re.findall(r"[A-Za-z_][A-Za-z0-9_-]*", spans)) | set(keys)


def study(block: str, add: str = "") -> Study:
    raw = tomllib.loads(block)
    for table, value in tomllib.loads(add).items():
        raw[table] = merged(raw[table], value)
    return parse_study(tomli_w.dumps(raw).encode())


def merged(old: dict[str, Any], new: dict[str, Any]) -> dict[str, Any]:
    both = dict(old)
    for key, value in new.items():
        both[key] = merged(old[key], value) if isinstance(value, dict) and isinstance(old.get(key), dict) else value
    return both


def by_pipeline(name: str) -> Study:
    (found,) = [made for made in map(study, WHOLE) if made.pipeline.name == name]
    return found


def checked(made: Study) -> Parameters:
    """All that the lane would check before it reads a row."""
    parameters = parameters_of(made, made.pipeline.parameters)
    Radiomics.of(parameters.radiomics)
    if parameters.history is not None:
        history.parameters_of(parameters.history)
    return parameters


def test_the_page_has_a_whole_study_for_each_of_the_three_ways() -> None:
    assert [study(block).pipeline.name for block in WHOLE] == ["extract", "aggregate", "train"]
    assert len(PARTS) >= 2


@pytest.mark.parametrize("add", ["", *PARTS])
def test_the_examples_of_feature_rows_are_valid(add: str) -> None:
    made = study(next(b for b in WHOLE if 'name = "extract"' in b), add)
    parameters = checked(made)
    if add:
        return
    asked = history.parameters_of(parameters.history or {})
    for feature in history.schema(asked):
        declared = made.output.column(feature.name)
        assert declared is not None, feature.name
        assert declared.dtype.startswith(feature.dtype.rstrip("0123456789"))


def test_the_example_lists_are_read_as_what_they_are_called() -> None:
    from pipelines.features.genomics import burden, scorefile
    from pipelines.features.omics import genesets

    parameters = checked(study(WHOLE[0], next(p for p in PARTS if "genomics" in p)))
    assert parameters.genomics is not None
    assert parameters.matrix is not None
    for name, text in parameters.genomics.scores.items():
        assert len(scorefile.parse(text.encode(), parameters.genomics.build, name=name).variants) == 2
    rare = parameters.genomics.burden
    assert rare is not None
    assert burden.intervals(rare.genes.encode()).names == ("BRCA1",)
    assert rare.annotation is not None
    assert burden.annotation(rare.annotation.encode())
    assert len(genesets.gmt(parameters.matrix.sets.encode())["HYPOXIA"]) == 6


def people(n: int, seed: int) -> pd.DataFrame:
    draw = np.random.default_rng(seed)
    time = draw.integers(1, 900, n)
    return pd.DataFrame(
        {
            "id": [f"S{seed}P{i:04d}" for i in range(n)],
            "age": draw.integers(35, 85, n),
            "sex": draw.integers(1, 3, n),
            "arm": draw.choice(["a", "b"], n),
            "weight_loss": draw.normal(8, 4, n),
            "time": time,
            "status": draw.integers(0, 2, n),
        }
    )


def test_the_example_of_statistics_gives_what_pooled_rows_give() -> None:
    made, sites = by_pipeline("aggregate"), [people(400, 1), people(250, 2)]
    roles = {name: "patient" if name == "id" else "value" for name in sites[0].columns}
    frames = []
    for table in sites:
        gate = MemoryGate()
        aggregate.run(Job(study=made, site="site-a", key=bytes(32), roles=roles), MemorySource(table), gate)
        frames.append(aggregate.read(gate.tables()[0].to_pandas()))
    pooled, rows = pooling.pool(frames), pd.concat(sites)
    found = pooling.moments(pooled)
    assert found.loc[("age", ""), "mean"] == pytest.approx(rows["age"].mean())
    assert found.loc[("weight_loss", "sex=1"), "sd"] == pytest.approx(rows[rows.sex == 1]["weight_loss"].std())
    assert pooling.table(pooled, "sex", "arm").loc["1", "a"] == ((rows.sex == 1) & (rows.arm == "a")).sum()
    assert set(pooled["statistic"]) <= named(PAGE)
    dead = ((rows.time <= 180) & (rows.status == 1)).sum()
    assert pooling.survival(pooled, "time")["survival"][180.0] == pytest.approx(1 - dead / len(rows))


def test_the_example_of_association_is_valid_and_its_columns_are_named() -> None:
    made = by_pipeline("train")
    assert made.lane is Lane.TRAIN
    for trait in ("linear", "logistic"):
        raw = made.pipeline.model_copy(update={"parameters": {**made.pipeline.parameters, "trait": trait}})
        learner = learners.for_study(made.model_copy(update={"pipeline": raw}))
        with np.errstate(invalid="ignore"):  # nothing is estimated yet
            table = learner.table(learner.initial({}, {}), {})
        assert set(table.columns) <= named(PAGE)
    assert {field.name for field in fields(Guard)} == set(Guards.model_fields)


@pytest.mark.parametrize("model", MODELS, ids=lambda m: f"{m.__module__.rsplit('.', 1)[1]}.{m.__name__}")
def test_every_parameter_is_named(model: type[BaseModel]) -> None:
    assert set(model.model_fields) - named(PAGE) == set()


def test_every_setting_of_radiomics_is_named_on_its_own_page() -> None:
    assert {f.name for f in fields(Radiomics)} - named((DOCS / "radiomics.md").read_text()) == set()


def test_every_choice_of_a_parameter_is_named() -> None:
    words = named(PAGE)
    for model in MODELS:
        for field in model.model_fields.values():
            choices = re.findall(r"'([^']+)'", str(field.annotation)) if "Literal" in str(field.annotation) else []
            assert set(choices) <= words, (model.__name__, sorted(set(choices) - words))


def test_defaults_that_the_page_tells_are_those_of_the_code() -> None:
    told = dict(re.findall(r"^\| `([a-z_.]+)` \| `?([^|`]+?)`? \|", PAGE, re.MULTILINE))
    for prefix, model in (
        ("", Parameters), ("", Settings), ("genomics.burden.", parts.Burden), ("matrix.", parts.Matrix),
        ("context.join.", context.Parameters), ("wearables.", wearables.Parameters),
    ):  # fmt: skip
        for name, field in model.model_fields.items():
            if isinstance(field.default, str | bool | int | float) and prefix + name in told:
                default = str(field.default).lower() if isinstance(field.default, bool) else str(field.default)
                assert told[prefix + name].split(" ")[0] == default, prefix + name


def test_every_code_that_the_page_names_exists_and_no_refusal_of_these_lanes_is_left_out() -> None:
    codes = set(re.findall(r"`((?:gate|policy|input)\.[a-z-]+)`", PAGE))
    assert codes <= set(CODES)
    root = Path(__file__).parents[2]
    sources = [root / "pipelines" / "extract.py", root / "pipelines" / "aggregate.py"]
    sources += (root / "pipelines" / "features").rglob("*.py")
    raised = {code for path in sources for code in re.findall(r'"((?:gate|policy|input)\.[a-z-]+)"', path.read_text())}
    assert raised - codes - {"input.usage", "input.image", "input.dicom", "input.message"} == set()
