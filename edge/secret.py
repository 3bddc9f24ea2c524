"""One line of a private file: credentials for a place at the hospital or its proxy; in no log, error or message."""

from __future__ import annotations

import os
import stat
from pathlib import Path

from protocol.errors import ConfigurationError

__all__ = ["read_secret"]

_MAX_BYTES = 16 << 10


def read_secret(path: Path) -> str:
    """The file's one line.

    Raises:
        ConfigurationError: `config.key-mode` when others may read it, `config.missing`, `config.invalid`.
    """
    try:
        with open(os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK), "rb") as file:
            if stat.S_IMODE(os.fstat(file.fileno()).st_mode) & ~0o600:
                raise ConfigurationError("config.key-mode", f"{path}: credentials are for 0600 or stricter")
            text = file.read(_MAX_BYTES + 1).decode()
    except OSError as error:
        raise ConfigurationError("config.missing", f"{path}: {error.strerror}") from None
    except UnicodeDecodeError:
        raise ConfigurationError("config.invalid", f"{path}: not text") from None
    line = text.strip()
    if not line or "\n" in line or len(text) > _MAX_BYTES:
        raise ConfigurationError("config.invalid", f"{path}: one line with the credentials")
    return line
