"""Images to one outcome a patient: a convolutional network on slices or volumes of CT, MR or PET series.

The table says who takes part and what the outcome is; series are joined by patient. One patient counts once, in the
cohort, in averages over sites and in scores, however many slices he has. What sites share before round 1 are sums over
patients: how many, outcomes, and means of intensities, from which one normalisation follows.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal, cast

import numpy as np
from pydantic import Field, ValidationError, model_validator

from pipelines import SourceFile
from pipelines.learners import Documents, Files, columns, measures, proximal
from pipelines.learners.images import Grid, ImageCase, check_images, gridded, read, volume
from pipelines.learners.samples import ImageFeed, ImageRows, gathered, people
from pipelines.learners.schedule import Steps
from pipelines.learners.torchmodel import Local, TorchModel
from pipelines.learners.vocabulary import LARGEST, level
from privacy.deid.pseudonym import normalise_id
from protocol.errors import InputError
from protocol.study import Study
from protocol.validation import first_fault

if TYPE_CHECKING:
    import pandas as pd
    import torch

    from pipelines.features.cases import Case
    from pipelines.learners.engine import Feed

__all__ = ["Channels", "Cnn", "CnnSettings", "ImageLearner", "ImageSettings"]

Array = np.ndarray[Any, Any]
Arrays = dict[str, Array]
Shapes = dict[str, tuple[str, tuple[int, ...]]]
Channels = Annotated[tuple[Annotated[int, Field(ge=1, le=1024)], ...], Field(min_length=1, max_length=6)]


class ImageSettings(Grid):
    """`[pipeline.parameters]` of a learner on images: those of `images.Grid`, and these.

    Attributes:
        task: `binary` (logistic loss) or `continuous` (squared error).
        positive, negative: the outcome's values, as of learner `tabular`.
        local: the local steps.
        model: what a plug-in's `build` is given.
        private: for studies with sample-level privacy; `bounds` are of an outcome that is a number.
    """

    task: Literal["binary", "continuous"] = "binary"
    positive: bool | int | float | str | None = None
    negative: bool | int | float | str | None = None
    local: Local = Local()
    model: dict[str, Any] = Field(default_factory=dict)
    private: Steps | None = None

    @model_validator(mode="after")
    def _outcome(self) -> ImageSettings:
        if self.negative is not None and (self.positive is None or level(self.negative) == level(self.positive)):
            raise ValueError("positive, negative: give both, and different values")
        return self


class CnnSettings(ImageSettings):
    """Of learner `cnn`: `channels` is the width of each block, each half the size of the one before."""

    channels: Channels = (8, 16, 32)
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0


class ImageLearner(TorchModel):
    """One outcome a patient from images. See `pipelines.learners.Learner` for the methods' contract.

    A plug-in for images inherits this class: its module is given float32 (n, 1, *size) and gives (n, 1).
    """

    name = "image"
    version = "1"
    settings_type: ClassVar[type[ImageSettings]] = ImageSettings
    reads_images = True
    tableless = False
    crossed = "Model updates, and sums over patients of outcomes and of mean intensities"
    notes: tuple[str, ...] = (
        "Series are joined to the table by patient; one patient counts once, however many slices there are.",
    )
    measured = "On the patients it was trained on: for comparing rounds, not a claim about new patients."

    def __init__(
        self,
        *,
        features: tuple[str, ...] = (),
        settings: Mapping[str, Any],
        outcome: tuple[str, ...] | None = None,
        steps: int = 0,
        learning_rate: float = 0.0,
        seed: int = 0,
        pull: float = 0.0,
        least: int = 5,
    ) -> None:
        self._check_columns(features, outcome)
        try:
            self.settings = self.settings_type.model_validate(dict(settings))
        except ValidationError as error:
            raise InputError("input.study", first_fault(error, "pipeline", "parameters")) from None
        self.features: tuple[str, ...] = ()
        self._outcome = outcome[0] if outcome else ""
        self._steps, self._rate, self._seed, self._pull, self._least = steps, learning_rate, seed, pull, least
        self._local = self.settings.local
        self.outputs: tuple[str, ...] = ("probability",) if self.settings.task == "binary" else ("value",)

    def _check_columns(self, features: tuple[str, ...], outcome: tuple[str, ...] | None) -> None:
        if features or (outcome is not None and len(outcome) != 1):
            raise InputError("input.study", "training: give features = [] and outcome = [one column]")

    @classmethod
    def from_study(cls, study: Study) -> ImageLearner:
        """The learner with a study's settings.

        Raises:
            InputError: `input.study`.
        """
        t = study.training
        if t is None:
            raise InputError("input.study", "training: the study has no such table")
        check_images(study.dataset.images)
        given: dict[str, Any] = {
            "features": t.features, "settings": study.pipeline.parameters, "outcome": t.outcome,
            "steps": t.local_steps, "learning_rate": t.learning_rate, "seed": t.seed, "pull": proximal(t),
            "least": study.privacy.k,
        }  # fmt: skip
        if study.privacy.dp != "none":
            from pipelines.learners.noised import private

            return cast(ImageLearner, private(cls, given, study))
        return cls(**given)

    # -- rows ------------------------------------------------------------------------------------------------------

    def rows(
        self, frame: pd.DataFrame | None, documents: Documents | None = None, patient: str | None = None,
        files: Files | None = None,
    ) -> ImageRows:  # fmt: skip
        """The patients of the table who have an outcome and a sound series.

        Raises:
            InputError: `input.dicom` without images, `input.table` for a patient with two rows,
                `input.column-missing`, or `input.rows` when nobody has both.
        """
        del documents
        if files is None:
            raise InputError("input.dicom", "this learner needs images")
        outcomes = self._outcomes(frame, patient)
        cases, withheld = read(files(), self.case, normalise_id, masks=self._masked)
        known = [who for who in cases if outcomes is None or who in outcomes]
        if not known:
            raise InputError("input.rows", "no patient has both an outcome and a usable image")
        own = [cases.pop(who) for who in known]
        named = 0 if frame is None else len(frame)
        return gathered(
            own, [0.0 if outcomes is None else outcomes[who] for who in known],
            dropped=max(named - len(known), 0), withheld=dict(withheld),
        )  # fmt: skip

    _masked = False

    def case(self, case: Case) -> ImageCase | None:
        """A patient's samples, or None for one without a series of the kind that the study asks for.

        Raises:
            InputError: `input.image`.
        """
        found = volume(case, self.settings)
        return None if found is None else gridded(found, self.settings)

    def _outcomes(self, frame: pd.DataFrame | None, patient: str | None) -> dict[str, float] | None:
        """Patient -> outcome, of those who have one."""
        if frame is None or patient is None or patient not in frame.columns:
            raise InputError("input.table", "images need the table's outcome and patient")
        s = self.settings
        if s.task == "binary":
            y = columns.labels(frame, self._outcome, s.positive, s.negative)
        else:
            y = columns.numbers(frame, self._outcome)
        return {who: float(value) for who, value in zip(people(frame, patient), y, strict=True) if abs(value) < LARGEST}

    # -- before round 1: sums over sites ---------------------------------------------------------------------------

    def preparation(self) -> Shapes:
        """float64: rows (1,), outcome (2,), intensity (3,)."""
        return {"rows": ("float64", (1,)), "outcome": ("float64", (2,)), "intensity": ("float64", (3,))}

    def sums(self, rows: ImageRows, least: int) -> Arrays:
        """Patients; of either class, 0 for fewer than `least`, or sum and squares; how many patients' intensities, and
        the sums of their means and mean squares."""
        enough = float(rows.count >= least)
        if self.settings.task == "binary":
            classes = np.array([(rows.y == 0).sum(), (rows.y == 1).sum()], np.float64)
            outcome = np.where(classes >= least, classes, 0.0)
        else:
            outcome = np.array([rows.y.sum(), np.square(rows.y).sum()]) * enough
        intensity = np.array([float(rows.count), *rows.moments.sum(axis=0)]) * enough
        return {"rows": np.array([float(rows.count)]), "outcome": outcome, "intensity": intensity}

    def plausible(self, sums: Arrays, examples: int) -> bool:
        """Whether one site's sums fit together."""
        rows, (n, mean, square), outcome = float(sums["rows"][0]), sums["intensity"], sums["outcome"]
        bounded = rows == examples and n in (0.0, rows) and mean**2 <= square * n * (1 + 1e-6) + 1e-9
        if self.settings.task == "binary":
            whole = bool((outcome >= 0).all()) and bool((outcome == np.floor(outcome)).all())
            return bool(bounded and whole and outcome.sum() <= rows)
        return bool(bounded and outcome[0] ** 2 <= outcome[1] * rows * (1 + 1e-9) + 1e-9)

    def agree(self, sums: Arrays) -> Arrays:
        """Preprocessing: mean, scale (1,) of intensities; outcome (2,): its mean and scale, 0 and 1 for classes.

        Raises:
            InputError: `input.rows` when the outcome does not vary, as far as the sums tell.
        """
        n, mean, square = (float(v) for v in sums["intensity"])
        agreed = self.settings.normalise == "agreed" and n > 0
        centre = mean / n if agreed else 0.0
        scale = math.sqrt(max(square / n - centre**2, 0.0)) if agreed else 1.0
        return {
            "mean": np.array([centre]),
            "scale": np.array([scale if scale > 1e-6 * max(abs(centre), 1.0) else 1.0]),
            "outcome": self._agreed_outcome(sums),
        }

    def _agreed_outcome(self, sums: Arrays) -> Array:
        first, second = (float(v) for v in sums["outcome"])
        if self.settings.task == "binary":
            if min(first, second) <= 0:
                raise InputError("input.rows", "no site has enough patients of both classes of the outcome")
            return np.array([0.0, 1.0])
        n = max(float(sums["rows"][0]), 1.0)
        scale = math.sqrt(max(second / n - (first / n) ** 2, 0.0))
        if scale <= 1e-9 * max(abs(first / n), 1e-300):
            raise InputError("input.rows", "the outcome does not vary")
        return np.array([first / n, scale])

    def initial(self, sums: Arrays, preprocessing: Arrays) -> Arrays:
        """The module as built under the study's seed."""
        del sums, preprocessing
        return self.first()

    # -- training, scores and predictions --------------------------------------------------------------------------

    @property
    def binary(self) -> bool:
        """Whether the outcome is yes or no."""
        return self.settings.task == "binary"

    def model_settings(self) -> Mapping[str, Any]:
        """`[pipeline.parameters.model]`."""
        return self.settings.model

    def feed(self, rows: ImageRows, preprocessing: Arrays, seed: int | None) -> Feed:
        """Samples; augmented for training."""
        return ImageFeed(rows, preprocessing, self.settings.augment, self.transform, seed)

    def scoring(self) -> Shapes:
        """float64: see `measures`."""
        return dict(measures.BINARY if self.settings.task == "binary" else measures.CONTINUOUS)

    def score(self, model: Arrays, preprocessing: Arrays, rows: ImageRows) -> Arrays:
        """Sums over patients, of the mean output over each one's samples."""
        out = self._of_patients(model, preprocessing, rows)
        if self.settings.task == "binary":
            return measures.binary_sums(out, rows.y, self._least)
        return measures.continuous_sums(out, rows.y)

    def metrics(self, sums: Arrays) -> dict[str, float]:
        """`accuracy`, `auc`, `loss`, `brier`; or `rmse`, `r2`, `loss`."""
        return measures.binary_metrics(sums) if self.settings.task == "binary" else measures.continuous_metrics(sums)

    def predict(self, model: Arrays, preprocessing: Arrays, frame: pd.DataFrame) -> pd.DataFrame:
        """A table alone is not enough.

        Raises:
            InputError: `input.usage`.
        """
        raise InputError("input.usage", "this model predicts from images: give a folder of DICOM files")

    def predict_images(
        self, model: Arrays, preprocessing: Arrays, files: Iterable[SourceFile]
    ) -> tuple[pd.DataFrame, dict[str, int]]:
        """One row a patient, `patient` and `series` in clear, and `outputs`; what was set aside, by reason."""
        import pandas as pd

        cases, withheld = read(files, self.predicted_case, str.strip, masks=False)
        made = []
        for who, case in cases.items():
            rows = gathered([case], [0.0], dropped=0, withheld={})
            made.append({"patient": who, "series": case.uid, **self.predicted(model, preprocessing, rows, case)})
        return pd.DataFrame(made, columns=["patient", "series", *self.outputs]), dict(withheld)

    def predicted_case(self, case: Case) -> ImageCase | None:
        """As `case`, of a patient of whom nothing is known."""
        return self.case(case)

    def predicted(self, model: Arrays, preprocessing: Arrays, rows: ImageRows, case: ImageCase) -> dict[str, float]:
        """The outputs for one patient."""
        from pipelines.learners.network import sigmoid

        out = self._of_patients(model, preprocessing, rows)
        return {self.outputs[0]: float((sigmoid(out) if self.settings.task == "binary" else out)[0])}

    def _of_patients(self, model: Arrays, preprocessing: Arrays, rows: ImageRows) -> Array:
        """Logits, or values in the outcome's unit, float64 (patients,)."""
        z = self.outputs_of(model, preprocessing, rows)[:, 0].astype(np.float64)
        mean, scale = preprocessing["outcome"]
        means = np.bincount(rows.owner, weights=z) / np.bincount(rows.owner)
        return np.asarray(means * scale + mean)


class Cnn(ImageLearner):
    """A small convolutional network (`nets.Classifier`)."""

    name = "cnn"
    settings_type = CnnSettings
    settings: CnnSettings

    def build(self, settings: Mapping[str, Any]) -> torch.nn.Module:
        """The network."""
        from pipelines.learners.nets import Classifier

        del settings
        return Classifier(self.settings.channels, self.settings.dimensions, self.settings.dropout)

    def initial(self, sums: Arrays, preprocessing: Arrays) -> Arrays:
        """As built under the study's seed; the last bias is the outcome's log odds, where they are told."""
        made = super().initial(sums, preprocessing)
        no, yes = sums["outcome"]
        if self.settings.task == "binary" and min(no, yes) > 0:
            made["head.bias"] = np.array([math.log(yes / no)], np.float32)
        return made
