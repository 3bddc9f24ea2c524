"""One site that lies under masks: nobody can name it, and it costs rounds, never the run while it relents."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from central.federation.checkpoint import Checkpoint, MemoryCheckpoints, join_arrays
from central.federation.local import LocalGrid, handler, masked_locally
from central.federation.rounds import MAX_SKIPPED, Rounds
from pipelines.flower import Message
from pipelines.masking import Attempt, MaskedSite
from pipelines.train import load
from protocol.assignment import RoundPhase
from protocol.errors import ConflictError, CorsiaError, IntegrityError
from protocol.study import Study
from tests.federation_hospital import frame, study

Vector = np.ndarray[Any, Any]
Lie = Callable[[Vector], Vector]
When = Callable[[int, RoundPhase], bool]


def far(vector: Vector) -> Vector:
    """Weights moved by more than any site may say, the number of examples as it is."""
    return vector + np.append(np.full(len(vector) - 1, 1 << 60, np.uint64), np.uint64(0))


def nobody(vector: Vector) -> Vector:
    """Of a model: fewer examples than the others have."""
    return vector - np.append(np.zeros(len(vector) - 1, np.uint64), np.uint64(1 << 62))


def noise(vector: Vector) -> Vector:
    """Anything."""
    return np.random.default_rng(len(vector)).integers(0, 1 << 64, len(vector), np.uint64)


def heavy(vector: Vector) -> Vector:
    """Of a model: examples that the preparation did not have, so that the site weighs more."""
    return vector + np.append(np.zeros(len(vector) - 1, np.uint64), np.uint64(1 << 33))


LIES = {"far": far, "heavy": heavy, "nobody": nobody, "noise": noise}


class Liar(MaskedSite):
    """A site that keeps to the protocol of masks, and masks what no honest site would."""

    lie: Lie
    when: When

    def _encoded(self, at: Attempt, asked: Message, plain: Callable[[], bytes]) -> Vector:
        honest = super()._encoded(at, asked, plain)
        return self.lie(honest) if self.when(at.round, at.phase) else honest


def lied(plan: Study, name: str, when: When, kept: MemoryCheckpoints) -> Checkpoint:
    liar = type("Lying", (Liar,), {"lie": staticmethod(LIES[name]), "when": staticmethod(when)})
    plan = plan.model_copy(update={"privacy": plan.privacy.model_copy(update={"secure_aggregation": True})})
    plain = {site: handler(load(plan, site, frame(site))) for site in plan.sites}
    named, handlers = masked_locally(
        plan,
        plain,
        lambda of, digest, site, *given: (liar if site == "site-b" else MaskedSite)(of, digest, site, *given),
    )
    return Rounds(named, LocalGrid(handlers), kept).run()


def skipped(kept: MemoryCheckpoints) -> list[tuple[int, str]]:
    return [(more["round"], more["code"]) for kind, _, more in kept.told if kind == "round.skipped"]


def model(checkpoint: Checkpoint) -> bytes:
    return join_arrays(checkpoint.model, {})


@pytest.mark.parametrize("name", sorted(LIES))
@pytest.mark.parametrize("strategy", ["fedavg", "fedadam"])
def test_a_lie_in_a_round_costs_that_round(name: str, strategy: str) -> None:
    kept = MemoryCheckpoints()
    reached = lied(
        study(rounds=4, strategy=strategy), name, lambda round_, phase: round_ in (2, 3) and phase is RoundPhase.TRAIN,
        kept,
    )  # fmt: skip
    one, two, three, four = (kept.at(n) for n in (1, 2, 3, 4))
    assert (reached.round, reached.ended) == (4, "rounds")
    assert model(one) == model(two) == model(three) != model(four)
    assert (two.sites, three.sites, len(four.sites)) == ((), (), 3)
    assert [n for n, _ in skipped(kept)] == [2, 3]
    assert {code for _, code in skipped(kept)} <= {"masks.total", "conflict.round"}
    assert all("c-index" in kept.at(n).metrics for n in (1, 2, 3, 4))  # the model that stays is scored again
    # what follows is as if those rounds had not been: the strategy's state stayed too
    assert model(four) != model(kept.at(0))
    assert {k for k in four.state if "skipped" in k} == set()


@pytest.mark.parametrize(("name", "kind"), [("far", IntegrityError), ("nobody", ConflictError)])
def test_a_lie_in_every_round_ends_the_run_after_a_bounded_number(name: str, kind: type[CorsiaError]) -> None:
    kept = MemoryCheckpoints()
    with pytest.raises(kind) as error:
        lied(study(rounds=50), name, lambda round_, phase: round_ > 1 and phase is RoundPhase.TRAIN, kept)
    code = "masks.total" if kind is IntegrityError else "conflict.round"
    assert error.value.code == code
    assert skipped(kept) == [(n, code) for n in range(2, 2 + MAX_SKIPPED)]
    assert "site-b" not in str(error.value)
    assert model(kept.all[-1]) == model(kept.at(1))


def test_a_run_of_skipped_rounds_alone_publishes_no_untrained_model() -> None:
    kept = MemoryCheckpoints()
    with pytest.raises(IntegrityError):
        lied(study(rounds=2), "far", lambda _, phase: phase is RoundPhase.TRAIN, kept)
    assert [n for n, _ in skipped(kept)] == [1, 2]


def test_between_lies_the_count_begins_anew_also_after_a_crash() -> None:
    """Six lies in ten rounds, never three in a row; each round is run by a process that knows the checkpoint alone."""
    kept, lies = MemoryCheckpoints(), {1, 2, 4, 5, 7, 8}
    reached = lied(study(rounds=10), "far", lambda round_, phase: round_ in lies and phase is RoundPhase.TRAIN, kept)
    assert reached.round == 10
    assert {n for n, _ in skipped(kept)} == lies
    again = MemoryCheckpoints()
    again.all = [kept.at(n) for n in range(3)]  # two skipped rounds behind it: one more is the end
    with pytest.raises(IntegrityError):
        lied(study(rounds=10), "far", lambda _, phase: phase is RoundPhase.TRAIN, again)
    assert [n for n, _ in skipped(again)] == [3]


@pytest.mark.parametrize("name", sorted(LIES))
def test_a_lie_in_the_scores_costs_the_scores(name: str) -> None:
    kept = MemoryCheckpoints()
    reached = lied(study(rounds=2), name, lambda _, phase: phase is RoundPhase.EVALUATE, kept)
    assert reached.round == 2
    assert model(kept.at(1)) != model(kept.at(2))
    assert skipped(kept) == []


@pytest.mark.parametrize("name", ["far", "noise"])
def test_a_lie_in_the_preparation_ends_the_run_before_it_begins(name: str) -> None:
    """There is no model to go on from; the run fails by a code, and nothing else."""
    with pytest.raises(CorsiaError):
        lied(study(rounds=2), name, lambda _, phase: phase is RoundPhase.PREPARE, MemoryCheckpoints())
