"""Learners whose model is a torch module: what the built-in networks and a researcher's plug-in have in common.

A plug-in is a class that inherits `TorchLearner` (rows of a table) or `pipelines.learners.imaging.ImageLearner`
(images) and says how the module is built, what is lost and, if need be, how inputs are changed. Rows, sums before
round 1, local steps, scores and predictions are done here; see `docs/learners.md`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any, Literal, cast

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from pipelines.compute import Compute
from pipelines.learners import Averaged
from pipelines.learners.tabular import Settings as TableSettings
from pipelines.learners.tabular import Tabular, TabularRows
from pipelines.learners.vocabulary import standardised
from protocol.study import Study

if TYPE_CHECKING:
    import torch

    from pipelines.learners.engine import Feed, Recipe
    from pipelines.learners.parallel import Ranks

__all__ = ["Local", "TableFeed", "TorchLearner", "TorchModel"]

Array = np.ndarray[Any, Any]
Arrays = dict[str, Array]


class Local(BaseModel):
    """Local steps; part of `[pipeline.parameters]` (see `pipelines.learners.engine.Recipe`)."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)
    optimiser: Literal["sgd", "adam", "adamw"] = "adam"
    batch: Annotated[int, Field(ge=1, le=10**6)] = 16
    accumulate: Annotated[int, Field(ge=1, le=10**4)] = 1
    precision: Literal["float32", "mixed"] = "float32"
    weight_decay: Annotated[float, Field(ge=0, le=100)] = 0.0
    clip: Annotated[float, Field(gt=0, le=1e6)] | None = None


class TorchModel(Averaged):
    """The part of such a learner that trains; the other part knows what a sample is.

    `_local`, `_steps`, `_rate`, `_pull` and `_seed` are set by the class that inherits it.
    """

    _local: Local
    _steps: int
    _rate: float
    _pull: float
    _seed: int
    _compute: Compute = Compute()
    _ranks: Ranks | None = None
    _ranked: Any = None  # the rows that the ranks hold

    # -- what a plug-in writes -------------------------------------------------------------------------------------

    def build(self, settings: Mapping[str, Any]) -> torch.nn.Module:
        """A new module; the same weights after the same `torch.manual_seed`.

        Args:
            settings: `[pipeline.parameters.model]` of the study; for built-in networks all parameters.
        """
        raise NotImplementedError

    def loss(self, output: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        """One number for each of the n samples, differentiable.

        Args:
            output: the module's, float32 (n, ...).
            target: float32 (n,) outcomes (0/1, or in standard units), or (n, 1, ...) masks.

        Default: of outputs (n, 1), the logistic loss or half the squared error.
        """
        import torch

        out = output[:, 0]
        if self.binary:
            return torch.nn.functional.binary_cross_entropy_with_logits(out, target, reduction="none")
        return (out - target).square() / 2

    def transform(self, x: Array) -> Array:
        """A batch of inputs before the module sees it, in training and prediction alike; default: as it is.

        Args:
            x: float32 (n, ...).
        """
        return x

    # -- training --------------------------------------------------------------------------------------------------

    def feed(self, rows: Any, preprocessing: Arrays, seed: int | None) -> Feed:
        """A site's samples for training (with a seed, augmented) or for scores and predictions (without)."""
        raise NotImplementedError

    def model_settings(self) -> Mapping[str, Any]:
        """What `build` is given."""
        raise NotImplementedError

    @property
    def binary(self) -> bool:
        """Whether the outcome is yes or no."""
        raise NotImplementedError

    def warm(self, compute: Compute | None = None) -> None:
        """Import torch, find the site's device and step once."""
        from pipelines.learners import engine

        self._compute = compute or Compute()
        module = self.module().to(engine.device_of(self._compute.device))
        weight = next(module.parameters())
        weight.square().sum().backward()
        engine.optimiser([weight], self.recipe(0)).step()

    def module(self) -> Any:
        """A new module, seeded by the study.

        Raises:
            InputError: `input.study` for one whose averages over sites mean nothing.
        """
        from pipelines.learners import engine

        with engine.reproducible(self._seed, engine.device_of("cpu")):
            return engine.checked(self.build(self.model_settings()))

    def fit(self, model: Arrays, preprocessing: Arrays, rows: Any, seed: int) -> Arrays:
        """The model after local steps.

        Raises:
            InputError: `input.diverged`, or `input.study` for a module or loss that cannot be trained.
            WorkerError: `worker.device`, `worker.parallel`.
        """
        if self._compute.processes == 1:
            return self.share(model, preprocessing, rows, seed, self._compute.device, 0, 1)
        from pipelines.learners.parallel import Ranks

        if self._ranks is None or self._ranked is not rows:
            self.close()
            self._ranks, self._ranked = Ranks(_Share(self, rows), self._compute.device, self._compute.processes), rows
        try:
            return self._ranks.fit(model, preprocessing, seed)
        except BaseException:
            self.close()
            raise

    def share(
        self, model: Arrays, preprocessing: Arrays, rows: Any, seed: int, device: str, rank: int, world: int
    ) -> Arrays:
        """One process's part in `fit`."""
        from pipelines.learners import engine

        feed = self.feed(rows, preprocessing, seed)
        return engine.trained(
            self.module, model, feed, self.recipe(seed), self.loss, engine.device_of(device), rank=rank, world=world
        )  # fmt: skip

    def close(self) -> None:
        """End the processes of a run, if there are several."""
        ranks, self._ranks, self._ranked = self._ranks, None, None
        if ranks is not None:
            ranks.close()

    def __getstate__(self) -> dict[str, Any]:
        """What a further process is given: settings, no processes."""
        return {name: value for name, value in self.__dict__.items() if name not in ("_ranks", "_ranked")}

    def first(self) -> Arrays:
        """The module's weights before round 1, from the study's seed, drawn on a CPU."""
        from pipelines.learners import engine

        return engine.arrays_of(self.module())

    def outputs_of(self, model: Arrays, preprocessing: Arrays, rows: Any) -> Array:
        """The module's output for each sample, float32 (samples, ...)."""
        from pipelines.learners import engine

        device = engine.device_of(self._compute.device)
        return engine.outputs(self.module, model, self.feed(rows, preprocessing, None), self._local.batch, device)

    def table(self, model: Arrays, preprocessing: Arrays) -> Any:
        """One row an array of the model: its shape and norm."""
        import pandas as pd

        del preprocessing
        shapes = [" x ".join(map(str, value.shape)) for value in model.values()]
        norms = [float(np.linalg.norm(value.astype(np.float64))) for value in model.values()]
        return pd.DataFrame({"array": list(model), "shape": shapes, "norm": norms})

    def recipe(self, seed: int) -> Recipe:
        """The study's local steps."""
        from pipelines.learners.engine import Recipe

        return Recipe(steps=self._steps, rate=self._rate, pull=self._pull, seed=seed, **self._local.model_dump())


class _Share:
    """What each process of a run does (`pipelines.learners.parallel.Share`)."""

    def __init__(self, learner: TorchModel, rows: Any) -> None:
        self._learner, self._rows = learner, rows

    def __call__(self, model: Arrays, preprocessing: Arrays, seed: int, device: str, rank: int, world: int) -> Arrays:
        return self._learner.share(model, preprocessing, self._rows, seed, device, rank, world)


# -- rows of a table ---------------------------------------------------------------------------------------------------


class Settings(TableSettings):
    """`[pipeline.parameters]` of a plug-in for tables: those of `tabular`, without its network, and these.

    Attributes:
        model: what `build` is given.
        local: the local steps.
    """

    model: dict[str, Any] = Field(default_factory=dict)
    local: Local = Local()


class TableFeed:
    """Standardised rows.

    Args:
        x: float64 (rows, columns in use).
        y: float64 (rows,).
    """

    def __init__(self, x: Array, y: Array, learner: TorchModel) -> None:
        self._x, self._y, self._learner = x.astype(np.float32), y.astype(np.float32), learner

    def __len__(self) -> int:
        return len(self._x)

    def batch(self, at: Array, step: int) -> tuple[Array, Array]:
        """See `engine.Feed`."""
        del step
        return self._learner.transform(self._x[at]), self._y[at]


class TorchLearner(TorchModel, Tabular):
    """A researcher's own torch model on rows of a table.

    The module is given float32 (n, columns in use), standardised, and gives (n, 1): a logit, or a value in standard
    units. `self.columns_in_use` says how many columns there are at most; those that no site uses are 0, so that the
    module's shape follows from the study alone.
    """

    settings_type = Settings
    settings: Settings
    notes: tuple[str, ...] = (*Tabular.notes, "The model is a researcher's plug-in, approved by each site.")

    def __init__(
        self, *, features: tuple[str, ...], settings: Mapping[str, Any], steps: int = 0, learning_rate: float = 0.0,
        pull: float = 0.0, **table: Any,
    ) -> None:  # fmt: skip
        super().__init__(
            features=features, settings=settings, steps=steps, learning_rate=learning_rate, pull=pull, **table
        )
        self._steps, self._rate, self._pull, self._local = steps, learning_rate, pull, self.settings.local

    @classmethod
    def from_study(cls, study: Study) -> TorchLearner:
        """The learner with a study's settings.

        Raises:
            InputError: `input.study`.
        """
        if study.privacy.dp != "none":
            from pipelines.learners.noised import private

            return cast(TorchLearner, private(cls, cls.arguments(study), study))
        return cls(**cls.arguments(study))

    @property
    def columns_in_use(self) -> int:
        """Width of the module's input."""
        return self.vocabulary.width

    def model_settings(self) -> Mapping[str, Any]:
        """`[pipeline.parameters.model]`."""
        return self.settings.model

    @property
    def binary(self) -> bool:
        """Whether the outcome is yes or no."""
        return self.settings.task == "binary"

    def initial(self, sums: Arrays, preprocessing: Arrays) -> Arrays:
        """The module as built under the study's seed."""
        del sums, preprocessing
        return self.first()

    def feed(self, rows: TabularRows, preprocessing: Arrays, seed: int | None) -> Feed:
        """Standardised rows."""
        del seed
        mean, scale = preprocessing["outcome"]
        return TableFeed(self._inputs(rows.x, preprocessing, rows.x), (rows.y - mean) / scale, self)

    def _inputs(self, x: Array, preprocessing: Arrays, reference: Array) -> Array:
        made = np.zeros(x.shape)
        made[:, preprocessing["kept"] > 0] = standardised(x, preprocessing, self.settings.standardise, reference)
        return made

    def _out(self, model: Arrays, preprocessing: Arrays, x: Array, reference: Array) -> Array:
        from pipelines.learners import engine

        mean, scale = preprocessing["outcome"]
        feed = TableFeed(self._inputs(x, preprocessing, reference), np.zeros(len(x)), self)
        device = engine.device_of(self._compute.device)
        z = engine.outputs(self.module, model, feed, self._local.batch, device)[:, 0].astype(np.float64)
        return z if self.binary else np.asarray(z * scale + mean)
