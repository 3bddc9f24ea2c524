"""Whether a certificate is of the register and not revoked, as the database says at this moment.

What was read is kept for as long as nothing has been committed: SQLite tells that in microseconds (`Changes`), so a
call costs no query, and a revocation holds for the next call as if each had asked. Where the database cannot tell, each
asks.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import bindparam, select

from central.store import Store
from central.store.changes import Changes
from central.store.models import CertificateRow, SiteRow
from protocol.errors import AuthenticationError

__all__ = ["Peer", "Register"]

_REGISTERED = (
    select(CertificateRow.revoked, SiteRow.revoked)
    .join(SiteRow, SiteRow.name == CertificateRow.site)
    .where(CertificateRow.serial == bindparam("serial"), CertificateRow.site == bindparam("site"))
)
_VALID = (
    select(CertificateRow.serial, CertificateRow.revoked, SiteRow.revoked)
    .outerjoin(SiteRow, SiteRow.name == CertificateRow.site)
    .where(CertificateRow.serial.in_(bindparam("serials", expanding=True)))
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Peer:
    """Whom a certificate, whose chain TLS has verified, names."""

    site: str
    serial: str
    not_after: float


class Register:
    """What the database says of certificates and their sites. Thread-safe."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._changes = Changes(store.engine)
        self._lock = threading.Lock()
        self._turn = 0  # how often something was committed, as far as was asked
        self._found: dict[Peer, tuple[bool, bool] | None] = {}
        self._valid: frozenset[str] = frozenset()  # serials that were asked about and stand

    def check(self, peer: Peer) -> None:
        """Let a peer pass.

        Raises:
            AuthenticationError: `auth.certificate`, `auth.expired`, `auth.revoked`.
        """
        turn = self._now()
        with self._lock:
            known = turn == self._turn and peer in self._found
            found = self._found.get(peer)
        if not known:
            found = next((tuple(row) for row in self._rows(_REGISTERED, serial=peer.serial, site=peer.site)), None)
            self._keep(turn, {peer: found}, frozenset())
        if found is None:
            raise AuthenticationError("auth.certificate")
        if peer.not_after < time.time():
            raise AuthenticationError("auth.expired")
        if any(found):
            raise AuthenticationError("auth.revoked")

    def revoked(self, serials: set[str]) -> set[str]:
        """Those of these serials that do not stand any more."""
        turn = self._now()
        with self._lock:
            asked = serials - self._valid if turn == self._turn else serials
        if not asked:
            return set()
        rows = self._rows(_VALID, serials=sorted(asked))
        valid = frozenset(serial for serial, revoked, gone in rows if not revoked and gone is False)
        self._keep(turn, {}, valid)
        return set(asked) - valid

    def _rows(self, statement: Any, **values: Any) -> Sequence[Any]:
        return self._store.rows(statement, **values)

    def _now(self) -> int:
        """Which turn it is: what was read within it is what would be read now."""
        with self._lock:
            if not self._changes.exact or self._changes.seen():
                self._turn += 1
                self._found, self._valid = {}, frozenset()
            return self._turn

    def _keep(self, turn: int, found: dict[Peer, tuple[bool, bool] | None], valid: frozenset[str]) -> None:
        """Keep what was read, unless something was committed since it was asked for."""
        with self._lock:
            if turn == self._turn:
                self._found |= found
                self._valid |= valid
