"""A C-STORE receiver: modalities and PACS push, and are told "stored" only when the file is on the disk and known.

A sender that is told otherwise sends again; so nothing is lost by a crash of ours. Only titles that the site names may
send, and only to our own. What cannot be used is set aside and counted, and answered as stored: sending it again would
change nothing.

Source: DICOM PS3.4, annex B (Storage), table B.2-1.
"""

from __future__ import annotations

from typing import Any

from edge.sources import association, instance
from edge.sources.mirror import Mirror
from edge.sources.places import Receiver
from protocol.errors import StorageError

__all__ = ["Listening"]

_STORED, _OUT_OF_RESOURCES = 0x0000, 0xA700
_LONGEST_S = 120.0


class Listening:
    """A receiver that listens until it is closed.

    Args:
        place: where, and who may send.
        mirror: where files are kept.
        alone: no other place brings files to this mirror: what was pushed until now is all there is.

    Raises:
        ConfigurationError: `config.extra-missing`.
        UnavailableError: `unavailable.source` when the address cannot be listened on.
    """

    def __init__(self, place: Receiver, mirror: Mirror, *, alone: bool = True) -> None:
        self._mirror = mirror
        ae = association.entity(place.aet, _LONGEST_S)
        ae.require_called_aet = True
        ae.require_calling_aet = list(place.callers)
        self._server = association.serve(ae, place.listen, self._store)
        if alone and not mirror.status()["complete"]:
            mirror.completed()

    def close(self) -> None:
        """Stop listening; associations that are open end."""
        self._server.shutdown()

    def _store(self, event: Any) -> int:
        uid = str(event.request.AffectedSOPInstanceUID)
        try:
            self._mirror.keep([instance.part(uid, event.encoded_dataset())])
        except StorageError:
            return _OUT_OF_RESOURCES
        return _STORED
