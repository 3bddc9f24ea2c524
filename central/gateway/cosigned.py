"""Checkpoints that witnesses have signed, as sites ask for them at their heartbeats, one after the other.

`corsia log checkpoint import` writes them into the database, beside the gateway; here they are looked up, at most every
few seconds for all sites together. Whose signatures count is for each site to say: witnesses sign at times of their
own, so it takes several checkpoints to hear of all of them.
"""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass

from sqlalchemy import delete, select

from central.store import Store
from central.store.models import CheckpointRow, WitnessedRow
from privacy.checkpoint import open_checkpoint, read_checkpoint
from privacy.envelope import PublicKey
from privacy.note import MAX_SIGNATURES
from protocol.errors import InputError, IntegrityError

__all__ = ["Cosigned", "Witnessed", "take"]

_LOOK_S = 5.0
_KEPT = 64  # the newest; older ones are forgotten when more come
_ALL = select(WitnessedRow.size, WitnessedRow.text).order_by(WitnessedRow.size.desc()).limit(_KEPT)


@dataclass(frozen=True, slots=True)
class Witnessed:
    """A checkpoint's size and text, witnesses' signature lines included."""

    size: int
    text: str


class Cosigned:
    """The newest of them. Thread-safe."""

    def __init__(self, store: Store) -> None:
        self._store, self._lock = store, threading.Lock()
        self._looked, self._known = -_LOOK_S, [Witnessed(0, "")]  # the newest first

    def newer(self, size: int) -> Witnessed | None:
        """The smallest that is larger than `size`, None where there is none."""
        with self._lock:
            if time.monotonic() - self._looked >= _LOOK_S:
                self._known = [Witnessed(row.size, row.text) for row in self._store.rows(_ALL)]
                self._looked = time.monotonic()
            return next((one for one in reversed(self._known) if one.size > size), None)


def take(store: Store, text: str, log_key: PublicKey, origin: str) -> tuple[int, list[str]]:
    """Keep a checkpoint with signatures of witnesses, beside those known before; its size, and who signed it.

    Raises:
        IntegrityError: `log.proof` when it is not a checkpoint that this log has signed.
    """
    checkpoint = open_checkpoint(text, log_key, origin)
    _read, note = read_checkpoint(text)
    with store.begin() as session:
        own = session.get(CheckpointRow, checkpoint.size)
        if own is None or read_checkpoint(own.text)[1].text != note.text:
            raise IntegrityError("log.proof", "the checkpoint is not one that this log has signed")
        row = session.get(WitnessedRow, checkpoint.size)
        before = read_checkpoint(row.text if row is not None else own.text)[1]
        log = read_checkpoint(own.text)[1].signatures
        also = tuple(one for one in note.signatures if (one.name, one.key) not in {(s.name, s.key) for s in log})
        made = before.also(also)
        if len(made.signatures) > MAX_SIGNATURES:
            raise InputError("input.usage", f"a checkpoint bears {MAX_SIGNATURES} signatures at most")
        if row is None:
            session.add(WitnessedRow(size=checkpoint.size, text=str(made)))
        else:
            row.text = str(made)
        kept = session.scalars(select(WitnessedRow.size).order_by(WitnessedRow.size.desc()).limit(_KEPT)).all()
        session.execute(delete(WitnessedRow).where(WitnessedRow.size < min(kept)))
    return checkpoint.size, [one.name for one in made.signatures if one.name != origin]
