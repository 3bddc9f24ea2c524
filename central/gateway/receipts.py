"""The transparency log as the gateway keeps it: leaves in the database, the tree in memory, receipts for sites.

The rows of a group of parcels, their leaves and one signed checkpoint are written in one transaction, so a receipt
never promises what a crash could lose. Leaves of other processes (studies, models) get their checkpoint from `tick`.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from sqlalchemy import bindparam, func, insert, select
from sqlalchemy.orm import Session

from central.gateway.cosigned import Cosigned
from central.gateway.landing import Announced
from central.store import Store
from central.store.models import Base, CheckpointRow, EventRow, LogRow, ParcelRow
from privacy.envelope import SecretKey, read_key, write_key, write_public
from privacy.inclusion import LogNews, LogProof
from privacy.transparency import Checkpoint, Tree, open_checkpoint, sign_checkpoint
from protocol.errors import IntegrityError
from protocol.parcel import Receipt

__all__ = ["Log", "open_log_key"]

# Made once, and without the mapper: they run many times a round.
_PARCEL, _CHECKPOINT, _EVENT = (
    insert(Base.metadata.tables[row.__tablename__]) for row in (ParcelRow, CheckpointRow, EventRow)
)
_SIGNED = select(CheckpointRow.size, CheckpointRow.text).where(CheckpointRow.size == bindparam("size"))
_LEAVES = select(LogRow.index, LogRow.leaf).where(LogRow.index >= bindparam("size")).order_by(LogRow.index)
_LAST = select(func.max(LogRow.index))
_log = logging.getLogger("central.gateway")


def open_log_key(folder: Path) -> SecretKey:
    """The key that signs checkpoints, made at the first start; its public half lies beside it as `log.pub`."""
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    path, public = folder / "log.key", folder / "log.pub"
    if not path.exists():
        write_key(path, SecretKey.generate())
    key = read_key(path)
    if not public.exists():
        write_public(public, key.public)
    return key


class Log:
    """Appends parcels and signs checkpoints. Thread-safe; exactly one process holds it.

    Raises:
        IntegrityError: `log.proof` when the rows do not give the root of the last signed checkpoint: the gateway
            must not go on.
    """

    def __init__(self, store: Store, key: SecretKey, origin: str) -> None:
        self._store = store
        self._key = key
        self._origin = origin
        self._lock = threading.RLock()
        self._tree: Tree | None = None
        self._checkpoint = (0, "")
        self._cosigned = Cosigned(store)
        with store.read() as session:
            tree = self._current(session)
            last = session.scalar(select(CheckpointRow).order_by(CheckpointRow.size.desc()).limit(1))
            if last is not None:
                signed = open_checkpoint(last.text, key.public, origin)
                if signed.size != last.size or signed.size > tree.size or tree.root(signed.size) != signed.root:
                    raise IntegrityError("log.proof", "the log's rows differ from the last signed checkpoint")
                self._checkpoint = (last.size, last.text)
        self.tick()

    def land(self, parcels: Sequence[tuple[Announced, str]]) -> list[ParcelRow]:
        """Record parcels that are durable in the landing zone: rows, leaves, events and one checkpoint, all or none.

        Args:
            parcels: each with its study's id, for the event; they are logged in this order.
        """
        with self._changing():
            rows, self._checkpoint = self._land(parcels)
        return rows

    def receipts(self, rows: Sequence[ParcelRow]) -> list[Receipt]:
        """The receipts of committed parcels, with proofs to one checkpoint, the newest."""
        with self._lock:
            size, text = self._checkpoint
            last = max((row.log_index for row in rows), default=-1)
            if self._tree is None or last >= size:  # signed by an earlier process, or rebuilt
                with self._store.read() as session:
                    self._current(session)
                self.tick()
                size, text = self._checkpoint
            tree = self._tree
            if tree is None:
                raise IntegrityError("log.proof", "the log cannot be rebuilt")
            proofs = [tuple(value.hex() for value in tree.inclusion(row.log_index, size)) for row in rows]
        return [
            Receipt(parcel_id=row.id, digest=row.digest, index=row.log_index, proof=proof, checkpoint=text)
            for row, proof in zip(rows, proofs, strict=True)
        ]

    def receipt(self, row: ParcelRow) -> Receipt:
        """The receipt of one parcel."""
        return self.receipts([row])[0]

    def prove(self, index: int, seen: int, to: int = 0) -> LogProof:
        """That a leaf is in the newest checkpoint, which extends the one of size `seen`; or that size `to` does.

        Raises:
            IntegrityError: `log.proof` when there is no such leaf, or the log here is shorter than what was seen.
        """
        with self._lock:
            if self._tree is None or max(index + 1, to) > self._checkpoint[0]:
                with self._store.read() as session:
                    self._current(session)
                self.tick()
            (size, text), tree = self._checkpoint, self._tree
            if tree is None or index >= size or max(seen, to) > size or 0 < to < seen:
                raise IntegrityError("log.proof", "no such leaf, or a longer log was seen")
            consistency = tuple(value.hex() for value in tree.consistency(seen, to or size))
            if to:
                return LogProof(checkpoint="", consistency=consistency)
            inclusion = tuple(value.hex() for value in tree.inclusion(index, size))
        return LogProof(checkpoint=text, inclusion=inclusion, consistency=consistency)

    def grown(self, sizes: Sequence[int], witnessed: int | None = None) -> LogNews:
        """The newest checkpoint, and that it extends the sizes that a site has seen; those beyond it get no proof.

        Args:
            sizes: what the site has seen; the first is the one that it has linked.
            witnessed: the newest state with signatures of witnesses that it has, None when it does not ask for one.
        """
        size, text = self._checkpoint
        seen = None if witnessed is None else self._cosigned.newer(witnessed)
        if seen is None and len(sizes) == 1 and sizes[0] == size:
            return LogNews(size=size)  # 51 sites at rest: nothing but two numbers
        with self._lock:
            if self._tree is None:
                with self._store.read() as session:
                    self._current(session)
            (size, text), tree = self._checkpoint, self._tree
            asked = {*sizes, *((seen.size,) if seen else ())}
            links = {old: tuple(tree.consistency(old, size)) for old in asked if 0 < old <= size} if tree else {}
        told = "" if sizes[0] == size else text
        return LogNews(size=size, checkpoint=told, links=links, witnessed=seen.text if seen else "")

    def tick(self) -> None:
        """Sign a checkpoint if the log has grown since the last one."""
        ((last,),) = self._store.rows(_LAST)
        if last is None or last + 1 <= self._checkpoint[0]:
            return
        with self._changing():
            with self._store.begin() as session:
                checkpoint = self._sign(session, self._current(session))
            self._checkpoint = checkpoint
        _log.info("log.checkpoint", extra={"fields": {"size": checkpoint[0]}})

    def state(self) -> dict[str, int]:
        """Size of the newest checkpoint."""
        return {"size": self._checkpoint[0]}

    def _land(self, parcels: Sequence[tuple[Announced, str]]) -> tuple[list[ParcelRow], tuple[int, str]]:
        now = time.time()
        with self._store.begin() as session:
            tree = self._current(session)
            leaves = [Receipt.leaf(entry.what.parcel_id, entry.what.digest) for entry, _ in parcels]
            first = self._store.append_leaves(session, leaves)
            if [tree.append(leaf) for leaf in leaves] != list(range(first, first + len(leaves))):
                raise IntegrityError("log.proof", "the log has a gap")
            values = [_values(entry, index, now) for index, (entry, _) in enumerate(parcels, first)]
            session.execute(_PARCEL, values)
            session.execute(_EVENT, [_event(entry, study, now) for entry, study in parcels])
            return [ParcelRow(**value) for value in values], self._sign(session, tree)

    def _current(self, session: Session) -> Tree:
        """The tree of all rows, those of other processes included."""
        tree = self._tree if self._tree is not None else Tree()
        for index, leaf in session.execute(_LEAVES, {"size": tree.size}):
            if tree.append(leaf) != index:
                self._tree = None
                raise IntegrityError("log.proof", "the log has a gap")
        self._tree = tree
        return tree

    def _sign(self, session: Session, tree: Tree) -> tuple[int, str]:
        known = session.execute(_SIGNED, {"size": tree.size}).one_or_none()
        if known is not None:
            return known.size, known.text
        checkpoint = Checkpoint(origin=self._origin, size=tree.size, root=tree.root(), time=int(time.time()))
        text = sign_checkpoint(checkpoint, self._key)
        session.execute(_CHECKPOINT, {"size": tree.size, "text": text})
        return tree.size, text

    @contextmanager
    def _changing(self) -> Iterator[None]:
        """A transaction that fails may leave leaves in memory that are in no row: then the tree is read anew."""
        with self._lock:
            try:
                yield
            except BaseException:
                self._tree = None
                raise


def _values(entry: Announced, index: int, now: float) -> dict[str, Any]:
    """A parcel's row."""
    what = entry.what
    return {
        "id": what.parcel_id,
        "site": entry.site,
        "study_digest": what.study_digest,
        "assignment_id": what.assignment_id,
        "content_type": what.content_type.value,
        "digest": what.digest,
        "size_bytes": what.size_bytes,
        "log_index": index,
        "state": "landed",
        "code": "",
        "landed_at": now,
    }


def _event(entry: Announced, study: str, now: float) -> dict[str, Any]:
    """What the dashboard is told: ids and counts only."""
    what = entry.what
    fields = {"parcel": what.parcel_id, "bytes": what.size_bytes, "type": what.content_type.value}
    return {"at": now, "kind": "parcel.landed", "site": entry.site, "study": study, "fields": fields}
