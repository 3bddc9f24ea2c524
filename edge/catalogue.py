"""What this site tells the centre of its datasets, where their policy says `advertise = true`: counts and schema.

Place in the flow: the heartbeat carries it once after each start and whenever it has changed; the journal says so.
Tables are read in a thread of its own, one that cannot be read is told without rows. Nothing here sends anything.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from edge.config import DatasetConfig
from edge.sources import table
from protocol.catalogue import ROUNDED_TO, AdvertisedColumn, AdvertisedDataset
from protocol.errors import CorsiaError

__all__ = ["Catalogue", "Told", "advertised"]

Told = tuple[AdvertisedDataset, ...]
AGAIN_S = 6 * 3600.0
_log = logging.getLogger("edge.agent")
_TYPE = {"date": "date", "birthdate": "date", "patient": "key", "identifier": "key", "text": "text"}


class Catalogue:
    """One daemon's word on its datasets; for the heartbeat's thread."""

    def __init__(self, datasets: Mapping[str, DatasetConfig]) -> None:
        self._datasets = {name: one for name, one in sorted(datasets.items()) if one.policy.advertise}
        self._made: Told | None = None if self._datasets else ()
        self._told: Told | None = None
        self._reading: threading.Thread | None = None
        self._next = 0.0

    def news(self) -> Told | None:
        """What the centre does not know yet; None when there is nothing new. Reads files elsewhere, and never waits."""
        if self._datasets and time.monotonic() >= self._next and not (self._reading and self._reading.is_alive()):
            self._next = time.monotonic() + AGAIN_S
            self._reading = threading.Thread(target=self._read, name="catalogue", daemon=True)
            self._reading.start()
        return None if self._made is None or self._made == self._told else self._made

    def told(self, sent: Told) -> None:
        """The centre has heard this."""
        self._told = sent

    def _read(self) -> None:
        self._made = tuple(advertised(name, dataset) for name, dataset in self._datasets.items())


def advertised(name: str, dataset: DatasetConfig) -> AdvertisedDataset:
    """A dataset's columns that have a role, and its rows as far as the site's least cohort lets them be told."""
    rows, numbers, roles = 0, frozenset[str](), tuple(dataset.columns.items())
    if dataset.table is not None:
        try:
            rows, numbers = _measured(dataset, dataset.table)
        except (CorsiaError, OSError, ValueError, MemoryError) as error:  # the lanes will say what is wrong with it
            code = error.code if isinstance(error, CorsiaError) else "input.table"
            _log.warning("catalogue.unread", extra={"fields": {"dataset": name, "code": code}})
    types = {column: _TYPE.get(str(role)) or ("number" if column in numbers else "text") for column, role in roles}
    columns = tuple(AdvertisedColumn(name=column, role=str(role), type=types[column]) for column, role in roles)
    lanes = tuple(str(lane) for lane in dataset.policy.lanes)
    return AdvertisedDataset(name=name, rows=rows, columns=columns, lanes=lanes)


def _measured(dataset: DatasetConfig, path: Path) -> tuple[int, frozenset[str]]:
    """Rows in tens, 0 for fewer persons than the least cohort; and the columns that hold numbers."""
    roles: dict[str, Any] = {column: str(role) for column, role in dataset.columns.items()}
    words = [column for column, role in roles.items() if role in _TYPE]
    frame = table.read(path, list(roles), words, dataset.format)
    patient = next((column for column, role in roles.items() if role == "patient"), None)
    persons = len(frame) if patient is None else int(frame[patient].nunique())
    told = len(frame) // ROUNDED_TO * ROUNDED_TO if persons >= dataset.policy.min_cohort else 0
    return told, frozenset(c for c in frame.columns if c not in words and frame[c].dtype.kind in "iufb")
