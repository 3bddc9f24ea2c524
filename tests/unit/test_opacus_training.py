"""Torch models under sample-level privacy. On seeded streams: false alarms, 1 in 10^4, are decided once for all."""

from __future__ import annotations

import hashlib
from typing import Any

import numpy as np
import pytest
from scipy import stats

from pipelines.learners import opacus
from pipelines.learners.network import Recipe, initial, logits
from pipelines.learners.schedule import Schedule
from privacy.dp.stream import Stream
from protocol.errors import InputError

torch = pytest.importorskip("torch")
pytest.importorskip("opacus")


def stream(name: str) -> Stream:
    return Stream(hashlib.sha256(name.encode()).digest())


def schedule(gradient: float, rate: float = 1.0, steps: int = 1) -> Schedule:
    return Schedule(sums=None, gradient=gradient, rate=rate, steps=steps, rounds=1)


def moved(
    x: Any, noise: Schedule, *, clip: float = 1.0, part: int = 256, seed: str = "s", scale: float = 1.0
) -> np.ndarray:
    """The weights of a linear model, from 0, after a round of plain steps on the loss `scale * output`."""
    model = torch.nn.Linear(x.shape[1], 1, bias=False)
    torch.nn.init.zeros_(model.weight)
    opacus.descend(
        model, lambda wrapped, rows: scale * wrapped(x[torch.from_numpy(rows)])[:, 0], len(x), noise,
        optimiser=lambda p: torch.optim.SGD(p, lr=1.0), clip=clip, part=part, stream=stream(seed),
    )  # fmt: skip
    return np.asarray(model.weight.detach().numpy()[0], np.float64)


def test_noise_is_of_the_size_that_the_schedule_says() -> None:
    drawn = moved(torch.zeros((50, 3000)), schedule(3.0, rate=0.2), clip=0.5)
    assert (
        stats.kstest(drawn / (3.0 * 0.5 / 10), "norm").pvalue > 1e-4
    )  # over 10 = 50 * 0.2, never over the real sample


def test_the_parts_of_a_sample_are_noised_once_together() -> None:
    x = torch.from_numpy(np.random.default_rng(1).normal(size=(60, 40)).astype(np.float32))
    whole, parts = moved(x, schedule(1.5)), moved(x, schedule(1.5), part=7)
    np.testing.assert_allclose(whole, parts, atol=1e-6)


def test_one_row_moves_a_step_by_its_clip_at_most() -> None:
    x = torch.from_numpy(np.random.default_rng(2).normal(size=(30, 8)).astype(np.float32))
    gone = x.clone()
    gone[7] = 0.0
    for scale in (1e-3, 1.0, 1e4, 1e30, 3e38):
        with_all, without = (moved(rows, schedule(1.0), clip=0.25, scale=scale) for rows in (x, gone))
        assert np.isfinite(with_all).all()
        assert np.linalg.norm(with_all - without) * 30 <= 0.25 * (1 + 1e-4)


def test_a_row_that_is_not_finite_spoils_nothing() -> None:
    x = torch.ones((10, 4))
    bad = x.clone()
    bad[3] = float("nan")
    assert np.linalg.norm(moved(x, schedule(1.0)) - moved(bad, schedule(1.0))) * 10 <= 1.0 + 1e-4


def test_an_empty_sample_is_a_step_with_noise() -> None:
    model = torch.nn.Sequential(torch.nn.Conv2d(1, 30, 5), torch.nn.Flatten(), torch.nn.LazyLinear(1))
    model(torch.zeros((1, 1, 8, 8)))
    before = model[0].weight.detach().clone()
    images = torch.zeros((1, 1, 8, 8))
    opacus.descend(
        model, lambda wrapped, rows: wrapped(images[torch.from_numpy(rows)])[:, 0], 1, schedule(2.0, rate=1e-9),
        optimiser=lambda p: torch.optim.SGD(p, lr=1.0), clip=1.0, stream=stream("e"),
    )  # fmt: skip
    drawn = (model[0].weight.detach() - before).numpy().ravel()
    assert stats.kstest(drawn / 2.0, "norm").pvalue > 1e-4


@pytest.mark.parametrize("layer", [torch.nn.BatchNorm1d(4), torch.nn.InstanceNorm1d(4, track_running_stats=True)])
def test_a_model_in_which_rows_see_one_another_is_refused(layer: Any) -> None:
    model = torch.nn.Sequential(torch.nn.Linear(3, 4), layer, torch.nn.Linear(4, 1))
    with pytest.raises(InputError, match="see one another"):
        opacus.descend(
            model, lambda wrapped, rows: wrapped(torch.ones((len(rows), 3)))[:, 0], 5, schedule(1.0),
            optimiser=lambda p: torch.optim.SGD(p, lr=1.0), clip=1.0,
        )  # fmt: skip


def test_the_model_can_be_used_and_trained_again_afterwards() -> None:
    model = torch.nn.Linear(4, 1)
    x = torch.ones((6, 4))
    for seed in ("a", "b"):
        opacus.descend(
            model, lambda wrapped, rows: wrapped(x[torch.from_numpy(rows)])[:, 0], 6, schedule(1.0),
            optimiser=lambda p: torch.optim.SGD(p, lr=0.1), clip=1.0, stream=stream(seed),
        )  # fmt: skip
    assert type(model) is torch.nn.Linear
    assert not hasattr(model.weight, "grad_sample")
    assert np.isfinite(model(x).detach().numpy()).all()


@pytest.mark.parametrize("optimiser", ["sgd", "adam"])
def test_without_noise_worth_naming_the_network_learns_as_it_does_without(optimiser: Any) -> None:
    draw = np.random.default_rng(5)
    x = draw.normal(size=(400, 3))
    y = (x[:, 0] * x[:, 1] > 0).astype(np.float64)  # what no linear model can
    recipe = Recipe(steps=150, batch=32, rate=0.5 if optimiser == "sgd" else 0.02, optimiser=optimiser, binary=True)
    model = initial(3, (16,), np.random.default_rng(1))
    made = opacus.network(model, x, y, recipe, schedule(1e-4, rate=0.5, steps=150), clip=5.0, stream=stream("n"))
    assert {name: (v.dtype, v.shape) for name, v in made.items()} == {n: (v.dtype, v.shape) for n, v in model.items()}
    assert ((logits(made, x) > 0) == (y == 1)).mean() > 0.85


def test_decay_and_pull_are_added_outside_the_noise() -> None:
    x, y = np.zeros((8, 2)), np.zeros(8)
    model = {
        "layer.0.weight": np.ones((3, 2), np.float32), "layer.0.bias": np.zeros(3, np.float32),
        "layer.1.weight": np.ones((1, 3), np.float32), "layer.1.bias": np.zeros(1, np.float32),
    }  # fmt: skip
    recipe = Recipe(steps=1, batch=8, rate=0.1, optimiser="sgd", binary=False, l2=0.5)
    made = opacus.network(model, x, y, recipe, schedule(1e-9), clip=1.0, stream=stream("d"))
    np.testing.assert_allclose(made["layer.0.weight"], 0.9, atol=1e-6)
    np.testing.assert_allclose(made["layer.0.bias"], 0.0, atol=1e-6)
