"""How a site's budget is shared among its noised releases, fixed by the study before the first of them.

Place in the flow: a learner that adds sample-level noise makes one from its study; the ledger is told `cost`, the
learner draws by the two multipliers. Pure arithmetic.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Annotated

from pydantic import BaseModel, ConfigDict, Field, model_validator

from protocol.assignment import RoundPhase
from protocol.errors import InputError
from protocol.study import Study

if TYPE_CHECKING:
    from privacy.dp.accountant import Curve

__all__ = ["Schedule", "Steps"]


class Steps(BaseModel):
    """What a study says of noised steps; `[pipeline.parameters.private]`.

    Attributes:
        bounds: column -> usual range, public knowledge.
        clip: largest length of one record's gradient.
        rate: with which a record is in a step, each on its own; 1: all records in every step.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)
    bounds: dict[str, tuple[float, float]] = Field(default_factory=dict)
    clip: Annotated[float, Field(gt=0, le=1e6)] = 1.0
    rate: Annotated[float, Field(gt=0, le=1)] = 1.0

    @model_validator(mode="after")
    def _rising(self) -> Steps:
        if any(not low < high for low, high in self.bounds.values()):
            raise ValueError("bounds: low before high")
        return self


@dataclass(frozen=True, slots=True, kw_only=True)
class Schedule:
    """Gaussian noise of one site in one run: on sums before round 1, and on the gradient of each step.

    Attributes:
        sums: noise over sensitivity of the sums; None where they say nothing of the rows.
        gradient: noise over clipping norm of a step's summed gradient.
        rate: with which a row is in a step, each on its own; 1: all rows in every step.
        steps: a round.
        rounds: of the run.
    """

    sums: float | None
    gradient: float
    rate: float
    steps: int
    rounds: int

    @classmethod
    def fitted(
        cls, *, epsilon: float, delta: float, rounds: int, steps: int, rate: float = 1.0, share: float = 0.0
    ) -> Schedule:
        """The least noise with which all releases of a run stay within (epsilon, delta).

        Args:
            share: of the budget that goes to the sums; 0: there are none.

        Raises:
            InputError: `input.study` when no noise is enough.
        """
        if not 0 <= share < 1 or rounds < 1 or steps < 1:
            raise InputError("input.study", "privacy: a run of noised steps has rounds, steps and a share below 1")
        try:
            sums, gradient = _fitted(epsilon, delta, rounds * steps, rate, share)
        except ValueError:
            raise InputError("input.study", "privacy: no noise is enough for this epsilon and delta") from None
        return cls(sums=sums, gradient=gradient, rate=rate, steps=steps, rounds=rounds)

    @classmethod
    def of(cls, study: Study, *, rate: float = 1.0, share: float = 0.0) -> Schedule:
        """Of a study with sample-level privacy.

        Raises:
            InputError: `input.study`.
        """
        p, t = study.privacy, study.training
        if t is None or p.epsilon is None or p.delta is None:
            raise InputError("input.study", "privacy: sample-level privacy needs epsilon, delta and a training table")
        return cls.fitted(
            epsilon=p.epsilon, delta=p.delta, rounds=t.max_rounds, steps=t.local_steps, rate=rate, share=share
        )

    def cost(self, phase: RoundPhase | None = None, rounds: int | None = None) -> Curve:
        """What one release costs.

        Args:
            phase: of a round; None for the whole run.
            rounds: of a run that was shorter.
        """
        from privacy.dp.accountant import ZERO, gaussian, sampled_gaussian

        before = ZERO if self.sums is None else gaussian(self.sums)
        if phase is RoundPhase.PREPARE:
            return before
        if phase is RoundPhase.TRAIN:
            return sampled_gaussian(self.gradient, self.rate, self.steps)
        return before + sampled_gaussian(
            self.gradient, self.rate, self.steps * (self.rounds if rounds is None else rounds)
        )


@lru_cache(maxsize=64)  # asked again for every instruction of a run
def _fitted(epsilon: float, delta: float, releases: int, rate: float, share: float) -> tuple[float | None, float]:
    from privacy.dp.accountant import ZERO, gaussian, sampled_gaussian, scale_for

    whole = scale_for(epsilon, delta)
    sums = whole / math.sqrt(share) if share else None
    if rate == 1:  # all of it Gaussian: exactly what is left
        return sums, whole * math.sqrt(releases / (1 - share))
    before = gaussian(sums) if sums else ZERO
    return sums, scale_for(epsilon, delta, lambda noise: before + sampled_gaussian(noise, rate, releases))
