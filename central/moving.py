"""A centre that grows: its database to PostgreSQL, its blobs and lake to a bucket. `corsia central move`.

Both are moved while the centre is stopped, and the secret file that names the new place is written last: until then
the old place is the centre's. What was there stays beside it under another name, for its operator to remove.
After a restore this is also the way of a backup, which is always a file and folders, to where the centre was.
"""

from __future__ import annotations

import hashlib
import os
from io import BytesIO
from pathlib import Path
from typing import cast

from central import ipc
from central import objects as bucketed
from central.store import engine as stored
from central.store.copying import fill
from protocol.durable import sync_folder, write_file
from protocol.errors import ConfigurationError, ConflictError, StorageError

__all__ = ["move_database", "move_objects"]

_MOVED = "moved-"


def move_database(state_dir: Path, url_file: Path) -> int:
    """Fill an empty PostgreSQL database with the rows that lie here, and stand on it from now on.

    Args:
        state_dir: of a stopped centre.
        url_file: whose text is the database's URL; mode 0600.

    Returns:
        How many rows were moved.

    Raises:
        ConflictError: `conflict.running`; `conflict.exists`: it has a database elsewhere, or that one has rows.
        ConfigurationError: `config.invalid`: no such URL. StorageError: nothing was moved.
    """
    with ipc.stopped(state_dir):
        _fresh(state_dir / stored.FILE)
        text = _secret(url_file)
        engine = stored.open_engine(stored.read_url(url_file))
        try:
            here = state_dir / "corsia.db"
            rows = fill(here, engine) if here.exists() else 0
        finally:
            engine.dispose()
        _write(state_dir / stored.FILE, text)
        for path in state_dir.glob("corsia.db*"):
            os.rename(path, path.with_name(f"{_MOVED}{path.name}"))
        sync_folder(state_dir)
        return rows


def move_objects(state_dir: Path, objects_file: Path) -> int:
    """Put blobs and lake into a bucket, and keep them there from now on; the blobs' folder becomes a cache.

    Returns:
        How many objects the bucket has been given; what it has already is left, so this can be done again.

    Raises:
        ConflictError: `conflict.exists` when there lies what this centre has not, or has otherwise: of another centre,
            or of a move that was broken off, after which something was erased here.
        ConfigurationError, StorageError: as `move_database`, and as `central.objects.Bucket.check`.
    """
    with ipc.stopped(state_dir):
        _fresh(state_dir / bucketed.FILE)
        text, bucket = _secret(objects_file), bucketed.read_bucket(objects_file)
        bucket.check()
        lake, count = state_dir / "vault" / "lake", 0
        blobs = [path for path in (state_dir / "blobs").glob("[0-9a-f]*") if path.is_file()]
        files = [path for path in lake.rglob("*") if path.is_file() and ".tmp" not in str(path.relative_to(lake))]
        named = {f"blobs/{path.name}": path for path in blobs} | {
            f"lake/{path.relative_to(lake).as_posix()}": path for path in files
        }
        known = {name for place in ("blobs/", "lake/") for name in bucket.names(place)}
        if any(name not in named or not _same(bucket, name, named[name]) for name in known):
            raise ConflictError("conflict.exists", "there lies under this prefix what is not this centre's: empty it")
        for name in named.keys() - known:
            with named[name].open("rb") as source:
                bucket.put_new(name, source)
            count += 1
        _write(state_dir / bucketed.FILE, text)
        if lake.exists():
            os.rename(lake, lake.with_name(f"{_MOVED}lake"))
            sync_folder(lake.parent)
        return count


def _same(bucket: bucketed.Bucket, name: str, path: Path) -> bool:
    with bucket.open(name) as there, path.open("rb") as here:
        one, other = (hashlib.file_digest(cast(BytesIO, file), "sha256").digest() for file in (there, here))
        return one == other


def _fresh(path: Path) -> None:
    if path.exists():
        raise ConflictError("conflict.exists", f"{path} is there already: this part has moved")


def _secret(path: Path) -> bytes:
    try:
        if path.stat().st_mode & 0o077:
            raise ConfigurationError("config.invalid", f"{path} is readable by others: chmod 600 it")
        return path.read_bytes()
    except OSError:
        raise ConfigurationError("config.missing", f"{path} cannot be read") from None


def _write(path: Path, data: bytes) -> None:
    try:
        write_file(path, data)
    except OSError as error:
        raise StorageError.of(error) from error
