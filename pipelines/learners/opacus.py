"""Any torch model trained under sample-level privacy: Opacus clips each row's gradient, noise and samples are ours.

Place in the flow: a learner's `fit` -> `descend` -> the model after its noised steps. What a call costs is
`Schedule.cost(RoundPhase.TRAIN)`: it is in the ledger before this is called. A step draws a Poisson sample of the rows,
sums their clipped gradients in parts that fit in memory, adds noise once to the sum, and divides by the expected size
of the sample, never by its real one. torch is imported here only when something is trained.

Source: Abadi et al. 2016, CCS, algorithm 1; Yousefpour et al. 2021, "Opacus", arXiv:2109.12298.
"""

from __future__ import annotations

import importlib
import warnings
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from pipelines.learners.network import Recipe
from pipelines.learners.schedule import Schedule
from privacy.dp.training import poisson_batches, private_optimizer
from protocol.errors import InputError

if TYPE_CHECKING:
    import torch

    from privacy.dp.stream import Stream

__all__ = ["checked", "descend", "network", "warm"]

Arrays = dict[str, NDArray[Any]]
Losses = Callable[[Any, NDArray[np.int64]], Any]  # the model and row numbers -> the loss of each of these rows
PART = 256  # rows whose gradients are held at once


def warm() -> None:
    """Import what `descend` needs."""
    for name in ("torch", "opacus", "opacus.optimizers"):
        importlib.import_module(name)


def descend(
    module: torch.nn.Module,
    losses: Losses,
    rows: int,
    schedule: Schedule,
    *,
    optimiser: Callable[[Any], torch.optim.Optimizer],
    clip: float,
    steady: Callable[[], None] = lambda: None,
    part: int = PART,
    stream: Stream | None = None,
) -> None:
    """Train a model in place for one round.

    Args:
        module: each row's output depends on that row alone (no batch normalisation).
        losses: float tensor (rows asked for,), with gradients. It is given the wrapped model, which it must call.
        rows: of the site.
        schedule: steps, sampling rate and noise of a step.
        optimiser: parameters -> a torch optimiser, whose learning rate is for the mean gradient.
        clip: largest Euclidean length of one row's gradient.
        steady: adds to each parameter's `grad` what does not depend on rows (weight decay, FedProx's pull).
        part: rows whose gradients are held at once.
        stream: for tests.

    Raises:
        InputError: `input.study` for a model in which rows of a sample see one another.
    """
    wrapped = _wrapped(module)
    noised: Any = private_optimizer(
        optimiser([p for p in wrapped.parameters() if p.requires_grad]),
        multiplier=schedule.gradient,
        max_grad_norm=clip,
        expected_batch_size=max(1, round(rows * schedule.rate)),
        stream=stream,
    )
    try:
        for chosen in poisson_batches(rows, schedule.rate, schedule.steps, stream):
            noised.zero_grad(set_to_none=True)
            parts = [chosen[i : i + part] for i in range(0, len(chosen), part)] or [chosen]
            for place, some in enumerate(parts):
                _gradients(wrapped, losses, some)
                noised.signal_skip_step(do_skip=place + 1 < len(parts))
                if noised.pre_step():  # the last part: clipped, summed, noised, divided
                    steady()
                    noised.original_optimizer.step()
                noised.zero_grad(set_to_none=True)
    finally:
        wrapped.to_standard_module()


def network(
    model: Arrays,
    x: NDArray[np.float64],
    y: NDArray[np.float64],
    recipe: Recipe,
    schedule: Schedule,
    *,
    clip: float,
    stream: Stream | None = None,
) -> Arrays:
    """The feed-forward network of `pipelines.learners.network` after one round of noised steps.

    Args:
        x: float64 (rows, width), finite.
        y: float64 (rows,).
    """
    import torch

    layers: list[torch.nn.Module] = []
    for i in range(len(model) // 2):
        weight = model[f"layer.{i}.weight"]
        layers += [torch.nn.Linear(weight.shape[1], weight.shape[0]), torch.nn.ReLU()]
    made = torch.nn.Sequential(*layers[:-1])
    weights = list(made.parameters())  # weight, bias, weight, bias, ...
    start = [torch.from_numpy(model[name].astype(np.float32)) for name in _names(model)]
    with torch.no_grad():
        for parameter, value in zip(weights, start, strict=True):
            parameter.copy_(value)
    inputs, targets = torch.from_numpy(x.astype(np.float32)), torch.from_numpy(y.astype(np.float32))
    kind = torch.optim.SGD if recipe.optimiser == "sgd" else torch.optim.Adam
    loss = torch.nn.BCEWithLogitsLoss(reduction="none") if recipe.binary else torch.nn.MSELoss(reduction="none")
    half = 1.0 if recipe.binary else 0.5

    def losses(wrapped: Any, chosen: NDArray[np.int64]) -> Any:
        at = torch.from_numpy(chosen)
        return half * loss(wrapped(inputs[at])[:, 0], targets[at])

    def steady() -> None:
        for i, (parameter, value) in enumerate(zip(weights, start, strict=True)):
            if parameter.grad is not None:
                decay = 2 * recipe.l2 * parameter.detach() if i % 2 == 0 else 0.0
                parameter.grad += decay + recipe.pull * (parameter.detach() - value)

    descend(
        made, losses, len(x), schedule, optimiser=lambda p: kind(p, lr=recipe.rate), clip=clip, steady=steady,
        stream=stream,
    )  # fmt: skip
    return {name: p.detach().numpy().copy() for name, p in zip(_names(model), weights, strict=True)}


def checked(module: Any) -> Any:
    """The module, in training mode, if Opacus can tell a gradient for each row.

    Raises:
        InputError: `input.study`.
    """
    validator: Any = importlib.import_module("opacus.validators").ModuleValidator
    module.train()
    if validator.validate(module, strict=False) or any(True for _ in module.buffers()):
        raise InputError("input.study", "privacy.dp: the model has a layer in which rows see one another")
    return module


def _wrapped(module: Any) -> Any:
    """The model with a gradient for each row. Raises as `checked`."""
    opacus: Any = importlib.import_module("opacus")
    return opacus.GradSampleModule(checked(module), loss_reduction="sum")


def _gradients(wrapped: Any, losses: Losses, chosen: NDArray[np.int64]) -> None:
    """A gradient for each of these rows; one that is not finite counts as 0, so that it cannot spoil the sum."""
    import torch

    trained = [parameter for parameter in wrapped.parameters() if parameter.requires_grad]
    if len(chosen):
        with warnings.catch_warnings():  # torch says that inputs need no gradient, which is so
            warnings.filterwarnings("ignore", message="Full backward hook")
            losses(wrapped, chosen).sum().backward()
    for parameter in trained:
        if not len(chosen):
            parameter.grad_sample = torch.zeros((0, *parameter.shape), device=parameter.device)
        elif parameter.grad_sample is None:  # no part of any loss
            parameter.grad_sample = torch.zeros((len(chosen), *parameter.shape), device=parameter.device)
        else:
            torch.nan_to_num_(parameter.grad_sample, nan=0.0, posinf=0.0, neginf=0.0)


def _names(model: Arrays) -> list[str]:
    return [f"layer.{i}.{kind}" for i in range(len(model) // 2) for kind in ("weight", "bias")]
