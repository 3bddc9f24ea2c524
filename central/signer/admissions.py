"""Which sites may take part in studies, by the fingerprint of their identity key.

Where two persons are asked for, a site that has enrolled waits until two operators have signed that its fingerprint is
the one that the site said by telephone; before that no study names it. Where they are not, enrolling admits. The list
is the signer's own file: who can write the database admits nobody.
"""

from __future__ import annotations

import os
import sqlite3
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from sqlalchemy import update
from sqlalchemy.orm import Session

from central.decisions import Admission
from central.operators import Operator
from central.store import Store
from central.store.models import DecisionRow, SiteRow
from privacy.envelope import PublicKey
from protocol.errors import AuthenticationError, ConflictError, InputError, PermissionRefused

__all__ = ["Admissions", "Admitted"]

_SCHEMA = """
CREATE TABLE IF NOT EXISTS admitted (
    site TEXT PRIMARY KEY,
    fingerprint TEXT NOT NULL,
    asked_by TEXT NOT NULL,
    approved_by TEXT NOT NULL,
    admitted_at REAL NOT NULL
)"""


class Admitted:
    """The signer's own list: site and fingerprint.

    Args:
        path: its file, mode 0600.
        two_persons: whether a site needs two operators now.
    """

    def __init__(self, path: Path, two_persons: Callable[[], bool]) -> None:
        self._path, self.two_persons = path, two_persons
        os.close(os.open(path, os.O_RDWR | os.O_CREAT, 0o600))
        with self._open() as connection:
            connection.execute(_SCHEMA)

    def enrolled(self, site: str, identity: PublicKey) -> None:
        """A site has enrolled: where one person is enough, that admits it; under another key it is another site."""
        if not self.two_persons():
            self.add(site, identity.fingerprint)
        elif self.all().get(site) != identity.fingerprint:
            self.remove(site)

    def add(self, site: str, fingerprint: str, asked_by: str = "", approved_by: str = "") -> None:
        """Admit a site under a key."""
        with self._open() as connection:
            row = (site, fingerprint, asked_by, approved_by, time.time())
            connection.execute("INSERT OR REPLACE INTO admitted VALUES (?, ?, ?, ?, ?)", row)

    def remove(self, site: str) -> None:
        """Take a site off the list."""
        with self._open() as connection:
            connection.execute("DELETE FROM admitted WHERE site = ?", (site,))

    def all(self) -> dict[str, str]:
        """Admitted sites with the fingerprints (hex) under which they are."""
        with self._open() as connection:
            return dict(connection.execute("SELECT site, fingerprint FROM admitted ORDER BY site"))

    def check(self, fingerprints: dict[str, str]) -> None:
        """Whether these sites may take part under these keys.

        Raises:
            PermissionRefused: `permission.admission`, naming those that may not.
        """
        if not self.two_persons():
            return
        known = self.all()
        waiting = sorted(site for site, fingerprint in fingerprints.items() if known.get(site) != fingerprint)
        if waiting:
            raise PermissionRefused("permission.admission", f"not admitted by two operators: {', '.join(waiting)}")

    @contextmanager
    def _open(self) -> Iterator[sqlite3.Connection]:
        connection = sqlite3.connect(self._path, timeout=30)
        try:
            connection.execute("PRAGMA synchronous=FULL")
            with connection:
                yield connection
        finally:
            connection.close()


class Admissions:
    """The kind `admit` of `central.signer.decisions`."""

    event, done = "site.proposed", "site.admitted"

    def __init__(self, store: Store, admitted: Admitted) -> None:
        self._store, self._admitted = store, admitted

    def standing(self, session: Session, asked: Admission) -> None:
        """Whether the site is enrolled under this key and waits.

        Raises:
            InputError: `input.usage` when it is not enrolled, or revoked.
            AuthenticationError: `auth.fingerprint` when it has another key.
        """
        row = session.get(SiteRow, asked.site)
        if row is None or row.revoked:
            raise InputError("input.usage", f"no site {asked.site} is enrolled")
        if PublicKey.from_base64(row.identity).fingerprint != asked.fingerprint:
            raise AuthenticationError("auth.fingerprint", "the site has another identity key than was signed for")

    def row(self, session: Session, asked: Admission) -> DecisionRow:
        """A new row; an open one for the same site is replaced.

        Raises:
            ConflictError: `conflict.state` when it is admitted already.
        """
        if self._admitted.all().get(asked.site) == asked.fingerprint:
            raise ConflictError("conflict.state", f"site {asked.site} is admitted already")
        return _new(session, asked.id, asked.action, asked.site)

    def told(self, row: DecisionRow) -> dict[str, Any]:
        """Site and fingerprint."""
        return dict(row.outcome)

    def carry_out(self, session: Session, asked: Admission, asker: Operator, approver: Operator) -> dict[str, Any]:
        """Put it on the list, again if the transaction failed; the log remembers that two persons did."""
        self._store.append_leaf(session, {"kind": "admission", "id": asked.id, "identity": asked.fingerprint})
        self._admitted.add(asked.site, asked.fingerprint, asker.name, approver.name)
        return {"site": asked.site, "fingerprint": asked.fingerprint}


def _new(session: Session, name: str, kind: str, subject: str) -> DecisionRow:
    same = (DecisionRow.kind == kind, DecisionRow.subject == subject, DecisionRow.state == "open")
    session.execute(update(DecisionRow).where(*same).values(state="replaced"))
    return DecisionRow(id=name, kind=kind, subject=subject)
