"""A folder as one sealed file: what a backup is made of, at a hospital and at the centre.

    files of a folder -> `sealed` -> one parcel of the envelope, sealed to a recovery key and signed by whose it is
    parcel -> signature, then file by file -> `opened` -> digests checked -> an empty folder, or nowhere at all

The payload is a head, then each file as a frame, its bytes and their SHA-256, then an end that counts them: each frame
an 8-byte big-endian length and canonical JSON. It opens no file but those that it is told of, and decides nothing.
Source: `docs/backup.md`; the seal is `docs/spec/envelope.md`.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import struct
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from privacy.envelope import ParcelInfo, PublicKey, SecretKey, new_parcel_id, seal, unseal
from privacy.folders import make_folder, written
from protocol.errors import IntegrityError
from protocol.parcel import canonical_json

__all__ = ["FORMAT", "Head", "Member", "opened", "sealed"]

FORMAT = "corsia-backup-1"
MAX_FRAME_BYTES = 1 << 20
_PIECE_BYTES = 1 << 20
_LENGTH = struct.Struct(">Q")
_KIND = re.compile(r"[a-z]{1,16}")
_CONTENT = "backup"


@dataclass(frozen=True, slots=True, kw_only=True)
class Head:
    """What a backup says of itself: `kind` (edge, central, keys), whose it is, when (Unix seconds), which version."""

    kind: str
    name: str
    at: float
    version: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Member:
    """One file: its path within the folder, bytes, SHA-256 (hex)."""

    name: str
    size: int
    sha256: str


def sealed(folder: Path, out: Path, head: Head, *, recipient: PublicKey, signer: SecretKey) -> tuple[str, int]:
    """Seal all regular files of a folder; `out` appears whole or not at all, mode 0600.

    Args:
        folder: whose files do not change meanwhile.
        out: the backup's file.

    Returns:
        SHA-256 (hex) of the backup and the number of files.

    Raises:
        ConflictError: `conflict.exists`: there is one of this name; it is left as it is.
        OSError: there is no new file.
    """
    names = sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())
    info = ParcelInfo(parcel_id=new_parcel_id(), study=f"backup-{head.kind}", site=head.name, content_type=_CONTENT)

    def fill(target: BinaryIO) -> str:
        return seal(_packed(folder, names, head), target, info=info, recipients=[recipient], signer=signer)

    return written(out, fill), len(names)


def opened(
    source: Path,
    *,
    kind: str,
    key: SecretKey,
    sender: PublicKey,
    keep: Callable[[str], Path | None] = lambda _name: None,
) -> tuple[Head, list[Member]]:
    """Open a backup and check every byte of it.

    Args:
        source: the backup's file.
        kind: which it must be.
        key: the recovery key.
        sender: whose signature must stand under it.
        keep: where a file is to be written (durably, 0600, folders 0700); None: it is read and checked alone.

    Raises:
        IntegrityError: `parcel.*`; `backup.format` for anything but one whole backup of this kind. What was written
            until then is of no use.
        OSError: a file cannot be read or written.
    """
    with source.open("rb") as file:
        pieces = unseal(file, key=key, sender=sender)
        try:
            return _unpacked(_Pieces(pieces), kind, keep)
        except (ValueError, KeyError, TypeError, RecursionError, struct.error):
            raise IntegrityError("backup.format") from None


def _packed(folder: Path, names: list[str], head: Head) -> Iterator[bytes]:
    yield _frame({"format": FORMAT, "kind": head.kind, "name": head.name, "at": head.at, "version": head.version})
    for name in names:
        with (folder / name).open("rb") as source:
            left = os.fstat(source.fileno()).st_size
            yield _frame({"file": name, "size": left})
            digest = hashlib.sha256()
            while left:
                piece = source.read(min(left, _PIECE_BYTES))
                if not piece:
                    raise OSError(5, "a file became shorter while it was backed up")
                digest.update(piece)
                left -= len(piece)
                yield piece
            yield digest.digest()
    yield _frame({"end": len(names)})


def _unpacked(source: _Pieces, kind: str, keep: Callable[[str], Path | None]) -> tuple[Head, list[Member]]:
    first = source.frame()
    if first.pop("format") != FORMAT or first["kind"] != kind or not _KIND.fullmatch(kind):
        raise IntegrityError("backup.format", "not a backup of this kind")
    head = Head(kind=kind, name=str(first["name"]), at=float(first["at"]), version=str(first["version"]))
    members: dict[str, Member] = {}
    while "file" in (frame := source.frame()):
        name, size = _safe(frame["file"]), frame["size"]
        if type(size) is not int or size < 0 or name in members:
            raise ValueError("file")
        members[name] = Member(name=name, size=size, sha256=_file(source, size, keep(name)))
    if frame != {"end": len(members)} or not source.ended():
        raise ValueError("end")
    return head, list(members.values())


def _file(source: _Pieces, size: int, place: Path | None) -> str:
    digest = hashlib.sha256()
    with closing(_Target(place)) as target:
        for piece in source.read(size):
            digest.update(piece)
            target.write(piece)
        target.sync()
    if b"".join(source.read(digest.digest_size)) != digest.digest():
        raise ValueError("digest")
    return digest.hexdigest()


def _safe(name: object) -> str:
    """A path that stays within the folder, whoever wrote it."""
    if not isinstance(name, str) or len(name) > 4096 or "\0" in name:
        raise ValueError("name")
    if any(part in ("", ".", "..") or len(part.encode()) > 255 for part in name.split("/")):
        raise ValueError("name")
    return name


def _frame(value: dict[str, Any]) -> bytes:
    raw = canonical_json(value)
    return _LENGTH.pack(len(raw)) + raw


class _Pieces:
    """A stream of pieces, read by lengths."""

    def __init__(self, pieces: Iterator[bytes]) -> None:
        self._pieces, self._rest = pieces, memoryview(b"")

    def read(self, size: int) -> Iterator[memoryview]:
        while size:
            if not self._rest:
                self._rest = memoryview(next(self._pieces, b""))
                if not self._rest:
                    raise ValueError("short")
            piece, self._rest = self._rest[:size], self._rest[size:]
            size -= len(piece)
            yield piece

    def frame(self) -> dict[str, Any]:
        (size,) = _LENGTH.unpack(b"".join(self.read(_LENGTH.size)))
        if size > MAX_FRAME_BYTES:
            raise ValueError("frame")
        raw = b"".join(self.read(size))
        value = json.loads(raw)
        if not isinstance(value, dict) or canonical_json(value) != raw:
            raise ValueError("frame")
        return value

    def ended(self) -> bool:
        return not self._rest and not any(self._pieces)


class _Target:
    """A new file, or none."""

    def __init__(self, place: Path | None) -> None:
        self._file: BinaryIO | None = None
        if place is not None:
            make_folder(place.parent)
            self._file = os.fdopen(os.open(place, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600), "wb")

    def write(self, piece: memoryview) -> None:
        if self._file is not None:
            self._file.write(piece)

    def sync(self) -> None:
        if self._file is not None:
            self._file.flush()
            os.fsync(self._file.fileno())

    def close(self) -> None:
        if self._file is not None:
            self._file.close()
