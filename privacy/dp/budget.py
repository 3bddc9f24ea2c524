"""A site's privacy budget for one dataset: what is spent composes, what is asked is refused before any noise is drawn.

Place in the flow: the ledger's curves of one study and of 365 days -> `Budget.require` inside the ledger's transaction.
A release whose fate is not known is among the curves. Pure arithmetic; what is kept, and for how long, is the ledger's.
"""

from __future__ import annotations

from dataclasses import dataclass

from privacy.dp.accountant import ZERO, Curve
from protocol.errors import BudgetExceeded

__all__ = ["Budget"]

_ROUNDING = 1e-9  # relative: sums of floats in another order


@dataclass(frozen=True, slots=True, kw_only=True)
class Budget:
    """A limit on what may be learnt about one person: (epsilon, delta) of everything in it together.

    Attributes:
        epsilon: at most so much; 0 allows nothing.
        delta: at which the curves are read.
        spent: all of it so far, as one curve.
    """

    epsilon: float
    delta: float
    spent: Curve = ZERO

    @property
    def used(self) -> float:
        """Epsilon spent so far."""
        return self.spent.epsilon(self.delta) if self.spent != ZERO else 0.0

    @property
    def remaining(self) -> float:
        """Epsilon left. What fits into it may be more, since curves compose better than their epsilons add up."""
        return max(0.0, self.epsilon - self.used)

    def require(self, asked: Curve, what: str) -> None:
        """Refuse unless this release fits beside all that is spent.

        Args:
            asked: its cost.
            what: the name of the budget, for the refusal.

        Raises:
            BudgetExceeded: `budget.epsilon`.
        """
        if asked == ZERO:
            return
        if not (self.spent + asked).epsilon(self.delta) <= self.epsilon * (1 + _ROUNDING):
            raise BudgetExceeded("budget.epsilon", f"{what}: {self.remaining:.3g} of epsilon {self.epsilon:g} is left")
