"""From checked results to sealed parcels in the spool, held until the whole has passed.

Place in the flow: gate -> `Sealer.add` -> parts of about 32 MiB -> `Spool.hold` -> agent releases all or none. Sees
plaintext on its way into the seal and writes none; the parcel id is journalled before sealing, the file key is never
kept.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Literal

from edge.journal import Journal
from edge.released import Released
from edge.spool import ParcelMeta, Spool, SpoolEntry
from privacy.envelope import ParcelInfo, PublicKey, SecretKey, new_parcel_id, seal
from protocol.errors import InputError
from protocol.parcel import Batch, ContentType, Item, canonical_json, pack_batch
from protocol.study import Lane, Study
from protocol.withdrawal import subjects_item

if TYPE_CHECKING:
    from protocol.assignment import Assignment

__all__ = ["CONTENT", "PART_BYTES", "About", "Sealer", "batch_id", "recipient_of", "sealed_bound"]

About = Callable[[Item], str | list[str] | None]  # item -> about whom each of its rows, or the file, is
PART_BYTES = 32 << 20
MAX_PART_ITEMS = 10_000
_HEAD_BYTES = 1024  # of an item, more than its name and counts take
CONTENT = {
    Lane.HARVEST: ContentType.RECORDS,
    Lane.ANONYMIZE: ContentType.DEIDENTIFIED,
    Lane.EXTRACT: ContentType.FEATURES,
    Lane.TRAIN: ContentType.UPDATE,
}


class Sealer:
    """Seals one assignment's results part by part.

    Args:
        reserve: called once, before the first part is sealed: spends in the ledger, or raises.
        pause: called before each part: returns when egress is not paused.
        room: called before each part with its size in bytes: returns when the spool may have room for it.
        released: remembers who is in each parcel; None where the whole study has been noted before.
        subjects: of raw rows and files, about whom an item is, so that a withdrawal finds them at the centre.
        part_bytes: a part is sealed when it would grow beyond this; one item is never divided.
    """

    def __init__(
        self,
        spool: Spool,
        journal: Journal,
        *,
        assignment: Assignment,
        study: Study,
        site: str,
        signer: SecretKey,
        reserve: Callable[[], None],
        pause: Callable[[], None],
        room: Callable[[int], None] = lambda _size: None,
        released: Released | None = None,
        subjects: About | None = None,
        part_bytes: int = PART_BYTES,
    ) -> None:
        self._spool, self._journal = spool, journal
        self._assignment, self._study, self._site, self._signer = assignment, study, site, signer
        self._reserve, self._pause, self._room, self._subjects = reserve, pause, room, subjects
        self._content = CONTENT[study.lane]
        self._recipient = recipient_of(study)
        self._part_bytes = part_bytes
        self._items: list[Item] = []
        self._released = released
        self._persons: set[str | None] = set()
        self._named: dict[str, str | list[str]] = {}  # item -> about whom it is, where it does not say so itself
        self._size = 0
        self.held: list[SpoolEntry] = []

    def add(self, item: Item, persons: Iterable[str] | None = ()) -> None:
        """Take one checked result; a full part is sealed and held.

        Args:
            persons: who is in it, by id or pseudonym; None when that is not known.

        Raises:
            StorageError: `storage.full`, `storage.spool-full`.
            CorsiaError: what `reserve` and `pause` raise.
        """
        who = self._subjects(item) if self._subjects is not None else None
        size = len(item.data) + (len(canonical_json(who)) if who is not None else 0)
        if self._items and (self._size + size > self._part_bytes or len(self._items) >= MAX_PART_ITEMS):
            self._hold(last=False, withheld={})
        self._items.append(item)
        if who is not None:
            self._named[item.name] = who
        self._persons |= {None} if persons is None else set(persons)
        self._size += size

    def finish(self, withheld: Mapping[str, int]) -> None:
        """Seal the last part, which carries the withheld counts of the whole."""
        self._hold(last=True, withheld=withheld)

    def _hold(self, *, last: bool, withheld: Mapping[str, int]) -> None:
        if not self.held:
            self._reserve()
        self._room(sealed_bound(self._size + len(self._items) * _HEAD_BYTES))
        self._pause()
        part, digest = len(self.held), self._assignment.study_digest
        batch = Batch(
            batch_id=batch_id(digest, self._site, self._assignment.id, part),
            study_digest=digest,
            site=self._site,
            part=part,
            last=last,
            items=(*self._items, *([subjects_item(self._named)] if self._named else [])),
            withheld=dict(withheld),
        )
        meta = ParcelMeta(
            parcel_id=new_parcel_id(),
            assignment_id=self._assignment.id,
            study_digest=digest,
            content_type=self._content.value,
        )
        info = ParcelInfo(parcel_id=meta.parcel_id, study=digest, site=self._site, content_type=self._content.value)
        about = {"assignment": self._assignment.id, "parcel": meta.parcel_id, "part": part}
        self._journal.append("parcel.planned", **about)
        if self._released is not None:
            who = [one for one in self._persons if one is not None]
            self._released.note(digest, self._assignment.id, meta.parcel_id, who)
            if None in self._persons:
                self._released.note(digest, self._assignment.id, meta.parcel_id, None)
        entry = self._spool.hold(
            meta,
            lambda target: seal(
                pack_batch(batch), target, info=info, recipients=[self._recipient], signer=self._signer
            ),
        )
        self._journal.append("parcel.sealed", **about, sha256=entry.digest, bytes=entry.size_bytes)
        self.held.append(entry)
        self._items, self._named, self._size, self._persons = [], {}, 0, set()


def batch_id(digest: str, site: str, assignment_id: str, part: int) -> str:
    """The id by which the vault knows a part that comes twice: the same for every try."""
    return hashlib.sha256(f"{digest}|{site}|{assignment_id}|{part}".encode()).hexdigest()[:32]


def recipient_of(study: Study) -> PublicKey:
    """The one key that a study's results are sealed to.

    Raises:
        InputError: `input.study` when the signed study names none.
    """
    role: Literal["vault", "federation"] = "federation" if study.lane is Lane.TRAIN else "vault"
    text = study.recipient(role)
    if text is None:
        raise InputError("input.study", f"the study names no recipient of role {role!r}")
    return PublicKey.from_base64(text)


def sealed_bound(plain_bytes: int) -> int:
    """More than a parcel of so many plain bytes has, in whole 4 KiB, so that a retry asks for the same."""
    return (plain_bytes + plain_bytes // 1024 + 24 * 1024) // 4096 * 4096 + 4096
