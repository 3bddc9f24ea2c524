"""The run keys: one secret key a training study, made here, never leaving this process.

A run key opens the study's updates and signs its round instructions; the study names its public half.
"""

from __future__ import annotations

import os
import re
import secrets
import threading
from pathlib import Path

from privacy.envelope import PublicKey, SecretKey, read_key, write_key
from protocol.errors import ConfigurationError, InputError

__all__ = ["RunKeys"]

_SLUG = re.compile(r"[a-z0-9][a-z0-9-]{0,62}")


class RunKeys:
    """Run keys as `<study id>.key` of mode 0600; they never leave this process."""

    def __init__(self, root: Path) -> None:
        root.mkdir(parents=True, exist_ok=True, mode=0o700)
        self._root, self._lock = root, threading.Lock()

    def public(self, study_id: str) -> PublicKey:
        """The public key of a study's run, made when first asked for.

        Raises:
            InputError: `input.study` for an id that is no slug.
        """
        path = self._path(study_id)
        with self._lock:
            if not path.exists():
                fresh = self._root / f".{secrets.token_hex(8)}.tmp"
                write_key(fresh, SecretKey.generate())
                os.replace(fresh, path)
            return read_key(path).public

    def secret(self, study_id: str) -> SecretKey:
        """The run key.

        Raises:
            ConfigurationError: `config.missing` when it was not made here, `config.key-mode`.
        """
        path = self._path(study_id)
        if not path.is_file():
            raise ConfigurationError("config.missing", f"no run key of study {study_id}")
        return read_key(path)

    def _path(self, study_id: str) -> Path:
        if not _SLUG.fullmatch(study_id):
            raise InputError("input.study", "not a study id")
        return self._root / f"{study_id}.key"
