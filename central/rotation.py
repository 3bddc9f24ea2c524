"""A new key in the place of one that was stolen, or is old: the CA's, the study-signing, the log's.

Run while the centre stands still. The old key is set aside, never deleted, and vouches for nothing from then on: who
has stolen it could sign a successor as well, so each site learns the new key from a new join code, over the channel by
which it came to trust the first one. That a key was replaced is a leaf of the log; of the log's key itself the old
one signs the last checkpoint that the new one takes over.

Source: `docs/spec/trust.md` section 7; `docs/runbooks/`.
"""

from __future__ import annotations

import os
import secrets
import time
from pathlib import Path

from sqlalchemy import delete, func, select, update
from sqlalchemy.orm import Session

from central import ipc
from central.config import CentralConfig
from central.gateway.receipts import open_log_key
from central.signer.authority import Authority
from central.store import Store
from central.store.models import AssignmentRow, CertificateRow, CheckpointRow, LogRow, StudyRow, WitnessedRow
from privacy.envelope import SecretKey, read_key, write_key
from privacy.transparency import Checkpoint, Tree, open_checkpoint, sign_checkpoint
from protocol.assignment import AssignmentKind
from protocol.durable import sync_folder
from protocol.errors import ConflictError, InputError, IntegrityError
from protocol.trust import Purpose

__all__ = ["KINDS", "rotate"]

_FILES = {
    "ca": ("signer", ("ca.pem", "ca.key")),
    "study-signing": ("signer", ("study.key", "study.pub")),
    "log": ("gateway", ("log.key", "log.pub")),
}
KINDS = tuple(_FILES)


def rotate(config: CentralConfig, kind: str) -> dict[str, object]:
    """Replace a key; every site has to enrol anew afterwards.

    Args:
        config: of a centre that does not run.
        kind: one of `KINDS`.

    Returns:
        `kind`, `retired` (where the old files are), `fingerprint` (SHA-256, hex, of the new public key or CA), and for
        study-signing `studies`: those that the old key had signed and the new one signs now, to be looked through.

    Raises:
        InputError: `input.usage` for another kind.
        ConflictError: `conflict.running` while the centre runs; `conflict.state` when there is no such key yet.
        IntegrityError: `log.proof` when the log is not what its last checkpoint says; nothing is replaced.
    """
    if kind not in _FILES:
        raise InputError("input.usage", f"rotate one of {', '.join(KINDS)}")
    with ipc.stopped(config.state_dir):
        folder, names = config.state_dir / _FILES[kind][0], _FILES[kind][1]
        if not all((folder / name).is_file() for name in names):
            raise ConflictError("conflict.state", f"there is no {kind} key to replace: start the centre once")
        store = Store(config.state_dir)
        try:
            return _STEPS[kind](config, store, folder)
        finally:
            store.engine.dispose()


def _retire(config: CentralConfig, kind: str, folder: Path) -> Path:
    """Set the old files aside; the next start, or the next lines here, make new ones."""
    retired = config.state_dir / "retired" / f"{kind}-{time.strftime('%Y%m%dT%H%M%SZ', time.gmtime())}"
    retired.mkdir(parents=True, mode=0o700)
    for name in _FILES[kind][1]:
        os.rename(folder / name, retired / name)
    return retired


def _told(kind: str, retired: Path, fingerprint: str) -> dict[str, object]:
    return {"kind": kind, "retired": str(retired), "fingerprint": fingerprint}


def _log(store: Store, session: Session, kind: str, fingerprint: str) -> None:
    store.append_leaf(session, {"kind": "key", "id": secrets.token_hex(16), "sha256": fingerprint})
    store.emit(session, "key.rotated", role=kind)


def _new_ca(config: CentralConfig, store: Store, folder: Path) -> dict[str, object]:
    retired = _retire(config, "ca", folder)
    fingerprint = Authority(folder, config.name).ca_fingerprint.hex()
    with store.begin() as session:
        session.execute(update(CertificateRow).values(revoked=True))
        _log(store, session, "ca", fingerprint)
    return _told("ca", retired, fingerprint)


def _new_study_key(config: CentralConfig, store: Store, folder: Path) -> dict[str, object]:
    old = read_key(folder / "study.key").public
    retired = _retire(config, "study-signing", folder)
    new = Authority(folder, config.name).study_key
    signed: list[str] = []
    with store.begin() as session:
        for row in session.scalars(select(StudyRow).order_by(StudyRow.created_at)):
            try:
                old.verify(Purpose.STUDY, row.document, row.signature)
            except IntegrityError:
                continue  # was never ours: it stays refused
            row.signature = new.sign(Purpose.STUDY, row.document)
            session.execute(
                update(AssignmentRow)
                .where(AssignmentRow.study_digest == row.digest, AssignmentRow.kind == AssignmentKind.STUDY.value)
                .values(signature=row.signature)
            )
            signed.append(row.id)
        _log(store, session, "study-signing", new.public.fingerprint)
    return _told("study-signing", retired, new.public.fingerprint) | {"studies": signed}


def _new_log_key(config: CentralConfig, store: Store, folder: Path) -> dict[str, object]:
    old, fresh = read_key(folder / "log.key"), SecretKey.generate()
    with store.begin() as session:
        tree = _checked_tree(session, old, config.log_origin)
        _log(store, session, "log", fresh.public.fingerprint)
        (leaf,) = session.scalars(select(LogRow.leaf).where(LogRow.index == tree.size))
        tree.append(leaf)
        state = Checkpoint(origin=config.log_origin, size=tree.size, root=tree.root(), time=int(time.time()))
        last = sign_checkpoint(state, old)
        (folder / "log.part").unlink(missing_ok=True)
        write_key(folder / "log.part", fresh)  # durable, and locked where a passphrase is set, before the old one goes
        retired = _retire(config, "log", folder)
        (retired / "last.checkpoint").write_text(last)
        os.rename(folder / "log.part", folder / "log.key")
        sync_folder(folder)
        session.execute(delete(CheckpointRow))
        session.execute(delete(WitnessedRow))  # under the old key's signature: no site would take one any more
        session.add(CheckpointRow(size=tree.size, text=sign_checkpoint(state, open_log_key(folder))))
    return _told("log", retired, fresh.public.fingerprint)


def _checked_tree(session: Session, key: SecretKey, origin: str) -> Tree:
    tree = Tree()
    for leaf in session.scalars(select(LogRow.leaf).order_by(LogRow.index)):
        tree.append(leaf)
    last = session.scalar(select(func.max(CheckpointRow.size)))
    if last:
        text = session.scalar(select(CheckpointRow.text).where(CheckpointRow.size == last)) or ""
        signed = open_checkpoint(text, key.public, origin)
        if signed.size > tree.size or tree.root(signed.size) != signed.root:
            raise IntegrityError("log.proof", "the log's rows differ from its last signed checkpoint")
    return tree


_STEPS = {"ca": _new_ca, "study-signing": _new_study_key, "log": _new_log_key}
