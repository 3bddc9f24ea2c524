"""A landed parcel as the process that holds its key reads it: the signed study, the sender, the opened batch.

The gateway has checked the same in part; whoever opens a parcel does not take its word, nor the database's.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from sqlalchemy import select

from central.store import Store
from central.store.models import ParcelRow, SiteRow, StudyRow
from privacy.envelope import ParcelInfo, PublicKey, SecretKey, unseal
from protocol.errors import IntegrityError
from protocol.parcel import MAX_ITEM_BYTES, Batch, unpack_batch
from protocol.study import Study, parse_study, study_digest
from protocol.trust import Purpose

__all__ = ["Landed", "Sealed"]

_MAX_PARCEL_BYTES = MAX_ITEM_BYTES


@dataclass(frozen=True, slots=True, kw_only=True)
class Landed:
    """A parcel's row beside what vouches for it.

    Attributes:
        sender: the site's identity, checked against the signed roster.
    """

    parcel: ParcelRow
    row: StudyRow
    study: Study
    sender: PublicKey

    @classmethod
    def of(cls, store: Store, parcel: ParcelRow, study_key: PublicKey) -> Landed:
        """Look up a parcel's signed study and its sender.

        Raises:
            IntegrityError: `parcel.context`, `parcel.signature`.
        """
        with store.read() as session:
            row = session.scalar(select(StudyRow).where(StudyRow.digest == parcel.study_digest))
            site = session.get(SiteRow, parcel.site)
        if row is None or site is None or study_digest(row.document) != parcel.study_digest:
            raise IntegrityError("parcel.context", "no such study or site")
        study_key.verify(Purpose.STUDY, row.document, row.signature)
        study = parse_study(row.document)
        if study.id != row.id or parcel.site not in study.sites:
            raise IntegrityError("parcel.context", "the site is not part of the study")
        sender = PublicKey.from_base64(site.identity)
        if study.roster.get(parcel.site, sender.fingerprint) != sender.fingerprint:
            raise IntegrityError("parcel.signature", "the site's identity is not the one in the signed roster")
        return cls(parcel=parcel, row=row, study=study, sender=sender)

    def batch(self, landing: Path, key: Callable[[str], SecretKey]) -> Batch:
        """Open the parcel.

        Args:
            landing: the gateway's landing folder.
            key: gives the key of a study, by id.

        Raises:
            IntegrityError: `parcel.*`, one code for each fault.
            StudyRefused, ConfigurationError: what `key` raises.
        """
        sealed = self.sealed(landing)
        with sealed.source() as source:
            return sealed.opened(source, key(self.row.id))

    def sealed(self, landing: Path) -> Sealed:
        """All that opening takes but the key, as plain values.

        Raises:
            IntegrityError: `parcel.payload`.
        """
        parcel = self.parcel
        if parcel.size_bytes > _MAX_PARCEL_BYTES:
            raise IntegrityError("parcel.payload", "the parcel is too large to open")
        expect = ParcelInfo(
            parcel_id=parcel.id, study=parcel.study_digest, site=parcel.site, content_type=parcel.content_type
        )
        path = landing / f"{parcel.id}.parcel"
        return Sealed(path=path, digest=parcel.digest, sender=self.sender.to_bytes(), expect=expect)


@dataclass(frozen=True, slots=True, kw_only=True)
class Sealed:
    """A landed file and what it must be, as values that may go to another process (`central.vault.compute`)."""

    path: Path
    digest: str
    sender: bytes
    expect: ParcelInfo

    @contextmanager
    def source(self) -> Iterator[BinaryIO]:
        """The file, which is the one that was logged.

        Raises:
            IntegrityError: `parcel.truncated`.
        """
        try:
            source = open(self.path, "rb")
        except FileNotFoundError:
            raise IntegrityError("parcel.truncated", "the landed file is missing") from None
        with source:
            if hashlib.file_digest(source, "sha256").hexdigest() != self.digest:
                raise IntegrityError("parcel.truncated", "the landed file is not the one that was logged")
            source.seek(0)
            yield source

    def opened(self, source: BinaryIO, key: SecretKey) -> Batch:
        """The batch inside. Raises: IntegrityError: `parcel.*`."""
        sender = PublicKey.from_bytes(self.sender)
        batch = unpack_batch(b"".join(unseal(source, key=key, sender=sender, expect=self.expect)))
        if batch.study_digest != self.expect.study or batch.site != self.expect.site:
            raise IntegrityError("parcel.context", "the batch names another study or site")
        return batch
