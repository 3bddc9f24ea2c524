"""The files of a key that takes another's place: made beside it, put there once the database says so.

    FOLDER/next-KIND-TIME-ID/    the new files, durable
    one transaction              the log's leaf ID, and all that the new key signs
    retired/KIND-TIME-ID         the old files; then the new ones to their places, each by one rename

A kill before the commit leaves the old key, and a folder that vouches for nothing; after it, the next start of the
process that holds the key ends the work. At no moment is a key's file missing, for which another would be made.

Source: `docs/spec/trust.md` section 7.
"""

from __future__ import annotations

import json
import os
import secrets
import shutil
import time
from pathlib import Path

from sqlalchemy import select

from central.store import Store
from central.store.models import LogRow
from privacy.folders import make_folder
from protocol.durable import sync_folder

__all__ = ["LAST", "begin", "finish", "leaf_id"]

LAST = "last.checkpoint"  # the old log key's last word: it goes with the old files
_NEXT = "next-"
_ID_DIGITS, _SHOWN_DIGITS = 32, 8


def begin(folder: Path, kind: str) -> Path:
    """Make the empty folder (mode 0700) for a key's new files."""
    stamp = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime())
    made = folder / f"{_NEXT}{kind}-{stamp}-{secrets.token_hex(_ID_DIGITS // 2)}"
    made.mkdir(mode=0o700)
    return made


def leaf_id(made: Path) -> str:
    """The id of the log's leaf that puts these files into force, once all of them lie there; they are synced."""
    sync_folder(made)
    sync_folder(made.parent)
    return made.name[-_ID_DIGITS:]


def finish(state_dir: Path, folder: Path, store: Store) -> Path | None:
    """End what was begun under a key's folder: put into force what the log tells of, remove what it does not.

    To be called by who holds the folder alone, before it reads a key there.

    Returns:
        Where the old files are now; None when nothing was put into force.
    """
    retired = None
    for made in sorted(folder.glob(f"{_NEXT}*")):
        if _is_told(store, made.name[-_ID_DIGITS:]):
            name = made.name.removeprefix(_NEXT)[: _SHOWN_DIGITS - _ID_DIGITS]
            retired = state_dir / "retired" / name
            _place(made, retired)
        shutil.rmtree(made)
        sync_folder(folder)
    return retired


def _is_told(store: Store, name: str) -> bool:
    with store.read() as session:
        for leaf in session.scalars(select(LogRow.leaf).order_by(LogRow.index.desc())):
            said = json.loads(leaf)
            if (said.get("kind"), said.get("id")) == ("key", name):
                return True
    return False


def _place(made: Path, retired: Path) -> None:
    make_folder(retired)
    files = sorted(made.iterdir())
    for path in files:
        old = path if path.name == LAST else path.parent.parent / path.name
        if old.exists() and not (retired / path.name).exists():
            os.link(old, retired / path.name)
    for folder in (retired, retired.parent, retired.parent.parent):
        sync_folder(folder)
    for path in files:
        if path.name != LAST:
            os.replace(path, path.parent.parent / path.name)
    sync_folder(made.parent)
