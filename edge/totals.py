"""What datasets and studies have spent so far, kept beside the ledger's rows so that a spend need not read all of them.

Place in the flow: `edge.ledger` gives each row once, in order; sums are asked for before each spend. It is memory
alone: a process that starts reads every row, and one that does not go on from the row before is refused. No file.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from edge.spends import Row, Spend, extended
from protocol.errors import BudgetExceeded

__all__ = ["GENESIS", "Totals"]

GENESIS = "0" * 64


@dataclass(slots=True)
class _Window:
    """A dataset's spends that are not older than `since` (Unix seconds), by their last row, and their bytes."""

    since: float = 0.0
    spends: dict[str, Spend] = field(default_factory=dict)
    bytes: int = 0

    def put(self, spend: Spend) -> None:
        """Take a key's spend in the place of what was known of it."""
        self.bytes -= old.bytes if (old := self.spends.pop(spend.key, None)) else 0
        self.spends[spend.key] = spend
        self.bytes += spend.bytes

    def move(self, since: float) -> None:
        """Let go of what is older. A row before which a clock was set back waits for the one in front: spent longer."""
        self.since = since
        while self.spends:
            oldest = next(iter(self.spends.values()))
            if oldest.at >= since:
                return
            self.bytes -= self.spends.pop(oldest.key).bytes


class Totals:
    """Sums over the rows that were added. Not for two threads at a time.

    Attributes:
        seq: of the last row, 0 before the first.
        head: its hash.
    """

    def __init__(self) -> None:
        self.seq, self.head = 0, GENESIS
        self._spends: dict[str, dict[str, Spend]] = {}  # dataset -> key -> what it has spent
        self._studies: dict[tuple[str, str], int] = {}  # dataset, study -> bytes
        self._windows: dict[str, _Window] = {}  # by dataset

    def add(self, row: Row) -> None:
        """Take the next row.

        Raises:
            BudgetExceeded: `budget.ledger` when it is not the next one, or not as it was written.
        """
        if row.seq != self.seq + 1 or row.prev != self.head or row.hash != row.computed():
            raise BudgetExceeded("budget.ledger", f"row {row.seq} of the ledger is not as it was written")
        self.seq, self.head = row.seq, row.hash
        known = self._spends.setdefault(row.dataset, {})
        old = known.get(row.key)
        new = known[row.key] = extended(old, row)
        place = (new.dataset, new.study)
        self._studies[place] = self._studies.get(place, 0) + new.bytes - (old.bytes if old else 0)
        self._windows.setdefault(row.dataset, _Window()).put(new)

    def spends(self, dataset: str, since: float = 0.0, study: str | None = None) -> list[Spend]:
        """A dataset's spends since a time (Unix seconds), of all studies or one, by the first row of their keys."""
        known = self._spends.get(dataset, {}).values()
        return [spend for spend in known if spend.at >= since and study in (None, spend.study)]

    def of_study(self, dataset: str, study: str) -> int:
        """Bytes that a study has taken of a dataset."""
        return self._studies.get((dataset, study), 0)

    def since(self, dataset: str, since: float) -> int:
        """Bytes of a dataset's spends since a time (Unix seconds): cheap while that does not go back."""
        window = self._windows.get(dataset)
        if window is None:
            return 0
        if since < window.since:  # the clock was set back: what was let go counts again
            window = self._windows[dataset] = _Window()
            for spend in sorted(self._spends[dataset].values(), key=lambda spend: spend.at):
                window.put(spend)
        window.move(since)
        return window.bytes
