"""Learners: what a federated run trains, seen as sums over sites, local steps and scores.

A learner sees the rows of one site (at the site) or sums over sites (at the centre), never both. Arrays in and out
are NumPy; torch is imported only where gradients are taken, so that the centre and inference need none.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from importlib import import_module
from typing import TYPE_CHECKING, Any, Protocol, cast, get_args, runtime_checkable

from pipelines import SourceFile
from pipelines.compute import Compute
from pipelines.learners.schedule import Schedule
from protocol.errors import InputError
from protocol.study import Strategy, Study, Training

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd

__all__ = [
    "LEARNERS", "Arrays", "Averaged", "Documents", "Files", "ImageModel", "Learner", "Rows", "Shapes", "for_study",
    "named", "proximal", "schedule_of",
]  # fmt: skip

Arrays = dict[str, "np.ndarray[Any, Any]"]
Shapes = dict[str, tuple[str, tuple[int, ...]]]
Documents = Callable[[str], Iterable[SourceFile]]  # kind -> files; see `pipelines.Source.documents`
Files = Callable[[], Iterable[SourceFile]]  # DICOM; see `pipelines.Source.files`

LEARNERS: dict[str, str] = {
    "cnn": "pipelines.learners.imaging:Cnn",
    "gwas": "pipelines.learners.gwas:Gwas",
    "survival": "pipelines.learners.survival:Survival",
    "tabular": "pipelines.learners.tabular:Tabular",
    "unet": "pipelines.learners.unet:UNetLearner",
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

    def rows(
        self, frame: pd.DataFrame, documents: Documents | None = None, patient: str | None = None,
        files: Files | None = None,
    ) -> Rows:  # fmt: skip
        """Usable rows of a site's table. A learner that is `tableless` takes None for a site without one.

        Args:
            documents: the dataset's other files by kind, which some learners read.
            patient: the table's column of patient ids, by which these are joined.
            files: the dataset's DICOM files.

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

    def warm(self, compute: Compute | None = None) -> None:
        """Import what `fit` needs, so that the first round does not wait for it.

        Args:
            compute: the site's device, for learners that use one.

        Raises:
            WorkerError: `worker.device` when it is not there.
        """
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


@runtime_checkable
class ImageModel(Protocol):
    """What a learner that reads images can besides."""

    reads_images: bool

    def predict_images(
        self, model: Arrays, preprocessing: Arrays, files: Iterable[SourceFile]
    ) -> tuple[pd.DataFrame, dict[str, int]]:
        """One row a patient, `patient` and `series` in clear, and `outputs`; what was set aside, by reason."""
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
        return {name: update[name].astype(value.dtype, copy=False) for name, value in model.items()}

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
        PolicyRefused: `policy.plugin` for a plug-in that is neither loaded nor in the centre's folder.
    """
    if study.training is None:
        raise InputError("input.study", "training: the study has no such table")
    made: Any = _class(study.training.learner, study.pipeline.plugin)
    if made is None:  # a plug-in that is not loaded in this process: as the centre sees it
        from pipelines.learners.described import described

        learner = cast(Learner, described(study))
    else:
        learner = _signed(made.from_study(study), study.training.learner, study.pipeline.plugin)
    if study.training.strategy not in learner.strategies:
        named = ", ".join(sorted(learner.strategies))
        raise InputError("input.study", f"training.strategy: learner {learner.name!r} takes {named}")
    if study.privacy.dp not in {"none", *learner.noised}:
        kept = ", ".join(sorted(learner.noised)) or "none"
        raise InputError("input.study", f"privacy.dp: learner {learner.name!r} can keep: {kept}")
    return learner


def schedule_of(study: Study) -> Schedule | None:
    """Of the noise that a study's learner adds itself; of a plug-in nothing need be installed for it.

    Raises:
        InputError: `input.study`.
    """
    if study.pipeline.plugin is None:
        return for_study(study).schedule
    from pipelines.learners.described import outlined

    return cast(Learner, outlined(study)).schedule


def named(name: str, features: tuple[str, ...], settings: Mapping[str, Any], version: str = "1") -> Learner:
    """The learner of a published model, for prediction.

    Args:
        version: as in the manifest: `name==version` of a plug-in, which must be loaded in this process.

    Raises:
        InputError: `input.study` for an unknown learner or settings it does not take.
        PolicyRefused: `policy.plugin`.
    """
    if "==" not in version:
        return cast(Learner, _class(name, None)(features=features, settings=settings))
    from pipelines import plugins

    return _signed(plugins.learner(version, name)(features=features, settings=settings), name, version)


def _signed(learner: Any, name: str, plugin: str | None) -> Learner:
    """A plug-in's learner under the names by which it was asked for."""
    if plugin is not None:
        learner.name, learner.version = name, plugin
    return cast(Learner, learner)


def _class(name: str, plugin: str | None) -> Any:
    if plugin is not None:
        from pipelines import plugins

        return plugins.learner(plugin, name) if plugins.is_loaded(plugin) else None
    target = LEARNERS.get(name)
    if target is None:
        raise InputError("input.study", f"training.learner: no learner {name!r} is installed")
    module, _, attribute = target.partition(":")
    return getattr(import_module(module), attribute)
