"""A table's rows to one outcome: logistic or linear regression, or with hidden layers, by minibatch steps.

What sites share before round 1 are sums: counts, sums and squares of each column, and of the outcome; from them follow
which levels are in use, the value that stands for a missing one, and the standardisation. Rows never leave.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from pipelines.compute import Compute
from pipelines.learners import Averaged, Documents, Files, columns, measures, network, proximal
from pipelines.learners.schedule import Steps
from pipelines.learners.vocabulary import LARGEST, Vocabulary, level, standardised
from protocol.errors import InputError
from protocol.study import Study
from protocol.validation import first_fault

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["Settings", "Tabular", "TabularRows"]

Array = np.ndarray[Any, Any]
Arrays = dict[str, Array]
Shapes = dict[str, tuple[str, tuple[int, ...]]]


class Private(Steps):
    """What differential privacy needs to know in advance (`pipelines.learners.bounded`, `private`).

    Attributes:
        bounds: numeric feature (and outcome) -> usual range, public knowledge: scales follow from it, and values beyond
            are cut where they are summed.
        share: of the budget that goes to the preparation.
    """

    bounds: dict[str, tuple[float, float]]
    share: Annotated[float, Field(gt=0, lt=1)] = 0.1


class Settings(BaseModel):
    """`[pipeline.parameters]` of a study with this learner.

    Attributes:
        task: `binary` (logistic loss) or `continuous` (squared error); time and event are for learner `survival`.
        positive: the outcome's value that means yes.
        negative: the value that means no. With both, any other value is a missing outcome; with one, any other value
            means the other; without them the outcome is 0/1.
        categorical: feature -> its levels as text; an empty list puts levels into 64 buckets (see `vocabulary`).
        drop_first: leave out each categorical feature's first level in use, as the reference.
        hidden: widths of hidden layers; none gives logistic or linear regression.
        standardise: by mean and scale over all sites (`agreed`), of each site's own rows (`local`), or not.
        optimiser, batch: of the local steps; `training.local_steps` counts minibatches.
        l2: weight of the squared weights in the loss.
        private: for studies with differential privacy (`privacy.dp`).
        initial: `prior` starts from the outcome's mean and weights 0, `uniform` from the seed within +-1/sqrt(inputs).
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)
    task: Literal["binary", "continuous"] = "binary"
    positive: bool | int | float | str | None = None
    negative: bool | int | float | str | None = None
    categorical: dict[str, Annotated[tuple[Annotated[str, Field(max_length=128)], ...], Field(max_length=1000)]] = {}
    drop_first: bool = False
    hidden: Annotated[tuple[Annotated[int, Field(ge=1, le=4096)], ...], Field(max_length=4)] = ()
    standardise: Literal["agreed", "local", "none"] = "agreed"
    optimiser: Literal["sgd", "adam"] = "adam"
    batch: Annotated[int, Field(ge=1, le=10**6)] = 32
    l2: Annotated[float, Field(ge=0, le=100)] = 0.001
    initial: Literal["prior", "uniform"] = "prior"
    private: Private | None = None

    @model_validator(mode="after")
    def _consistent(self) -> Settings:
        named = [level(value) for value in (self.positive, self.negative) if value is not None]
        if len(set(named)) != len(named):
            raise ValueError("positive, negative: give different values")
        if named and self.task != "binary":
            raise ValueError("positive, negative: are for task `binary`")
        if any(len(set(levels)) != len(levels) for levels in self.categorical.values()):
            raise ValueError("categorical: a level is named twice")
        return self


@dataclass(frozen=True, slots=True, kw_only=True)
class TabularRows:
    """Usable rows of one site.

    Attributes:
        x: float64 (rows, columns of the vocabulary), NaN where missing.
        y: float64 (rows,), 0/1 or a number.
        dropped: rows without a usable outcome.
    """

    x: Array
    y: Array
    dropped: int

    @property
    def count(self) -> int:
        """How many rows can be used."""
        return len(self.y)


class Tabular(Averaged):
    """Regression on a table. See `pipelines.learners.Learner` for the methods' contract."""

    name = "tabular"
    version = "1"
    settings_type: ClassVar[type[Settings]] = Settings
    crossed = "Model updates, and sums of features, of levels and of the outcome"
    notes: tuple[str, ...] = (
        "Missing numbers are replaced by the mean over all sites; a level that no site has often counts as none.",
    )
    measured = "On the rows it was trained on: for comparing rounds, not a claim about new patients."

    def __init__(
        self,
        *,
        features: tuple[str, ...],
        settings: Mapping[str, Any],
        outcome: tuple[str, ...] = ("outcome",),
        steps: int = 0,
        learning_rate: float = 0.0,
        seed: int = 0,
        pull: float = 0.0,
        least: int = 5,
    ) -> None:
        if len(outcome) != 1 or not features or outcome[0] in features or len(set(features)) != len(features):
            raise InputError("input.study", "training: give features, and outcome = [one column] apart from them")
        try:
            self.settings = s = self.settings_type.model_validate(dict(settings))
        except ValidationError as error:
            raise InputError("input.study", first_fault(error, "pipeline", "parameters")) from None
        if set(s.categorical) - set(features):
            raise InputError("input.study", "pipeline.parameters.categorical: names a column that is no feature")
        self.features, self._outcome = features, outcome[0]
        self.vocabulary = Vocabulary(features, s.categorical)
        self._seed, self._least = seed, least
        self._recipe = network.Recipe(
            steps=steps, batch=s.batch, rate=learning_rate, optimiser=s.optimiser, binary=s.task == "binary",
            l2=s.l2, pull=pull,
        )  # fmt: skip
        self.outputs: tuple[str, ...] = ("probability",) if self._recipe.binary else ("value",)

    @classmethod
    def from_study(cls, study: Study) -> Tabular:
        """The learner with a study's settings.

        Raises:
            InputError: `input.study`.
        """
        if study.privacy.dp != "none":
            from pipelines.learners.private import of_study

            return of_study(cls.arguments(study), study)
        return cls(**cls.arguments(study))

    @staticmethod
    def arguments(study: Study) -> dict[str, Any]:
        """A study's settings as this class takes them.

        Raises:
            InputError: `input.study`.
        """
        t = study.training
        if t is None:
            raise InputError("input.study", "training: the study has no such table")
        return {
            "features": t.features, "settings": study.pipeline.parameters, "outcome": t.outcome,
            "steps": t.local_steps, "learning_rate": t.learning_rate, "seed": t.seed, "pull": proximal(t),
            "least": study.privacy.k,
        }  # fmt: skip

    # -- rows ------------------------------------------------------------------------------------------------------

    def rows(
        self, frame: pd.DataFrame, documents: Documents | None = None, patient: str | None = None,
        files: Files | None = None,
    ) -> TabularRows:  # fmt: skip
        """Rows with a usable outcome.

        Raises:
            InputError: `input.column-missing`, or `input.table` for a column that is not as the study says.
        """
        s = self.settings
        if self._recipe.binary:
            y = columns.labels(frame, self._outcome, s.positive, s.negative)
        else:
            y = columns.numbers(frame, self._outcome)
        usable = np.abs(y) < LARGEST
        x = self.vocabulary.matrix(frame)
        return TabularRows(x=x[usable], y=y[usable], dropped=int((~usable).sum()))

    # -- before round 1: sums over sites ---------------------------------------------------------------------------

    def preparation(self) -> Shapes:
        """float64: rows (1,), count/sum/square (columns,), outcome (2,)."""
        d = self.vocabulary.width
        shapes: dict[str, tuple[int, ...]] = {"rows": (1,), "count": (d,), "sum": (d,), "square": (d,), "outcome": (2,)}
        return {name: ("float64", shape) for name, shape in shapes.items()}

    def sums(self, rows: TabularRows, least: int) -> Arrays:
        """Sums over the rows. A column with fewer than `least` values, or two values of which one is rarer, is missing.

        A categorical feature counts levels with `least` rows. `outcome` is the rows of either class, 0 for a class
        with fewer than `least`; or sum and squares of a number.
        """
        count, total, square = self.vocabulary.totals(rows.x, least)
        if self._recipe.binary:
            classes = np.array([(rows.y == 0).sum(), (rows.y == 1).sum()], np.float64)
            outcome = np.where(classes >= least, classes, 0.0)
        else:
            enough = float(rows.count >= least)
            outcome = np.array([rows.y.sum(), np.square(rows.y).sum()]) * enough
        return {
            "rows": np.array([float(rows.count)]), "count": count, "sum": total, "square": square, "outcome": outcome,
        }  # fmt: skip

    def plausible(self, sums: Arrays, examples: int) -> bool:
        """Whether one site's sums fit together."""
        rows, n, outcome = sums["rows"][0], sums["count"], sums["outcome"]
        whole = all(bool((c >= 0).all()) and bool((c == np.floor(c)).all()) for c in (sums["rows"], n))
        bounded = rows == examples and bool((n <= rows).all()) and bool((sums["square"] >= 0).all())
        squares = bool((np.square(sums["sum"]) <= sums["square"] * n * (1 + 1e-9) + 1e-9).all())
        if self._recipe.binary:
            fits = bool((outcome >= 0).all()) and outcome.sum() <= rows
        else:
            fits = outcome[0] ** 2 <= outcome[1] * rows * (1 + 1e-9) + 1e-9
        return whole and bounded and squares and bool(fits)

    def agree(self, sums: Arrays) -> Arrays:
        """Preprocessing: mean, scale, kept (columns,), outcome (2,): its mean and scale, 0 and 1 for classes.

        Raises:
            InputError: `input.rows` when the outcome does not vary, as far as the sums tell.
        """
        made = self.vocabulary.agreed(sums, self.settings.drop_first)
        return made | {"outcome": self.agreed_outcome(sums)}

    def agreed_outcome(self, sums: Arrays) -> Array:
        """Mean and scale of the outcome; 0 and 1 for classes. Raises as `agree`."""
        if self._recipe.binary:
            if (sums["outcome"] <= 0).any():
                raise InputError("input.rows", "no site has enough rows of both classes of the outcome")
            return np.array([0.0, 1.0])
        n = max(float(sums["rows"][0]), 1.0)
        mean = float(sums["outcome"][0]) / n
        scale = math.sqrt(max(float(sums["outcome"][1]) / n - mean * mean, 0.0))
        if scale <= 1e-9 * max(abs(mean), 1e-300):
            raise InputError("input.rows", "the outcome does not vary")
        return np.array([mean, scale])

    def initial(self, sums: Arrays, preprocessing: Arrays) -> Arrays:
        """float32 layers; see `Settings.initial`."""
        no, yes = sums["outcome"] if self._recipe.binary else (1.0, 1.0)
        bias = None if self.settings.initial == "uniform" else math.log(yes / no)
        width = int(preprocessing["kept"].sum())
        return network.initial(width, self.settings.hidden, np.random.default_rng(self._seed), bias)

    # -- training --------------------------------------------------------------------------------------------------

    def warm(self, compute: Compute | None = None) -> None:
        """NumPy is all it takes."""

    def fit(self, model: Arrays, preprocessing: Arrays, rows: TabularRows, seed: int) -> Arrays:
        """Minibatch steps on the site's rows.

        Raises:
            InputError: `input.diverged` when they leave the range of numbers.
        """
        x = standardised(rows.x, preprocessing, self.settings.standardise, rows.x)
        mean, scale = preprocessing["outcome"]
        made = network.trained(model, x, (rows.y - mean) / scale, self._recipe, np.random.default_rng(seed))
        if not all(bool(np.isfinite(value).all()) for value in made.values()):
            raise InputError("input.diverged", "the local steps diverged: lower training.learning_rate")
        return made

    # -- scores and predictions ------------------------------------------------------------------------------------

    def scoring(self) -> Shapes:
        """float64: see `measures`."""
        return dict(measures.BINARY if self._recipe.binary else measures.CONTINUOUS)

    def score(self, model: Arrays, preprocessing: Arrays, rows: TabularRows) -> Arrays:
        """Sums over the rows."""
        out = self._out(model, preprocessing, rows.x, rows.x)
        if self._recipe.binary:
            return measures.binary_sums(out, rows.y, self._least)
        return measures.continuous_sums(out, rows.y)

    def metrics(self, sums: Arrays) -> dict[str, float]:
        """`accuracy`, `auc`, `loss`, `brier`; or `rmse`, `r2`, `loss`."""
        return measures.binary_metrics(sums) if self._recipe.binary else measures.continuous_metrics(sums)

    def table(self, model: Arrays, preprocessing: Arrays) -> pd.DataFrame:
        """One row a column in use: mean, scale, and without hidden layers its weight a standard unit."""
        import pandas as pd

        kept = np.flatnonzero(preprocessing["kept"])
        made: dict[str, Any] = {
            "feature": [self.vocabulary.names[i][0] for i in kept],
            "level": [self.vocabulary.names[i][1] for i in kept],
            "mean": preprocessing["mean"][kept],
            "scale": preprocessing["scale"][kept],
        }
        if not self.settings.hidden:
            made["weight"] = model["layer.0.weight"][0].astype(np.float64) * preprocessing["outcome"][1]
        return pd.DataFrame(made)

    def predict(
        self, model: Arrays, preprocessing: Arrays, frame: pd.DataFrame, *, reference: TabularRows | None = None
    ) -> pd.DataFrame:
        """`probability` of the positive outcome, or `value`, for each row of `frame`.

        Args:
            reference: the rows by which `standardise = "local"` standardises; default: `frame` itself.

        Raises:
            InputError: `input.column-missing`, or `input.table` for a column that is not numeric.
        """
        import pandas as pd

        x = self.vocabulary.matrix(frame)
        out = self._out(model, preprocessing, x, x if reference is None else reference.x)
        return pd.DataFrame({self.outputs[0]: network.sigmoid(out) if self._recipe.binary else out}, index=frame.index)

    def _out(self, model: Arrays, preprocessing: Arrays, x: Array, reference: Array) -> Array:
        """Logits, or values in the outcome's unit."""
        mean, scale = preprocessing["outcome"]
        z = network.logits(model, standardised(x, preprocessing, self.settings.standardise, reference))
        return np.asarray(z if self._recipe.binary else z * scale + mean)
