"""Sample-level private training: Opacus clips and sums, noise and samples are ours.

Place in the flow: a learner wraps its model in Opacus' `GradSampleModule`, its optimizer here, and takes its batches
from `poisson_batches`; the cost, `accountant.sampled_gaussian(multiplier, rate, steps)`, is told to the ledger before
the first draw. Opacus' own generators (`torch.normal`, and `torchcsprng` for its secure mode) are never called.
"""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from privacy.dp.stream import Stream

if TYPE_CHECKING:
    import torch

__all__ = ["poisson_batches", "private_optimizer"]


def poisson_batches(rows: int, rate: float, steps: int, stream: Stream | None = None) -> Iterator[NDArray[np.int64]]:
    """The rows of each step, each in with probability `rate` on its own, up to 2^-53.

    A batch may be empty, and is a step all the same.
    """
    if rows < 1 or not 0 < rate <= 1 or steps < 0:
        raise ValueError("there are rows, a rate above 0 and at most 1, and no fewer than 0 steps")
    stream = stream or Stream()
    for _ in range(steps):
        yield np.flatnonzero(stream.uniforms(rows) < rate).astype(np.int64)


def private_optimizer(
    optimizer: torch.optim.Optimizer,
    *,
    multiplier: float,
    max_grad_norm: float,
    expected_batch_size: int,
    stream: Stream | None = None,
) -> torch.optim.Optimizer:
    """An Opacus optimizer that clips each row's gradient to `max_grad_norm` and adds our noise to the sum.

    Args:
        optimizer: over the parameters of a `GradSampleModule`.
        multiplier: noise over `max_grad_norm`.
        max_grad_norm: Euclidean length to which a row's gradient is cut.
        expected_batch_size: rows times rate; the sum is divided by it, never by the batch's real size.
        stream: for tests.
    """
    import torch

    base: Any = importlib.import_module("opacus.optimizers").DPOptimizer

    class NoisedOptimizer(base):  # type: ignore[misc]
        """Opacus with noise from the operating system."""

        def add_noise(self) -> None:
            self.noise_multiplier = 0.0
            try:
                super().add_noise()  # with 0 it draws nothing; it checks that no sum is used twice
            finally:
                self.noise_multiplier = multiplier
            for parameter in self.params:
                drawn = noise.normals(tuple(parameter.grad.shape), multiplier * self.max_grad_norm)
                noised = parameter.grad.to("cpu", torch.float64) + torch.from_numpy(drawn)
                parameter.grad = noised.to(parameter.grad.device, parameter.grad.dtype)

    noise = stream or Stream()
    if not (multiplier > 0 and max_grad_norm > 0 and expected_batch_size >= 1):
        raise ValueError("noise, norm and batch size are positive")
    made: torch.optim.Optimizer = NoisedOptimizer(
        optimizer,
        noise_multiplier=multiplier,
        max_grad_norm=max_grad_norm,
        expected_batch_size=expected_batch_size,
        loss_reduction="mean",
    )
    return made
