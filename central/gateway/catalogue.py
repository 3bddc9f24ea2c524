"""What sites tell of their datasets: taken from a heartbeat, checked for form, and written down in place of before."""

from __future__ import annotations

import time
from dataclasses import asdict

from sqlalchemy import delete
from sqlalchemy.orm import Session

from central.store.models import AdvertisedRow
from protocol.catalogue import COLUMN_TYPES, DATASET_KINDS, AdvertisedColumn, AdvertisedDataset
from protocol.errors import InputError
from protocol.study import Lane
from protocol.v1 import fleet_pb2 as pb

__all__ = ["read", "write"]

MAX_DATASETS, MAX_COLUMNS, MAX_NAME = 64, 4096, 128
MAX_ROWS = 10**12
_SLUG = frozenset("abcdefghijklmnopqrstuvwxyz0123456789-")
_LANES = frozenset(lane.value for lane in Lane)


def read(message: pb.Catalogue) -> tuple[AdvertisedDataset, ...]:
    """The datasets of a message.

    Raises:
        InputError: `input.message`.
    """
    if len(message.datasets) > MAX_DATASETS or len({one.name for one in message.datasets}) != len(message.datasets):
        raise InputError("input.message", "catalogue")
    return tuple(_dataset(one) for one in message.datasets)


def write(session: Session, site: str, datasets: tuple[AdvertisedDataset, ...]) -> None:
    """Put a site's word in place of what it said before."""
    session.execute(delete(AdvertisedRow).where(AdvertisedRow.site == site))
    for one in datasets:
        columns = [asdict(column) for column in one.columns]
        lanes, kinds = list(one.lanes), list(one.kinds)
        session.add(
            AdvertisedRow(
                site=site, dataset=one.name, rows=one.rows, columns=columns, lanes=lanes, kinds=kinds,
                told_at=time.time(),
            )
        )  # fmt: skip


def _dataset(one: pb.AdvertisedDataset) -> AdvertisedDataset:
    if not (0 < len(one.name) <= 63 and _SLUG.issuperset(one.name)) or one.rows > MAX_ROWS:
        raise InputError("input.message", "catalogue")
    if len(one.columns) > MAX_COLUMNS or len(one.lanes) > len(_LANES) or not _LANES.issuperset(one.lanes):
        raise InputError("input.message", "catalogue")
    if len(set(one.kinds)) != len(one.kinds) or not set(DATASET_KINDS).issuperset(one.kinds):
        raise InputError("input.message", "catalogue")
    columns = tuple(AdvertisedColumn(name=c.name, role=c.role, type=c.type) for c in one.columns)
    for column in columns:
        if not (0 < len(column.name) <= MAX_NAME and column.name.isprintable()) or column.type not in COLUMN_TYPES:
            raise InputError("input.message", "catalogue")
        if not (0 < len(column.role) <= 32 and column.role.isalpha() and column.role.isascii()):
            raise InputError("input.message", "catalogue")
    return AdvertisedDataset(
        name=one.name, rows=one.rows, columns=columns, lanes=tuple(one.lanes), kinds=tuple(one.kinds)
    )
