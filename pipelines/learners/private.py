"""Logistic regression under sample-level differential privacy: what each site releases is noised at the site.

Two kinds of release, both Gaussian mechanisms on sums of clipped rows: the means by which all sites standardise, and
one gradient a step, over all rows of the site. Their cost is fixed before the first: `PrivateTabular.cost` is for the
ledger. The guarantee is for one row (of one patient with one row) at one site, zero-out adjacency: two tables are
neighbours when one row is replaced by one that adds nothing; so the number of rows is public. Scales come from bounds
that the study states as public knowledge; the outcome's balance and scores are not released.

Source: Abadi et al. 2016, "Deep learning with differential privacy", CCS, algorithm 1 (all rows in each step);
Kairouz et al. 2021, "Practical and private (deep) learning without sampling or shuffling", ICML (zero-out adjacency).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from fractions import Fraction
from typing import TYPE_CHECKING, Any

import numpy as np

from pipelines.learners.network import sigmoid
from pipelines.learners.tabular import Tabular, TabularRows
from pipelines.learners.vocabulary import standardised
from protocol.errors import InputError
from protocol.study import Study

if TYPE_CHECKING:
    from privacy.dp.accountant import Curve
    from privacy.dp.stream import Stream

__all__ = ["PrivateTabular", "noised_sum"]

Array = np.ndarray[Any, Any]
Arrays = dict[str, Array]
Shapes = dict[str, tuple[str, tuple[int, ...]]]

_GRID = 2.0**20  # steps of the grid in one clipping norm: sums are exact on it, and so is the noise


class PrivateTabular(Tabular):
    """`Tabular` whose sums and updates are differentially private. Needs `pipeline.parameters.private`.

    Args:
        epsilon, delta: of everything that one site releases in the whole run.
        rounds: of the run.
        stream: gives the noise's random words for a release; for tests. Otherwise the operating system does.
    """

    notes: tuple[str, ...] = (
        "Means were agreed by noised sums, scales follow from the study's bounds; updates are noised gradients.",
        "Sample-level differential privacy at each site, for one row, zero-out adjacency; not for a site's row count.",
    )
    measured = "Not measured on training rows: scores are not released."

    def __init__(
        self, *, epsilon: float, delta: float, rounds: int, stream: Callable[[], Stream] | None = None, **tabular: Any
    ) -> None:
        from privacy.dp.accountant import scale_for

        super().__init__(**tabular)
        s = self.settings
        if s.private is None or s.hidden or s.task != "binary" or s.standardise != "agreed":
            raise InputError(
                "input.study",
                "privacy.dp: learner 'tabular' needs pipeline.parameters.private, task 'binary', no hidden layers and "
                "standardise 'agreed'",
            )
        if set(s.private.bounds) != set(self.vocabulary.numeric) or not all(self.vocabulary.declared):
            raise InputError(
                "input.study", "pipeline.parameters.private.bounds: one a numeric feature, and named levels"
            )
        self._private, self._stream = s.private, stream
        self._releases = rounds * self._recipe.steps
        self._whole = scale_for(epsilon, delta)

    @classmethod
    def from_study(cls, study: Study) -> PrivateTabular:
        """The learner with a study's settings; see `Tabular.from_study`."""
        p, t = study.privacy, study.training
        if t is None or p.epsilon is None or p.delta is None:
            raise InputError("input.study", "privacy: sample-level privacy needs epsilon, delta and a training table")
        return cls(epsilon=p.epsilon, delta=p.delta, rounds=t.rounds, **cls.arguments(study))

    # -- cost ------------------------------------------------------------------------------------------------------

    @property
    def multipliers(self) -> tuple[float, float]:
        """Noise over sensitivity: of the sums, and of each step's gradient."""
        share = self._private.share
        return self._whole / math.sqrt(share), self._whole * math.sqrt(self._releases / (1 - share))

    def cost(self) -> Curve:
        """What the whole run costs one site."""
        from privacy.dp.accountant import compose, gaussian

        sums, gradient = self.multipliers
        return compose([gaussian(sums), gaussian(gradient).times(self._releases)])

    # -- releases --------------------------------------------------------------------------------------------------

    def sums(self, rows: TabularRows, least: int) -> Arrays:
        """Noised sums of the columns, in the shapes of `Tabular.sums`; squares and outcome are 0."""
        del least
        middle, half = self._bounds()
        z = np.clip((rows.x - middle) / half, -1.0, 1.0)
        z = np.where(np.isfinite(z), z, 0.0)
        numeric = len(self.vocabulary.numeric)
        reach = math.sqrt(numeric + len(self.vocabulary.groups))  # one level a feature
        total = noised_sum(z, reach, self.multipliers[0], self._stream and self._stream())
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

    def agree(self, sums: Arrays) -> Arrays:
        """Means from the sums; a quarter of the bounds' width as scale, a half for 0/1; the first level is left out."""
        _, half = self._bounds()
        kept = np.ones(self.vocabulary.width)
        for group in self.vocabulary.groups:
            kept[group.start] = 0.0 if self.settings.drop_first else 1.0
        two = np.array([self._private.bounds.get(name) in (None, (0.0, 1.0)) for name, _ in self.vocabulary.names])
        return {
            "mean": sums["sum"] / sums["rows"][0], "scale": np.where(two, 0.5, half / 2), "kept": kept,
            "outcome": np.array([0.0, 1.0]),
        }  # fmt: skip

    def initial(self, sums: Arrays, preprocessing: Arrays) -> Arrays:
        """All 0: nothing is known."""
        width = int(preprocessing["kept"].sum())
        return {"layer.0.weight": np.zeros((1, width), np.float32), "layer.0.bias": np.zeros(1, np.float32)}

    def fit(self, model: Arrays, preprocessing: Arrays, rows: TabularRows, seed: int) -> Arrays:
        """Steps along noised sums of clipped gradients.

        Each call draws fresh noise, so a call is a release: an answer is sent again, never made again.
        """
        del seed
        x = np.column_stack([standardised(rows.x, preprocessing, "agreed", rows.x), np.ones(rows.count)])
        w = np.append(model["layer.0.weight"][0], model["layer.0.bias"]).astype(np.float64)
        decay = np.append(np.full(len(w) - 1, 2 * self.settings.l2), 0.0)
        for _ in range(self._recipe.steps):
            slopes = (sigmoid(x @ w) - rows.y)[:, None] * x
            total = noised_sum(slopes, self._private.clip, self.multipliers[1], self._stream and self._stream())
            w = w - self._recipe.rate * (total / rows.count + decay * w)
        return {"layer.0.weight": w[None, :-1].astype(np.float32), "layer.0.bias": w[-1:].astype(np.float32)}

    # -- scores: none ----------------------------------------------------------------------------------------------

    def scoring(self) -> Shapes:
        """Nothing: a score is a release too."""
        return {}

    def metrics(self, sums: Mapping[str, Array]) -> dict[str, float]:
        """None."""
        del sums
        return {}

    def _bounds(self) -> tuple[Array, Array]:
        """Middle and half width of each column; levels are 0/1 and stay as they are."""
        pairs = [self._private.bounds.get(name) for name, _ in self.vocabulary.names]
        middle = np.array([0.0 if pair is None else (pair[0] + pair[1]) / 2 for pair in pairs])
        half = np.array([1.0 if pair is None else (pair[1] - pair[0]) / 2 for pair in pairs])
        return middle, half


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
