"""The centre's parcels and lake against its log: every parcel that landed, and every batch in the lake, has its leaf.

Place: `corsia log verify --state CENTRE`, beside the running centre; reads alone, and needs no key. A leaf without a
parcel is no fault: what was erased keeps its leaf.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from sqlalchemy import inspect, select

from central.objects import bucket_of
from central.store.engine import reading
from central.store.models import CuratedRow, LogRow, ParcelRow, StudyRow
from protocol.errors import IntegrityError
from protocol.parcel import ContentType, Receipt

__all__ = ["audit"]

_TRIES, _PAUSE_S = 4, 0.25
_WITHDRAWN = "withdrawn-"  # and the parcel's id: the list of who it was (`central.vault.withdrawing`)


def audit(state_dir: Path) -> dict[str, Any]:
    """Check rows, landed files and the lake's folders.

    Returns:
        `{"parcels": rows with their leaf, "files": landed files with their leaf's digest, "batches": of the lake}`.

    Raises:
        IntegrityError: `log.proof`: something landed, or lies in the lake, of which the log does not know.
        StorageError: the database cannot be read.
    """
    with reading(state_dir) as database:
        if not {"parcels", "curated"} <= set(inspect(database).get_table_names()):
            return {"parcels": 0, "files": 0, "batches": 0}
        parcels = database.execute(
            select(ParcelRow.id, ParcelRow.digest, LogRow.leaf).join(
                LogRow, LogRow.index == ParcelRow.log_index, isouter=True
            )
        ).all()
        curated = database.execute(select(CuratedRow.parcel_id)).scalars().all()
    digests: dict[str, str] = {}
    for name, digest, leaf in parcels:
        if leaf is None or bytes(leaf) != Receipt.leaf(name, digest):
            raise IntegrityError("log.proof", "a parcel landed that has no leaf in the log")
        digests[name] = digest
    files = _landed(state_dir / "landing", digests)
    if any(parcel not in digests for parcel in curated):
        raise IntegrityError("log.proof", "a batch of the lake is of no parcel that landed")
    _lake(state_dir, lambda: _accounted(state_dir))
    return {"parcels": len(digests), "files": files, "batches": len(curated)}


def _landed(folder: Path, digests: dict[str, str]) -> int:
    """Landed files are the ones that were logged; one that has just landed may have no row yet, and is passed over."""
    count = 0
    for path in sorted(folder.glob("*.parcel")):
        wanted = digests.get(path.stem)
        if wanted is None:
            continue
        try:
            with path.open("rb") as source:
                made = hashlib.file_digest(source, "sha256").hexdigest()
        except FileNotFoundError:  # erased meanwhile
            continue
        if made != wanted:
            raise IntegrityError("log.proof", "a landed parcel is not the one that was logged")
        count += 1
    return count


def _accounted(state_dir: Path) -> set[str]:
    """What rows account for, and the folders in which the vault keeps who withdrew: one for each such parcel."""
    told = (
        select(StudyRow.id, ParcelRow.id)
        .join(ParcelRow, ParcelRow.study_digest == StudyRow.digest)
        .where(ParcelRow.content_type == ContentType.WITHDRAWAL.value)
    )
    with reading(state_dir) as database:
        paths = set(database.execute(select(CuratedRow.path)).scalars())
        return paths | {f"{study}/{_WITHDRAWN}{parcel}" for study, parcel in database.execute(told)}


def _lake(state_dir: Path, accounted: Callable[[], set[str]]) -> None:
    """A batch is renamed into place before its row is written, an old one goes after: the rest is asked again."""
    for attempt in range(_TRIES):
        if attempt:
            time.sleep(_PAUSE_S)
        if not _folders(state_dir) - accounted():
            return
    raise IntegrityError("log.proof", "a batch lies in the lake that no row and no parcel accounts for")


def _folders(state_dir: Path) -> set[str]:
    """The batches that lie in the lake, in its folder or in the bucket."""
    bucket, root = bucket_of(state_dir), state_dir / "vault" / "lake"
    if bucket is None:
        found = {(batch.parent.name, batch.name) for batch in root.glob("*/*") if batch.is_dir()}
    else:
        found = {(study, name) for _, study, name, _ in (path.split("/", 3) for path in bucket.names("lake/"))}
    return {f"{study}/{name}" for study, name in found if name != "predictions" and "." not in name}
