"""One moment of a site's state folder, taken while the daemon works in it.

Nothing is stopped: what is appended to is copied under its own lock, databases by SQLite's backup, and files that are
only ever replaced are linked. What must lie in what decides the order: a parcel of the spool is in the journal, and
what the journal plans is spent in the ledger; the state's remembered heads are in both. So a state put back may have
spent more than it did, never less.
"""

from __future__ import annotations

import fcntl
import os
import time
from collections.abc import Iterable
from pathlib import Path

from edge.storage import TEMPORARY
from privacy.folders import copy_database, linked
from protocol.errors import ConflictError

__all__ = ["take"]

# Taken by its own rule, or not at all: logs, locks, scratch, and results of predictions, which are patients' rows that
# can be made again from the source.
_OWN = frozenset(
    {"state.db", "ledger.db", "journal.jsonl", "journal.heads", "tls.pem", "tls.key", "tls.next.key", "spool"}
)
_LEFT_OUT = frozenset({"lock", "backup.lock", "log.jsonl", "work", "results"})
_CHANNEL = ("tls.next.key", "tls.key")
# In the order in which a parcel goes through them. What is held is not taken: the next start would discard it.
_RELEASED = ("bad", "new", "sending", "sent")
_TRIES, _WAIT_S = 100, 0.02


def take(state_dir: Path, into: Path) -> None:
    """Snapshot a state folder into an empty folder: everything in it but what is of no use elsewhere.

    Raises:
        ConflictError: `conflict.state` when the spool does not come to rest.
        OSError, sqlite3.Error: nothing of use is there.
    """
    copy_database(state_dir / "state.db", into / "state.db")
    _link_others(state_dir, into)  # first: what names a head of the journal or the ledger must not be ahead of it
    _copy_grown(state_dir / "journal.heads", into / "journal.heads")
    _take_spool(state_dir / "spool", into / "spool")
    _copy_grown(state_dir / "journal.jsonl", into / "journal.jsonl")
    copy_database(state_dir / "ledger.db", into / "ledger.db")
    _link_others(state_dir, into)  # and keys that were made since: the ledger's memory is under one
    for path in state_dir.glob("*.db"):
        if path.name not in _OWN:
            copy_database(path, into / path.name)
    _channel(state_dir, into)


def _link_others(state_dir: Path, into: Path) -> None:
    """Files that are only ever replaced as a whole: keys, trust, marks, and folders of such files."""
    for path in _files(state_dir):
        if path.name in _OWN | _LEFT_OUT or path.name.endswith((".db", ".db-wal", ".db-shm", ".db-journal")):
            continue
        for file in path.rglob("*") if path.is_dir() else (path,):
            if file.is_file() and not file.is_symlink() and not file.name.startswith(TEMPORARY):
                linked(file, into / file.relative_to(state_dir))


def _copy_grown(source: Path, target: Path) -> None:
    """A file that is appended to, as it is now; of the journal whole lines alone: each append holds the same lock."""
    if not source.exists():
        return
    with source.open("rb") as read:
        fcntl.flock(read.fileno(), fcntl.LOCK_SH)
        size = os.fstat(read.fileno()).st_size
        fcntl.flock(read.fileno(), fcntl.LOCK_UN)
        with open(os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600), "wb") as write:
            while size and (piece := read.read(min(size, 1 << 20))):
                size -= len(piece)
                write.write(piece)


def _take_spool(spool: Path, into: Path) -> None:
    """All parcels of a release or none: look again until nothing was released meanwhile."""
    for _ in range(_TRIES):
        for name in _RELEASED:
            for path in _files(spool / name):
                meta = f"{path.stem}.json"
                linked(spool / "meta" / meta, into / "meta" / meta)  # first: it goes last
                if linked(path, into / name / path.name):
                    _forget_others(into, name, path)
        taken = {path.stem for name in _RELEASED for path in _files(into / name)}
        there = {path.stem for name in _RELEASED for path in _files(spool / name)}
        if there <= taken and not any(_files(spool / "marks")):
            return
        time.sleep(_WAIT_S)
    raise ConflictError("conflict.state", "the spool does not come to rest: pause egress and try again")


def _forget_others(into: Path, name: str, path: Path) -> None:
    """A parcel that moved on while it was looked for is where it came to last."""
    for other in _RELEASED:
        if other != name and path.suffix == ".parcel":
            (into / other / path.name).unlink(missing_ok=True)
    if name == "sent":
        for other in _RELEASED[:-1]:
            (into / other / f"{path.stem}.parcel").unlink(missing_ok=True)


def _files(folder: Path) -> Iterable[Path]:
    return [path for path in folder.glob("*") if not path.name.startswith(TEMPORARY)]


def _channel(state_dir: Path, into: Path) -> None:
    """Certificate and key are two files, renewed together: again when they were renewed in between."""
    chain = state_dir / "tls.pem"
    while chain.exists():
        before = chain.read_bytes()
        for name in _CHANNEL:
            (into / name).unlink(missing_ok=True)
            linked(state_dir / name, into / name)
        if chain.read_bytes() == before:
            linked(chain, into / "tls.pem")
            if (into / "tls.pem").read_bytes() == before:
                return
            (into / "tls.pem").unlink()
