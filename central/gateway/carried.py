"""Parcels that came by hand: what the gateway does for the command that reads the medium.

Three calls over the local socket, as the three on the wire, and into the same `Delivery`: a parcel on a stick is
checked, landed and logged as one that was sent. A note that the site's identity key signed stands for the certificate.
The gateway itself opens no medium.
"""

from __future__ import annotations

import base64
import binascii
from dataclasses import dataclass
from typing import Any

from central.gateway.delivery import Delivery
from central.ipc import Handler
from central.store import Store
from privacy.envelope import PublicKey
from protocol.chunk import Chunk
from protocol.errors import AuthenticationError, InputError, PermissionRefused
from protocol.medium import Note, SignedNote
from protocol.trust import Purpose
from protocol.v1 import fleet_pb2 as pb

__all__ = ["Carried"]


@dataclass(slots=True)
class _Signer:
    """A `Caller` that a signature vouches for."""

    site: str

    def check(self) -> None:
        """A local call is not closed from outside."""


class Carried:
    """The local methods `carry_open`, `carry_upload` and `carry_commit`."""

    def __init__(self, store: Store, delivery: Delivery) -> None:
        self._store, self._delivery = store, delivery
        self.handlers: dict[str, Handler] = {
            "carry_open": self._open,
            "carry_upload": self._upload,
            "carry_commit": self._commit,
        }

    def _open(self, params: dict[str, Any]) -> dict[str, Any]:
        note, caller = self._verified(params)
        reply = self._delivery.Open(
            pb.OpenRequest(
                parcel_id=note.parcel_id,
                study_digest=note.study_digest,
                content_type=note.content_type,
                size_bytes=note.size_bytes,
                digest=note.digest,
                assignment_id=note.assignment_id,
            ),
            caller,
        )
        return {"offset": reply.offset, "committed": reply.committed}

    def _upload(self, params: dict[str, Any]) -> dict[str, Any]:
        note, caller = self._verified(params)
        offset = params.get("offset")
        if type(offset) is not int or offset < 0:
            raise InputError("input.message", "offset")
        chunk = Chunk(note.parcel_id, offset, _bytes(params.get("data")))
        return {"offset": self._delivery.Upload(iter([chunk]), caller).offset}

    def _commit(self, params: dict[str, Any]) -> dict[str, Any]:
        note, caller = self._verified(params)
        reply = self._delivery.Commit(pb.CommitRequest(parcel_id=note.parcel_id), caller)
        return {
            "parcel_id": reply.parcel_id,
            "digest": reply.digest,
            "index": reply.index,
            "proof": list(reply.proof),
            "checkpoint": reply.checkpoint,
        }

    def _verified(self, params: dict[str, Any]) -> tuple[Note, _Signer]:
        """The note, when the site that it names signed it and is one of ours.

        Raises:
            InputError: `input.medium`, `input.message`.
            PermissionRefused: `permission.site`; AuthenticationError: `auth.revoked`.
            IntegrityError: `parcel.signature`.
        """
        signed = SignedNote.from_bytes(_bytes(params.get("note")))
        if not 0 < signed.note.size_bytes < 1 << 53:
            raise InputError("input.message", "size_bytes")
        site = self._store.site(signed.note.site)
        if site is None:
            raise PermissionRefused("permission.site", "no such site is enrolled")
        if site.revoked:
            raise AuthenticationError("auth.revoked")
        PublicKey.from_base64(site.identity).verify(Purpose.MEDIUM, signed.note.document(), signed.signature)
        return signed.note, _Signer(site.name)


def _bytes(value: object) -> bytes:
    try:
        return base64.b64decode(value if isinstance(value, str) else "-", validate=True)
    except (ValueError, binascii.Error):
        raise InputError("input.message", "malformed local message") from None
