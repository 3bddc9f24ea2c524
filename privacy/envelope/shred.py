"""Crypto-shredding: without its key a ciphertext, and every copy that was made of it, says nothing any more."""

from __future__ import annotations

import os
import secrets
import stat
from pathlib import Path

from privacy.envelope.keys import KEY_BYTES
from protocol.durable import sync_folder
from protocol.errors import ConfigurationError

__all__ = ["destroy_key"]


def destroy_key(path: Path | str) -> bool:
    """Overwrite a key file and remove it, durably; whether there was one. Repeatable.

    What it opened is unreadable from then on as far as this machine is concerned. A copy that was made of the key is
    not reached, and neither is a block that the disk itself keeps (flash wear levelling, copy-on-write, snapshots):
    such disks are to be encrypted below.

    Raises:
        ConfigurationError: `config.key-mode` when the name leads to something else than a regular file.
    """
    path = Path(path)
    try:
        fd = os.open(path, os.O_WRONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
    except FileNotFoundError:
        return False
    except OSError as error:
        raise ConfigurationError("config.key-mode", f"key file {path}: {error.strerror}") from None
    with open(fd, "wb", buffering=0) as file:
        state = os.fstat(fd)
        if not stat.S_ISREG(state.st_mode):
            raise ConfigurationError("config.key-mode", f"key file {path} is not a regular file")
        file.write(secrets.token_bytes(max(KEY_BYTES, state.st_size)))
        os.fsync(fd)
    path.unlink(missing_ok=True)
    sync_folder(path.parent)
    return True
