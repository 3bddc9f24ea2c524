"""One-time invites: what a join code's secret is checked against. Only its SHA-256 is kept.

An invite is spent by one conditional UPDATE, so that of two sites with the same code only one gets in. A reply
lost on the way is not repeated: the operator makes a new invite.
"""

from __future__ import annotations

import hashlib
import os
import secrets
import sqlite3
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from protocol.errors import AuthenticationError

__all__ = ["Invites"]

SECRET_BYTES = 24
LIFE_S = 7 * 86_400.0
_SCHEMA = """
CREATE TABLE IF NOT EXISTS invites (
    secret_sha256 TEXT PRIMARY KEY,
    site TEXT NOT NULL,
    created_at REAL NOT NULL,
    expires_at REAL NOT NULL,
    used_at REAL
)"""


class Invites:
    """The signer's own table of invites."""

    def __init__(self, path: Path) -> None:
        self._path = path
        os.close(os.open(path, os.O_RDWR | os.O_CREAT, 0o600))
        with self._open() as connection:
            connection.execute(_SCHEMA)

    def make(self, site: str) -> bytes:
        """A new secret (24 bytes) for a site; earlier unused ones of that site stop working."""
        secret, now = secrets.token_bytes(SECRET_BYTES), time.time()
        with self._open() as connection:
            connection.execute("DELETE FROM invites WHERE site = ? AND used_at IS NULL", (site,))
            connection.execute("INSERT INTO invites VALUES (?, ?, ?, ?, NULL)", (_key(secret), site, now, now + LIFE_S))
        return secret

    def spend(self, site: str, secret: bytes) -> None:
        """Use an invite up.

        Raises:
            AuthenticationError: `auth.join-code`; one code for unknown, used, expired and another site's.
        """
        now = time.time()
        with self._open() as connection:
            done = connection.execute(
                "UPDATE invites SET used_at = ?"
                " WHERE secret_sha256 = ? AND site = ? AND used_at IS NULL AND expires_at > ?",
                (now, _key(secret), site, now),
            )
            spent = done.rowcount == 1
        if not spent:
            raise AuthenticationError("auth.join-code")

    def cancel(self, site: str) -> None:
        """Make a site's unused invites worthless."""
        with self._open() as connection:
            connection.execute("DELETE FROM invites WHERE site = ? AND used_at IS NULL", (site,))

    @contextmanager
    def _open(self) -> Iterator[sqlite3.Connection]:
        connection = sqlite3.connect(self._path, timeout=30)
        try:
            connection.execute("PRAGMA synchronous=FULL")
            with connection:
                yield connection
        finally:
            connection.close()


def _key(secret: bytes) -> str:
    return hashlib.sha256(secret).hexdigest()
