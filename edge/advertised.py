"""What this site tells the centre of its datasets, as far as each `advertise` says: kinds, counts, schema.

Place in the flow: the heartbeat carries it once after each start and whenever it has changed; the journal says so.
Tables are read in a thread of its own, one that cannot be read is told without rows. `corsia edge dataset profile`
shows a person the same values. Nothing here sends anything.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Mapping
from typing import Any

from edge.config import DatasetConfig
from edge.sources import tabular
from edge.sources.census import imaged_persons
from edge.sources.places import is_pulled
from protocol.catalogue import DATASET_KINDS, ROUNDED_TO, AdvertisedColumn, AdvertisedDataset
from protocol.errors import CorsiaError

__all__ = ["Catalogue", "Told", "advertised", "kinds"]

Told = tuple[AdvertisedDataset, ...]
AGAIN_S = 6 * 3600.0
_log = logging.getLogger("edge.agent")
_TYPE = {"date": "date", "birthdate": "date", "patient": "key", "identifier": "key", "text": "text"}


class Catalogue:
    """One daemon's word on its datasets; for the heartbeat's thread."""

    def __init__(self, datasets: Mapping[str, DatasetConfig]) -> None:
        self._datasets = {name: one for name, one in sorted(datasets.items()) if one.advertise}
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
    """What `advertise` names: kinds of data, columns that have a role, rows as far as the least cohort lets it.

    Its name and lanes are told with any of them; `kinds` and lanes alone read nothing.
    """
    rows, numbers, roles = 0, frozenset[str](), tuple(dataset.columns.items())
    counted = "counts" in dataset.advertise
    try:
        if dataset.tabular and (counted or "schema" in dataset.advertise):
            rows, numbers = _measured(dataset)
        elif dataset.dicom is not None and not dataset.tabular and counted:
            persons = imaged_persons(dataset.dicom, pulled=is_pulled(dataset, "dicom"))
            rows = _told(persons, persons, dataset)
    except (CorsiaError, OSError, ValueError, MemoryError) as error:  # the lanes will say what is wrong with it
        code = error.code if isinstance(error, CorsiaError) else "input.table"
        _log.warning("catalogue.unread", extra={"fields": {"dataset": name, "code": code}})
    types = {column: _TYPE.get(str(role)) or ("number" if column in numbers else "text") for column, role in roles}
    columns = tuple(AdvertisedColumn(name=column, role=str(role), type=types[column]) for column, role in roles)
    return AdvertisedDataset(
        name=name,
        rows=rows if counted else 0,
        columns=columns if "schema" in dataset.advertise else (),
        lanes=tuple(str(lane) for lane in dataset.policy.lanes),
        kinds=kinds(dataset) if "kinds" in dataset.advertise else (),
    )


def kinds(dataset: DatasetConfig) -> tuple[str, ...]:
    """What kinds of data there are (`DATASET_KINDS`)."""
    return tuple(kind for kind in DATASET_KINDS if (dataset.tabular if kind == "table" else dataset.has(kind)))


def _measured(dataset: DatasetConfig) -> tuple[int, frozenset[str]]:
    """Rows in tens, 0 for fewer persons than the least cohort; and the columns that hold numbers."""
    roles: dict[str, Any] = {column: str(role) for column, role in dataset.columns.items()}
    words = [column for column, role in roles.items() if role in _TYPE]
    frame = tabular.read(dataset, list(roles), words)
    patient = next((column for column, role in roles.items() if role == "patient"), None)
    persons = len(frame) if patient is None else int(frame[patient].nunique())
    return _told(len(frame), persons, dataset), frozenset(
        c for c in frame.columns if c not in words and frame[c].dtype.kind in "iufb"
    )


def _told(count: int, persons: int, dataset: DatasetConfig) -> int:
    """A count in tens; 0 where it is of fewer persons than the least cohort."""
    return count // ROUNDED_TO * ROUNDED_TO if persons >= dataset.policy.min_cohort else 0
