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
import shutil
import sqlite3
import struct
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, TypeVar

from privacy.envelope import ParcelInfo, PublicKey, SecretKey, new_parcel_id, seal, unseal, write_key, write_public
from protocol.errors import ConflictError, IntegrityError
from protocol.parcel import canonical_json

__all__ = [
    "FORMAT",
    "Head",
    "Member",
    "copy_database",
    "fsync_folder",
    "linked",
    "make_folder",
    "make_recovery_key",
    "opened",
    "placed",
    "sealed",
    "written",
]

FORMAT = "corsia-backup-1"
MAX_FRAME_BYTES = 1 << 20
_PIECE_BYTES = 1 << 20
_LENGTH = struct.Struct(">Q")
_KIND = re.compile(r"[a-z]{1,16}")
_CONTENT = "backup"
_Result = TypeVar("_Result")


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


def written(out: Path, fill: Callable[[BinaryIO], str]) -> str:
    """Let `fill` write a new file, whole and durable or not at all, mode 0600; what `fill` returns.

    Raises:
        ConflictError: `conflict.exists`.
        OSError: there is no new file.
    """
    if out.exists() or out.is_symlink():
        raise ConflictError("conflict.exists", f"{out} exists; a backup is never overwritten")
    half = out.with_name(f".tmp-{out.name}")
    half.unlink(missing_ok=True)
    try:
        with os.fdopen(os.open(half, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600), "wb") as target:
            result = fill(target)
            target.flush()
            os.fsync(target.fileno())
        os.rename(half, out)
    except BaseException:
        half.unlink(missing_ok=True)
        raise
    fsync_folder(out.parent)
    return result


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


def placed(folder: Path, fill: Callable[[Path], _Result]) -> _Result:
    """Make a folder that is whole and durable, or not there: filled beside its place (mode 0700), then renamed.

    Args:
        folder: absent, or empty.
        fill: fills the folder that it is given.

    Raises:
        ConflictError: `conflict.exists` when something is in it.
        OSError: the folder is as it was.
    """
    if folder.is_symlink() or (folder.exists() and (not folder.is_dir() or any(folder.iterdir()))):
        raise ConflictError("conflict.exists", f"{folder} is not empty: nothing is put over what is there")
    half = folder.with_name(f".tmp-{folder.name}")
    shutil.rmtree(half, ignore_errors=True)  # of a process that was killed
    try:
        half.mkdir(parents=True, mode=0o700)
        result = fill(half)
        for place, _folders, _files in os.walk(half):
            fsync_folder(Path(place))
        os.rename(half, folder)
    except BaseException:
        shutil.rmtree(half, ignore_errors=True)
        raise
    fsync_folder(folder.parent)
    return result


def linked(source: Path, target: Path) -> bool:
    """Take a file that is only ever replaced, never changed, into a snapshot; False when it is gone, or was taken."""
    if target.exists():
        return False
    make_folder(target.parent)
    try:
        os.link(source, target, follow_symlinks=False)
    except FileNotFoundError:
        return False
    except OSError:  # another disk, or one without links
        with source.open("rb") as read, closing(_Target(target)) as write:
            while piece := read.read(_PIECE_BYTES):
                write.write(memoryview(piece))
    return True


def copy_database(source: Path, target: Path) -> None:
    """A consistent copy of a SQLite file, as one file, whoever writes to it; none of one that is not there."""
    if not source.exists():
        return
    os.close(os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))
    read = sqlite3.connect(f"{source.absolute().as_uri()}?mode=ro", uri=True, timeout=30.0)
    try:
        write = sqlite3.connect(target)
        try:
            read.backup(write)
            write.execute("PRAGMA journal_mode=DELETE")
        finally:
            write.close()
    finally:
        read.close()


def make_folder(folder: Path) -> None:
    """Make a folder and what is missing above it, all of mode 0700."""
    if not folder.is_dir():
        make_folder(folder.parent)
        folder.mkdir(mode=0o700, exist_ok=True)


def make_recovery_key(out: Path, kept: Path, signer: PublicKey) -> PublicKey:
    """Make the key that backups are sealed to. What is needed to put one back is `out` and `out.sender`, off-site.

    Args:
        out: the secret key's file; beside it `out.pub`, and `out.sender` with the key that signs the backups.
        kept: where the public half stays; one that is there is replaced.

    Raises:
        ConflictError: `conflict.exists`; nothing is written.
    """
    public, sender = (out.with_name(out.name + end) for end in (".pub", ".sender"))
    if any(path.exists() or path.is_symlink() for path in (out, public, sender)):
        raise ConflictError("conflict.exists", f"{out} exists; a key is never overwritten")
    key = SecretKey.generate()
    write_key(out, key)
    write_public(public, key.public)
    write_public(sender, signer)
    half = kept.with_name(f".tmp-{kept.name}")
    half.unlink(missing_ok=True)
    write_public(half, key.public)
    os.rename(half, kept)
    fsync_folder(kept.parent)
    return key.public


def fsync_folder(folder: Path) -> None:
    """Make the names in a folder durable."""
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


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
