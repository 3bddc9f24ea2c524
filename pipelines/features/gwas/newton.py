"""At the centre: Newton's method for all variants' logistic models, one round of sums at a time.

A step that lowers the likelihood is halved. A variant leaves the rounds when its step is small against the scale of
its columns, when its estimate runs off while the information melts away (separation), or when the rounds are over.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from pipelines.features.gwas.logistic import LogisticSums
from pipelines.features.gwas.plan import Arrays, Floats, Plan, unpack
from pipelines.features.gwas.result import Estimates
from pipelines.features.gwas.solve import inverse, passed
from protocol.errors import InputError

__all__ = ["ROUNDS", "Newton"]

ROUNDS = 25
#: Steps are measured in root mean squares of a column: 1e-8 leaves z right to about 1e-8.
SMALL = 1e-8
#: Information on the dosage below this share of the first round's, while steps stay large: nothing to converge to.
MELTED, LARGE = 1e-3, 0.3
_STATE = ("before", "likelihood", "scale", "first", "se")
_LOWEST = float(np.finfo(np.float64).min)
_STATUSES = ("ok", "guard", "collinear", "separated", "unconverged")


class Newton:
    """The rounds of one study: `request` to the sites, their added sums to `advance`, until it says no more.

    Args:
        plan: a logistic study.
        rounds: at most so many.

    Raises:
        InputError: `input.usage` for a linear study.
    """

    def __init__(self, plan: Plan, rounds: int = ROUNDS) -> None:
        if plan.trait != "logistic":
            raise InputError("input.usage", "Newton rounds are for a logistic study")
        m, p = len(plan.variants), plan.width
        self.plan, self.rounds, self.round = plan, rounds, 0
        self._beta, self._before = np.zeros((m, p)), np.zeros((m, p))
        self._active = np.ones(m, bool)
        self._likelihood = np.full(m, -np.inf)
        self._scale, self._first = np.ones((m, p)), np.ones(m)
        self._se, self._step = np.full(m, np.nan), np.full(m, np.inf)
        self._status: NDArray[np.object_] = np.full(m, "unconverged", dtype=object)
        self._seen: dict[str, Floats] = {name: np.zeros(m) for name in ("persons", "cases", "copies", "sites")}

    def request(self) -> dict[str, Floats]:
        """What the sites need for the next round; fixed shapes."""
        return {"coefficients": self._beta.copy(), "active": self._active.astype(np.float64)}

    def advance(self, total: LogisticSums) -> bool:
        """Take the sums of a round; True while another is needed."""
        self.round += 1
        asked = np.flatnonzero(self._active)
        here = passed(total.sites, total.site, self.plan)
        if self.round == 1:
            for name in self._seen:
                self._seen[name] = getattr(total, name).copy()
            self._status[~here] = "guard"
            size = np.maximum(total.persons, 1.0)[:, None]
            diagonal = np.diagonal(unpack(total.information, self.plan.width), axis1=-2, axis2=-1)
            self._scale = np.sqrt(np.clip(4 * diagonal / size, 1e-300, None))  # weights are 1/4 in the first round
            self._first = np.maximum(diagonal[:, -1], 1e-300)
        changed = asked[~here[asked] | (total.persons[asked] != self._seen["persons"][asked])]
        self._status[changed] = "guard"
        self._active[changed] = False
        at = np.flatnonzero(self._active)
        if len(at):
            self._update(at, total)
        return bool(self._active.any()) and self.round < self.rounds

    def _update(self, at: NDArray[np.int64], total: LogisticSums) -> None:
        slack = 1e-9 * (1 + np.abs(total.likelihood[at]))
        worse = total.likelihood[at] < self._likelihood[at] - slack
        back = at[worse]
        self._beta[back] = (self._beta[back] + self._before[back]) / 2
        at = at[~worse]
        if not len(at):
            return
        matrices = unpack(total.information[at], self.plan.width)
        inverted, regular = inverse(matrices)
        step = np.einsum("bij,bj->bi", inverted, total.gradient[at])
        length = (np.abs(step) * self._scale[at]).max(axis=1)
        melted = (matrices[:, -1, -1] < MELTED * self._first[at]) & (length > LARGE)
        self._end(at[~regular], "collinear" if self.round == 1 else "separated")
        self._end(at[regular & melted], "separated")
        go = regular & ~melted
        at, step, length = at[go], step[go], length[go]
        self._likelihood[at] = total.likelihood[at]
        self._before[at] = self._beta[at]
        self._beta[at] += step
        self._se[at] = np.sqrt(inverted[go][:, -1, -1])
        self._end(at[length < SMALL], "ok")

    def _end(self, at: NDArray[np.int64], status: str) -> None:
        self._status[at] = status
        self._active[at] = False

    def to_arrays(self) -> dict[str, Floats]:
        """Everything between two rounds, `request` among it, as float64 arrays of fixed shapes."""
        state = {name: getattr(self, f"_{name}").copy() for name in _STATE}
        state["likelihood"] = np.maximum(state["likelihood"], _LOWEST)  # arrays that travel are finite
        state["se"] = np.nan_to_num(state["se"], nan=-1.0)
        codes = np.array([_STATUSES.index(str(status)) for status in self._status], np.float64)
        return {**self.request(), **self._seen, **state, "status": codes, "round": np.array([float(self.round)])}

    @classmethod
    def from_arrays(cls, plan: Plan, arrays: Arrays, rounds: int = ROUNDS) -> Newton:
        """Go on from `to_arrays`: the next round is bit-equal to that of an uninterrupted run."""
        made = cls(plan, rounds)
        for name in _STATE:
            setattr(made, f"_{name}", np.array(arrays[name], np.float64))
        made._se[made._se < 0] = np.nan
        made._seen = {name: np.array(arrays[name], np.float64) for name in made._seen}
        made._beta, made._active = np.array(arrays["coefficients"], np.float64), arrays["active"] > 0
        made._status = np.array([_STATUSES[int(code)] for code in arrays["status"]], dtype=object)
        made.round = int(arrays["round"][0])
        return made

    def estimates(self) -> Estimates:
        """As they stand; `unconverged` where the rounds were too few."""
        seen = self._seen
        found = Estimates.empty(self.plan, seen["persons"], seen["sites"], seen["copies"], seen["cases"])
        ok = self._status == "ok"
        found.beta[ok], found.se[ok] = self._beta[ok, -1], self._se[ok]
        found.status[:] = self._status
        return found
