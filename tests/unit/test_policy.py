"""Each rule of the site's policy, both ways; the stricter number wins; approvals bind bytes and code."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from edge.approvals import Approvals, Verdict
from edge.config import DatasetConfig, EdgeConfig
from edge.policy import decide
from edge.state import SiteState
from pipelines.registry import INSTALLED
from protocol.errors import ApprovalRequired, PolicyRefused
from protocol.study import Study

LANES = ["harvest", "anonymize", "extract", "train", "infer"]
COLUMNS = {"pid": "patient", "name": "identifier", "note": "text", "age": "quasi", "score": "value", "t": "value"}


def config(**changes: Any) -> EdgeConfig:
    policy = {
        "lanes": LANES,
        "pipelines": LANES,
        "purposes": ["research"],
        "release_columns": ["*"],
        "min_k": 3,
        "min_cohort": 10,
        "max_bytes": 1000,
        "allow_unbounded_epsilon": True,
    }
    dataset = {"table": "/t.csv", "dicom": "/d", "columns": COLUMNS, "consent": {"column": "c", "granted": ["yes"]}}
    for name, value in changes.items():
        (dataset if name in DatasetConfig.model_fields else policy)[name] = value
    return EdgeConfig.model_validate({"site": "site-a", "datasets": {"cohort": dataset | {"policy": policy}}})


def study(lane: str = "harvest", **changes: Any) -> Study:
    base: dict[str, Any] = {
        "schema": 1,
        "id": "one",
        "title": "t",
        "lane": lane,
        "purpose": "research",
        "legal_basis": "scientific-research",
        "controller": "c",
        "ethics_reference": "e",
        "expires": datetime(2040, 1, 1, tzinfo=UTC),
        "sites": ["site-a"],
        "dataset": {"name": "cohort", "columns": ["age", "score"]},
        "pipeline": {"name": lane},
        "output": {"columns": [{"name": "age", "dtype": "int"}]},
    }
    if lane == "train":
        base["training"] = {
            "learner": "survival",
            "features": ["age"],
            "outcome": ["t", "score"],
            "publish": {"model": "m"},
        }
    return Study.model_validate(base | changes)


def dataset(*columns: str, where: str = "") -> dict[str, Any]:
    conditions = [{"column": where, "op": "not-null"}] if where else []
    return {"dataset": {"name": "cohort", "columns": list(columns), "where": conditions}}


def output(column: str) -> dict[str, Any]:
    return {"output": {"columns": [{"name": column, "dtype": "string"}]}}


def masked(sites: int, *, without: str = "", same: bool = False, **privacy: float) -> dict[str, Any]:
    names = [f"site-{chr(97 + i) if i < 26 else i}" for i in range(sites)]
    roster = {name: "f" * 64 if same else name * 3 for name in names if name != without}
    return {"privacy": {"secure_aggregation": True, **privacy}, "sites": names, "roster": roster}


@pytest.mark.parametrize(
    ("rule", "asked", "site", "code"),
    [
        ("dataset", study(), config(), ""),
        ("dataset", study(dataset={"name": "other"}), config(), "policy.dataset"),
        ("sources", study(dataset={"name": "cohort", "images": True}), config(), ""),
        ("sources", study(dataset={"name": "cohort", "images": True}), config(dicom=None), "policy.dataset"),
        ("sources", study(dataset={"name": "cohort", "fhir": True}), config(), "policy.dataset"),
        ("sources", study(output={"documents": True}), config(), "policy.dataset"),
        ("sources", study(dataset={"name": "cohort", "omop": True}), config(), "policy.dataset"),
        ("lane", study(), config(lanes=["harvest"]), ""),
        ("lane", study(), config(lanes=["extract"]), "policy.lane"),
        ("pipeline", study(), config(pipelines=["harvest"]), ""),
        ("pipeline", study(), config(pipelines=["extract"]), "policy.pipeline"),
        ("pipeline", study(pipeline={"name": "harvest", "version": "2"}), config(), "policy.pipeline"),
        ("pipeline", study(pipeline={"name": "extract"}), config(), "policy.pipeline"),
        ("pipeline", study(pipeline={"name": "other"}), config(pipelines=["other"]), "policy.pipeline"),
        ("purpose", study(), config(purposes=["research"]), ""),
        ("purpose", study(), config(purposes=["care"]), "policy.purpose"),
        ("columns", study(), config(release_columns=["a*", "score"]), ""),
        ("columns", study(), config(release_columns=["a*"]), "policy.columns"),
        ("columns", study(**dataset("name")), config(release_columns=["*"]), "policy.columns"),
        ("columns", study(**dataset("pid")), config(release_columns=["*"]), "policy.columns"),
        ("columns", study(**dataset("note")), config(release_columns=["n*"]), "policy.columns"),
        ("columns", study(**dataset("name", "pid")), config(release_columns=["name", "pid"]), ""),
        ("columns", study(**dataset("unlisted")), config(release_columns=["*", "unlisted"]), "policy.columns"),
        ("columns", study(**dataset("age", where="name")), config(), "policy.columns"),
        ("columns", study("anonymize", **dataset("pid", "name", "age")), config(), ""),
        ("columns", study("anonymize", **dataset("unlisted")), config(), "policy.columns"),
        ("columns", study("extract", **dataset("age", where="score")), config(), ""),
        ("columns", study("extract", **dataset("age", where="name")), config(), "policy.columns"),
        ("columns", study("extract", **dataset("age", where="unlisted")), config(), "policy.columns"),
        ("columns", study("train", **dataset("age")), config(), ""),
        ("columns", study("train", **dataset("note")), config(), "policy.columns"),
        ("output", study(), config(), ""),
        ("output", study(**output("name")), config(), "policy.columns"),
        (
            "output",
            study("extract", **output("note")),
            config(),
            "policy.columns",
        ),
        ("output", study("anonymize", **output("note")), config(), ""),
        (
            "output",
            study("anonymize", **output("pid")),
            config(),
            "policy.columns",
        ),
        ("epsilon", study(), config(allow_unbounded_epsilon=True), ""),
        ("epsilon", study(), config(allow_unbounded_epsilon=False), "policy.epsilon"),
        ("epsilon", study(privacy={"dp": "sample", "epsilon": 1.0, "delta": 1e-5}), config(), "policy.epsilon"),
        ("masks", study("train"), config(), ""),
        ("masks", study("train"), config(require_secure_aggregation=True), "policy.masks"),
        ("masks", study(), config(require_secure_aggregation=True), ""),
        ("masks", study("train", privacy={"secure_aggregation": True}), config(), ""),
        ("masks", study("train", **masked(3), pipeline={"name": "other"}), config(), "policy.pipeline"),
        ("roster", study("train"), config(), ""),
        ("roster", study("train", privacy={"secure_aggregation": True}), config(), "policy.masks"),
        ("roster", study("train", **masked(2)), config(), "policy.masks"),
        ("roster", study("train", **masked(3)), config(), ""),
        ("roster", study("train", **masked(3)), config(min_sites=4), "policy.masks"),
        ("roster", study("train", **masked(3)), config(max_colluding=2), "policy.masks"),
        ("roster", study("train", **masked(8)), config(max_colluding=3), ""),
        ("roster", study("train", **masked(64)), config(max_colluding=21), ""),
        ("roster", study("train", **masked(100)), config(max_colluding=5), ""),
        ("roster", study("train", **masked(100)), config(max_colluding=6), "policy.masks"),
        ("roster", study("train", **masked(100, colluding_fraction=0.1)), config(max_colluding=10), ""),
        ("roster", study("train", **masked(100, colluding_fraction=0.0)), config(max_colluding=1), "policy.masks"),
        ("roster", study("train", **masked(100)), config(min_sites=101), "policy.masks"),
        ("roster", study("train", **masked(3, without="site-a")), config(), "policy.masks"),
        ("roster", study("train", **masked(3, same=True)), config(), "policy.masks"),
        ("consent", study(), config(), ""),
        ("consent", study(), config(consent=None), "policy.consent"),
        ("consent", study(), config(consent=None, require_consent=False), ""),
        ("consent", study(legal_basis="consent"), config(consent=None, require_consent=False), "policy.consent"),
    ],
)
def test_each_rule_both_ways(rule: str, asked: Study, site: EdgeConfig, code: str) -> None:
    decision = decide(asked, site, INSTALLED)
    (made,) = [r for r in decision.rules if r.name == rule]
    assert (made.ok, made.code) == (not code, code)
    assert bool(made.reason) == bool(code)
    if code:
        assert not decision.allowed
        with pytest.raises(PolicyRefused):
            decision.require()


@pytest.mark.parametrize(("asked", "effective"), [(2, 3), (3, 3), (7, 7)])
def test_the_stricter_k_wins(asked: int, effective: int) -> None:
    decision = decide(study(privacy={"k": asked}), config(), INSTALLED)
    (rule,) = [r for r in decision.rules if r.name == "k"]
    assert (rule.ok, rule.asked, rule.site, rule.effective) == (True, str(asked), "3", str(effective))
    assert decision.effective.k == effective


@pytest.mark.parametrize(("asked", "effective"), [(2, 10), (50, 50)])
def test_the_stricter_cohort_wins(asked: int, effective: int) -> None:
    assert decide(study(privacy={"min_cohort": asked}), config(), INSTALLED).effective.min_cohort == effective


@pytest.mark.parametrize(("asked", "effective"), [(10, 10), (5000, 1000)])
def test_the_smaller_number_of_bytes_wins(asked: int, effective: int) -> None:
    made = study(output={"columns": [{"name": "age", "dtype": "int"}], "max_bytes": asked})
    assert decide(made, config(), INSTALLED).effective.max_bytes == effective


def test_the_first_refusal_gives_the_code() -> None:
    decision = decide(study(purpose="care"), config(lanes=[]), INSTALLED)
    assert decision.code == "policy.lane"
    assert [r.name for r in decision.rules if not r.ok] == ["lane", "purpose"]


class Code:
    def __init__(self) -> None:
        self.digest = "a" * 64

    def __call__(self) -> str:
        return self.digest


@pytest.fixture
def state(tmp_path: Path) -> SiteState:
    return SiteState(tmp_path / "state.db")


def test_manual_approval_binds_bytes_and_code(state: SiteState) -> None:
    code = Code()
    approvals = Approvals(state, code)
    with pytest.raises(ApprovalRequired) as caught:
        approvals.require("1" * 64, "manual")
    assert caught.value.code == "approval.pending"
    approvals.approve("1" * 64)
    assert approvals.require("1" * 64, "manual").verdict is Verdict.APPROVED
    with pytest.raises(ApprovalRequired):
        approvals.require("2" * 64, "manual")
    code.digest = "b" * 64
    assert approvals.look("1" * 64).verdict is Verdict.SUSPENDED
    with pytest.raises(ApprovalRequired) as caught:
        approvals.require("1" * 64, "manual")
    assert caught.value.code == "approval.changed"
    approvals.approve("1" * 64)
    assert approvals.require("1" * 64, "manual").code_digest == "b" * 64


def test_auto_approves_again_and_a_refusal_holds_in_both_modes(state: SiteState, tmp_path: Path) -> None:
    code = Code()
    approvals = Approvals(state, code)
    assert approvals.require("1" * 64, "auto").approver == "policy"
    code.digest = "b" * 64
    assert approvals.require("1" * 64, "auto").code_digest == "b" * 64
    approvals.refuse("1" * 64)
    again = Approvals(SiteState(tmp_path / "state.db"), code)
    for mode in ("auto", "manual"):
        with pytest.raises(PolicyRefused) as caught:
            again.require("1" * 64, mode)  # type: ignore[arg-type]
        assert caught.value.code == "policy.refused"


NOISED = {"dp": "sample", "epsilon": 0.5, "delta": 1e-6}


@pytest.mark.parametrize(
    ("privacy", "policy", "epsilon", "delta"),
    [
        ({}, {}, 0.5, 1e-6),
        ({}, {"epsilon_per_study": 0.1}, 0.1, 1e-6),
        ({"epsilon": 9.0, "delta": 1e-3}, {"epsilon_per_study": 2.0, "delta": 1e-5}, 2.0, 1e-5),
    ],
)
def test_the_stricter_epsilon_and_delta_hold(
    privacy: dict[str, Any], policy: dict[str, Any], epsilon: float, delta: float
) -> None:
    asked = study(pipeline={"name": "aggregate"}, privacy=NOISED | privacy)
    made = decide(asked, config(allow_unbounded_epsilon=False, **policy), INSTALLED)
    rule = next(rule for rule in made.rules if rule.name == "epsilon")
    assert rule.ok
    assert (made.effective.epsilon, made.effective.delta) == (epsilon, delta)
    assert (made.effective.epsilon_per_year, made.effective.delta_per_year) == (5.0, policy.get("delta", 1e-5))
    assert rule.effective == f"sample {epsilon:g} at {delta:g}"
    assert bool(rule.reason) == (rule.effective != rule.asked)


def test_a_promise_that_the_pipeline_cannot_keep_is_refused() -> None:
    for privacy in (NOISED | {"dp": "central"}, NOISED | {"dp": "distributed"}):
        asked = study(pipeline={"name": "aggregate"}, privacy=privacy)
        rule = next(rule for rule in decide(asked, config(), INSTALLED).rules if rule.name == "epsilon")
        assert (rule.ok, rule.code) == (False, "policy.epsilon")


def test_epsilon_without_noise_is_unbounded() -> None:
    made = decide(study(privacy={"epsilon": 0.1, "delta": 1e-6}), config(), INSTALLED)
    assert made.effective.epsilon is None


def test_the_site_keeps_its_own_metrics_unless_it_says_otherwise() -> None:
    training = study("train").training
    assert training is not None

    def rule(site: EdgeConfig, **changes: Any) -> tuple[str, str, bool]:
        asked = study("train").model_copy(update={"training": training.model_copy(update=changes)})
        decision = decide(asked, site, INSTALLED)
        assert decision.effective.site_metrics is site.datasets["cohort"].policy.site_metrics
        found = next(rule for rule in decision.rules if rule.name == "site-metrics")
        return found.effective, found.code, decision.allowed

    keeps, gives = config(), config(site_metrics=True)
    assert rule(keeps) == rule(gives) == ("none", "", True)
    assert rule(keeps, metrics=("c-index",)) == ("withheld", "", True)
    assert rule(gives, metrics=("c-index",)) == ("c-index", "", True)
    assert rule(keeps, strategy="qfedavg") == ("refused", "policy.site-metrics", False)
    assert rule(gives, strategy="qfedavg") == ("losses", "", True)
