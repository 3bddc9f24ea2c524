"""Parcels opened and checked ahead of their turn, where there is more than one process to do it.

Turns are the log's: what is recorded, and when, is `opening.py`'s alone. A parcel that was looked at ahead and whose
turn does not come (its study was erased meanwhile) is forgotten. Nothing here writes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from central.landed import Landed, Sealed
from central.store import Store
from central.store.models import ParcelRow
from central.vault.compute import Compute, Pending
from central.vault.contents import Content, check_batch
from central.vault.keys import StudyKeys
from privacy.envelope import PublicKey, SecretKey
from protocol.errors import CorsiaError, from_code
from protocol.parcel import Batch
from protocol.study import parse_study

__all__ = ["Ahead", "Prepared"]

_MOST_BYTES = 256 << 20  # of all that is under way; a larger parcel waits for its turn


@dataclass(frozen=True, slots=True)
class Prepared:
    """An opened batch without its items, and what they are; or the code by which they are refused."""

    batch: Batch
    content: Content | None
    code: str = ""
    message: str = ""

    def checked(self) -> Content:
        """The content. Raises: IntegrityError, DisclosureRefused: see `check_batch`."""
        if self.content is None:
            raise from_code(self.code, self.message)
        return self.content


class Ahead:
    """For the opener's thread.

    Args:
        landing: folder of the landed parcels.
        study_key: gives the public key that signs studies.
    """

    def __init__(
        self, store: Store, landing: Path, keys: StudyKeys, compute: Compute, study_key: Callable[[], PublicKey]
    ) -> None:
        self._store, self._landing, self._keys = store, landing, keys
        self._compute, self._study_key = compute, study_key
        self._begun: dict[str, Pending[Prepared]] = {}

    @property
    def width(self) -> int:
        """How many parcels are worth looking at."""
        return self._compute.width

    def look(self, parcels: Sequence[ParcelRow]) -> None:
        """Begin with those that come next; whatever is wrong with one is told in its turn."""
        ids, room = {parcel.id for parcel in parcels}, _MOST_BYTES
        self._begun = {name: pending for name, pending in self._begun.items() if name in ids}
        for parcel in parcels:
            room -= parcel.size_bytes
            if room < 0:
                return
            if parcel.id not in self._begun:
                try:
                    self._begun[parcel.id] = self._begin(Landed.of(self._store, parcel, self._study_key()))
                except CorsiaError:
                    continue

    def take(self, landed: Landed) -> Prepared:
        """The parcel whose turn it is, opened.

        Raises:
            IntegrityError: `parcel.*`, one code for each fault.
            WorkerError, UnavailableError: see `compute.Pending`.
            StudyRefused, ConfigurationError: there is no key.
        """
        pending = self._begun.pop(landed.parcel.id, None) or self._begin(landed)
        return pending.result()

    def _begin(self, landed: Landed) -> Pending[Prepared]:
        key = self._keys.load(landed.row.id).to_bytes()
        return self._compute.begin(_prepared, landed.sealed(self._landing), key, landed.row.document)


def _prepared(sealed: Sealed, key: bytes, document: bytes) -> Prepared:
    """Verify, unseal, unpack, check: pure but for reading the landed file."""
    with sealed.source() as source:
        batch = sealed.opened(source, SecretKey.from_bytes(key))
    bare = replace(batch, items=())
    try:
        return Prepared(bare, check_batch(parse_study(document), batch))
    except CorsiaError as error:
        return Prepared(bare, None, error.code, error.message)
