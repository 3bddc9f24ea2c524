"""Local steps of a torch module: equal for equal input, however a batch is cut, and refused where they mean nothing."""

from __future__ import annotations

import os
from itertools import islice
from typing import Any

import numpy as np
import pytest
import torch

from pipelines.learners import engine
from pipelines.learners.engine import Recipe
from pipelines.learners.network import batches
from pipelines.learners.parallel import Ranks
from protocol.errors import CorsiaError, InputError, WorkerError

CPU = torch.device("cpu")


class Rows:
    """37 rows of 5 numbers; whether the first is positive."""

    def __init__(self) -> None:
        draw = np.random.default_rng(0)
        self.x = draw.normal(size=(37, 5)).astype(np.float32)
        self.y = (self.x[:, 0] > 0).astype(np.float32)

    def __len__(self) -> int:
        return len(self.x)

    def batch(self, at: np.ndarray, step: int) -> tuple[np.ndarray, np.ndarray]:
        return self.x[at], self.y[at]


def make() -> torch.nn.Module:
    return torch.nn.Sequential(torch.nn.Linear(5, 8), torch.nn.ReLU(), torch.nn.Linear(8, 1))


def loss(output: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    return torch.nn.functional.binary_cross_entropy_with_logits(output[:, 0], target, reduction="none")


def first() -> dict[str, np.ndarray]:
    with engine.reproducible(1, CPU):
        return engine.arrays_of(make())


def recipe(**changes: Any) -> Recipe:
    return Recipe(**{"steps": 20, "batch": 8, "rate": 0.05, "optimiser": "adam", "seed": 3, **changes})


def trained(**changes: Any) -> dict[str, np.ndarray]:
    return engine.trained(make, first(), Rows(), recipe(**changes), loss, CPU)


def distance(a: dict[str, np.ndarray], b: dict[str, np.ndarray]) -> float:
    return max(float(np.abs(a[name] - b[name]).max()) for name in a)


def share(model: Any, preprocessing: Any, seed: int, device: str, rank: int, world: int) -> dict[str, np.ndarray]:
    """What each process does; in a module that a new process can import."""
    if preprocessing.get("die") is not None and rank == 1:
        os._exit(3)
    rate = 1e30 if "diverge" in preprocessing else 0.05
    how = recipe(seed=seed, accumulate=2, rate=rate)
    return engine.trained(make, model, Rows(), how, loss, torch.device(device), rank=rank, world=world)


def test_equal_input_gives_equal_bytes_and_leaves_torch_as_it_was() -> None:
    before = torch.get_rng_state(), torch.are_deterministic_algorithms_enabled()
    assert distance(trained(), trained()) == 0
    assert distance(trained(), trained(seed=4)) > 0
    assert torch.equal(torch.get_rng_state(), before[0])
    assert torch.are_deterministic_algorithms_enabled() == before[1]
    out = engine.outputs(make, trained(steps=200), Rows(), 16, CPU)[:, 0]
    assert ((out > 0) == (Rows().y > 0)).mean() > 0.95


@pytest.mark.parametrize("optimiser", ["sgd", "adam", "adamw"])
def test_a_batch_cut_into_parts_gives_the_same_model(optimiser: str) -> None:
    whole = trained(optimiser=optimiser)
    assert distance(whole, trained(optimiser=optimiser, accumulate=3)) < 1e-5
    assert distance(whole, trained(optimiser=optimiser, accumulate=100)) < 1e-5


def test_the_proximal_term_is_that_of_the_loss() -> None:
    """One step from elsewhere: mu (w - w0) joins the gradient; a strong pull holds the model where it was."""
    start = first()
    free, held = trained(optimiser="sgd", steps=60), trained(optimiser="sgd", steps=60, pull=10.0)
    assert distance(held, start) < distance(free, start) / 3
    steps = 2

    def by_hand() -> dict[str, np.ndarray]:
        module = engine.loaded(make(), start)
        was = [w.detach().clone() for w in module.parameters()]
        for at in islice(batches(37, 8, np.random.default_rng(3)), steps):
            x, y = (torch.from_numpy(a) for a in Rows().batch(at, 0))
            term = sum(((w - v).square().sum() for w, v in zip(module.parameters(), was, strict=True)), torch.zeros(()))
            module.zero_grad()
            (loss(module(x), y).mean() + 2.0 / 2 * term).backward()
            with torch.no_grad():
                for w in module.parameters():
                    w -= 0.05 * w.grad
        return engine.arrays_of(module)

    assert distance(by_hand(), trained(optimiser="sgd", steps=steps, pull=2.0)) < 1e-6


def test_mixed_precision_is_near_and_still_equal_for_equal_input() -> None:
    mixed = trained(precision="mixed")
    assert distance(mixed, trained(precision="mixed")) == 0
    assert 0 < distance(mixed, trained()) < 0.1


def test_gradients_are_cut() -> None:
    step = trained(optimiser="sgd", steps=1, rate=1.0, clip=1e-3)
    moved = np.sqrt(sum(float(np.square(step[name] - first()[name]).sum()) for name in step))
    assert moved == pytest.approx(1e-3, rel=1e-2)


@pytest.mark.parametrize("changes", [{"rate": 1e30}, {"optimiser": "sgd", "rate": 1e20}])
def test_divergence_is_one_code(changes: dict[str, Any]) -> None:
    with pytest.raises(InputError) as error:
        trained(**changes)
    assert error.value.code == "input.diverged"


@pytest.mark.parametrize(
    "module",
    [
        torch.nn.Sequential(torch.nn.Conv2d(1, 2, 3), torch.nn.BatchNorm2d(2)),
        torch.nn.BatchNorm1d(3, affine=False),
        torch.nn.LazyLinear(2),
        torch.nn.ReLU(),
    ],
    ids=["batch norm", "statistics alone", "lazy", "nothing"],
)
def test_models_whose_averages_mean_nothing_are_refused(module: torch.nn.Module) -> None:
    with pytest.raises(InputError) as error:
        engine.checked(module)
    assert error.value.code == "input.study"


def test_arrays_of_another_model_and_losses_of_another_form_are_refused() -> None:
    other = {**first(), "0.weight": np.zeros((8, 4), np.float32)}
    with pytest.raises(InputError) as error:
        engine.trained(make, other, Rows(), recipe(), loss, CPU)
    assert error.value.code == "input.message"
    with pytest.raises(InputError) as error:
        engine.trained(make, first(), Rows(), recipe(), lambda o, y: loss(o, y).mean(), CPU)
    assert error.value.code == "input.study"


@pytest.mark.parametrize("name", ["cuda:7", "mps"])
def test_a_device_that_is_not_there_is_told_not_replaced(name: str) -> None:
    if (name == "mps" and torch.backends.mps.is_available()) or torch.cuda.device_count() > 7:
        pytest.skip("this machine has it")
    with pytest.raises(WorkerError) as error:
        engine.device_of(name)
    assert error.value.code == "worker.device"
    assert engine.device_of("cpu") == CPU


class Unopened:
    """A share that no further process can make out of what it is sent."""

    def __reduce__(self) -> Any:
        return open, ("/nowhere/at/all",)

    def __call__(self, *_given: Any) -> Any:
        raise AssertionError("never called")


def test_a_process_that_cannot_start_is_told_at_once() -> None:
    """Its pipe ends; without it the others would wait for it in vain until their patience ends (10 minutes)."""
    with pytest.raises(WorkerError) as error:
        Ranks(Unopened(), "cpu", 2)
    assert error.value.code == "worker.parallel"
    assert not torch.distributed.is_initialized()


@pytest.mark.slow
def test_two_processes_share_each_batch() -> None:
    """As one process up to rounding, the same bytes each round; divergence keeps its code, a death gets one."""
    alone = share(first(), {}, 5, "cpu", 0, 1)
    ranks = Ranks(share, "cpu", 2)
    try:
        together = ranks.fit(first(), {}, 5)
        assert distance(alone, together) < 1e-5
        assert distance(together, ranks.fit(first(), {}, 5)) == 0
        with pytest.raises(CorsiaError) as error:
            ranks.fit(first(), {"diverge": np.zeros(1)}, 5)
        assert error.value.code == "input.diverged"
    finally:
        ranks.close()
    ranks = Ranks(share, "cpu", 2)
    try:
        with pytest.raises(CorsiaError) as error:
            ranks.fit(first(), {"die": np.zeros(1)}, 5)
        assert error.value.code == "worker.parallel"
    finally:
        ranks.close()
