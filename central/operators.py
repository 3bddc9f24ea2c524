"""Who operates the centre: named people, each with an access token and a key that signs what two of them decide.

A token file holds `NAME.ACCESS.SEAL`. The web process sees `NAME.ACCESS` alone (`bearer`); the seal never leaves its
owner's machine: a signing key follows from it, so that no process of the centre can speak for a person. The register
`operators.json` keeps SHA-256 of the access part and the public key. It is written by who administers the machine,
never over a socket. The first operator, `operator`, has the plain token that `corsia init central` wrote; his key
follows from that token, which the web process sees: with him it still takes a second person with a seal.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import os
import re
import secrets
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path

from central.config import CentralConfig, operator_token
from privacy.envelope import PublicKey, SecretKey
from protocol.durable import sync_folder
from protocol.errors import AuthenticationError, ConfigurationError, ConflictError, InputError

__all__ = ["FIRST", "Operator", "Operators", "bearer", "is_jwt", "read_token", "signing_key"]

FIRST = "operator"
_NAME = re.compile(r"[a-z0-9][a-z0-9-]{0,62}")
_PARTS = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class Operator:
    """One person: name, SHA-256 (hex) of the bearer token, public key (base64)."""

    name: str
    access: str
    key: str

    @property
    def public(self) -> PublicKey:
        """The key that signs this person's decisions."""
        return PublicKey.from_base64(self.key)


def is_jwt(token: str) -> bool:
    """Whether this looks like an OpenID provider's token; no operator's name begins like one."""
    return token.startswith("eyJ") and token.count(".") == _PARTS - 1


def bearer(token: str) -> str:
    """What of a token the web process may see: of a named operator's never the seal, any other one whole."""
    token = token.strip()
    parts = token.split(".")
    return ".".join(parts[:2]) if len(parts) == _PARTS and not is_jwt(token) else token


def read_token(path: Path) -> str:
    """The token of a file. One with a seal is a key, and so is an API token: nobody else may read it.

    Raises:
        AuthenticationError: `auth.token` when it cannot be read.
        ConfigurationError: `config.key-mode`.
    """
    try:
        token = path.expanduser().read_text(encoding="ascii").strip()
        mode = path.expanduser().stat().st_mode
    except (OSError, UnicodeDecodeError):
        raise AuthenticationError("auth.token", f"{path} cannot be read") from None
    if (len(token.split(".")) == _PARTS or token.startswith("ct_")) and mode & 0o077:
        raise ConfigurationError("config.key-mode", f"{path} is readable by others: chmod 600 it")
    return token


def signing_key(token: str) -> SecretKey:
    """The key of a token's owner."""
    parts = token.strip().split(".")
    seal = parts[2] if len(parts) == _PARTS else token.strip()
    return SecretKey.from_bytes(hashlib.sha256(b"corsia/v1/operator\x00" + seal.encode()).digest())


class Operators:
    """The register of a centre. Reads the files again when they change; safe for threads.

    Args:
        config: where the state folder is.
    """

    def __init__(self, config: CentralConfig) -> None:
        self._config = config
        self._path = config.state_dir / "operators.json"
        self._seen: tuple[object, ...] = ()
        self._known: dict[str, Operator] = {}

    def all(self) -> tuple[Operator, ...]:
        """Everybody, the first operator first.

        Raises:
            AuthenticationError: `auth.token` when the first operator's token cannot be read.
            ConfigurationError: `config.invalid` for a damaged register.
        """
        stamp = (_stamp(self._config.token_path), _stamp(self._path))
        if stamp != self._seen:
            token = operator_token(self._config)
            first = Operator(name=FIRST, access=_digest(token), key=signing_key(token).public.to_base64())
            self._known = {FIRST: first} | self._read()
            self._seen = stamp
        return tuple(self._known.values())

    def get(self, name: str) -> Operator | None:
        """One operator by name, or None."""
        return next((operator for operator in self.all() if operator.name == name), None)

    def identify(self, token: object) -> Operator:
        """Whose bearer token this is; every digest is compared.

        Raises:
            AuthenticationError: `auth.token`.
        """
        if not isinstance(token, str) or not 0 < len(token) <= 1024:
            raise AuthenticationError("auth.token")
        given = _digest(bearer(token))
        found = [operator for operator in self.all() if hmac.compare_digest(operator.access, given)]
        if not found:
            raise AuthenticationError("auth.token")
        return found[0]

    def add(self, name: str) -> str:
        """Register a person; returns the token, which is kept nowhere else.

        Raises:
            InputError: `input.usage` for a name that is none.
            ConflictError: `conflict.exists`.
        """
        if not _NAME.fullmatch(name):
            raise InputError("input.usage", "an operator's name is lower-case letters, digits and dashes")
        known = self._read()
        if name == FIRST or name in known:
            raise ConflictError("conflict.exists", f"operator {name} exists")
        token = f"{name}.{secrets.token_urlsafe(32)}.{secrets.token_urlsafe(32)}"
        made = Operator(name=name, access=_digest(bearer(token)), key=signing_key(token).public.to_base64())
        self._write(known | {name: made})
        return token

    def remove(self, name: str) -> None:
        """Take a person out; the token stops working at once, and so do proposals that wait for approval.

        Raises:
            InputError: `input.usage` when there is no such person, or for the first operator.
        """
        known = self._read()
        if name not in known:
            raise InputError("input.usage", f"no operator {name} to remove")
        del known[name]
        self._write(known)

    def _read(self) -> dict[str, Operator]:
        try:
            rows = json.loads(self._path.read_text(encoding="utf-8"))
            found = [Operator(**row) for row in rows]
            if not all(_NAME.fullmatch(o.name) and o.name != FIRST and len(o.access) == 64 for o in found):
                raise ValueError("form")
            return {operator.name: operator for operator in found}
        except FileNotFoundError:
            return {}
        except (OSError, ValueError, TypeError, AttributeError, RecursionError):
            raise ConfigurationError("config.invalid", "operators.json is damaged") from None

    def _write(self, known: dict[str, Operator]) -> None:
        rows = [asdict(operator) for operator in known.values()]
        with tempfile.NamedTemporaryFile("w", dir=self._path.parent, prefix=".", delete=False) as file:  # mode 0600
            json.dump(rows, file, indent=1)
            file.flush()
            os.fsync(file.fileno())
        os.replace(file.name, self._path)
        sync_folder(self._path.parent)  # a power cut brings no removed operator back


def _digest(token: str) -> str:
    return hashlib.sha256(token.encode()).hexdigest()


def _stamp(path: Path) -> tuple[int, int, int] | None:
    try:
        found = path.stat()
    except OSError:
        return None
    return (found.st_mtime_ns, found.st_size, found.st_ino)
