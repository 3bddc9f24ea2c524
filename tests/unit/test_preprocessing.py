"""What sites agree on by sums before round 1, on tables that are hard to agree about."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import pytest

from central.federation.local import train_locally
from pipelines import learners
from pipelines.learners.survival import Survival
from pipelines.learners.vocabulary import Spellings, standardised
from pipelines.train import load
from protocol.errors import InputError
from protocol.study import Study
from tests.tabularkit import SITES
from tests.tabularkit import study as tabular_study

FEATURES = ("tiny", "huge", "gone", "flat", "flag", "kind")


def table(site: str, count: int = 60) -> pd.DataFrame:
    """One site's rows: `gone` has no value at site-a, `kind` c is at site-b alone, `flag` is rare at site-c."""
    draw = np.random.default_rng([7, *site.encode()])
    x = draw.normal(size=count)
    kinds = ["a", "b", "c"] if site == "site-b" else ["a", "b"]
    frame = pd.DataFrame({
        "tiny": 1e-9 * (x + 3), "huge": 1e6 * (draw.normal(size=count) + 50), "gone": draw.normal(5, 2, count),
        "flat": 4.0, "flag": (np.arange(count) < (2 if site == "site-c" else 20)).astype(int),
        "kind": draw.choice(kinds, count), "disease": (x + draw.normal(size=count) > 0).astype(int),
        "time": np.ceil(draw.exponential(300, count)) + 1,
        "status": np.where(draw.uniform(size=count) < 0.7, "Deceduta", "viva"),
    })  # fmt: skip
    return frame.assign(gone=np.nan) if site == "site-a" else frame


def tabular(**more: Any) -> Study:
    return tabular_study({"categorical": {"kind": ["a", "b", "c", "z"]}}, features=FEATURES, **more)


def survival(**more: Any) -> Study:
    parameters = {"categorical": {"kind": ["a", "b", "c", "z"]}, "event": "deceduta", "censored": "viva"}
    settings = {"learner": "survival", "features": FEATURES, "outcome": ("time", "status")}
    return tabular_study(parameters, **settings, **more)


PLANS = {"tabular": tabular, "survival": survival}


def agreed(plan: Study) -> tuple[Any, dict[str, np.ndarray[Any, Any]]]:
    learner: Any = learners.for_study(plan)
    sums = [learner.sums(learner.rows(table(site)), 5) for site in SITES]
    for one in sums:
        assert learner.plausible(one, 60)
    return learner, learner.agree({name: sum(s[name] for s in sums) for name in sums[0]})


@pytest.mark.parametrize("plan", PLANS.values(), ids=PLANS)
def test_every_column_comes_out_in_standard_units(plan: Any) -> None:
    learner, made = agreed(plan())
    x = np.concatenate([learner.rows(table(site)).x for site in SITES])
    z = standardised(x, made, "agreed", x)
    names = [learner.vocabulary.names[i] for i in np.flatnonzero(made["kept"])]
    assert ("kind", "c") in names, "one site has it often enough"
    assert ("kind", "z") not in names
    for i, (name, _) in enumerate(names):
        if name in ("tiny", "huge"):
            assert z[:, i].mean() == pytest.approx(0, abs=1e-6), name
            assert z[:, i].std() == pytest.approx(1, abs=1e-6), name
    assert (z[:, [n for n, _ in names].index("flat")] == 0).all()
    gone = z[:60, [n for n, _ in names].index("gone")]
    assert (gone == 0).all(), "the mean of those who have it"
    assert made["mean"][2] == pytest.approx(np.nanmean(x[:, 2]))


@pytest.mark.parametrize("plan", PLANS.values(), ids=PLANS)
def test_what_few_rows_have_does_not_leave(plan: Any) -> None:
    learner: Any = learners.for_study(plan())
    rows = learner.rows(table("site-c"))
    sums = learner.sums(rows, 5)
    flag = [name for name, _ in learner.vocabulary.names].index("flag")
    assert sums["count"][flag] == sums["sum"][flag] == 0
    lone = table("site-c").assign(kind=["c", *["a"] * 59])
    assert learner.sums(learner.rows(lone), 5)["sum"][learner.vocabulary.names.index(("kind", "c"))] == 0


@pytest.mark.parametrize("plan", PLANS.values(), ids=PLANS)
def test_a_new_patient_may_have_what_nobody_had(plan: Any) -> None:
    study = plan(rounds=2)
    data = {site: load(study, site, table(site)) for site in SITES}
    reached = train_locally(study, data)
    learner: Any = data["site-a"].learner
    new = table("elsewhere", 4).assign(kind=["q", "z", None, " A "], huge=[1e300, -np.inf, np.nan, 5e7])
    found = learner.predict(reached.model, reached.preprocessing, new)
    assert np.isfinite(found.to_numpy()).all()
    same = [table("elsewhere", 1).assign(kind=kind) for kind in ("q", "z", "never")]
    scores = [learner.predict(reached.model, reached.preprocessing, row).iloc[0, 0] for row in same]
    assert len(set(scores)) == 1, "an unknown level is none of them, however it is called"
    with pytest.raises(InputError, match="kind"):
        learner.predict(reached.model, reached.preprocessing, new.drop(columns="kind"))


@pytest.mark.parametrize("plan", PLANS.values(), ids=PLANS)
def test_sums_under_masks_agree_on_the_same(plan: Any) -> None:
    open_, masked = plan(rounds=1), plan(rounds=1)
    masked = masked.model_copy(update={"privacy": masked.privacy.model_copy(update={"secure_aggregation": True})})
    one, two = (train_locally(s, {site: load(s, site, table(site)) for site in SITES}) for s in (open_, masked))
    for name, value in one.preprocessing.items():
        assert two.preprocessing[name] == pytest.approx(value, rel=1e-6), name
    for name, value in one.model.items():
        assert two.model[name] == pytest.approx(value, rel=1e-4, abs=1e-5), name


def test_words_for_a_status_whatever_their_case() -> None:
    learner = learners.for_study(survival())
    frame = table("site-a").assign(status=["DECEDUTA", "Viva ", None, "persa", *["viva"] * 56])
    rows: Any = learner.rows(frame)
    assert rows.dropped == 2
    assert rows.status.tolist() == [1, 0, *[0] * 56]
    with pytest.raises(InputError, match="event, censored"):
        Survival(features=("x",), settings={"event": "si", "censored": "si"})
    with pytest.raises(InputError, match="names a column"):
        Survival(features=("x",), settings={"categorical": {"y": ["a"]}})


def test_levels_that_differ_in_form_are_one_unless_both_are_named() -> None:
    assert Spellings(["Sì", "no"]).find("si") == 0
    assert Spellings(["Sì", "no"]).find("SI\u0300") == 0
    assert Spellings(["Stadio IV"]).find("stadio  iv") == 0
    assert Spellings(["A", "a"]).find("a") == 1
    assert Spellings(["A", "a"]).find("á") is None
    assert Spellings(["A"]).find("B") is None


def test_models_from_before_there_were_levels_still_predict() -> None:
    learner = Survival(features=("x",), settings={})
    model = {"baseline": np.zeros(2, np.float32), "risk.weight": np.ones((1, 1), np.float32)}
    preprocessing = {
        "mean": np.array([1.0]), "scale": np.array([2.0]), "edges": np.array([1.0, 2.0]), "event": np.ones(1),
    }  # fmt: skip
    found = learner.predict(model, preprocessing, pd.DataFrame({"x": [3.0, np.nan]}))
    assert found["risk"].tolist() == [1.0, 0.0]
    assert learner.table(model, preprocessing)["weight"].tolist() == [1.0]
