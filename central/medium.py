"""Land what a folder from a site without a line holds, and put the receipts beside it.

Place in the flow: a medium -> here, in the operator's own process -> the gateway's local socket -> landing zone, log.
Reading is careful (`protocol/medium.py`); every check of a parcel is the gateway's. Doing it again gives the same
receipts. Source: `docs/spec/medium.md`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, BinaryIO

from central import ipc
from central.config import CentralConfig
from protocol.durable import write_file
from protocol.errors import CorsiaError, InputError, StorageError
from protocol.medium import Note, SignedNote, named, open_plain, read_document, read_receipt, receipt_json
from protocol.parcel import Receipt, canonical_json

__all__ = ["Carried", "give_back", "land"]

_PIECE_BYTES = 8 << 20
_TIMEOUT_S = 60.0
_ALL_WAIT = ("unavailable.process", "unavailable.centre")  # what else is unavailable is so to one site: its quota


@dataclass(frozen=True, slots=True, kw_only=True)
class Carried:
    """What became of one parcel on the medium: a receipt, or the code of why not. `site` is empty if unreadable."""

    parcel_id: str
    site: str
    receipt: Receipt | None = None
    known: bool = False  # it had landed before
    code: str = ""


def land(config: CentralConfig, folder: Path) -> list[Carried]:
    """Bring every noted parcel of a folder to the gateway, each site's in its own order.

    Returns:
        What became of each; one that is refused or damaged stops no other.

    Raises:
        UnavailableError: `unavailable.process`, the gateway does not answer; what landed before has its receipt.
        StorageError: the folder cannot be read, or the centre's disk is full.
    """
    notes: list[tuple[Note, bytes]] = []
    made: list[Carried] = []
    try:
        for parcel_id, path in named(folder, "note"):
            try:
                raw = read_document(path)
                note = SignedNote.from_bytes(raw).note
                if note.parcel_id != parcel_id:
                    raise InputError("input.medium", "a note under another parcel's name")
                notes.append((note, raw))
            except (InputError, OSError):  # a link, or one that cannot be read: the others can
                made.append(Carried(parcel_id=parcel_id, site="", code="input.medium"))
    except OSError as error:
        raise StorageError("storage.failed", "the folder cannot be read") from error
    for note, raw in sorted(notes, key=lambda pair: (pair[0].site, pair[0].sequence)):
        try:
            made.append(_landed(config, folder, note, raw))
        except CorsiaError as error:
            if isinstance(error, StorageError) or error.code in _ALL_WAIT:
                raise
            made.append(Carried(parcel_id=note.parcel_id, site=note.site, code=error.code))
    return made


def give_back(folder: Path, made: list[Carried]) -> list[Carried]:
    """Put the receipts on the medium; one that cannot be put there has its code, and stops no other."""
    told = []
    for one in made:
        if one.receipt is not None:
            try:
                write_file(folder / f"{one.parcel_id}.receipt", receipt_json(one.receipt))
            except OSError as error:
                told.append(replace(one, code=StorageError.of(error).code))
                continue
        told.append(one)
    return told


def _landed(config: CentralConfig, folder: Path, note: Note, raw: bytes) -> Carried:
    def ask(method: str, **more: Any) -> dict[str, Any]:
        return ipc.call(config.socket("gateway"), method, timeout_s=_TIMEOUT_S, note=ipc.text(raw), **more)

    opened = ask("carry_open")
    known, offset = bool(opened["committed"]), int(opened["offset"])
    if not known and offset < note.size_bytes:
        try:
            with open_plain(folder / f"{note.parcel_id}.parcel") as source:
                _upload(source, offset, note.size_bytes, lambda at, data: ask("carry_upload", offset=at, data=data))
        except OSError:
            raise InputError("input.medium", "the parcel on the medium cannot be read") from None
    receipt = read_receipt(canonical_json(ask("carry_commit")))
    return Carried(parcel_id=note.parcel_id, site=note.site, receipt=receipt, known=known)


def _upload(source: BinaryIO, offset: int, size_bytes: int, send: Callable[[int, str], object]) -> None:
    source.seek(offset)
    while offset < size_bytes:
        data = source.read(min(_PIECE_BYTES, size_bytes - offset))
        if not data:
            raise InputError("input.medium", "the parcel on the medium is cut short")
        send(offset, ipc.text(data))
        offset += len(data)
