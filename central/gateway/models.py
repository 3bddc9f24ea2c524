"""Models: any object by its SHA-256, if an assignment of the caller's site names it; and proofs from the log."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path

from sqlalchemy import String, cast, select

from central.gateway import wire
from central.gateway.admission import Call
from central.gateway.receipts import Log
from central.store import Store
from central.store.models import AssignmentRow
from protocol.assignment import AssignmentKind
from protocol.errors import InputError, IntegrityError, PermissionRefused, StorageError, StudyRefused
from protocol.v1 import fleet_pb2 as pb

__all__ = ["Models"]

_LAST = 64  # rounds of a site that are looked through to say why an object is gone


class Models:
    """The Models service."""

    def __init__(self, store: Store, log: Log) -> None:
        self._store, self._log = store, log
        self._lock = threading.Lock()
        self._known: dict[str, tuple[int, set[str]]] = {}  # site -> last seq read, digests named

    def Fetch(self, request: pb.FetchRequest, call: Call) -> Iterator[pb.Chunk]:
        """Stream an object from an offset, in chunks of 1 MiB. The site checks the digest."""
        digest, offset = wire.fetch(request)
        path = self._path(call.site, digest)
        if offset > path.stat().st_size:
            raise InputError("input.message", "offset")
        try:
            with path.open("rb") as file:
                file.seek(offset)
                while data := file.read(wire.CHUNK_BYTES):
                    call.check()
                    yield pb.Chunk(offset=offset, data=data)
                    offset += len(data)
        except OSError:
            raise StorageError("storage.failed") from None

    def Prove(self, request: pb.ProveRequest, _call: Call) -> pb.ProveReply:
        """That a leaf is in the log. Leaves hold no secret: any enrolled site may ask."""
        return wire.proof_message(self._log.prove(*wire.proof(request)))

    def _path(self, site: str, digest: str) -> Path:
        """Where an object lies that the site may have.

        Raises:
            PermissionRefused: `permission.site`.
            StudyRefused: `study.late` for the message of a round that is over.
            IntegrityError: `blob.digest`.
        """
        try:
            if self._named(site, digest):
                return self._store.blob_path(digest)
        except IntegrityError:
            if not self._over(site, digest):
                raise
        if self._over(site, digest):
            raise StudyRefused("study.late")
        raise PermissionRefused("permission.site", "no assignment of this site names the object")

    def _over(self, site: str, digest: str) -> bool:
        """Whether one of the site's last rounds had this message, and is forgotten (`central.federation`)."""
        with self._store.read() as session:
            documents = session.scalars(
                select(AssignmentRow.document)
                .where(AssignmentRow.site == site, AssignmentRow.kind == AssignmentKind.ROUND.value)
                .where(cast(AssignmentRow.blobs, String) == "[]")
                .order_by(AssignmentRow.seq.desc())
                .limit(_LAST)
            ).all()
        return any(digest.encode() in document for document in documents)

    def _named(self, site: str, digest: str) -> bool:
        with self._lock:
            last, digests = self._known.get(site, (0, set()))
            if digest in digests:
                return True
            with self._store.read() as session:
                rows = session.execute(
                    select(AssignmentRow.seq, AssignmentRow.blobs)
                    .where(AssignmentRow.site == site, AssignmentRow.seq > last)
                    .order_by(AssignmentRow.seq)
                )
                for seq, blobs in rows:
                    last = seq
                    digests.update(str(blob["digest"]) for blob in blobs)
            self._known[site] = (last, digests)
            return digest in digests
