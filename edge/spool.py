"""Sealed parcels on the site's disk, from the moment they are whole until the centre's receipt is verified.

Place in the flow: agent -> `hold` (sealed, not yet allowed out) -> `release` (all of an assignment, or none) ->
delivery thread: `pending`, `sending`, then `sent` or `bad`. It sees ciphertext alone and never opens a parcel.

    held/     sealed, not released: discarded at the next start
    new/      released, waiting
    sending/  being delivered; back to new/ at the next start
    sent/     the receipt, JSON; the parcel's bytes are gone
    bad/      refused by the centre for good, with its code; `retry` puts it back
    meta/     one JSON a parcel, durable before the parcel is visible
    marks/    releases under way: a crash in the middle is completed at the next start

A parcel is one file `SEQUENCE-PARCEL_ID.parcel` and its state is the folder it lies in, so each step is one rename.
"""

from __future__ import annotations

import hashlib
import logging
import os
import re
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import asdict, replace
from pathlib import Path
from typing import BinaryIO, cast

from edge.bound import Bound
from edge.entry import ParcelMeta, SpoolEntry, check_meta, damage_of, entry_json, entry_of
from edge.storage import TEMPORARY, named_errors, read_json, sync_folder, write_file, write_files
from protocol.errors import CODES, ConflictError, InputError, IntegrityError, StorageError
from protocol.faults import point
from protocol.parcel import Receipt, canonical_json

__all__ = ["FOLDERS", "ParcelMeta", "Spool", "SpoolEntry"]

FOLDERS = ("held", "new", "sending", "bad")
_NAME = re.compile(r"^([0-9]{12})-([0-9a-f]{32})\Z")
_HEX64 = re.compile(r"^[0-9a-f]{64}\Z")
_HEX32 = re.compile(r"^[0-9a-f]{32}\Z")
_log = logging.getLogger("edge.spool")


class Spool:
    """The spool under `root`. One process holds and delivers; others may list, verify and `retry`.

    Args:
        root: made with mode 0700 when absent.
        max_bytes: bound over all parcels that lie here, whatever their state.
    """

    def __init__(self, root: Path, max_bytes: int) -> None:
        self._root = root
        self._lock = threading.RLock()
        self._sequence: int | None = None
        self._receipts: dict[str, SpoolEntry] = {}
        self._bound = Bound(max_bytes, lambda: self.usage()[1], self._lock)
        with named_errors():
            for folder in (*FOLDERS, "sent", "meta", "marks"):
                (root / folder).mkdir(parents=True, exist_ok=True, mode=0o700)

    @property
    def root(self) -> Path:
        """The spool's folder."""
        return self._root

    def recover(self) -> None:
        """Bring the folders in order after a crash; to be called once, before anything else, by the daemon alone.

        Half-written and held parcels are discarded, releases under way are completed, parcels that were being sent
        wait again, what a verified receipt covers is removed. A parcel whose description is lost goes to bad/.
        """
        with self._lock, named_errors():
            for folder in (*FOLDERS, "sent", "meta", "marks"):
                for path in (self._root / folder).glob(f"{TEMPORARY}*"):
                    path.unlink()
            for mark in sorted((self._root / "marks").glob("*.json")):
                self._finish_release(mark)
            for path in (self._root / "held").glob("*.parcel"):
                self._remove(path)
            for path in (path for name in ("new", "sending") for path in (self._root / name).glob("*.parcel")):
                if (self._root / "sent" / f"{path.stem}.json").exists():
                    self._remove(path)
                elif path.parent.name == "sending":
                    self._move(path, "new")
            self._sweep()

    def hold(self, meta: ParcelMeta, write: Callable[[BinaryIO], str]) -> SpoolEntry:
        """Write one sealed parcel; it is whole on disk, or not there at all. It waits for `release`.

        Args:
            meta: what the parcel is.
            write: writes the parcel to the file it is given and returns the SHA-256 (hex) of what it wrote.

        Raises:
            StorageError: `storage.spool-full` beyond the bound, `storage.full`, `storage.failed`.
            ConflictError: `conflict.exists` for a parcel id that is here already.
            CorsiaError: whatever `write` raises. In each case nothing remains.
        """
        check_meta(meta)
        with self._lock:
            if self._locate(meta.parcel_id) is not None:
                raise ConflictError("conflict.exists", "this parcel id is in the spool already")
            sequence = self._next_sequence()
        name = f"{sequence:012d}-{meta.parcel_id}"
        temporary = self._root / "held" / f"{TEMPORARY}{name}"
        path = self._root / "held" / f"{name}.parcel"
        with named_errors():
            try:
                with self._bound.half(temporary) as half:
                    digest = write(cast(BinaryIO, half))
                    point("edge.sealing")
                    if not _HEX64.match(digest):
                        raise AssertionError("spool: the writer returned no digest")
                    os.fsync(half.fileno())
                    entry = SpoolEntry(
                        **asdict(meta), sequence=sequence, digest=digest, size_bytes=half.size, path=path
                    )
                    write_file(self._root / "meta" / f"{name}.json", entry_json(entry))
                    os.rename(temporary, path)
                    sync_folder(path.parent)
                    self._bound.add(half.size)
            except BaseException:
                self._remove(path)
                raise
        return entry

    def release(self, assignment_id: str) -> list[SpoolEntry]:
        """Let all held parcels of an assignment out, as a whole: after a crash in the middle, `recover` completes it.

        Returns:
            The released entries in order; empty when nothing is held.
        """
        with self._lock, named_errors():
            held = [entry for entry in self._list("held") if entry.assignment_id == assignment_id]
            if len(held) == 1:  # one rename is all or nothing by itself
                self._move(held[0].path, "new")
            elif held:
                mark = self._mark(assignment_id)
                write_file(mark, canonical_json({"names": [entry.path.stem for entry in held]}))
                self._finish_release(mark)
        point("edge.spooled")
        return [self._moved(entry, "new") for entry in held]

    def discard(self, assignment_id: str) -> int:
        """Remove what is held for an assignment; what is released stays. Returns how many parcels went."""
        with self._lock, named_errors():
            held = [entry for entry in self._list("held") if entry.assignment_id == assignment_id]
            for entry in held:
                self._remove(entry.path)
            return len(held)

    def alone(self, assignment_id: str) -> bool:
        """Whether nothing but what is held for this assignment takes room: then waiting makes none."""
        with self._lock, named_errors():
            others = [path for folder in FOLDERS if folder != "held" for path in (self._root / folder).glob("*.parcel")]
            held = [self._read(path) for path in (self._root / "held").iterdir() if path.is_file()]
            return not others and all(entry is not None and entry.assignment_id == assignment_id for entry in held)

    def room(self) -> tuple[int, bool]:
        """Bytes left under the bound, and whether delivery will make more of itself."""
        with self._lock, named_errors():
            waiting = any(next((self._root / folder).glob("*.parcel"), None) for folder in ("new", "sending"))
            return self._bound.left(), waiting

    def pending(self) -> list[SpoolEntry]:
        """What is to be delivered, in order: new parcels and those whose sending did not end."""
        with self._lock, named_errors():
            return sorted([*self._list("new"), *self._list("sending")], key=lambda entry: entry.sequence)

    def sending(self, entry: SpoolEntry) -> SpoolEntry:
        """Note that delivery begins (again); returns the entry with its new path.

        Raises:
            ConflictError: `conflict.state` when it is neither new nor being sent.
        """
        with self._lock, named_errors():
            path = self._find(entry.parcel_id, ("new", "sending"), entry.sequence)
            if path.parent.name == "new":  # durable or not, it waits to be sent at the next start
                os.rename(path, self._root / "sending" / path.name)
            return self._moved(entry, "sending")

    def sent(self, entry: SpoolEntry, receipt: Receipt) -> None:
        """Keep one *verified* receipt; as `all_sent`."""
        self.all_sent([(entry, receipt)])

    def all_sent(self, parcels: Sequence[tuple[SpoolEntry, Receipt]]) -> None:
        """Keep *verified* receipts, durably and together, and let the parcels' bytes go. Idempotent.

        Raises:
            IntegrityError: `log.proof` when a receipt is for another parcel; nothing changes.
            ConflictError: `conflict.state` when no such parcel is being sent.
        """
        if any((receipt.parcel_id, receipt.digest) != (entry.parcel_id, entry.digest) for entry, receipt in parcels):
            raise IntegrityError("log.proof", "the receipt is for another parcel")
        with self._lock, named_errors():
            new: dict[str, bytes] = {}
            for entry, receipt in parcels:
                name = f"{entry.sequence:012d}-{entry.parcel_id}.json"
                if not (self._root / "sent" / name).exists():
                    self._find(entry.parcel_id, ("new", "sending"), entry.sequence)
                    new[name] = entry_json(entry, receipt=asdict(receipt), sent_at=round(time.time(), 3))
            write_files(self._root / "sent", new)
            for entry, _ in parcels:
                path = self._locate(entry.parcel_id, entry.sequence)
                if path is not None:
                    self._remove(path)

    def bad(self, entry: SpoolEntry, code: str) -> None:
        """Set a parcel aside that the centre refuses for good, with the code."""
        if code not in CODES:
            raise AssertionError(f"unknown error code {code!r}")
        with self._lock, named_errors():
            path = self._find(entry.parcel_id, ("new", "sending"), entry.sequence)
            write_file(self._root / "bad" / f"{path.stem}.json", canonical_json({"code": code}))
            self._move(path, "bad")

    def drop(self, entry: SpoolEntry) -> None:
        """Remove a parcel that was released and that nobody wants any more. Idempotent."""
        with self._lock, named_errors():
            path = self._locate(entry.parcel_id, entry.sequence)
            if path is not None:
                self._remove(path)

    def has(self, entry: SpoolEntry) -> bool:
        """Whether a parcel's bytes are here, in whatever folder."""
        with self._lock, named_errors():
            return self._locate(entry.parcel_id) is not None

    def retry(self, parcel_id: str) -> SpoolEntry:
        """Put a parcel that was set aside back in the queue.

        Raises:
            InputError: `input.usage` when the text is no parcel id.
            ConflictError: `conflict.state` when it is not in bad/, or is damaged there.
        """
        if not _HEX32.match(parcel_id):
            raise InputError("input.usage", "a parcel id is 32 hexadecimal digits")
        with self._lock, named_errors():
            entry = self._read(self._find(parcel_id, ("bad",)))
            if entry is None or damage_of(entry) is not None:
                raise ConflictError("conflict.state", "the parcel is damaged and cannot be sent")
            self._move(entry.path, "new")
            (self._root / "bad" / f"{entry.path.stem}.json").unlink(missing_ok=True)
            return self._moved(entry, "new")

    def open(self, entry: SpoolEntry) -> BinaryIO:
        """Open a parcel for reading, wherever it lies now."""
        with self._lock, named_errors():
            return self._find(entry.parcel_id, FOLDERS, entry.sequence).open("rb")

    def entries(self) -> list[tuple[str, SpoolEntry]]:
        """Every parcel with the folder it lies in, in order; `sent` ones too, by their receipt's file."""
        with self._lock, named_errors():
            found = [(folder, entry) for folder in FOLDERS for entry in self._list(folder)]
            found += [("sent", entry) for entry in self._sent()]
            return sorted(found, key=lambda pair: pair[1].sequence)

    def released(self, assignment_id: str) -> list[tuple[str, SpoolEntry]]:
        """The parcels of an assignment that were released: they must not be made again.

        A release that the disk stopped half way is completed first, as at a start.
        """
        with self._lock, named_errors():
            if (mark := self._mark(assignment_id)).exists():
                self._finish_release(mark)
        return [(f, entry) for f, entry in self.entries() if f != "held" and entry.assignment_id == assignment_id]

    def receipts(self) -> Iterator[tuple[SpoolEntry, Receipt]]:
        """Every receipt kept, in order."""
        for entry in self._sent():
            value = dict(read_json(entry.path)["receipt"])
            yield entry, Receipt(**{**value, "proof": tuple(value["proof"])})

    def code(self, entry: SpoolEntry) -> str:
        """Why a parcel lies in bad/; empty when it does not."""
        path = self._root / "bad" / f"{entry.sequence:012d}-{entry.parcel_id}.json"
        return str(read_json(path).get("code", "")) if path.exists() else ""

    def usage(self) -> tuple[int, int]:
        """Parcels and bytes that wait here (held, new, sending, bad)."""
        with self._lock, named_errors():
            sizes = []
            for path in (path for folder in FOLDERS for path in (self._root / folder).glob("*.parcel")):
                with suppress(FileNotFoundError):  # the daemon moved it meanwhile
                    sizes.append(path.stat().st_size)
            return len(sizes), sum(sizes)

    def verify(self) -> list[tuple[str, str]]:
        """Hash every parcel again; returns (parcel id, code) of those that are not what was written."""
        found: list[tuple[str, str]] = []
        for folder in FOLDERS:
            for path in sorted((self._root / folder).glob("*.parcel")):
                entry = self._read(path)
                code = "storage.failed" if entry is None else damage_of(entry)
                if code is not None and path.exists():  # it may have been delivered meanwhile
                    found.append((path.stem.partition("-")[2], code))
        return found

    def _mark(self, assignment_id: str) -> Path:
        return self._root / "marks" / f"{hashlib.sha256(assignment_id.encode()).hexdigest()[:32]}.json"

    def _finish_release(self, mark: Path) -> None:
        for name in read_json(mark).get("names", []):
            path = self._root / "held" / f"{name}.parcel"
            if _NAME.match(str(name)) and path.exists():
                os.rename(path, self._root / "new" / path.name)
        sync_folder(self._root / "new")
        sync_folder(self._root / "held")
        mark.unlink()  # one that comes back after a power cut finds nothing to move

    def _sweep(self) -> None:
        """Set parcels without a description aside; remove descriptions and codes without a parcel."""
        stems = {path.stem for folder in FOLDERS for path in (self._root / folder).glob("*.parcel")}
        for folder in ("new", "sending"):
            for path in (self._root / folder).glob("*.parcel"):
                if self._read(path) is None:
                    _log.error("spool.damaged", extra={"fields": {"code": "storage.failed"}})
                    write_file(self._root / "bad" / f"{path.stem}.json", canonical_json({"code": "storage.failed"}))
                    self._move(path, "bad")
        for folder in ("meta", "bad"):
            for path in (self._root / folder).glob("*.json"):
                if path.stem not in stems:
                    path.unlink()

    def _next_sequence(self) -> int:
        if self._sequence is None:
            stems = [p.stem for folder in (*FOLDERS, "sent", "meta") for p in (self._root / folder).iterdir()]
            self._sequence = max((int(match[1]) for stem in stems if (match := _NAME.match(stem))), default=0)
        self._sequence += 1
        return self._sequence

    def _list(self, folder: str) -> list[SpoolEntry]:
        paths = sorted((self._root / folder).glob("*.parcel"))
        return [entry for path in paths if (entry := self._read(path)) is not None]

    def _read(self, path: Path) -> SpoolEntry | None:
        try:
            entry = entry_of(read_json(self._root / "meta" / f"{path.stem}.json"), path)
        except (KeyError, ValueError, TypeError):
            return None
        match = _NAME.match(path.stem)
        return entry if match and (int(match[1]), match[2]) == (entry.sequence, entry.parcel_id) else None

    def _sent(self) -> list[SpoolEntry]:
        """The sent parcels in order; a receipt never changes, so each is read once."""
        for path in sorted((self._root / "sent").glob("[0-9]*.json")):
            if path.name not in self._receipts:
                try:
                    self._receipts[path.name] = entry_of(read_json(path), path)
                except (KeyError, ValueError, TypeError):
                    raise StorageError("storage.failed", f"a receipt is damaged: {path.name}") from None
        return list(self._receipts.values())

    def _locate(self, parcel_id: str, sequence: int | None = None) -> Path | None:
        """Where a parcel lies now; by its whole name where that is known, which costs no listing."""
        if sequence is not None:
            paths = (self._root / folder / f"{sequence:012d}-{parcel_id}.parcel" for folder in FOLDERS)
            return next((path for path in paths if path.exists()), None)
        for folder in FOLDERS:
            for name in os.listdir(self._root / folder):
                if name.endswith(f"-{parcel_id}.parcel") and not name.startswith("."):
                    return self._root / folder / name
        return None

    def _find(self, parcel_id: str, folders: tuple[str, ...], sequence: int | None = None) -> Path:
        path = self._locate(parcel_id, sequence)
        if path is None or path.parent.name not in folders:
            raise ConflictError("conflict.state", f"the parcel is not in {' or '.join(folders)}")
        return path

    def _move(self, path: Path, folder: str) -> None:
        os.rename(path, self._root / folder / path.name)
        sync_folder(self._root / folder)
        sync_folder(path.parent)

    def _moved(self, entry: SpoolEntry, folder: str) -> SpoolEntry:
        return replace(entry, path=self._root / folder / f"{entry.sequence:012d}-{entry.parcel_id}.parcel")

    def _remove(self, path: Path) -> None:
        path.unlink(missing_ok=True)
        (self._root / "meta" / f"{path.stem}.json").unlink(missing_ok=True)
        if path.parent.name == "bad":
            (self._root / "bad" / f"{path.stem}.json").unlink(missing_ok=True)
