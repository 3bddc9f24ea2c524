"""What the centre's own database says of a rehearsal: what landed and when, who was heard, what is over.

Read beside the centre's processes, and never written: so that times are those of the events, not of who asks for them.
"""

from __future__ import annotations

import sqlite3
from dataclasses import dataclass
from pathlib import Path
from typing import Any

__all__ = ["Landed", "Record"]

_LANDED = (
    "SELECT studies.id, parcels.landed_at, parcels.size_bytes FROM parcels"
    " JOIN studies ON studies.digest = parcels.study_digest ORDER BY parcels.landed_at"
)
_OPENED = (
    "SELECT max(curated.created_at) FROM curated JOIN studies ON studies.digest = curated.study_digest"
    " WHERE studies.id = ? AND studies.state = 'done'"
)


@dataclass(frozen=True, slots=True)
class Landed:
    """One parcel: of which study, when (Unix seconds), how large (bytes)."""

    study: str
    at: float
    size: int


class Record:
    """The database of a centre that began as SQLite.

    Args:
        path: `corsia.db`.
    """

    def __init__(self, path: Path) -> None:
        self._path = path

    def landed(self) -> list[Landed]:
        """All parcels, in the order in which they landed."""
        return [Landed(*row) for row in self._rows(_LANDED)]

    def heard(self) -> dict[str, float]:
        """When each site was last heard (Unix seconds)."""
        return dict(self._rows("SELECT name, last_seen FROM sites"))

    def opened(self, study: str) -> float | None:
        """When the last parcel of a study that is done came into the lake (Unix seconds); None until it is done."""
        ((at,),) = self._rows(_OPENED, study)
        return None if at is None else float(at)

    def _rows(self, query: str, *values: str) -> list[Any]:
        database = sqlite3.connect(f"file:{self._path}?mode=ro", uri=True, timeout=30)
        try:
            return database.execute(query, values).fetchall()
        finally:
            database.close()
