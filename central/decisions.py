"""What two operators say when they decide together: the statements that they sign, and when a pair of them counts.

Pure: values in, canonical bytes out. A statement names all that is decided, so that a signature given once cannot be
used for anything else or a second time. One operator signs the statement of a kind, another its `Approval`.

    Proposal    a version of a model gets an alias     it also names the serial that has the alias now
    Admission   a site may take part                   by the fingerprint of its identity key
    Export      a study's rows leave the vault         sealed to the key of the operator who asks; for 30 days
"""

from __future__ import annotations

import hashlib
import json
import secrets
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import ClassVar, Self, get_type_hints

from central.operators import Operator
from privacy.envelope import PublicKey, SecretKey
from protocol.errors import AuthenticationError, ConflictError, InputError, IntegrityError, PermissionRefused
from protocol.parcel import canonical_json
from protocol.trust import Purpose

__all__ = [
    "MAX_STATEMENT_BYTES",
    "Admission",
    "Approval",
    "Asked",
    "Export",
    "Proposal",
    "agreed",
    "check",
    "read",
    "sign",
]

MAX_STATEMENT_BYTES = 4096
EXPORT_LIFE_S = 30 * 86_400.0
CLOCK_SLACK_S = 3600.0  # by which the clock of an operator's machine may be ahead


@dataclass(frozen=True, slots=True, kw_only=True)
class _Statement:
    """One operator's word. Fields are texts, numbers and truth values alone."""

    action: ClassVar[str]
    operator: str

    def to_bytes(self) -> bytes:
        """What is signed."""
        return canonical_json({"action": self.action, **asdict(self)})

    @classmethod
    def from_bytes(cls, raw: bytes) -> Self:
        """Read one.

        Raises:
            InputError: `input.message`.
        """
        value = _read(raw)
        hints = {name: kind for name, kind in get_type_hints(cls).items() if name != "action"}
        if value.pop("action", None) != cls.action or {k: type(v) for k, v in value.items()} != hints:
            raise InputError("input.message", "malformed statement of an operator")
        return cls(**value)  # type: ignore[arg-type]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Question(_Statement):
    """What one operator asks and another must approve. `id` is random, 32 hex digits."""

    id: str

    @classmethod
    def new(cls, **fields: str | int | bool) -> Self:
        """A question under a fresh id."""
        return cls(id=secrets.token_hex(16), **fields)  # type: ignore[arg-type]


@dataclass(frozen=True, slots=True, kw_only=True)
class Proposal(_Question):
    """That a version of a model get an alias.

    Attributes:
        weights: SHA-256 (hex) of the version's weights.
        rollback: the version is lower than the one that has the alias now.
        replaces: serial of the manifest that has the alias now; 0 for none.
    """

    action: ClassVar[str] = "propose"
    name: str
    version: int
    weights: str
    alias: str
    rollback: bool
    replaces: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Admission(_Question):
    """That a site take part in studies; `fingerprint` (hex) is its identity key's, as the site said it."""

    action: ClassVar[str] = "admit"
    site: str
    fingerprint: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Export(_Question):
    """That a study's curated rows leave the vault, sealed to the operator who asks.

    Attributes:
        digest: the study's (hex).
        at: Unix seconds by the asker's clock.
    """

    action: ClassVar[str] = "export"
    study: str
    digest: str
    at: int

    def check_age(self, now: float) -> None:
        """Whether it is asked now: an approval is good for 30 days from the question.

        Raises:
            ConflictError: `conflict.state`.
        """
        if now - self.at > EXPORT_LIFE_S:
            raise ConflictError("conflict.state", "the export was asked for too long ago: ask anew")
        if self.at - now > CLOCK_SLACK_S:
            raise ConflictError("conflict.state", "the export is dated ahead: set the clock, and ask anew")


@dataclass(frozen=True, slots=True, kw_only=True)
class Approval(_Statement):
    """Another operator agrees. `proposal` is the SHA-256 (hex) of the question's bytes."""

    action: ClassVar[str] = "approve"
    proposal: str

    @classmethod
    def of(cls, proposal: bytes, operator: str) -> Approval:
        """The approval of exactly these bytes."""
        return cls(operator=operator, proposal=hashlib.sha256(proposal).hexdigest())


Asked = Proposal | Admission | Export
_KINDS: dict[str, type[Asked]] = {kind.action: kind for kind in (Proposal, Admission, Export)}


def read(statement: bytes) -> Asked:
    """The question that an operator signed, of whatever kind.

    Raises:
        InputError: `input.message`, also when the bytes are not canonical.
    """
    kind = _KINDS.get(str(_read(statement).get("action")))
    if kind is None:
        raise InputError("input.message", "malformed statement of an operator")
    asked = kind.from_bytes(statement)
    if asked.to_bytes() != statement:
        raise InputError("input.message", "the proposal is not canonical")
    return asked


def sign(statement: Asked | Approval, key: SecretKey) -> bytes:
    """An operator's signature (context `Purpose.DECISION`)."""
    return key.sign(Purpose.DECISION, statement.to_bytes())


def check(statement: Asked | Approval, signature: bytes, key: PublicKey) -> None:
    """Check an operator's signature.

    Raises:
        AuthenticationError: `auth.operator`.
    """
    try:
        key.verify(Purpose.DECISION, statement.to_bytes(), signature)
    except IntegrityError:
        raise AuthenticationError("auth.operator") from None


def agreed(
    statement: bytes, signature: bytes, approver: Operator, approval: bytes, who: Callable[[str], Operator | None]
) -> tuple[Asked, Operator]:
    """The question that two persons have agreed on, and who asked it; whoever carries it out looks for himself.

    Args:
        statement: the question's bytes.
        signature: by who asks.
        approver: the other person.
        approval: his signature of the `Approval` of these bytes.
        who: an operator by name, or None.

    Raises:
        InputError: `input.message`.
        AuthenticationError: `auth.operator`, also when who asked is no operator any more.
        PermissionRefused: `permission.second-person`: one person under two names is one.
    """
    asked = read(statement)
    asker = who(asked.operator)
    if asker is None:
        raise AuthenticationError("auth.operator", "who proposed it is no operator any more: propose again")
    check(asked, signature, asker.public)
    if approver.name == asker.name or approver.key == asker.key or approver.access == asker.access:
        raise PermissionRefused("permission.second-person")
    check(Approval.of(statement, approver.name), approval, approver.public)
    return asked, asker


def _read(raw: bytes) -> dict[str, object]:
    try:
        if len(raw) > MAX_STATEMENT_BYTES:
            raise ValueError("size")
        value = json.loads(raw)
        if not isinstance(value, dict):
            raise ValueError("object")
        return value
    except (ValueError, RecursionError):
        raise InputError("input.message", "malformed statement of an operator") from None
