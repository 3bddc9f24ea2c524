"""A new key in the place of one that was stolen, or is old: the CA's, the study-signing, the log's.

Run while the centre stands still. The old key is set aside, never deleted, and vouches for nothing from then on: who
has stolen it could sign a successor as well, so each site learns the new key from a new join code, over the channel by
which it came to trust the first one. That a key was replaced is a leaf of the log; of the log's key itself the old
one signs the last checkpoint that the new one takes over. What a kill cuts short is ended, or undone, at the next
start (`succession`).

Source: `docs/spec/trust.md` section 7; `docs/runbooks/`.
"""

from __future__ import annotations

import time
from pathlib import Path

from sqlalchemy import delete, func, select, update
from sqlalchemy.orm import Session

from central import ipc
from central.config import CentralConfig
from central.signer.authority import make_ca
from central.store import Store
from central.store.models import AssignmentRow, CertificateRow, CheckpointRow, LogRow, StudyRow, WitnessedRow
from central.succession import LAST, begin, finish, leaf_id
from privacy.envelope import SecretKey, read_key, write_key, write_public
from privacy.transparency import Checkpoint, Tree, open_checkpoint, sign_checkpoint
from protocol.assignment import AssignmentKind
from protocol.durable import sync_files, sync_folder
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
            finish(config.state_dir, folder, store)  # of one that was cut short
            return _replaced(config, store, folder, kind)
        finally:
            store.engine.dispose()


def _replaced(config: CentralConfig, store: Store, folder: Path, kind: str) -> dict[str, object]:
    made = begin(folder, kind)
    try:
        with store.begin() as session:
            told = _STEPS[kind](config, session, store, made)
            store.emit(session, "key.rotated", role=kind)
    finally:  # whether it was committed is for the database to say
        retired = finish(config.state_dir, folder, store)
    return {"kind": kind, "retired": str(retired), **told}


def _log(store: Store, session: Session, made: Path, fingerprint: str) -> None:
    store.append_leaf(session, {"kind": "key", "id": leaf_id(made), "sha256": fingerprint})


def _new_key(folder: Path, name: str) -> SecretKey:
    """A new key with its public half, durable, and locked where a passphrase is set."""
    key = SecretKey.generate()
    write_key(folder / f"{name}.key", key)
    write_public(folder / f"{name}.pub", key.public)
    return key


def _new_ca(config: CentralConfig, session: Session, store: Store, made: Path) -> dict[str, object]:
    fingerprint = make_ca(made, config.name)
    session.execute(update(CertificateRow).values(revoked=True))
    _log(store, session, made, fingerprint)
    return {"fingerprint": fingerprint}


def _new_study_key(_config: CentralConfig, session: Session, store: Store, made: Path) -> dict[str, object]:
    old, new = read_key(made.parent / "study.key").public, _new_key(made, "study")
    signed: list[str] = []
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
    _log(store, session, made, new.public.fingerprint)
    return {"fingerprint": new.public.fingerprint, "studies": signed}


def _new_log_key(config: CentralConfig, session: Session, store: Store, made: Path) -> dict[str, object]:
    old = read_key(made.parent / "log.key")
    tree, new = _checked_tree(session, old, config.log_origin), _new_key(made, "log")
    _log(store, session, made, new.public.fingerprint)
    (leaf,) = session.scalars(select(LogRow.leaf).where(LogRow.index == tree.size))
    tree.append(leaf)
    state = Checkpoint(origin=config.log_origin, size=tree.size, root=tree.root(), time=int(time.time()))
    (made / LAST).write_text(sign_checkpoint(state, old))
    sync_files([made / LAST])
    sync_folder(made)
    session.execute(delete(CheckpointRow))
    session.execute(delete(WitnessedRow))  # under the old key's signature: no site would take one any more
    session.add(CheckpointRow(size=tree.size, text=sign_checkpoint(state, new)))
    return {"fingerprint": new.public.fingerprint}


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
