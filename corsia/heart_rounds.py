"""The round loop of the benchmark with a learner of its own; the loop is the product's, over the in-process grid."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from central.federation.checkpoint import MemoryCheckpoints
from central.federation.local import LocalGrid, handler
from central.federation.rounds import Rounds
from pipelines.flower import Arrays
from pipelines.learners import Learner
from pipelines.learners.tabular import Tabular
from pipelines.train import TrainingData
from protocol.study import Study

__all__ = ["LearnerRounds", "OneClass"]


class OneClass(Tabular):
    """Trains where all rows have one class, as the published local model of Switzerland does; a run is refused."""

    def agreed_outcome(self, sums: Arrays) -> np.ndarray[Any, Any]:
        """Classes as they are."""
        del sums
        return np.array([0.0, 1.0])


class LearnerRounds(Rounds):
    """A run with a learner made by the benchmark."""

    def __init__(self, study: Study, data: Mapping[str, TrainingData], learner: Learner) -> None:
        super().__init__(study, LocalGrid({site: handler(d) for site, d in data.items()}), MemoryCheckpoints())
        self._learner = learner
