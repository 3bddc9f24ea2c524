"""Receipts that came by hand, kept from the moment they are verified until the delivery thread has taken them in.

Place in the flow: `corsia edge spool import` -> here -> delivery -> spool `sent`. One file a receipt, in a folder of
the spool, so that the daemon may run while somebody imports.
"""

from __future__ import annotations

import logging
from pathlib import Path

from edge.storage import named_errors, write_file
from protocol.errors import InputError
from protocol.medium import named, read_receipt, receipt_json
from protocol.parcel import Receipt

__all__ = ["Arrivals"]

_log = logging.getLogger("edge.spool")


class Arrivals:
    """The folder `arrived/` under a spool's root.

    Raises (every call):
        StorageError: `storage.full`, `storage.failed`.
    """

    def __init__(self, spool: Path) -> None:
        self._root = spool / "arrived"
        with named_errors():
            self._root.mkdir(parents=True, exist_ok=True, mode=0o700)

    def keep(self, receipt: Receipt) -> None:
        """Keep a receipt whose signature and proof have been verified."""
        with named_errors():
            write_file(self._root / f"{receipt.parcel_id}.receipt", receipt_json(receipt))

    def waiting(self) -> list[Receipt]:
        """All that are here. One that the disk has damaged is dropped: it can be imported again."""
        found = []
        with named_errors():
            for parcel_id, path in named(self._root, "receipt"):
                try:
                    found.append(read_receipt(path.read_bytes()))
                except InputError as error:
                    _log.error("receipt.damaged", extra={"fields": {"parcel": parcel_id, "code": error.code}})
                    path.unlink()
        return found

    def drop(self, parcel_id: str) -> None:
        """Let go of one that has been taken in."""
        with named_errors():
            (self._root / f"{parcel_id}.receipt").unlink(missing_ok=True)
