"""A folder of secret keys, one a study: what vault and federation each have of their own.

Each folder belongs to one process. An id whose key was destroyed never gets another one.
"""

from __future__ import annotations

import os
import re
import secrets
import threading
from pathlib import Path

from privacy.envelope import SecretKey, destroy_key, read_key, write_key
from protocol.durable import sync_folder
from protocol.errors import ConfigurationError, InputError, StudyRefused

__all__ = ["KeyFolder"]

_STUDY_ID = re.compile(r"[a-z0-9][a-z0-9-]{0,62}")


class KeyFolder:
    """Keys as files `<study id>.key`, mode 0600, in a folder of mode 0700; `<study id>.erased` where one was."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._lock = threading.Lock()
        root.mkdir(parents=True, exist_ok=True, mode=0o700)

    def made(self, study_id: str) -> SecretKey:
        """The secret key of a study, made when there is none yet.

        Raises:
            InputError: `input.study` for an id that is no slug; nothing is written.
            StudyRefused: `study.erased`.
        """
        path = self._path(study_id)
        with self._lock:
            self._check(study_id)
            if not path.exists():
                fresh = self._root / f".{secrets.token_hex(8)}.tmp"
                write_key(fresh, SecretKey.generate())
                try:
                    os.link(fresh, path)  # all of the key or no file, and never over another key
                except FileExistsError:
                    pass  # another process was first: its key holds
                finally:
                    fresh.unlink()
                sync_folder(self._root)
        return read_key(path)

    def load(self, study_id: str) -> SecretKey:
        """The secret key of a study.

        Raises:
            ConfigurationError: `config.missing` when it was not made here, `config.key-mode` when it is exposed.
            StudyRefused: `study.erased`.
        """
        path = self._path(study_id)
        self._check(study_id)
        if not path.is_file():
            raise ConfigurationError("config.missing", f"no key of study {study_id} here")
        return read_key(path)

    def destroy(self, study_id: str) -> None:
        """Destroy a study's key for good. Repeatable; the mark comes first, so that no new key is ever made.

        Raises:
            InputError: `input.study` for an id that is no slug.
        """
        path = self._path(study_id)
        with self._lock:
            os.close(os.open(self._mark(study_id), os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600))
            sync_folder(self._root)
            destroy_key(path)

    def recover(self) -> None:
        """Remove half-made keys of an earlier process."""
        for leftover in self._root.glob(".*.tmp"):
            leftover.unlink()

    def _check(self, study_id: str) -> None:
        if self._mark(study_id).exists():
            raise StudyRefused("study.erased")

    def _mark(self, study_id: str) -> Path:
        return self._root / f"{study_id}.erased"

    def _path(self, study_id: str) -> Path:
        if not _STUDY_ID.fullmatch(study_id):
            raise InputError("input.study", "not a study id")
        return self._root / f"{study_id}.key"
