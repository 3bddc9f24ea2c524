"""The learner `gwas` over the in-process grid: plink2's pooled results, however the rows are spread over sites."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from pathlib import Path

import pandas as pd
import pytest

from central.federation.local import train_locally
from pipelines import SourceFile, learners
from pipelines.train import load
from protocol.errors import InputError
from protocol.study import Study
from tests.federation_hospital import study

DATA = Path(__file__).parents[2] / ".." / "shared/data/regenie_example"
pytestmark = pytest.mark.skipif(not DATA.is_dir(), reason="../shared/data is not here")
SITES = ("site-a", "site-b", "site-c")
COVARIATES = ("V1", "V2", "V3")


def text(name: str) -> pd.DataFrame:
    return pd.read_csv(DATA / name, sep=r"\s+")


@functools.cache
def table() -> pd.DataFrame:
    both = text("phenotype.txt").merge(text("phenotype_bin.txt"), on=["FID", "IID"], suffixes=("", "_bin"))
    return both.merge(text("covariates.txt"), on=["FID", "IID"]).astype({"IID": str})


@functools.cache
def variants() -> tuple[str, ...]:
    bim = pd.read_csv(DATA / "example.bim", sep=r"\s+", header=None, dtype=str)
    return tuple(f"{r[0]}:{r[3]}:{r[5]}:{r[4]}:{r[1]}" for r in bim.itertuples(index=False, name=None))


def documents(kind: str) -> Iterator[SourceFile]:
    assert kind == "genotypes"
    for suffix in ("bed", "bim", "fam"):
        yield SourceFile(f"00000001.{suffix}", (DATA / f"example.{suffix}").read_bytes())


def plan(trait: str, outcome: str, listed: tuple[str, ...], **more: object) -> Study:
    raw = study().model_dump(by_alias=True, exclude_none=True)
    raw["dataset"] = {"name": "cohort", "columns": ["IID", outcome, *COVARIATES], "genotypes": True}
    parameters = {
        "variants": listed, "build": "GRCh37", "trait": trait, "ambiguous": "forward", "swapped_indels": True,
        "guard": {"persons": 10, "minor": 3, "cases": 3, "controls": 3},
    }  # fmt: skip
    raw["pipeline"] |= {"parameters": parameters | more}
    raw["training"] |= {
        "learner": "gwas", "strategy": "newton", "features": COVARIATES, "outcome": [outcome], "rounds": 25,
        "max_norm": 1e12, "metrics": [],
    }  # fmt: skip
    return Study.model_validate(raw)


def split(how: str, outcome: str) -> dict[str, pd.DataFrame]:
    frame = table().sort_values(outcome) if how == "sorted" else table()
    if how == "alternating":
        return {site: frame.iloc[i::3] for i, site in enumerate(SITES)}
    cuts = {"sorted": (0, 150, 330, 500), "skewed": (0, 60, 400, 500)}[how]
    return {site: frame.iloc[a:b] for site, a, b in zip(SITES, cuts, cuts[1:], strict=False)}


def associate(made: Study, parts: dict[str, pd.DataFrame]) -> pd.DataFrame:
    data = {site: load(made, site, part, documents, "IID") for site, part in parts.items()}
    reached = train_locally(made, data)
    learner = learners.for_study(made)
    assert learner.settled(reached.model)
    assert reached.metrics["rows"] == 500
    return learner.table(reached.model, reached.preprocessing)


@pytest.mark.parametrize("how", ["alternating", "sorted", "skewed"])
def test_a_linear_trait_is_that_of_plink2(how: str) -> None:
    made = associate(plan("linear", "Y1", variants()), split(how, "Y1"))
    truth = pd.read_csv(DATA / "regq.Y1.glm.linear", sep="\t", dtype={"ID": str}).set_index("ID")["T_STAT"]
    tested = made[made["status"] == "ok"].set_index("id")
    assert len(tested) > 600
    assert float((tested["t"] - truth[tested.index]).abs().max()) <= 1e-5


@pytest.mark.parametrize("how", ["alternating", "skewed"])
def test_a_binary_trait_is_that_of_plink2(how: str) -> None:
    listed = variants()[::5]
    made = associate(plan("logistic", "Y1_bin", listed), split(how, "Y1_bin"))
    truth = pd.read_csv(DATA / "reg.Y1.glm.logistic.hybrid", sep="\t", dtype={"ID": str}).set_index("ID")["Z_STAT"]
    tested = made[made["status"] == "ok"].set_index("id")
    assert len(tested) > 100
    assert float((tested["z"] - truth[tested.index]).abs().max()) <= 1e-4


def test_sums_under_masks_give_the_same_associations() -> None:
    for trait, outcome, listed in (("linear", "Y1", variants()[:40]), ("logistic", "Y1_bin", variants()[:20])):
        plain = plan(trait, outcome, listed)
        hidden = plain.model_copy(
            update={"privacy": plain.privacy.model_copy(update={"secure_aggregation": True}), "sites": SITES}
        )
        clear, masked = (associate(made, split("skewed", outcome)) for made in (plain, hidden))
        pd.testing.assert_frame_equal(masked, clear, rtol=1e-6)


def test_a_site_below_the_guard_holds_a_variant_back_and_it_is_said() -> None:
    made = associate(plan("linear", "Y1", variants()[:50], guard={"persons": 10, "minor": 60}), split("skewed", "Y1"))
    assert set(made["status"]) <= {"ok", "guard"}
    held = made[made["status"] == "guard"]
    assert len(held) > 5
    assert held[["beta", "se", "p", "n", "frequency"]].isna().all(axis=None)


@pytest.mark.parametrize(
    ("change", "where"),
    [
        ({"variants": ["1:10:A:G", "1:ten:A:G"]}, "variants.1"),
        ({"variants": ["99:10:A:G"]}, "variants.0"),
        ({"variants": ["1:10:A:G", "1:10:A:G"]}, "variants"),
        ({"build": "hg17"}, "build"),
        ({"code": "x"}, "code"),
    ],
)
def test_settings_are_checked_by_name(change: dict[str, object], where: str) -> None:
    with pytest.raises(InputError, match=where):
        learners.for_study(plan("linear", "Y1", variants()[:3], **change))


def test_other_strategies_and_missing_genotypes_are_refused() -> None:
    made = plan("linear", "Y1", variants()[:3])
    with pytest.raises(InputError, match="newton"):
        learners.for_study(
            made.model_copy(update={"training": made.training.model_copy(update={"strategy": "fedavg"})})  # type: ignore[union-attr]
        )
    with pytest.raises(InputError):
        load(made, "site-a", table(), lambda _kind: iter(()), "IID")
    with pytest.raises(InputError):
        load(made, "site-a", pd.concat([table(), table()]), documents, "IID")
