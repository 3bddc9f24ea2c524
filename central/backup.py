"""The centre's data as one file that only its recovery key opens, and back: `corsia central backup | verify | restore`.

Place in the flow: beside the running centre. What is taken is a list of what is data: databases, public keys, blobs,
landing zone, lake. No secret key is on it, of studies, runs, lake, signer or log: these are escrowed apart
(`central.escrow`). What is put back does not start without them: a signer that found none would make others.
"""

from __future__ import annotations

import hashlib
import os
import secrets
import shutil
import sqlite3
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

from central.config import CentralConfig, read_config
from central.lapsed import Lapsed, end, lapsed
from central.objects import Bucket, bucket_of
from central.store.copying import save
from central.store.engine import database_url, open_engine
from central.store.schema import REVISIONS
from privacy.archive import Head, Member, opened, sealed
from privacy.envelope import PublicKey, SecretKey, read_key, read_public, write_key
from privacy.folders import copy_database, in_memory, linked, make_folder, make_recovery_key, placed, staged
from privacy.transparency import Tree, open_checkpoint
from protocol.durable import create_file
from protocol.errors import ConfigurationError, ConflictError, IntegrityError, StorageError
from protocol.parcel import ContentType, Receipt

__all__ = ["Checked", "backup", "is_held", "recovery_key", "restore", "verify"]

KIND = "central"
RECOVERY, SIGNER = "recovery.pub", "backup.key"
HELD = "keys-missing"
CONFIG = "config/central.toml"
_FILES = ("operators.json", "signer/ca.pem", "signer/study.pub", "signer/publication.pub", "gateway/log.pub", RECOVERY)
_TOMBS = ("vault/*keys/*.erased", "federation/keys/*.erased")  # which studies' keys were destroyed for good
_TREES = {"blobs": "blobs", "lake": "vault/lake"}  # a bucket's names, and where a backup has them
_TRIES = 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Checked:
    """What a whole backup holds: `at` is when it was made (Unix seconds)."""

    name: str
    at: float
    version: str
    files: int
    revision: str
    log_size: int
    parcels: int
    lapsed: Lapsed  # what a restore does not bring back


def recovery_key(state_dir: Path, out: Path) -> PublicKey:
    """Make the centre's recovery key, and the key that signs its backups; see `privacy.folders.make_recovery_key`.

    Raises:
        ConflictError: `conflict.exists`.
    """
    with _named():
        if not (state_dir / SIGNER).exists():
            write_key(state_dir / SIGNER, SecretKey.generate())
        return make_recovery_key(out, state_dir / RECOVERY, read_key(state_dir / SIGNER).public)


def backup(config: CentralConfig, config_path: Path, out: Path) -> tuple[str, int]:
    """Back the centre's data up, whether it runs or not; `out` is whole or not there.

    Returns:
        SHA-256 (hex) of the file and how many files are in it.

    Raises:
        ConfigurationError: `config.missing` without a recovery key.
        ConflictError: `conflict.exists`; `conflict.running` while another backup is made; `conflict.state` when what
            the database names keeps going away.
        StorageError: `storage.full`, `storage.failed`.
    """
    state_dir = config.state_dir
    if not (state_dir / RECOVERY).is_file() or not (state_dir / SIGNER).is_file():
        raise ConfigurationError("config.missing", "no recovery key: make one by `corsia central recovery-key --out K`")
    recipient, signer = read_public(state_dir / RECOVERY), read_key(state_dir / SIGNER)
    with _named(), staged(state_dir) as staging:
        _take(state_dir, staging)
        linked(config_path.resolve(), staging / CONFIG)
        head = Head(kind=KIND, name=config.name, at=round(time.time(), 3), version=version("corsia"))
        return sealed(staging, out, head, recipient=recipient, signer=signer)


def verify(source: Path, key: SecretKey, sender: PublicKey) -> Checked:
    """Open a backup and check every digest, the database, its log and what it names; nothing is written to a disk.

    Raises:
        IntegrityError: `parcel.*`, `backup.format`, `log.proof`.
        StorageError: `storage.newer`; `storage.failed`, also where there is no file system in memory.
    """
    with _named(), in_memory() as folder:
        names = {"corsia.db", "gateway/log.pub", "signer/invites.db", "operators.json"}
        head, members = opened(
            source, kind=KIND, key=key, sender=sender, keep=lambda name: folder / name if name in names else None
        )
        return _checked(folder, head, members)


def restore(source: Path, config_path: Path, state_dir: Path | None, key: SecretKey, sender: PublicKey) -> Checked:
    """Put a backup back into an empty state folder, whole or not at all. The keys are put back apart.

    Tokens, sessions, readers' rights and unused join codes do not come back (`central.lapsed`).

    Args:
        source: the backup.
        config_path: the centre's configuration; written from the backup where there is none.
        state_dir: absent or empty; None where the configuration comes out of the backup: `state` beside it then.

    Raises:
        ConflictError: `conflict.exists` when something is there.
        CorsiaError: as `verify`. In each case nothing was put there.
    """
    target = state_dir or config_path.resolve().parent / "state"
    wrote: list[Path] = []

    def fill(folder: Path) -> Checked:
        head, members = opened(source, kind=KIND, key=key, sender=sender, keep=lambda name: folder / name)
        checked = _checked(folder, head, members)
        if state_dir is None and read_config((folder / CONFIG).read_text(), config_path).state_dir != target.resolve():
            raise ConfigurationError(
                "config.invalid", "its central.toml has another state_dir: put that file there first"
            )
        end(folder)
        _write(folder / HELD, b"corsia central keys restore\n")
        _write(folder / "operator.token", secrets.token_urlsafe(32).encode() + b"\n")
        if state_dir is None:
            create_file(config_path, (folder / CONFIG).read_bytes())
            wrote.append(config_path)
        return checked

    with _named():
        target.parent.mkdir(parents=True, exist_ok=True)
        try:
            return placed(target, fill)
        except BaseException:
            for path in wrote:
                path.unlink(missing_ok=True)
            raise


def is_held(state_dir: Path) -> bool:
    """Whether data were put back here, and the keys were not yet."""
    return (state_dir / HELD).exists()


def _take(state_dir: Path, into: Path) -> None:
    """Files first and last, the database between: a superset of what it names, whatever comes and goes meanwhile."""
    for name in _FILES:
        linked(state_dir / name, into / name)
    (into / "signer").mkdir(exist_ok=True, mode=0o700)
    for name in ("invites.db", "admitted.db"):
        copy_database(state_dir / "signer" / name, into / "signer" / name)
    engine, bucket = open_engine(database_url(state_dir)), bucket_of(state_dir)
    for _ in range(_TRIES):
        _link_trees(state_dir, into, bucket)
        (into / "corsia.db").unlink(missing_ok=True)
        save(engine, into / "corsia.db")
        _link_trees(state_dir, into, bucket)
        _link_tombs(state_dir, into)  # last: of every study that the copy calls erased
        with _read(into / "corsia.db") as database:
            if all((into / name).exists() for name, _ in _named_by(database)):
                return
    raise ConflictError("conflict.state", "what the database names keeps going away: try again")


def _link_tombs(state_dir: Path, into: Path) -> None:
    for path in (found for pattern in _TOMBS for found in state_dir.glob(pattern)):
        if not (into / path.relative_to(state_dir)).exists():
            linked(path, into / path.relative_to(state_dir))


def _link_trees(state_dir: Path, into: Path, bucket: Bucket | None) -> None:
    """What is whole; halves have other names than what becomes of them."""
    for name in bucket.names("") if bucket is not None else ():
        kind, _, rest = name.partition("/")
        if kind in _TREES and not (target := into / _TREES[kind] / rest).exists():
            _fetched(bucket, name, target)
    whole = [*(state_dir / "blobs").glob("[0-9a-f]*"), *(state_dir / "landing").glob("[0-9a-f]*.parcel")]
    for place, folders, files in os.walk(state_dir / "vault" / "lake"):
        folders[:] = [name for name in folders if not name.endswith(".tmp")]
        whole += [Path(place) / name for name in files if not name.endswith(".tmp")]
    for path in whole:
        linked(path, into / path.relative_to(state_dir))


def _fetched(bucket: Bucket | None, name: str, target: Path) -> None:
    make_folder(target.parent)
    with suppress(FileNotFoundError):  # removed meanwhile
        if bucket is not None:
            with bucket.open(name) as source, target.open("xb") as copy:
                shutil.copyfileobj(source, copy)


def _named_by(database: sqlite3.Connection) -> Iterator[tuple[str, str]]:
    """What the database cannot do without: unopened parcels and models with their SHA-256, folders of the lake."""
    parcels = (
        "SELECT p.id, p.digest FROM parcels p JOIN studies s ON s.digest = p.study_digest"
        " WHERE p.state = 'landed' AND p.content_type != ? AND s.state NOT IN ('erased')"
    )
    for name, digest in database.execute(parcels, (ContentType.UPDATE.value,)):
        yield f"landing/{name}.parcel", str(digest)
    batches = "SELECT c.path FROM curated c JOIN studies s ON s.digest = c.study_digest WHERE s.state NOT IN ('erased')"
    for (path,) in database.execute(batches):
        yield f"vault/lake/{path}", ""
    if database.execute("SELECT 1 FROM sqlite_master WHERE name = 'remotes'").fetchone():  # since revision 0006
        for (path,) in database.execute("SELECT path FROM remotes WHERE state = 'curated'"):
            yield f"vault/lake/{path}", ""
    blobs = "SELECT manifest FROM models UNION SELECT weights FROM models"
    for (digest,) in database.execute(blobs):
        yield f"blobs/{digest}", str(digest)


def _checked(folder: Path, head: Head, members: list[Member]) -> Checked:
    digests = {member.name: member.sha256 for member in members}
    if not {"corsia.db", "gateway/log.pub", CONFIG} <= set(digests):
        raise IntegrityError("backup.format", "the database, the log's key or the configuration is missing")
    with _read(folder / "corsia.db") as database:
        ((state,),) = database.execute("PRAGMA quick_check").fetchmany(1)
        ((revision,),) = database.execute("SELECT version_num FROM alembic_version").fetchall()
        if state != "ok":
            raise IntegrityError("backup.format", "the database is damaged")
        if revision not in REVISIONS:
            raise StorageError("storage.newer")
        found = {str(place): "" for name in digests for place in Path(name).parents} | digests
        for name, digest in _named_by(database):
            if found.get(name) != digest:
                raise IntegrityError("backup.format", "a file that the database names is missing or changed")
        size = _log(database, read_public(folder / "gateway" / "log.pub"), f"corsia/{head.name}")
    parcels = sum(name.endswith(".parcel") for name in digests)
    return Checked(
        name=head.name, at=head.at, version=head.version, files=len(members), revision=str(revision), log_size=size,
        parcels=parcels, lapsed=lapsed(folder),
    )  # fmt: skip


def _log(database: sqlite3.Connection, key: PublicKey, origin: str) -> int:
    """The leaves give the last signed root, and every receipt is among them; how many there are."""
    tree, leaves = Tree(), []
    for index, leaf in database.execute('SELECT "index", leaf FROM log ORDER BY "index"'):
        if tree.append(leaf) != index:
            raise IntegrityError("log.proof", "the log has a gap")
        leaves.append(hashlib.sha256(leaf).digest())
    last = database.execute("SELECT size, text FROM checkpoints ORDER BY size DESC LIMIT 1").fetchone()
    if last is not None:
        signed = open_checkpoint(last[1], key, origin)
        if signed.size > tree.size or tree.root(signed.size) != signed.root:
            raise IntegrityError("log.proof", "the log's rows differ from the last signed checkpoint")
    for name, digest, index in database.execute("SELECT id, digest, log_index FROM parcels"):
        if not 0 <= index < len(leaves) or leaves[index] != hashlib.sha256(Receipt.leaf(name, digest)).digest():
            raise IntegrityError("log.proof", "a parcel is not in the log")
    return tree.size


@contextmanager
def _read(path: Path) -> Iterator[sqlite3.Connection]:
    with closing(sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True)) as database:
        yield database


def _write(path: Path, data: bytes) -> None:
    with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600), "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


@contextmanager
def _named() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise StorageError.of(error) from error
    except sqlite3.Error as error:
        raise StorageError("storage.failed") from error
