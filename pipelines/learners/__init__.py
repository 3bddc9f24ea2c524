"""Learners: what a federated run trains, seen as sums over sites, local steps and scores.

A learner sees the rows of one site (at the site) or sums over sites (at the centre), never both. Arrays in and out
are NumPy; torch is imported only where gradients are taken, so that the centre and inference need none.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from importlib import import_module
from typing import TYPE_CHECKING, Any, Protocol, cast, get_args

from pipelines import SourceFile
from pipelines.learners.schedule import Schedule
from protocol.errors import InputError
from protocol.study import Strategy, Study, Training

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd

__all__ = ["LEARNERS", "Arrays", "Averaged", "Documents", "Learner", "Rows", "Shapes", "for_study", "named", "proximal"]

Arrays = dict[str, "np.ndarray[Any, Any]"]
Shapes = dict[str, tuple[str, tuple[int, ...]]]
Documents = Callable[[str], Iterable[SourceFile]]  # kind -> files; see `pipelines.Source.documents`

LEARNERS: dict[str, str] = {
    "gwas": "pipelines.learners.gwas:Gwas",
    "survival": "pipelines.learners.survival:Survival",
    "tabular": "pipelines.learners.tabular:Tabular",
}


class Rows(Protocol):
    """One site's usable rows, in the learner's own form."""

    @property
    def count(self) -> int:
        """How many rows can be used."""
        ...

    @property
    def dropped(self) -> int:
        """How many rows lack an outcome and stay unused."""
        ...


class Learner(Protocol):
    """What the training loop needs of a learner. All methods are pure and give the same bytes for the same input."""

    name: str
    version: str
    features: tuple[str, ...]
    strategies: frozenset[str]  # by which updates of this learner may be put together
    outputs: tuple[str, ...]  # columns of `predict`
    crossed: str  # what leaves the sites, for the model card
    notes: tuple[str, ...]  # how it is made, for the model card
    measured: str  # on what its metrics rest, for the model card
    noised: frozenset[str]  # kinds of differential privacy (`privacy.dp`) that it keeps
    schedule: Schedule | None  # of the noise that it adds itself (kind `sample`)

    def rows(self, frame: pd.DataFrame, documents: Documents | None = None, patient: str | None = None) -> Rows:
        """Usable rows of a site's table.

        Args:
            documents: the dataset's other files by kind, which some learners read.
            patient: the table's column of patient ids, by which these are joined.

        Raises:
            InputError: for a missing or non-numeric column, or files that cannot be used.
        """
        ...

    def preparation(self) -> Shapes:
        """Names, dtypes and shapes of `sums`."""
        ...

    def sums(self, rows: Rows, least: int) -> Arrays:
        """Sums over a site's rows; a statistic over 1 to `least` - 1 values is left out."""
        ...

    def plausible(self, sums: Arrays, examples: int) -> bool:
        """Whether one site's sums can be those of `examples` rows; the centre drops a site whose are not."""
        ...

    def agree(self, sums: Arrays) -> Arrays:
        """From sums over all sites to what every site applies to its rows (preprocessing arrays)."""
        ...

    def initial(self, sums: Arrays, preprocessing: Arrays) -> Arrays:
        """The model before round 1."""
        ...

    def warm(self) -> None:
        """Import what `fit` needs, so that the first round does not wait for it."""
        ...

    def update(self, model: Arrays) -> Shapes:
        """Names, dtypes and shapes of what `fit` gives."""
        ...

    def fit(self, model: Arrays, preprocessing: Arrays, rows: Rows, seed: int) -> Arrays:
        """What a site answers in a round: the model after local steps on its rows, or sums over them."""
        ...

    def combine(self, model: Arrays, update: Arrays) -> Arrays:
        """The next model, from what the strategy made of the sites' answers."""
        ...

    def settled(self, model: Arrays) -> bool:
        """Whether further rounds would change nothing."""
        ...

    def scoring(self) -> Shapes:
        """Names, dtypes and shapes of `score`; none: the sites are not asked, and `metrics` is given the model."""
        ...

    def score(self, model: Arrays, preprocessing: Arrays, rows: Rows) -> Arrays:
        """Sums over a site's rows from which `metrics` follow."""
        ...

    def metrics(self, sums: Arrays) -> dict[str, float]:
        """Metrics from summed scores; one that is not defined is left out."""
        ...

    def table(self, model: Arrays, preprocessing: Arrays) -> pd.DataFrame:
        """What people read of a model: one row a feature, a variant, ..."""
        ...

    def predict(self, model: Arrays, preprocessing: Arrays, frame: pd.DataFrame) -> pd.DataFrame:
        """One row a row of `frame`, same index."""
        ...


class Averaged:
    """Part of a learner whose updates are models, put together by averaging."""

    strategies = frozenset(get_args(Strategy)) - {"newton"}
    noised: frozenset[str] = frozenset()
    schedule: Schedule | None = None

    def update(self, model: Arrays) -> Shapes:
        """As the model."""
        return {name: (str(value.dtype), value.shape) for name, value in model.items()}

    def combine(self, model: Arrays, update: Arrays) -> Arrays:
        """The averaged model, in the model's order and dtypes."""
        return {name: update[name].astype(value.dtype) for name, value in model.items()}

    def settled(self, model: Arrays) -> bool:
        """Never by itself."""
        return False


def proximal(training: Training) -> float:
    """The weight of FedProx's term in the local loss, `mu / 2 * |w - w_received|^2`; 0 for other strategies.

    Source: Li et al. 2020, "Federated optimization in heterogeneous networks", MLSys, eq. 2.
    """
    return training.strategy_parameters.get("proximal_mu", 0.0) if training.strategy == "fedprox" else 0.0


def for_study(study: Study) -> Learner:
    """The learner that a study of lane `train` names, with the study's settings.

    Raises:
        InputError: `input.study` for an unknown learner or settings it does not take.
    """
    if study.training is None:
        raise InputError("input.study", "training: the study has no such table")
    learner = cast(Learner, _class(study.training.learner).from_study(study))
    if study.training.strategy not in learner.strategies:
        named = ", ".join(sorted(learner.strategies))
        raise InputError("input.study", f"training.strategy: learner {learner.name!r} takes {named}")
    if study.privacy.dp not in {"none", *learner.noised}:
        kept = ", ".join(sorted(learner.noised)) or "none"
        raise InputError("input.study", f"privacy.dp: learner {learner.name!r} can keep: {kept}")
    return learner


def named(name: str, features: tuple[str, ...], settings: Mapping[str, Any]) -> Learner:
    """The learner of a published model, for prediction.

    Raises:
        InputError: `input.study` for an unknown learner or settings it does not take.
    """
    return cast(Learner, _class(name)(features=features, settings=settings))


def _class(name: str) -> Any:
    target = LEARNERS.get(name)
    if target is None:
        raise InputError("input.study", f"training.learner: no learner {name!r} is installed")
    module, _, attribute = target.partition(":")
    return getattr(import_module(module), attribute)
