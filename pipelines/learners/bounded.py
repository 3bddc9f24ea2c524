"""`Tabular` that learns nothing of the rows but by its update: its preprocessing follows from bounds in the study.

For studies whose noise hides a whole site (`privacy.dp` "central" or "distributed"): what a site says before round 1
is the same for any rows, and it gives no scores. `private` builds sample-level privacy on it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from pipelines.learners import network
from pipelines.learners.tabular import Tabular, TabularRows
from protocol.errors import InputError

__all__ = ["Bounded"]

Array = np.ndarray[Any, Any]
Arrays = dict[str, Array]
Shapes = dict[str, tuple[str, tuple[int, ...]]]


class Bounded(Tabular):
    """Needs `pipeline.parameters.private.bounds`: of each numeric feature, and of an outcome that is a number."""

    noised = frozenset({"central", "distributed"})
    crossed = "Model updates, cut to the study's length,"
    notes: tuple[str, ...] = ("Means and scales follow from the study's bounds, not from rows.",)
    measured = "Not measured on training rows: scores are not released."

    def __init__(self, **tabular: Any) -> None:
        super().__init__(**tabular)
        s = self.settings
        if s.private is None or s.standardise == "local":
            raise InputError(
                "input.study",
                "privacy.dp: learner 'tabular' needs pipeline.parameters.private, and standardise 'agreed' or 'none'",
            )
        named = {*self.vocabulary.numeric, *(() if self._recipe.binary else (self._outcome,))}
        if set(s.private.bounds) != named or not all(self.vocabulary.declared):
            raise InputError(
                "input.study",
                "pipeline.parameters.private.bounds: one a numeric feature (and outcome); and name levels",
            )
        self._private = s.private

    def sums(self, rows: TabularRows, least: int) -> Arrays:
        """What would be the sums of one row in the middle of the bounds."""
        del rows, least
        middle, _ = self._bounds()
        one = np.ones(len(middle))
        return {"rows": np.ones(1), "count": one, "sum": middle, "square": 0.0 * one, "outcome": np.zeros(2)}

    def plausible(self, sums: Arrays, examples: int) -> bool:
        """Whether they are the ones."""
        middle, _ = self._bounds()
        return sums["rows"][0] == examples and bool(np.allclose(sums["sum"], middle * examples, rtol=1e-9, atol=1e-9))

    def agree(self, sums: Arrays) -> Arrays:
        """Means from the sums; a quarter of the bounds' width as scale, a half for 0/1; the first level is left out."""
        _, half = self._bounds()
        kept = np.ones(self.vocabulary.width)
        for group in self.vocabulary.groups:
            kept[group.start] = 0.0 if self.settings.drop_first else 1.0
        two = np.array([self._private.bounds.get(name) in (None, (0.0, 1.0)) for name, _ in self.vocabulary.names])
        return {
            "mean": sums["sum"] / sums["rows"][0], "scale": np.where(two, 0.5, half / 2), "kept": kept,
            "outcome": self.agreed_outcome(sums),
        }  # fmt: skip

    def agreed_outcome(self, sums: Arrays) -> Array:
        """Middle of the outcome's bounds and a quarter of their width; 0 and 1 for classes."""
        del sums
        if self._recipe.binary:
            return np.array([0.0, 1.0])
        low, high = self._private.bounds[self._outcome]
        return np.array([(low + high) / 2, (high - low) / 4])

    def initial(self, sums: Arrays, preprocessing: Arrays) -> Arrays:
        """The last layer is 0, as nothing is known; hidden ones are drawn from the study's seed."""
        del sums
        width, bias = int(preprocessing["kept"].sum()), None if self.settings.initial == "uniform" else 0.0
        return network.initial(width, self.settings.hidden, np.random.default_rng(self._seed), bias)

    def scoring(self) -> Shapes:
        """Nothing: a score is a release too."""
        return {}

    def score(self, model: Arrays, preprocessing: Arrays, rows: TabularRows) -> Arrays:
        """Refused.

        Raises:
            InputError: `input.message`.
        """
        raise InputError("input.message", "scores are not released in a study with differential privacy")

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
