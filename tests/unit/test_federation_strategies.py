"""Every strategy by name: what it makes of answers, what it remembers, what a hostile or silent site does to it."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import get_args

import numpy as np
import pytest

from central.federation import flower as server
from central.federation.checkpoint import Checkpoint, MemoryCheckpoints
from central.federation.local import LocalGrid, handler
from central.federation.rounds import Rounds
from pipelines import flower
from pipelines.flower import ARRAYS, METRICS, RecordDict
from pipelines.train import load
from protocol.errors import InputError, StudyRefused, UnavailableError
from protocol.study import INDIVIDUAL, Strategy, Study, needs
from tests.tabularkit import frame, study

NAMES = sorted(set(get_args(Strategy)) - {"newton"})
PARAMETERS: dict[str, dict[str, float]] = {
    "fedavgm": {"server_learning_rate": 0.9, "server_momentum": 0.6},
    "fedprox": {"proximal_mu": 0.5},
    "fedadam": {"eta": 0.03},
    "fedadagrad": {"eta": 0.03, "beta_1": 0.9},
    "fedyogi": {"eta": 0.03},
    "qfedavg": {"q": 0.2},
    "fedtrimmedavg": {"beta": 0.25},
    "multikrum": {"num_malicious_nodes": 1, "num_nodes_to_select": 3},
    "krum": {"num_malicious_nodes": 1},
    "bulyan": {"num_malicious_nodes": 1},
}
SITES = tuple(f"site-{letter}" for letter in "abcdefgh")
Handler = Callable[[bytes], bytes]


def plan_for(name: str, **more: object) -> Study:
    given = {"strategy": name, "strategy_parameters": PARAMETERS.get(name, {}), "rounds": 3, "quorum": 0.85, **more}
    return study(sites=SITES, **given)


def handlers(plan: Study) -> dict[str, Handler]:
    return {site: handler(load(plan, site, frame(site, 60))) for site in plan.sites}


def run(plan: Study, sites: dict[str, Handler] | None = None, kept: MemoryCheckpoints | None = None) -> Checkpoint:
    return Rounds(plan, LocalGrid(sites or handlers(plan)), kept or MemoryCheckpoints()).run()


def vector(reached: Checkpoint) -> np.ndarray:
    return np.concatenate([reached.model[name].ravel() for name in sorted(reached.model)])


class Crash(Exception):
    """Stands for a killed process."""


class Interrupted(MemoryCheckpoints):
    """Keeps what was saved and dies after a round has been aggregated."""

    def __init__(self, after: int) -> None:
        super().__init__()
        self._after: int | None = after

    def save(self, checkpoint: Checkpoint) -> None:
        super().save(checkpoint)
        if checkpoint.round == self._after:
            self._after = None
            raise Crash


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_a_run_resumed_after_a_crash_ends_in_the_same_bytes(name: str) -> None:
    plan = plan_for(name)
    whole, broken = run(plan), Interrupted(2)
    with pytest.raises(Crash):
        run(plan, kept=broken)
    resumed = run(plan, kept=broken)
    assert vector(resumed).tobytes() == vector(whole).tobytes()
    assert {k: v.tobytes() for k, v in resumed.state.items()} == {k: v.tobytes() for k, v in whole.state.items()}
    assert resumed.metrics == whole.metrics
    assert resumed.metrics["auc"] > 0.6


@pytest.mark.slow
def test_the_strategies_differ() -> None:
    made = {name: vector(run(plan_for(name, rounds=1))) for name in NAMES}
    assert len({value.tobytes() for value in made.values()}) == len(NAMES)


def test_the_proximal_term_holds_the_model_back() -> None:
    def moved(mu: float) -> float:
        first = plan_for("fedprox", rounds=1, local_steps=40, strategy_parameters={"proximal_mu": mu})
        kept = MemoryCheckpoints()
        run(first, kept=kept)
        return float(np.linalg.norm(vector(kept.all[1]) - vector(kept.all[0])))

    assert moved(0.0) > 1.2 * moved(1.0) > 1.2 * moved(100.0)
    free, plain = plan_for("fedprox", rounds=1, strategy_parameters={}), plan_for("fedavg", rounds=1)
    assert vector(run(free)).tobytes() == vector(run(plain)).tobytes()


# -- hostile sites


def changed(handle: Handler, change: Callable[[flower.Arrays, dict[str, float]], None]) -> Handler:
    def answer(raw: bytes) -> bytes:
        asked, reply = flower.message_from_bytes(raw), flower.message_from_bytes(handle(raw))
        if asked.metadata.message_type != "train":
            return flower.message_to_bytes(reply)
        arrays = flower.arrays_of(reply.content.array_records[ARRAYS])
        metrics = dict(reply.content.metric_records[METRICS])
        change(arrays, metrics)
        content = {ARRAYS: flower.array_record(arrays), METRICS: flower.metric_record(metrics)}
        return flower.message_to_bytes(flower.reply(asked, RecordDict(content)))

    return answer


def _nan(arrays: flower.Arrays, metrics: dict[str, float]) -> None:
    for value in arrays.values():
        value[:] = math.nan


def _no_key(arrays: flower.Arrays, metrics: dict[str, float]) -> None:
    arrays.pop(next(iter(arrays)))


def _no_weight(arrays: flower.Arrays, metrics: dict[str, float]) -> None:
    metrics.pop(flower.EXAMPLES)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("change", [_nan, _no_key, _no_weight])
def test_one_malformed_site_never_ends_a_run(name: str, change: Callable[..., None]) -> None:
    plan = plan_for(name, rounds=1 + (name == "cyclic"))
    sites = handlers(plan)
    sites["site-a"] = changed(sites["site-a"], change)
    reached = run(plan, sites)
    assert reached.round == plan.training.rounds
    assert "site-a" not in reached.sites
    assert np.isfinite(vector(reached)).all()


@pytest.mark.parametrize("loss", [None, -1.0, math.nan, "more"])
def test_a_loss_that_is_missing_or_impossible_leaves_the_site_out(loss: object) -> None:
    def change(arrays: flower.Arrays, metrics: dict[str, float]) -> None:
        metrics.pop(flower.LOSS)
        if isinstance(loss, float):
            metrics[flower.LOSS] = loss
        elif loss == "more":
            metrics |= {flower.LOSS: 0.5, "other": 1.0}

    plan = plan_for("qfedavg", rounds=1)
    sites = handlers(plan)
    sites["site-c"] = changed(sites["site-c"], change)
    assert set(run(plan, sites).sites) == set(SITES) - {"site-c"}


def test_only_qfedavg_is_told_the_loss() -> None:
    def change(arrays: flower.Arrays, metrics: dict[str, float]) -> None:
        assert set(metrics) == {flower.EXAMPLES}

    plan = plan_for("fedavg", rounds=1)
    sites = {site: changed(handle, change) for site, handle in handlers(plan).items()}
    assert len(run(plan, sites).sites) == 8


@pytest.mark.slow
@pytest.mark.parametrize("name", ["fedmedian", "fedtrimmedavg", "krum", "multikrum", "bulyan"])
def test_the_robust_ones_withstand_an_update_that_is_far_off(name: str) -> None:
    def change(arrays: flower.Arrays, metrics: dict[str, float]) -> None:
        for value in arrays.values():
            value[:] = 500.0

    def ends(strategy: str, hostile: bool) -> np.ndarray:
        plan = plan_for(strategy, rounds=1)
        sites = handlers(plan)
        if hostile:
            sites["site-d"] = changed(sites["site-d"], change)
        return vector(run(plan, sites))

    assert np.abs(ends(name, True) - ends(name, False)).max() < 0.5
    assert np.abs(ends("fedavg", True) - ends("fedavg", False)).max() > 20


# -- cyclic weight transfer


def test_cyclic_goes_from_site_to_site_and_passes_over_one_that_fails() -> None:
    plan = plan_for("cyclic", rounds=10, local_steps=2)
    kept, sites = MemoryCheckpoints(), handlers(plan)
    run(plan, sites, kept)
    assert [c.sites for c in kept.all[1:]] == [(SITES[i % 8],) for i in range(10)]

    def change(arrays: flower.Arrays, metrics: dict[str, float]) -> None:
        _nan(arrays, metrics)

    sites["site-b"] = changed(sites["site-b"], change)
    kept = MemoryCheckpoints()
    run(plan_for("cyclic", rounds=3, local_steps=2), sites, kept)
    assert [c.sites for c in kept.all[1:]] == [("site-a",), ("site-c",), ("site-c",)]
    with pytest.raises(UnavailableError):
        run(plan, {site: changed(handle, _nan) for site, handle in sites.items()})


# -- validation


@pytest.mark.parametrize(
    ("name", "parameters"),
    [
        ("fedavg", {"eta": 0.1}), ("fedavgm", {"server_momentum": 1.0}), ("fedavgm", {"server_learning_rate": 0.0}),
        ("fedprox", {"proximal_mu": -1.0}), ("fedadam", {"tau": 0.0}), ("fedadagrad", {"beta_2": 0.9}),
        ("fedtrimmedavg", {"beta": 0.5}), ("krum", {"num_malicious_nodes": 1.5}), ("krum", {"num_malicious_nodes": 3}),
        ("multikrum", {"num_nodes_to_select": 0}), ("multikrum", {"num_nodes_to_select": 8}),
        ("bulyan", {"num_malicious_nodes": 2}), ("qfedavg", {"train_loss_key": 1.0}),
        ("fedavg", {"min_available_nodes": 99}), ("cyclic", {"q": 1.0}),
    ],
)  # fmt: skip
def test_parameters_are_checked_by_name_and_range(name: str, parameters: dict[str, float]) -> None:
    with pytest.raises(InputError) as refused:
        run(plan_for(name, strategy_parameters=parameters))
    assert refused.value.code == "input.study"


@pytest.mark.parametrize("name", get_args(Strategy))
def test_what_needs_single_updates_is_refused_with_secure_aggregation(name: str) -> None:
    assert needs(name) == ("individual" if name in INDIVIDUAL else "sum")
    raw = plan_for("fedavg").model_dump(by_alias=True, exclude_none=True)
    raw["training"] |= {"strategy": name, "strategy_parameters": {}}
    raw["privacy"]["secure_aggregation"] = True
    if name in INDIVIDUAL:
        with pytest.raises(ValueError, match="each site's update"):
            Study.model_validate(raw)
    else:
        assert Study.model_validate(raw).privacy.secure_aggregation


@pytest.mark.parametrize("name", sorted(INDIVIDUAL))
def test_centre_and_site_refuse_it_again_whatever_made_the_study(name: str) -> None:
    plan = plan_for(name)
    plan = plan.model_copy(update={"privacy": plan.privacy.model_copy(update={"secure_aggregation": True})})
    with pytest.raises((InputError, StudyRefused), match="each site's update"):
        Rounds(plan, LocalGrid(dict.fromkeys(SITES, bytes)), MemoryCheckpoints())
    with pytest.raises((InputError, StudyRefused), match="each site's update"):
        load(plan, "site-a", frame("site-a"))


def test_every_name_of_the_study_is_a_strategy() -> None:
    for name in get_args(Strategy):
        training = plan_for(name).training
        assert training is not None
        assert isinstance(server.strategy(training), server.Strategy)
