"""The centre's secret keys, apart from its data: k of n custodians together can give them back, fewer learn nothing.

    keys -> sealed to an escrow key, made for this alone -> its seed in n shares (Shamir), each sealed to a custodian
    k opened shares -> the seed -> the keys, into a centre whose data were put back

Place in the flow: an operator at the centre's machine, as the user who may read the keys; nothing runs in a process of
the centre. An escrow is a folder: `keys.sealed`, `escrow.pub`, and a `share-N.sealed` for each custodian to take away.
Source: Shamir 1979 (`privacy.secagg.shamir`); the seal is `docs/spec/envelope.md`.
"""

from __future__ import annotations

import base64
import io
import json
import os
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path

from cryptography.hazmat.primitives.serialization import load_pem_private_key
from cryptography.x509 import load_pem_x509_certificate
from sqlalchemy import inspect, select

from central.backup import HELD
from central.erasure import ERASED
from central.remotes import REMOTE_PREFIX
from central.store.engine import is_made, reading
from central.store.models import RemoteRow, StudyRow
from privacy.archive import Head, opened, sealed
from privacy.envelope import ParcelInfo, PublicKey, SecretKey, new_parcel_id, read_public, seal, unseal, write_public
from privacy.envelope.keyfile import at_rest, read_secret
from privacy.folders import in_memory, make_folder, placed
from privacy.secagg.shamir import combine, split
from protocol.durable import sync_folder
from protocol.errors import ConfigurationError, ConflictError, InputError, IntegrityError, StorageError
from protocol.parcel import canonical_json

__all__ = ["MAX_CUSTODIANS", "Share", "escrow", "open_share", "restore"]

MAX_CUSTODIANS = 32
KIND = "keys"
_BUNDLE, _PUBLIC = "keys.sealed", "escrow.pub"
_FOLDERS = ("vault/keys", "vault/lake-keys", "federation/keys", "signer", "gateway")
_OF_STUDIES = ("keys", "lake-keys")  # folders of one key a study
_STUDY = "backup-share"
_MAX_SHARE_BYTES = 1 << 16


@dataclass(frozen=True, slots=True, kw_only=True)
class Share:
    """One custodian's part: `point` of `of`, any `needed` of which give the seed of the key `escrow` (fingerprint)."""

    escrow: str
    needed: int
    of: int
    point: int
    share: str  # base64

    def to_bytes(self) -> bytes:
        """Canonical JSON."""
        return canonical_json(asdict(self))

    @classmethod
    def from_bytes(cls, raw: bytes) -> Share:
        """Read a share.

        Raises:
            IntegrityError: `backup.shares`.
        """
        try:
            value = json.loads(raw)
            made = cls(**value)
            numbers = (made.needed, made.of, made.point)
            if made.to_bytes() != raw or not all(type(one) is int and 0 < one <= MAX_CUSTODIANS for one in numbers):
                raise ValueError("share")
            base64.b64decode(made.share, validate=True)
            return made
        except (ValueError, TypeError, RecursionError):
            raise IntegrityError("backup.shares") from None


def escrow(name: str, state_dir: Path, custodians: Sequence[PublicKey], needed: int, out: Path) -> int:
    """Seal all secret keys of a centre and part the key to them among custodians.

    Args:
        name: the centre's.
        state_dir: its state folder; the keys stay where they are.
        custodians: 2 to 32 different keys, each of one person.
        needed: how many shares give the keys back, 2 or more.
        out: the folder to make, whole or not at all.

    Returns:
        How many key files are in it.

    Raises:
        InputError: `input.usage` for other numbers.
        ConfigurationError: `config.missing` where there are no keys, `config.key-mode` where others can read one.
        ConflictError: `conflict.exists`.
        StorageError: nothing was made.
    """
    if not 2 <= needed <= len(custodians) <= MAX_CUSTODIANS or len(set(custodians)) != len(custodians):
        raise InputError("input.usage", f"2 to {MAX_CUSTODIANS} different custodians, and 2 or more of them needed")
    keys = _keys(state_dir)
    if not keys:
        raise ConfigurationError("config.missing", "there are no keys under this state folder")
    key = SecretKey.generate()
    shares = split(key.to_bytes(), needed, list(range(1, len(custodians) + 1)))

    def fill(folder: Path) -> int:
        with in_memory() as staging:
            for path in keys:
                _put(staging / path.relative_to(state_dir), read_secret(path))  # a custodian knows no passphrase
            head = Head(kind=KIND, name=name, at=round(time.time(), 3), version=version("corsia"))
            _, count = sealed(staging, folder / _BUNDLE, head, recipient=key.public, signer=key)
        write_public(folder / _PUBLIC, key.public)
        for (point, share), custodian in zip(shares.items(), custodians, strict=True):
            made = Share(
                escrow=key.public.fingerprint, needed=needed, of=len(custodians), point=point,
                share=base64.b64encode(share).decode("ascii"),
            )  # fmt: skip
            info = ParcelInfo(parcel_id=new_parcel_id(), study=_STUDY, site=name, content_type="share")
            with open(_new(folder / f"share-{point}.sealed"), "wb") as file:
                seal([made.to_bytes()], file, info=info, recipients=[custodian], signer=key)
                file.flush()
                os.fsync(file.fileno())
        return count

    if out.exists():
        raise ConflictError("conflict.exists", f"{out} exists")
    try:
        return placed(out, fill)
    except OSError as error:
        raise StorageError.of(error) from error


def open_share(source: Path, public: Path, custodian: SecretKey) -> Share:
    """Open a custodian's own share.

    Args:
        source: `share-N.sealed`.
        public: `escrow.pub` of the same escrow.

    Raises:
        IntegrityError: `parcel.*` when it is not sealed to this custodian, or not of this escrow; `backup.shares`.
    """
    key = read_public(public)
    with source.open("rb") as file:
        raw = io.BytesIO(file.read(_MAX_SHARE_BYTES))
    share = Share.from_bytes(b"".join(unseal(raw, key=custodian, sender=key)))
    if share.escrow != key.fingerprint:
        raise IntegrityError("backup.shares")
    return share


def restore(source: Path, shares: Sequence[Share], state_dir: Path) -> int:
    """Put the keys back into a centre; keys that are there already stay, and those of erased studies are left out.

    Args:
        source: the escrow's folder.
        shares: opened ones, as many as they say are needed, or more.
        state_dir: where the centre's data are.

    Returns:
        How many key files were put back.

    Raises:
        InputError: `input.usage` for too few shares.
        IntegrityError: `backup.shares` when they do not belong to this escrow; `parcel.*`, `backup.format`.
        ConflictError: `conflict.exists` when another key, or its public half, is there; nothing was written.
        StorageError: some keys may be there: do it again.
    """
    key = _combined(read_public(source / _PUBLIC), shares)
    try:
        with in_memory() as folder:
            opened(source / _BUNDLE, kind=KIND, key=key, sender=key.public, keep=lambda name: folder / name)
            found = [path for path in sorted(folder.rglob("*")) if path.is_file()]
            wanted = [(path, state_dir / path.relative_to(folder)) for path in found]
            erased = _erased(state_dir)
            wanted = [
                (path, target)
                for path, target in wanted
                if not target.with_suffix(".erased").exists()
                and not (target.parent.name in _OF_STUDIES and target.stem in erased)
            ]
            if any(_is_retired(path.read_bytes(), target) for path, target in wanted):
                raise ConflictError("conflict.exists", "a key was replaced since this escrow: take a later one")
            if any(target.exists() and read_secret(target) != path.read_bytes() for path, target in wanted):
                raise ConflictError("conflict.exists", "another key is there; it is not overwritten")
            new = [(path, target) for path, target in wanted if not target.exists()]
            for path, target in new:
                make_folder(target.parent)
                half = target.with_name(f".{target.name}.tmp")
                half.unlink(missing_ok=True)
                _put(half, at_rest(target, path.read_bytes()))
                os.rename(half, target)
                sync_folder(target.parent)
        (state_dir / HELD).unlink(missing_ok=True)
        sync_folder(state_dir)
    except OSError as error:
        raise StorageError.of(error) from error
    return len(new)


def _combined(public: PublicKey, shares: Sequence[Share]) -> SecretKey:
    parts = {share.point: base64.b64decode(share.share) for share in shares}
    if not shares or len(parts) < max(share.needed for share in shares):
        raise InputError("input.usage", "too few shares, or the same share twice")
    if {share.escrow for share in shares} != {public.fingerprint}:
        raise IntegrityError("backup.shares")
    try:
        key = SecretKey.from_bytes(combine(parts))
    except IntegrityError:
        raise IntegrityError("backup.shares") from None
    if key.public != public:
        raise IntegrityError("backup.shares")
    return key


def _keys(state_dir: Path) -> list[Path]:
    """Every secret key file but the gateway's channel key, which is made anew at each start."""
    found = [path for name in _FOLDERS for path in sorted((state_dir / name).glob("[!.]*.key"))]
    return [path for path in found if path != state_dir / "gateway" / "tls.key"]


def _put(target: Path, content: bytes) -> None:
    make_folder(target.parent)
    with open(_new(target), "wb") as write:
        write.write(content)
        write.flush()
        os.fsync(write.fileno())


def _new(path: Path) -> int:
    return os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)


def _erased(state_dir: Path) -> set[str]:
    """The studies, and parts of remote tables, that the database calls erased: an older backup may lack the marks."""
    if not is_made(state_dir):
        return set()
    with reading(state_dir) as database:
        found = set(database.execute(select(StudyRow.id).where(StudyRow.state == ERASED)).scalars())
        if inspect(database).has_table(RemoteRow.__tablename__):  # an older version's database has none
            names = database.execute(select(RemoteRow.name).where(RemoteRow.state == ERASED)).scalars()
            found |= {f"{REMOTE_PREFIX}{name}" for name in names}
        return found


def _is_retired(secret: bytes, target: Path) -> bool:
    """Whether the public half that lies where a key is to go is another's: the key was stolen, and replaced."""
    public, certificate = target.with_suffix(".pub"), target.with_suffix(".pem")
    if certificate.exists():
        key = load_pem_private_key(secret, password=None)
        return key.public_key() != load_pem_x509_certificate(certificate.read_bytes()).public_key()
    return public.exists() and SecretKey(secret).public != read_public(public)
