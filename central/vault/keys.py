"""The study keys: one secret key a study, made here, never leaving this process.

Only `central/vault/` reads this folder. The public half goes to the signer, which writes it into the study.
"""

from __future__ import annotations

import os
import re
import secrets
import threading
from pathlib import Path

from privacy.envelope import SecretKey, read_key, write_key
from protocol.errors import ConfigurationError, InputError

__all__ = ["StudyKeys"]

_STUDY_ID = re.compile(r"[a-z0-9][a-z0-9-]{0,62}")


class StudyKeys:
    """Keys as files `<study id>.key`, mode 0600, in a folder of mode 0700."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._lock = threading.Lock()
        root.mkdir(parents=True, exist_ok=True, mode=0o700)

    def create(self, study_id: str) -> str:
        """Make the key of a study, or find the one that exists; returns the public half as base64.

        Raises:
            InputError: `input.study` for an id that is no slug; nothing is written.
        """
        path = self._path(study_id)
        with self._lock:
            if not path.exists():
                fresh = self._root / f".{secrets.token_hex(8)}.tmp"
                write_key(fresh, SecretKey.generate())
                try:
                    os.link(fresh, path)  # all of the key or no file, and never over another key
                except FileExistsError:
                    pass  # another process was first: its key holds
                finally:
                    fresh.unlink()
                _fsync(self._root)
        return read_key(path).public.to_base64()

    def load(self, study_id: str) -> SecretKey:
        """The secret key of a study.

        Raises:
            ConfigurationError: `config.missing` when this vault never made it, `config.key-mode` when it is exposed.
        """
        path = self._path(study_id)
        if not path.is_file():
            raise ConfigurationError("config.missing", f"no key of study {study_id} in this vault")
        return read_key(path)

    def recover(self) -> None:
        """Remove half-made keys of an earlier process."""
        for leftover in self._root.glob(".*.tmp"):
            leftover.unlink()

    def _path(self, study_id: str) -> Path:
        if not _STUDY_ID.fullmatch(study_id):
            raise InputError("input.study", "not a study id")
        return self._root / f"{study_id}.key"


def _fsync(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
