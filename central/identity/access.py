"""Accounts of people, and what opens the API for them: log-ins, API tokens, a provider's own access tokens.

All are one table of SHA-256 digests with an end. Who somebody is comes from the provider at log-in and is kept by
issuer and subject; what he may follows from his groups of then and from central.toml of now. Reads and writes the
central database; nothing here speaks to a provider.
"""

from __future__ import annotations

import hashlib
import secrets
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import ColumnElement, delete, select, update

from central.identity.rights import READING, SCOPES, Principal, scopes_of
from central.identity.settings import IdentityConfig
from central.store import Store
from central.store.models import AccessRow, AccountRow, EntitlementRow
from protocol.errors import AuthenticationError, InputError, PermissionRefused

__all__ = ["BEARER", "BROWSER", "SESSION", "TOKEN", "Access", "Account"]

TOKEN, SESSION = "ct_", "cs_"  # what an API token and a browser's session begin with
BROWSER, BEARER = "browser", "bearer"
DAY_S = 86_400.0
MAX_TOKENS = 50  # of one account
_TOUCH_S = 60.0  # how often a use is written down
_WORD_LENGTH = 128


@dataclass(frozen=True, slots=True, kw_only=True)
class Account:
    """Somebody as the provider told of him: issuer and subject are who he is, the rest may change."""

    issuer: str
    subject: str
    name: str
    groups: tuple[str, ...]


class Access:
    """What was given out. Safe for threads.

    Args:
        store: the central database.
        config: roles and lengths of time.
    """

    def __init__(self, store: Store, config: IdentityConfig) -> None:
        self._store, self._config = store, config

    def login(self, person: Account) -> str:
        """A new session of somebody who has just logged in; returns its secret, for a cookie.

        Raises:
            PermissionRefused: `permission.role` when no group of his has a role; nothing is kept of who was not known,
                and what was given before to who was opens nothing until a group has a role again.
        """
        end = time.time() + 3600.0 * self._config.session_hours
        if not self._config.roles.of(person.groups):
            self._update(person)
        return self._give(person, SESSION, BROWSER, end=end, at=time.time())

    def accept(self, person: Account, token: str, *, issued: float, until: float, reading: bool) -> None:
        """Remember an access token of the provider that was verified, till it ends. Raises as `login`.

        Args:
            issued: when the provider made it; what it told before the owner's last log-in changes nothing of him.
            reading: it was made for anybody: good for reading alone.
        """
        scopes = sorted(READING) if reading else ()
        self._give(person, "", BEARER, end=until, at=min(issued, time.time()), secret=token, scopes=scopes)

    def make_token(self, owner: Principal, label: str, scopes: Sequence[str], days: float) -> dict[str, Any]:
        """A new API token of somebody; `token` in the answer is shown once and kept nowhere.

        Raises:
            PermissionRefused: `permission.role` for scopes the owner has not, or an owner without an account.
            InputError: `input.usage` for none, for too long a life or too many tokens.
        """
        if not owner.account:
            raise PermissionRefused("permission.role", "an operator's token file is his token")
        wanted = frozenset(scopes)
        if not wanted <= set(SCOPES):
            raise InputError("input.usage", f"a scope is one of {', '.join(SCOPES)}")
        if not wanted or not wanted <= owner.scopes - {"tokens:write"}:
            raise PermissionRefused("permission.role", "a token holds some of its owner's rights, tokens:write never")
        if not 0 < days <= self._config.token_days:
            raise InputError("input.usage", f"a token lives at most {self._config.token_days:g} days")
        secret, now = TOKEN + secrets.token_urlsafe(32), time.time()
        row = AccessRow(
            digest=_digest(secret), id=secrets.token_hex(8), account=owner.account, kind="token", label=label,
            scopes=sorted(wanted), created_at=now, expires_at=now + days * DAY_S, used_at=0.0,
        )  # fmt: skip
        with self._store.begin() as session:
            live = select(AccessRow.id).where(
                AccessRow.account == owner.account, AccessRow.kind == "token", AccessRow.expires_at > now
            )
            if len(session.scalars(live).all()) >= MAX_TOKENS:
                raise InputError("input.usage", f"an account has at most {MAX_TOKENS} tokens: revoke one")
            session.add(row)
        return shown(row) | {"token": secret}

    def tokens(self, owner: Principal) -> list[dict[str, Any]]:
        """One's own API tokens, newest first, without their secrets."""
        with self._store.read() as session:
            rows = session.scalars(
                select(AccessRow)
                .where(AccessRow.account == owner.account, AccessRow.kind == "token")
                .order_by(AccessRow.created_at.desc(), AccessRow.id)
            ).all()
        return [shown(row) for row in rows]

    def revoke(self, owner: Principal, identifier: str) -> bool:
        """End one's own API token at once; whether there was one."""
        with self._store.begin() as session:
            row = session.scalar(
                select(AccessRow).where(
                    AccessRow.id == identifier, AccessRow.account == owner.account, AccessRow.kind == "token"
                )
            )
            if row is None:
                return False
            session.delete(row)
        return True

    def logout(self, secret: str) -> None:
        """End a session or an API token; one that is none is no error."""
        with self._store.begin() as session:
            session.execute(delete(AccessRow).where(AccessRow.digest == _digest(secret), AccessRow.kind != BEARER))

    def find(self, secret: str) -> Principal:
        """Who is known by a session, an API token or an access token that was accepted before.

        Raises:
            AuthenticationError: `auth.token`: unknown, ended, unused for too long, or its owner has not logged in
                for too long.
        """
        now, digest = time.time(), _digest(secret)
        with self._store.read() as session:
            row = session.get(AccessRow, digest)
            person = None if row is None else session.get(AccountRow, row.account)
        if row is None or person is None or row.expires_at <= now:
            raise AuthenticationError("auth.token")
        if row.kind == BROWSER and row.used_at + 60.0 * self._config.idle_minutes <= now:
            raise AuthenticationError("auth.token", "this session was idle for too long: log in again")
        if person.login_at + DAY_S * self._config.login_days <= now:
            raise AuthenticationError("auth.token", "the owner has not logged in for too long")
        if person.issuer != self._config.issuer:
            raise AuthenticationError("auth.token", "another provider is in charge now")
        if row.used_at + _TOUCH_S < now:
            with self._store.begin() as session:
                session.execute(update(AccessRow).where(AccessRow.digest == digest).values(used_at=now))
        roles = self._config.roles.of(tuple(person.groups))
        scopes = scopes_of(roles)
        if row.scopes:
            scopes &= frozenset(row.scopes)
        return Principal(name=person.name, account=person.id, roles=roles, scopes=scopes, kind=row.kind)

    def entitled(self, account: str, study_digest: str) -> bool:
        """Whether an account may read a study's rows."""
        with self._store.read() as session:
            return session.get(EntitlementRow, (study_digest, account)) is not None

    def _update(self, person: Account) -> None:
        """Note the groups of somebody who is known."""
        with self._store.begin() as session:
            session.execute(update(AccountRow).where(*_is(person)).values(groups=list(person.groups)))

    def _give(
        self, person: Account, prefix: str, kind: str, *, end: float, at: float, secret: str = "",
        scopes: Sequence[str] = (),
    ) -> str:  # fmt: skip
        if not self._config.roles.of(person.groups):
            raise PermissionRefused("permission.role", "none of your groups has a role at this centre")
        secret, now = secret or prefix + secrets.token_urlsafe(32), time.time()
        with self._store.begin() as session:
            session.execute(delete(AccessRow).where(AccessRow.expires_at <= now))
            row = session.scalar(select(AccountRow).where(*_is(person)))
            if row is None:
                row = AccountRow(
                    id=secrets.token_hex(16), issuer=person.issuer, subject=person.subject, created_at=now, login_at=at
                )
                session.add(row)
                session.flush()
            if at >= row.login_at:
                row.name, row.groups, row.login_at = person.name[:_WORD_LENGTH], list(person.groups), at
            if session.get(AccessRow, _digest(secret)) is None:
                session.add(
                    AccessRow(
                        digest=_digest(secret), id=secrets.token_hex(8), account=row.id, kind=kind,
                        scopes=list(scopes), created_at=now, expires_at=end, used_at=now,
                    )
                )  # fmt: skip
        return secret


def shown(row: AccessRow) -> dict[str, Any]:
    """An API token as its owner sees it."""
    return {
        "id": row.id,
        "label": row.label,
        "scopes": list(row.scopes),
        "created_at": row.created_at,
        "expires_at": row.expires_at,
        "used_at": row.used_at or None,
    }


def _is(person: Account) -> tuple[ColumnElement[bool], ...]:
    return AccountRow.issuer == person.issuer, AccountRow.subject == person.subject


def _digest(secret: str) -> str:
    return hashlib.sha256(secret.encode()).hexdigest()
