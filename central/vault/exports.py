"""A study's rows leave the vault: only when two operators have signed for it, once, sealed to the one who asked.

The signer has noted the decision in database and log; here both signatures are verified again, since the vault trusts
no other process with its rows. The file is a parcel from the study's key to the asking operator's: web process and
network carry ciphertext, and the operator's own machine opens it. Files lie in a folder per study, so that what erases
a study can remove them.
"""

from __future__ import annotations

import base64
import hashlib
import os
import secrets
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
from sqlalchemy import select

from central.decisions import Export, agreed
from central.erasure import ERASED
from central.ipc import Handler
from central.operators import Operator, Operators
from central.store import Store
from central.store.models import CuratedRow, DecisionRow, StudyRow
from central.vault.keys import StudyKeys
from privacy.envelope import ParcelInfo, seal
from protocol.durable import sync_folder
from protocol.errors import AuthenticationError, ConflictError, InputError, StorageError, StudyRefused
from protocol.parcel import ContentType
from protocol.study import Lane

__all__ = ["SENDER", "Exports"]

SENDER = "vault"  # in the header, where a parcel of a hospital has its site
_CONTENT = {
    Lane.HARVEST.value: ContentType.RECORDS,
    Lane.ANONYMIZE.value: ContentType.DEIDENTIFIED,
    Lane.EXTRACT.value: ContentType.FEATURES,
}


class Exports:
    """Makes and keeps sealed exports.

    Args:
        store: the central database.
        keys: the study keys.
        operators: whose signatures count.
        table: a study's rows by its id.
        pack: rows as the bytes of a Parquet file.
        root: folder of the files.
    """

    def __init__(
        self,
        store: Store,
        keys: StudyKeys,
        operators: Operators,
        table: Callable[[str], pa.Table],
        pack: Callable[[pa.Table], bytes],
        root: Path,
    ) -> None:
        self._store, self._keys, self._operators, self._root = store, keys, operators, root
        self._table, self._pack = table, pack
        self._writing = threading.Lock()

    @property
    def handlers(self) -> dict[str, Handler]:
        """What the vault's socket answers besides (`central.vault.service`)."""
        return {"export": lambda request: {"parcel": base64.b64encode(self.give(str(request.get("id")))).decode()}}

    def give(self, name: str) -> bytes:
        """The sealed file of an approved export; made at the first call, the same bytes until a consent is withdrawn.

        Args:
            name: the proposal's id.

        Raises:
            InputError: `input.usage` when there is no such export, `input.rows` when the study has no rows.
            ConflictError: `conflict.state` when it is not approved, or was asked for too long ago.
            AuthenticationError: `auth.operator`; PermissionRefused: `permission.second-person`.
            StudyRefused: `study.unknown`, `study.erased`; StorageError: nothing was written.
        """
        asked, asker, lane = self._decided(name)
        path = self._root / asked.digest / f"{asked.id}.parcel"
        with self._writing:
            while not path.exists():
                before = self._rests_on(asked.digest)
                self._write(path, asked, asker, lane)
                try:
                    whole = before <= self._rests_on(asked.digest)
                except StudyRefused:
                    path.unlink(missing_ok=True)
                    raise
                if not whole:  # somebody withdrew while it was made
                    path.unlink(missing_ok=True)
        try:
            return path.read_bytes()
        except OSError:
            raise StorageError("storage.failed") from None

    def _rests_on(self, digest: str) -> set[str]:
        """The folders whose rows an export holds; a withdrawal writes them anew before it removes exports."""
        with self._store.read() as session:
            if session.scalar(select(StudyRow.state).where(StudyRow.digest == digest)) == ERASED:
                raise StudyRefused("study.erased")
            return set(session.scalars(select(CuratedRow.path).where(CuratedRow.study_digest == digest)))

    def _decided(self, name: str) -> tuple[Export, Operator, str]:
        with self._store.read() as session:
            row = session.get(DecisionRow, name)
            study = session.get(StudyRow, row.subject) if row is not None else None
        if row is None or row.kind != Export.action or study is None:
            raise InputError("input.usage", "no such export")
        if study.state == ERASED:
            raise StudyRefused("study.erased")
        approver = self._operators.get(row.approved_by) if row.state == "approved" else None
        if row.state != "approved":
            raise ConflictError("conflict.state", "the export waits for a second operator")
        if approver is None:
            raise AuthenticationError("auth.operator", "who approved it is no operator any more: ask anew")
        asked, asker = agreed(row.statement, row.signature, approver, row.approval, self._operators.get)
        if not isinstance(asked, Export) or (asked.id, asked.study, asked.digest) != (name, study.id, study.digest):
            raise AuthenticationError("auth.operator", "what was signed is another export")
        asked.check_age(time.time())  # as it was signed: who writes the database dates nothing
        return asked, asker, study.lane

    def _write(self, path: Path, asked: Export, asker: Operator, lane: str) -> None:
        rows = self._table(asked.study)
        if not rows.num_rows:
            raise InputError("input.rows", "the study has no rows to export")
        info = ParcelInfo(parcel_id=asked.id, study=asked.digest, site=SENDER, content_type=_CONTENT[lane].value)
        try:
            path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            part = path.with_name(f".{secrets.token_hex(8)}.part")
            try:
                with open(os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600), "wb") as file:
                    key = self._keys.load(asked.study)
                    seal([self._pack(rows)], file, info=info, recipients=[asker.public], signer=key)
                    file.flush()
                    os.fsync(file.fileno())
                self._tell(part, asked)  # first: what is there to be fetched has its leaf
                os.replace(part, path)
                sync_folder(path.parent)
            finally:
                part.unlink(missing_ok=True)
        except OSError as error:
            raise StorageError.of(error) from None

    def _tell(self, path: Path, asked: Export) -> None:
        digest = hashlib.sha256(path.read_bytes()).hexdigest()
        with self._store.begin() as session:
            self._store.append_leaf(session, {"kind": "exported", "id": asked.id, "sha256": digest})
            self._store.emit(session, "export.written", study=asked.study, bytes=path.stat().st_size)
