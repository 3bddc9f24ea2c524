"""What each role may, and a principal: somebody who asks, with what he may.

Pure. A scope names what a call does, not where it is; `central/web/permits.py` says which call needs which. A role is
given by the provider's groups (`[identity.roles]`), a scope can only be taken away again: an API token holds some of
its owner's scopes, never more than the owner has now.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum

from protocol.errors import PermissionRefused

__all__ = ["READING", "SCOPES", "Principal", "Role", "scopes_of"]

SCOPES: dict[str, str] = {
    "studies:read": "see sites, studies, runs, models, events: states and counts",
    "studies:write": "submit studies, command one's own runs",
    "data:read": "read the curated rows of one's own studies, and analyse them",
    "models:use": "score rows with a published model",
    "log:read": "read and verify the log",
    "audit:read": "see who proposed and approved what",
    "decisions:write": "propose and approve what takes two operators",
    "centre:operate": "everything that concerns others: their studies, rows and runs; erase a study's data",
    "tokens:write": "make and revoke one's own API tokens",
}
READING = frozenset({"studies:read", "log:read", "audit:read"})


class Role(StrEnum):
    """What a person is at the centre."""

    OPERATOR = "operator"
    RESEARCHER = "researcher"
    STEWARD = "steward"
    DPO = "dpo"


_OF_ROLE: dict[Role, frozenset[str]] = {
    Role.OPERATOR: frozenset(SCOPES),
    Role.RESEARCHER: frozenset(
        {"studies:read", "studies:write", "data:read", "models:use", "log:read", "tokens:write"}
    ),
    Role.STEWARD: frozenset({"studies:read", "log:read", "tokens:write"}),
    Role.DPO: frozenset({"studies:read", "log:read", "audit:read", "tokens:write"}),
}


def scopes_of(roles: Iterable[Role]) -> frozenset[str]:
    """All that these roles may."""
    return frozenset().union(*(_OF_ROLE[role] for role in roles))


@dataclass(frozen=True, slots=True, kw_only=True)
class Principal:
    """Somebody who asks.

    Attributes:
        name: how he is shown: an operator's name, or the provider's word for him.
        account: his account, or "" for an operator known by a token file.
        scopes: what he may now.
        kind: `operator`, `browser`, `token` or `bearer`: by what he is known.
    """

    name: str
    account: str
    roles: tuple[Role, ...]
    scopes: frozenset[str]
    kind: str

    def may(self, scope: str) -> bool:
        """Whether he has a scope."""
        return scope in self.scopes

    def check(self, scope: str) -> None:
        """Refuse who has not the scope.

        Raises:
            PermissionRefused: `permission.role`, naming the scope.
        """
        if scope not in self.scopes:
            raise PermissionRefused("permission.role", f"this takes the right {scope}")

    @property
    def told(self) -> str:
        """How events and records name him: an operator by name, anybody else by his account's id alone."""
        return f"account {self.account[:12]}" if self.account else self.name

    @property
    def key(self) -> str:
        """What tells this person from every other, over all ways to be known."""
        return f"account {self.account}" if self.account else f"operator {self.name}"
