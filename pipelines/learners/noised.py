"""Sample-level privacy for learners whose model is a torch module: networks on images, and plug-ins.

`private` puts noised steps over such a learner: `descend` of `opacus` instead of the engine's steps, nothing told of
the rows before round 1 but sums that `PrivateTabular` noises (tables) or their number alone (images), and no scores.
The unit is a record of the learner: a row, or a patient with all of his images. A step takes one of a patient's
samples, by a draw that does not depend on the images, so that his share of a gradient is cut as a whole.

Of a plug-in records are taken one by one, so that nothing which it does with a batch makes one record's gradient depend
on another's. It runs in the process that draws the noise: what it keeps or changes there is for its review to find.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np

from pipelines.compute import Compute
from pipelines.learners.imaging import ImageLearner
from pipelines.learners.private import PrivateTabular
from pipelines.learners.samples import ImageRows
from pipelines.learners.schedule import Schedule, Steps
from pipelines.learners.torchmodel import TorchModel
from protocol.errors import InputError
from protocol.study import Study

if TYPE_CHECKING:
    from privacy.dp.stream import Stream

__all__ = ["NoisedImages", "NoisedSteps", "private"]

Array = np.ndarray[Any, Any]
Arrays = dict[str, Array]
Shapes = dict[str, tuple[str, tuple[int, ...]]]


class NoisedSteps(TorchModel):
    """Goes before a `TorchModel` in a class's bases. One process takes them, whatever the site allows."""

    noised = frozenset({"sample"})
    measured = "Not measured on training rows: scores are not released."
    at_once = 0  # records whose gradients are held together; 0: as `local.batch` says
    _private: Steps
    _draw: Callable[[], Stream] | None = None

    def _check_local(self) -> None:
        """Refuse local settings that noised steps do not honour.

        Raises:
            InputError: `input.study`.
        """
        local = self._local
        for name, kept in (
            ("accumulate", local.accumulate == 1), ("precision", local.precision == "float32"),
            ("clip", local.clip is None),
        ):  # fmt: skip
            if not kept:
                raise InputError("input.study", f"pipeline.parameters.local.{name}: not with privacy.dp 'sample'")

    def warm(self, compute: Compute | None = None) -> None:
        """As without noise; and Opacus."""
        from pipelines.learners import opacus

        super().warm(compute)
        opacus.warm()

    def module(self) -> Any:
        """A new module, seeded by the study.

        Raises:
            InputError: `input.study` for one in which rows of a batch see one another.
        """
        from pipelines.learners import opacus

        return opacus.checked(super().module())

    def fit(self, model: Arrays, preprocessing: Arrays, rows: Any, seed: int) -> Arrays:
        """The model after noised steps. Each call draws fresh noise, so a call is a release.

        Raises:
            InputError: `input.diverged`, or `input.study` for a module or loss that cannot be trained.
            WorkerError: `worker.device`.
        """
        import torch

        from pipelines.learners import engine, opacus

        device, recipe = engine.device_of(self._compute.device), self.recipe(seed)
        feed, calls = self.feed(rows, preprocessing, seed), iter(range(2**62))
        with engine.reproducible(seed, device):
            module = engine.loaded(self.module(), model).to(device)
            weights = [w for w in module.parameters() if w.requires_grad]
            start = [w.detach().clone() for w in weights]

            def losses(wrapped: Any, chosen: Array) -> Any:
                step = next(calls)
                given = feed.batch(self._one_each(rows, chosen, seed, step), step)
                x, y = (torch.from_numpy(np.ascontiguousarray(a, np.float32)).to(device) for a in given)
                each = self.loss(wrapped(x), y)
                if tuple(each.shape) != (len(chosen),):
                    raise InputError("input.study", "the model's loss gives not one number a sample")
                return each

            def steady() -> None:
                for weight, was in zip(weights, start, strict=True):
                    if weight.grad is not None:
                        weight.grad.add_(weight.detach() - was, alpha=recipe.pull)

            opacus.descend(
                module, losses, rows.count, self.schedule_of_steps(), clip=self._private.clip, steady=steady,
                optimiser=lambda given: engine.optimiser(list(given), recipe),
                part=self.at_once or self._local.batch, stream=self._draw() if self._draw is not None else None,
            )  # fmt: skip
            made = engine.arrays_of(module)
        if not all(bool(np.isfinite(value).all()) for value in made.values()):
            raise InputError("input.diverged", "the local steps diverged: lower training.learning_rate")
        return {name: made[name] for name in model}

    def schedule_of_steps(self) -> Schedule:
        """The schedule by which noise is drawn."""
        if self.schedule is None:
            raise AssertionError("noised steps have a schedule")
        return self.schedule

    def _one_each(self, rows: Any, chosen: Array, seed: int, step: int) -> Array:
        """The sample that stands for each of these records in this step."""
        del rows, seed, step
        return chosen

    def scoring(self) -> Shapes:
        """Nothing: a score is a release too."""
        return {}

    def score(self, model: Arrays, preprocessing: Arrays, rows: Any) -> Arrays:
        """Refused.

        Raises:
            InputError: `input.message`.
        """
        raise InputError("input.message", "scores are not released in a study with differential privacy")

    def metrics(self, sums: Arrays) -> dict[str, float]:
        """None."""
        del sums
        return {}


class NoisedImages(NoisedSteps, ImageLearner):
    """Images: intensities in units that follow from the study's window, and of the patients nothing but their number.

    Args:
        epsilon, delta: of everything that one site releases in the whole run.
        rounds: of the run.
        stream: gives the noise's random words for a round; for tests. Otherwise the operating system does.
    """

    crossed = "Noised model updates, and the number of patients,"

    def __init__(
        self, *, epsilon: float, delta: float, rounds: int, stream: Callable[[], Stream] | None = None, **given: Any
    ) -> None:
        super().__init__(**given)
        s = self.settings
        if s.private is None:
            raise InputError("input.study", "privacy.dp: learners on images need pipeline.parameters.private")
        if s.normalise == "agreed" and s.window is None:
            raise InputError("input.study", "pipeline.parameters.window: with privacy.dp, or normalise by 'image'")
        if set(s.private.bounds) != (set() if s.task == "binary" else {self._outcome}):
            raise InputError("input.study", "pipeline.parameters.private.bounds: of an outcome that is a number")
        self._private, self._draw = s.private, stream
        self._check_local()
        self.notes = (*self.notes, "Intensities are scaled by the study's window; updates are noised gradients.")
        self.schedule = Schedule.fitted(
            epsilon=epsilon, delta=delta, rounds=rounds, steps=self._steps, rate=s.private.rate
        )

    def sums(self, rows: ImageRows, least: int) -> Arrays:
        """How many patients; all else is 0."""
        del least
        return {"rows": np.array([float(rows.count)]), "outcome": np.zeros(2), "intensity": np.zeros(3)}

    def plausible(self, sums: Arrays, examples: int) -> bool:
        """Whether it is that number, and no more."""
        return sums["rows"][0] == examples and not sums["outcome"].any() and not sums["intensity"].any()

    def agree(self, sums: Arrays) -> Arrays:
        """Middle and a quarter of the window, of the outcome's bounds; 0 and 1 for classes."""
        del sums
        s, outcome = self.settings, np.array([0.0, 1.0])
        if s.task == "continuous" and s.private is not None:
            low, high = s.private.bounds[self._outcome]
            outcome = np.array([(low + high) / 2, (high - low) / 4])
        mean, scale = (0.5, 0.25) if s.normalise == "agreed" else (0.0, 1.0)  # of what the window made 0 and 1
        return {"mean": np.array([mean]), "scale": np.array([scale]), "outcome": outcome}

    def _one_each(self, rows: ImageRows, chosen: Array, seed: int, step: int) -> Array:
        """One of each patient's samples."""
        counts = np.bincount(rows.owner, minlength=rows.count)
        drawn = np.random.default_rng([seed, step]).random(rows.count)[chosen]
        return np.asarray((np.cumsum(counts) - counts)[chosen] + (drawn * counts[chosen]).astype(np.int64))


class _NoisedTable(NoisedSteps):
    """A plug-in for tables; goes before its class, and `PrivateTabular` after it."""

    def __init__(self, **given: Any) -> None:
        super().__init__(**given)
        self._check_local()


def private(kind: type[Any], given: dict[str, Any], study: Study) -> Any:
    """The learner `kind` of a study with sample-level privacy.

    Args:
        kind: an `ImageLearner` or a `TorchLearner`.
        given: what it is made from.

    Raises:
        InputError: `input.study`.
    """
    p, t = study.privacy, study.training
    if p.dp != "sample":
        raise InputError("input.study", f"privacy.dp: learner {kind.name!r} can keep: sample")
    if t is None or p.epsilon is None or p.delta is None:
        raise InputError("input.study", "privacy: sample-level privacy needs epsilon, delta and a training table")
    bases = (NoisedImages, kind) if issubclass(kind, ImageLearner) else (_NoisedTable, kind, PrivateTabular)
    made = type(kind.__name__, bases, {"at_once": 0 if study.pipeline.plugin is None else 1})
    return made(epsilon=p.epsilon, delta=p.delta, rounds=t.max_rounds, **given)
