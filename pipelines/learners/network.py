"""A small feed-forward network in NumPy: predictions and minibatch steps, bit-equal for equal input.

No torch: the centre, inference and a site without it need only NumPy. Float64 within, float32 in the model that
travels. Nothing here knows a site or a message.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Literal

import numpy as np

__all__ = ["Recipe", "batches", "initial", "logits", "sigmoid", "trained"]

Array = np.ndarray[Any, Any]
Arrays = dict[str, Array]

_BETAS, _TINY = (0.9, 0.999), 1e-8  # Adam's defaults (Kingma and Ba 2015)


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """Local steps.

    Attributes:
        binary: labels 0/1 under the logistic loss; else numbers under half the squared error.
        l2: weight of the squared weights (not biases) in the loss.
        pull: FedProx's mu.
    """

    steps: int
    batch: int
    rate: float
    optimiser: Literal["sgd", "adam"]
    binary: bool
    l2: float = 0.0
    pull: float = 0.0


def initial(width: int, hidden: tuple[int, ...], draw: np.random.Generator, bias: float | None = None) -> Arrays:
    """Weights and biases, float32: `layer.I.weight` (out, in), `layer.I.bias` (out,); the last layer has one output.

    Args:
        draw: uniform in +-1/sqrt(in), weights and biases (torch's default).
        bias: the last layer's weights are 0, and its bias this.
    """
    made: Arrays = {}
    widths = (width, *hidden, 1)
    for i, (inputs, outputs) in enumerate(pairwise(widths)):
        bound = 1 / math.sqrt(max(inputs, 1))
        made[f"layer.{i}.weight"] = draw.uniform(-bound, bound, (outputs, inputs)).astype(np.float32)
        made[f"layer.{i}.bias"] = draw.uniform(-bound, bound, outputs).astype(np.float32)
    if bias is not None:
        last = len(hidden)
        made[f"layer.{last}.weight"] = np.zeros_like(made[f"layer.{last}.weight"])
        made[f"layer.{last}.bias"] = np.array([bias], np.float32)
    return made


def sigmoid(z: Array) -> Array:
    """1 / (1 + exp(-z)), without overflow."""
    return 0.5 * (1.0 + np.tanh(0.5 * z))


def logits(model: Arrays, x: Array) -> Array:
    """The network's output for each row, float64 (rows,)."""
    return _forward([value.astype(np.float64) for value in _ordered(model)], x)[-1][:, 0]


def trained(model: Arrays, x: Array, y: Array, recipe: Recipe, draw: np.random.Generator) -> Arrays:
    """The model after local steps over shuffled minibatches; infinite or NaN where they diverge.

    Args:
        x: float64 (rows, width), finite.
        y: float64 (rows,).
    """
    start = [value.astype(np.float64) for value in _ordered(model)]
    weights = [value.copy() for value in start]
    moments = [(np.zeros_like(w), np.zeros_like(w)) for w in weights]
    chosen = batches(len(x), recipe.batch, draw)
    with np.errstate(over="ignore", invalid="ignore"):
        for step in range(1, recipe.steps + 1):
            rows = next(chosen)
            slopes = _slopes(weights, x[rows], y[rows], recipe)
            for i, slope in enumerate(slopes):
                if recipe.l2 and i % 2 == 0:
                    slope = slope + 2 * recipe.l2 * weights[i]
                if recipe.pull:
                    slope = slope + recipe.pull * (weights[i] - start[i])
                weights[i] = weights[i] - _move(slope, moments[i], step, recipe)
        return {n: w.astype(np.float32) for n, w in zip(_names(model), weights, strict=True)}


def _move(slope: Array, moment: tuple[Array, Array], step: int, recipe: Recipe) -> Array:
    if recipe.optimiser == "sgd":
        return recipe.rate * slope
    first, second = moment
    first += (1 - _BETAS[0]) * (slope - first)
    second += (1 - _BETAS[1]) * (slope * slope - second)
    size = math.sqrt(1 - _BETAS[1] ** step)
    return np.asarray(recipe.rate / (1 - _BETAS[0] ** step) * first / (np.sqrt(second) / size + _TINY))


def _slopes(weights: list[Array], x: Array, y: Array, recipe: Recipe) -> list[Array]:
    """The mean loss's derivatives, in the weights' order."""
    layers = _forward(weights, x)
    z = layers[-1][:, 0]
    down = (((sigmoid(z) if recipe.binary else z) - y) / len(y))[:, None]
    made: list[Array] = []
    for i in range(len(weights) - 2, -1, -2):
        below = layers[i // 2]
        made[:0] = [down.T @ below, down.sum(axis=0)]
        if i:
            down = (down @ weights[i]) * (below > 0)
    return made


def _forward(weights: list[Array], x: Array) -> list[Array]:
    """The input of each layer, and the last one's output."""
    layers = [x]
    for i in range(0, len(weights), 2):
        z = layers[-1] @ weights[i].T + weights[i + 1]
        layers.append(np.maximum(z, 0.0) if i + 2 < len(weights) else z)
    return layers


def batches(rows: int, size: int, draw: np.random.Generator) -> Iterator[Array]:
    """Every row once in an order drawn anew, then again; the last batch of an order may be smaller."""
    while True:
        order = draw.permutation(rows)
        for start in range(0, rows, size):
            yield order[start : start + size]


def _names(model: Arrays) -> list[str]:
    return [f"layer.{i}.{part}" for i in range(len(model) // 2) for part in ("weight", "bias")]


def _ordered(model: Arrays) -> list[Array]:
    return [model[name] for name in _names(model)]
