"""Key files: mode 0600 or refused, 32 raw bytes or locked by a passphrase; and public key files beside them.

A key file is any 32 raw bytes. Where a passphrase is set, what this side writes is locked (`locked`), and both forms
are read. The passphrase is the text of a file, looked for in this order:

    CORSIA_PASSPHRASE_FILE                      environment
    `[keys] passphrase_file`                    told by whoever read the configuration, for its state folder (`guard`)
    $CREDENTIALS_DIRECTORY/corsia-passphrase    systemd's LoadCredential
"""

from __future__ import annotations

import contextlib
import os
import stat
import threading
from collections.abc import Callable
from pathlib import Path

from privacy.envelope.keys import KEY_BYTES, PUBLIC_BYTES, PublicKey, SecretKey
from privacy.envelope.locked import HEADER_BYTES, MAX_SECRET_BYTES, is_locked, lock, unlock
from protocol.durable import create_file
from protocol.errors import ConfigurationError, ConflictError, InputError

__all__ = [
    "CREDENTIAL",
    "at_rest",
    "guard",
    "kept_secret",
    "passphrase_of",
    "read_key",
    "read_passphrase",
    "read_public",
    "read_secret",
    "read_seed",
    "write_key",
    "write_public",
]

CREDENTIAL = "corsia-passphrase"
_VARIABLE = "CORSIA_PASSPHRASE_FILE"
_LEAST, _MOST = 12, 4096  # bytes of a passphrase
_LONGEST = HEADER_BYTES + 16 + MAX_SECRET_BYTES
_PREFIX = "corsia-public-1 "
_guarded: dict[Path, Path] = {}  # state folder -> passphrase file
_guard = threading.Lock()


def guard(folder: Path, passphrase_file: Path | None) -> None:
    """Say which passphrase file keys under a state folder have; None for none of its own."""
    with _guard:
        if passphrase_file is None:
            _guarded.pop(folder.absolute(), None)
        else:
            _guarded[folder.absolute()] = passphrase_file


def passphrase_of(path: Path | str) -> bytes | None:
    """The passphrase of a key file or state folder; None where none is set.

    Raises:
        ConfigurationError: `config.passphrase` when one is set and cannot be read, `config.key-mode` when others can.
    """
    if named := os.environ.get(_VARIABLE):
        return read_passphrase(Path(named))
    place = Path(path).absolute()
    with _guard:
        file = next((_guarded[folder] for folder in (place, *place.parents) if folder in _guarded), None)
    if file is not None:
        return read_passphrase(file)
    credential = Path(os.environ.get("CREDENTIALS_DIRECTORY") or os.devnull) / CREDENTIAL
    return read_passphrase(credential, private=False) if credential.is_file() else None


def read_passphrase(file: Path, *, private: bool = True) -> bytes:
    """The text of a passphrase file, without the end of its line.

    Args:
        private: whether its mode must be 0600 or stricter; systemd guards its credentials by their folder.

    Raises:
        ConfigurationError: `config.passphrase`, `config.key-mode`.
    """
    try:
        raw = _read(file, _MOST + 2, private=private)
    except ConfigurationError as error:
        if error.code == "config.missing":
            raise ConfigurationError("config.passphrase", f"the passphrase file {file} cannot be read") from None
        raise
    text = raw.rstrip(b"\r\n")
    if not _LEAST <= len(text) <= _MOST:
        raise ConfigurationError("config.passphrase", f"the passphrase in {file} has not {_LEAST} to {_MOST} bytes")
    return text


def at_rest(path: Path, secret: bytes) -> bytes:
    """The bytes under which a secret is to lie at `path`: locked where a passphrase is set, else as they are.

    Raises:
        ConfigurationError: as `passphrase_of`.
    """
    passphrase = passphrase_of(path)
    return secret if passphrase is None else lock(secret, passphrase)


def read_secret(path: Path | str) -> bytes:
    """A secret file's content, of at most 16,384 bytes, locked or not; mode 0600 or stricter.

    Raises:
        ConfigurationError: `config.key-mode`, `config.missing` when it cannot be read, `config.passphrase`.
    """
    raw = _read(path, _LONGEST + 1)
    if not is_locked(raw):
        return raw
    passphrase = passphrase_of(path)
    if passphrase is None:
        raise ConfigurationError("config.passphrase", f"key file {path} is locked, and no passphrase file is set")
    return unlock(raw, passphrase)


def kept_secret(path: Path, make: Callable[[], bytes]) -> bytes:
    """The secret that lies at `path`; made there first when there is none. Of processes that do so at once, one wins.

    Raises:
        ConfigurationError: as `read_secret` and `at_rest`.
        OSError: it cannot be written.
    """
    if not path.exists():
        with contextlib.suppress(ConflictError):
            create_file(path, at_rest(path, make()), 0o600)
    return read_secret(path)


def read_key(path: Path | str) -> SecretKey:
    """Read a key file. Raises as `read_seed`."""
    return SecretKey.from_bytes(read_seed(path))


def read_seed(path: Path | str) -> bytes:
    """A key file's seed: exactly 32 bytes; for what derives keys of its own from them.

    Raises:
        ConfigurationError: `config.key-mode`, `config.missing` when it cannot be read, `config.passphrase`.
    """
    seed = read_secret(path)
    if len(seed) != KEY_BYTES:
        raise ConfigurationError("config.key-mode", f"key file {path} is not exactly {KEY_BYTES} raw bytes")
    return seed


def write_key(path: Path | str, key: SecretKey, *, plain: bool = False) -> None:
    """Write a key file, mode 0600, durably; whole or not at all. Locked where a passphrase is set, unless `plain`.

    Raises:
        ConflictError: `conflict.exists`; the file there is left as it is.
        ConfigurationError: as `passphrase_of`.
    """
    made = Path(path)
    create_file(made, key.to_bytes() if plain else at_rest(made, key.to_bytes()), 0o600)


def read_public(path: Path | str) -> PublicKey:
    """Read a public key file (`K.pub`).

    Raises:
        InputError: `input.usage` when it is not one; ConfigurationError: `config.missing` when it cannot be read.
    """
    try:
        with open(path, "rb") as file:
            raw = file.read(3 * PUBLIC_BYTES)
    except OSError as error:
        raise ConfigurationError("config.missing", f"public key file {path}: {error.strerror}") from None
    try:
        text = raw.decode("ascii")
        if not text.startswith(_PREFIX):
            raise InputError("input.message")
        return PublicKey.from_base64(text.removeprefix(_PREFIX).strip())
    except (UnicodeDecodeError, InputError):
        raise InputError("input.usage", f"{path} is not a public key file as `corsia parcel keygen` writes") from None


def write_public(path: Path | str, public: PublicKey) -> None:
    """Write a public key file: one line of text.

    Raises:
        ConflictError: `conflict.exists`.
    """
    create_file(Path(path), f"{_PREFIX}{public.to_base64()}\n".encode("ascii"), 0o644)


def _read(path: Path | str, most: int, *, private: bool = True) -> bytes:
    """At most so many bytes of a regular file that nobody else may read."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)  # a pipe must not hang us
    except OSError as error:
        raise ConfigurationError("config.missing", f"key file {path}: {error.strerror}") from None
    state = os.fstat(fd)
    if not stat.S_ISREG(state.st_mode):  # before a folder is opened as a file, which cannot be
        os.close(fd)
        raise ConfigurationError("config.key-mode", f"key file {path} is not a regular file")
    with open(fd, "rb", buffering=0) as file:
        mode = stat.S_IMODE(state.st_mode)
        if private and mode & ~0o600:
            raise ConfigurationError("config.key-mode", f"key file {path} has mode {mode:04o}, not 0600 or stricter")
        return file.read(most) or b""
