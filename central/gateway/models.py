"""Models: any object by its SHA-256, if an assignment of the caller's site names it; and proofs from the log."""

from __future__ import annotations

import threading
from collections.abc import Iterator

from sqlalchemy import select

from central.gateway import wire
from central.gateway.admission import Call
from central.gateway.receipts import Log
from central.store import Store
from central.store.models import AssignmentRow
from protocol.errors import InputError, PermissionRefused, StorageError
from protocol.v1 import fleet_pb2 as pb

__all__ = ["Models"]


class Models:
    """The Models service."""

    def __init__(self, store: Store, log: Log) -> None:
        self._store, self._log = store, log
        self._lock = threading.Lock()
        self._known: dict[str, tuple[int, set[str]]] = {}  # site -> last seq read, digests named

    def Fetch(self, request: pb.FetchRequest, call: Call) -> Iterator[pb.Chunk]:
        """Stream an object from an offset, in chunks of 1 MiB. The site checks the digest."""
        digest, offset = wire.fetch(request)
        if not self._named(call.site, digest):
            raise PermissionRefused("permission.site", "no assignment of this site names the object")
        path = self._store.blob_path(digest)
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
