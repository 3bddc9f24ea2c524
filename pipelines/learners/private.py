"""Tabular learners under sample-level differential privacy: what each site releases is noised at the site.

Two kinds of release, both Gaussian mechanisms on sums of clipped rows: the means by which all sites standardise, and
one gradient a step, over all rows of the site or a Poisson sample of them. Their cost is fixed before the first:
`schedule.cost` is for the ledger. The guarantee is for one row (of one patient with one row) at one site, zero-out
adjacency: two tables are neighbours when one row is replaced by one that adds nothing; so the number of rows is public.
Scales come from bounds that the study states as public knowledge; the outcome's balance and scores are not released.

Without hidden layers the steps are NumPy's and the noise is exact; with them, Opacus' (`opacus`).

Source: Abadi et al. 2016, "Deep learning with differential privacy", CCS, algorithm 1;
Kairouz et al. 2021, "Practical and private (deep) learning without sampling or shuffling", ICML (zero-out adjacency).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from fractions import Fraction
from typing import TYPE_CHECKING, Any

import numpy as np

from pipelines.compute import Compute
from pipelines.learners.bounded import Array, Arrays, Bounded
from pipelines.learners.network import sigmoid
from pipelines.learners.schedule import Schedule
from pipelines.learners.tabular import TabularRows
from pipelines.learners.vocabulary import standardised
from protocol.errors import InputError
from protocol.study import Study

if TYPE_CHECKING:
    from privacy.dp.stream import Stream

__all__ = ["PrivateNetwork", "PrivateTabular", "noised_sum", "of_study"]

_GRID = 2.0**20  # steps of the grid in one clipping norm: sums are exact on it, and so is the noise


class PrivateTabular(Bounded):
    """`Tabular` whose sums and updates are differentially private. Needs `pipeline.parameters.private`.

    Args:
        epsilon, delta: of everything that one site releases in the whole run.
        rounds: of the run.
        stream: gives the noise's random words for a release; for tests. Otherwise the operating system does.
    """

    noised = frozenset({"sample"})
    crossed = "Noised model updates, noised sums of features and of levels, and the number of rows,"
    notes: tuple[str, ...] = (
        "Means were agreed by noised sums, scales follow from the study's bounds; updates are noised gradients.",
    )
    schedule: Schedule

    def __init__(
        self, *, epsilon: float, delta: float, rounds: int, stream: Callable[[], Stream] | None = None, **tabular: Any
    ) -> None:
        super().__init__(**tabular)
        self._check()
        self._draw = stream
        self.schedule = Schedule.fitted(
            epsilon=epsilon, delta=delta, rounds=rounds, steps=self._recipe.steps, rate=self._private.rate,
            share=self._private.share,
        )  # fmt: skip

    def _check(self) -> None:
        if self.settings.hidden:
            raise InputError("input.study", "pipeline.parameters.hidden: hidden layers are for PrivateNetwork")

    # -- releases --------------------------------------------------------------------------------------------------

    def sums(self, rows: TabularRows, least: int) -> Arrays:
        """Noised sums of the columns, in the shapes of `Tabular.sums`; squares and outcome are 0."""
        del least
        middle, half = self._bounds()
        z = np.clip((rows.x - middle) / half, -1.0, 1.0)
        z = np.where(np.isfinite(z), z, 0.0)
        numeric = len(self.vocabulary.numeric)
        reach = math.sqrt(numeric + len(self.vocabulary.groups))  # one level a feature
        noise = self.schedule.sums
        if noise is None:
            raise AssertionError("the schedule has a share for sums")
        total = noised_sum(z, reach, noise, self._stream())
        means = np.clip(total / rows.count, np.where(np.arange(len(total)) < numeric, -1.0, 0.0), 1.0)
        zero = np.zeros(len(total))
        return {
            "rows": np.array([float(rows.count)]), "count": zero + rows.count,
            "sum": (means * half + middle) * rows.count, "square": zero, "outcome": np.zeros(2),
        }  # fmt: skip

    def plausible(self, sums: Arrays, examples: int) -> bool:
        """Whether one site's sums are of that many rows, within the bounds."""
        middle, half = self._bounds()
        near = np.abs(sums["sum"] - middle * examples) <= half * examples * (1 + 1e-9)
        return sums["rows"][0] == examples and bool((sums["count"] == examples).all()) and bool(near.all())

    def fit(self, model: Arrays, preprocessing: Arrays, rows: TabularRows, seed: int) -> Arrays:
        """Steps along noised sums of clipped gradients.

        Each call draws fresh noise, so a call is a release: an answer is sent again, never made again.
        """
        del seed
        x, y = self._usable(preprocessing, rows)
        x = np.column_stack([x, np.ones(rows.count)])
        start = w = np.append(model["layer.0.weight"][0], model["layer.0.bias"]).astype(np.float64)
        decay = np.append(np.full(len(w) - 1, 2 * self.settings.l2), 0.0)
        rate = self._private.rate
        for _ in range(self._recipe.steps):
            chosen = slice(None) if rate == 1 else self._sample(rows.count)
            z = x[chosen] @ w
            slopes = ((sigmoid(z) if self._recipe.binary else z) - y[chosen])[:, None] * x[chosen]
            total = noised_sum(slopes, self._private.clip, self.schedule.gradient, self._stream())
            slope = total / (rows.count * rate) + decay * w + self._recipe.pull * (w - start)
            w = w - self._recipe.rate * slope
        return {"layer.0.weight": w[None, :-1].astype(np.float32), "layer.0.bias": w[-1:].astype(np.float32)}

    def _usable(self, preprocessing: Arrays, rows: TabularRows) -> tuple[Array, Array]:
        mean, scale = preprocessing["outcome"]
        x = standardised(rows.x, preprocessing, self.settings.standardise, rows.x)
        return x, (rows.y - mean) / scale

    def _sample(self, rows: int) -> Array:
        from privacy.dp.training import poisson_batches

        return next(poisson_batches(rows, self._private.rate, 1, self._stream()))

    def _stream(self) -> Stream | None:
        return self._draw() if self._draw is not None else None


class PrivateNetwork(PrivateTabular):
    """With hidden layers: the same sums, and steps by Opacus over Poisson samples of the rows."""

    def _check(self) -> None:
        if not self.settings.hidden:
            raise InputError("input.study", "pipeline.parameters.hidden: PrivateNetwork has hidden layers")

    def warm(self, compute: Compute | None = None) -> None:
        """Torch and Opacus."""
        from pipelines.learners import opacus

        opacus.warm()

    def fit(self, model: Arrays, preprocessing: Arrays, rows: TabularRows, seed: int) -> Arrays:
        """As `PrivateTabular.fit`; by the study's optimiser."""
        del seed
        from pipelines.learners import opacus

        x, y = self._usable(preprocessing, rows)
        return opacus.network(model, x, y, self._recipe, self.schedule, clip=self._private.clip, stream=self._stream())


def of_study(tabular: dict[str, Any], study: Study) -> Bounded:
    """The learner `tabular` of a study with differential privacy.

    Args:
        tabular: what `Tabular` is made from.

    Raises:
        InputError: `input.study`.
    """
    privacy, training = study.privacy, study.training
    if privacy.dp != "sample":
        return Bounded(**tabular)
    if training is None or privacy.epsilon is None or privacy.delta is None:
        raise InputError("input.study", "privacy: sample-level privacy needs epsilon, delta and a training table")
    kind = PrivateNetwork if tabular["settings"].get("hidden") else PrivateTabular
    return kind(epsilon=privacy.epsilon, delta=privacy.delta, rounds=training.max_rounds, **tabular)


def noised_sum(rows: Array, reach: float, multiplier: float, stream: Stream | None = None) -> Array:
    """The sum of the rows, each cut to Euclidean length `reach`, plus Gaussian noise of `multiplier * reach`.

    On a grid: rows are rounded towards 0, which makes none longer; sum and noise are whole numbers of its steps.
    """
    from privacy.dp.noise import discrete_gaussian

    with np.errstate(over="ignore", invalid="ignore"):
        length = np.linalg.norm(rows, axis=1, keepdims=True)
        cut = rows * np.minimum(1.0, reach / np.maximum(length, 1e-300)) * (1 - 2.0**-40)
    cut = np.where(np.isfinite(cut), cut, 0.0)
    whole = np.trunc(cut * (_GRID / reach)).astype(np.int64).sum(axis=0)
    noise = discrete_gaussian(Fraction(multiplier * _GRID) ** 2, len(whole), stream)
    return np.asarray((whole + noise) * (reach / _GRID))
